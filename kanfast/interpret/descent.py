"""Training step by step: gradients of the objective and an optimizer of torch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset
from kanfast.interpret.history import History, name_of
from kanfast.interpret.optimizer import Steps
from kanfast.interpret.progress import progress
from kanfast.interpret.regularization import RegMetric, penalty
from kanfast.interpret.units import scale_of
from kanfast.nn.network import Network

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """Arguments of `fit`, under its names or together."""

    steps: int
    log: int
    lamb: float
    penalty: tuple[float, float, float, float]
    """lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff."""
    reg_metric: RegMetric
    update_grid: bool
    grid_update_num: int
    grid_update_steps: tuple[int, int]
    """The first step that may move the grid, and the first one after these."""
    loss_fn: Loss | None
    batch: int
    metrics: tuple[Callable[[], Any], ...]
    seed: int

    def moves_grid(self, step: int) -> bool:
        """Whether this step begins with a move of the grid."""
        start, stop = self.grid_update_steps
        every = max(1, stop // max(1, self.grid_update_num))
        return self.update_grid and start <= step < stop and step % every == 0


def descend(
    network: Network,
    dataset: Dataset,
    optimizer: Steps,
    settings: Settings,
    weight: Tensor | None = None,
) -> History:
    """Trains by the steps of an optimizer; `fit` says what with.

    Any exception, also one from the keyboard, leaves the best parameters seen.
    """
    # A power of two: divisions by it are exact.
    unit = scale_of(dataset["train_label"]) if optimizer.normalized else 1.0
    loss_of = partial(_squared_error, unit=unit) if settings.loss_fn is None else settings.loss_fn
    lamb, batch, log = settings.lamb, settings.batch, settings.log
    generator = torch.Generator().manual_seed(settings.seed)
    names = ["train_loss", "test_loss", "reg", *map(name_of, settings.metrics)]
    history = History(names)
    whole = batch == -1 or batch >= len(dataset["train_input"])

    root = None if weight is None else (weight / weight.mean()).sqrt().unsqueeze(-1)

    def terms(x: Tensor, y: Tensor, root: Tensor | None) -> list[Tensor]:
        """The loss and, if there is one, the penalty."""
        trace = network.trace(x)
        found = trace.nodes[-1]
        loss = loss_of(found, y) if root is None else loss_of(found * root, y * root)
        if lamb == 0:
            return [loss]
        return [loss, penalty(network, trace, settings.reg_metric, *settings.penalty)]

    def step(x: Tensor, y: Tensor, root: Tensor | None, same: bool) -> list[Tensor]:
        last: list[Tensor] = []

        def objective() -> Tensor:
            last[:] = terms(x, y, root)
            return last[0] if lamb == 0 else last[0] + last[1] * (lamb / unit / unit)

        if optimizer.step(objective, same=same) and last:
            return [t.detach() for t in last]
        with torch.no_grad():
            return terms(x, y, root)

    best, lowest, value = _state(network), math.inf, math.inf
    try:
        with progress(settings.steps, quiet=log == 0) as show:
            for index in range(settings.steps):
                kept = _state(network)
                if value <= lowest or not whole:
                    best, lowest = kept, value
                x, y, roots = _rows(dataset, "train", batch, generator, root)
                moves_grid = settings.moves_grid(index)
                if moves_grid:
                    network.update_grid_from_samples(x)
                    optimizer.restart()
                losses = step(x, y, roots, same=index > 0 and whole and not moves_grid)
                with torch.no_grad():
                    x, y, _ = _rows(dataset, "test", batch, generator)
                    values = torch.stack([loss_of(network(x), y), *losses]).tolist()
                test, train, reg = (*values, 0.0)[:3]
                if not all(map(math.isfinite, values)):
                    network.load_state_dict(kept)
                    if moves_grid or not (optimizer.searches and history.converged()):
                        message = stopped(index, train, reg, test)
                        warnings.warn(message, RuntimeWarning, stacklevel=3)
                        break
                    # No step leads further down, and the line search has divided 0 by 0.
                    optimizer.restart()
                    train, test, reg = (history[name][-1] for name in names[:3])
                else:
                    value = train + lamb / unit / unit * reg
                    if not optimizer.searches and value <= lowest:
                        best, lowest, value = kept, value, math.inf
                    if settings.loss_fn is None:
                        train, test = train**0.5 * unit, test**0.5 * unit
                history.append([train, test, reg, *(float(f()) for f in settings.metrics)])
                shown = bool(log) and index % log == 0
                line = f"train_loss: {train:.2e} | test_loss: {test:.2e} | reg: {reg:.2e}"
                show(line if shown else None)
    except BaseException:
        if not optimizer.lowest < lowest:
            network.load_state_dict(best)
        raise
    return history


def _squared_error(prediction: Tensor, label: Tensor, *, unit: float) -> Tensor:
    """The mean squared error over the square of a unit."""
    check_shapes(prediction, label)
    return torch.nn.functional.mse_loss(prediction / unit, label / unit)


def check_shapes(prediction: Tensor, label: Tensor) -> None:
    """Raise ValueError for labels that do not have the shape of the output."""
    if prediction.shape != label.shape:
        raise ValueError(
            f"labels must have the shape of the model's output, {list(prediction.shape)}, got "
            f"{list(label.shape)}: unsqueeze them, or give a loss_fn"
        )


def _rows(
    dataset: Dataset,
    split: str,
    batch: int,
    generator: torch.Generator,
    root: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All rows of a split, or `batch` random ones (as many as there are), and of `root` [N, 1]."""
    x, y = dataset[f"{split}_input"], dataset[f"{split}_label"]
    if batch == -1 or batch >= len(x):
        return x, y, root
    index = torch.randperm(len(x), generator=generator)[:batch].to(x.device)
    return x[index], y[index], None if root is None else root[index]


def _state(model: Network) -> dict[str, Any]:
    """A copy of the state dict: of its tensors quickly, as this is done in every step."""
    state = model.state_dict()
    return {k: t.clone() if isinstance(t, Tensor) else copy.deepcopy(t) for k, t in state.items()}


def stopped(step: int, train: float, reg: float, test: float) -> str:
    """What to warn of where a loss is not finite."""
    return (
        f"training stopped at step {step}: the training loss is {train:.3g}, the regularisation "
        f"{reg:.3g}, the test loss {test:.3g}. The model is as it was before this step. Try a "
        "smaller lr, scaled inputs or float64"
    )
