"""Training a model on a table: AdamW with a one-cycle learning rate, whatever the model is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kanfast.cli.data import Data, Split, Task


@dataclass
class History:
    """What happened in each epoch; `seconds` counts training alone, not the validation after it."""

    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    """Mean over the training rows: cross-entropy, or squared error of the standardised target."""
    score: list[float] = field(default_factory=list)
    """`score` of the validation rows."""


def loss_of(task: Task) -> nn.Module:
    """The training loss of a task."""
    return nn.CrossEntropyLoss() if task == "classification" else nn.MSELoss()


def optimizer_of(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser that `fit` uses."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)


@torch.no_grad()
def score(model: nn.Module, split: Split, task: Task) -> float:
    """Accuracy of a classification; R2 of a regression (1: perfect, 0: no better than the mean)."""
    output = model(split.x)
    if task == "classification":
        return float((output.argmax(1) == split.y).double().mean())
    residual = (split.y - output).square().sum()
    return float(1 - residual / (split.y - split.y.mean()).square().sum())


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, rows: Split
) -> Tensor:
    """One step of the optimiser on `rows`; returns the loss before it, detached."""
    optimizer.zero_grad()
    value: Tensor = loss(model(rows.x), rows.y)
    value.backward()
    optimizer.step()
    return value.detach()


def fit(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    on_epoch: Callable[[History], None] = lambda history: None,
) -> History:
    """Train `model` in place on the training rows.

    Args:
        model: a module from [N, features] to [N, outputs], on the device of `data`.
        data: the table.
        epochs: passes over the training rows.
        batch_size: rows a step; the last step of an epoch takes what is left.
        lr: the highest learning rate of the cycle.
        weight_decay: of AdamW.
        seed: of the order of the rows.
        on_epoch: called after each epoch with what happened so far.
    """
    loss = loss_of(data.task)
    optimizer = optimizer_of(model, lr, weight_decay)
    device, count = data.train.x.device, len(data.train.x)
    steps = epochs * -(-count // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    order = torch.Generator().manual_seed(seed)
    history, seconds = History(), 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        for rows in torch.randperm(count, generator=order).to(device).split(batch_size):
            value = training_step(
                model, optimizer, loss, Split(data.train.x[rows], data.train.y[rows])
            )
            total += value * len(rows)
            schedule.step()
        history.loss.append(total.item() / count)  # waits for the device
        seconds += time.perf_counter() - start
        history.seconds.append(seconds)
        history.score.append(score(model, data.validation, data.task))
        on_epoch(history)
    return history
