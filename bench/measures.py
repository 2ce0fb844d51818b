"""What is timed. Each measure is a preparation, which is not timed, and a run, which is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.cases import Data
from bench.providers import Subject


@dataclass
class Result:
    """What a run computed: tensors with one row for each of the batch, and sums over the batch."""

    rows: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    run: Callable[[Any], Any]
    result: Callable[[Any], Result]  # from what run returned
    prepare: Callable[[], Any] = lambda: None


def forward(subject: Subject, data: Data) -> Work:
    """Inference: no graph is kept."""

    @torch.no_grad()
    def run(_: None) -> Tensor:
        with subject.case.arithmetic(subject.device):
            return subject.call(data.x)

    return Work(run, lambda y: Result(rows=[y]))


def backward(subject: Subject, data: Data) -> Work:
    """The gradients of parameters and input from that of the output, after a forward pass."""

    def prepare() -> tuple[Tensor, Tensor]:
        subject.module.zero_grad()
        x = data.x.detach().requires_grad_()
        with subject.case.arithmetic(subject.device):
            return x, subject.call(x)

    def run(graph: tuple[Tensor, Tensor]) -> Tensor:
        x, y = graph
        y.backward(data.g.to(y.dtype))
        return x

    return Work(run, lambda x: Result([x.grad], subject.gradients()), prepare)


def train(subject: Subject, data: Data) -> Work:
    """Forward pass, mean square error, gradients of the parameters."""

    def run(_: None) -> None:
        subject.module.zero_grad()
        with subject.case.arithmetic(subject.device):
            loss = subject.loss(data.x, data.target) / data.count
        loss.backward()

    return Work(run, lambda _: Result(sums=subject.gradients()))


def optimize(subject: Subject, data: Data) -> Work:
    """`train`, then a step of Adam."""
    parameters = [p for p in subject.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    gradients = train(subject, data)

    def run(_: None) -> None:
        gradients.run(None)
        optimizer.step()

    return Work(run, gradients.result)


def pinn(subject: Subject, data: Data) -> Work:
    """A physics-informed step: gradients of the parameters of a loss of second derivatives.

    The loss is the mean square of the outputs and of the sum over all second derivatives of the
    summed output with respect to the inputs of a row: two passes back and one through both.
    """

    def run(_: None) -> None:
        subject.module.zero_grad()
        x = data.x.detach().requires_grad_()
        with subject.case.arithmetic(subject.device):
            y = subject.call(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        loss = (y.square().sum() + curvature.square().sum()) / data.count
        loss.backward()

    return Work(run, lambda _: Result(sums=subject.gradients()))


MEASURES: dict[str, Callable[[Subject, Data], Work]] = {
    "forward": forward,
    "backward": backward,
    "train": train,
    "optimize": optimize,
    "pinn": pinn,
}
