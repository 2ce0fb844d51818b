"""The rows a formula is searched on, and what may be said about them beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.explain.scaling import CONSTANT, Moments, composed
from kanfast.explain.score import floor_of
from kanfast.interpret.candidates import Functions, candidates
from kanfast.interpret.dataset import Dataset
from kanfast.symbolic.function import SymbolicFunction

ROWS = 4096


@dataclass(frozen=True)
class Problem:
    """Rows in an order without meaning; float64 on the CPU.

    Attributes:
        features: [N, features], in the units networks are trained in.
        x: [N, inputs], those that are inputs of the model.
        y: [N, outputs], labels with mean 0 and deviation 1.
        columns: the features that are inputs.
        inputs, outputs: shifts and factors, [inputs] and [outputs], that give x and y in the units
            that formulas are of.
        labels: those that give labels in these units from the networks'.
        spread: [outputs], deviations of the labels in the networks' units.
        floor: see `kanfast.explain.score`.
    """

    features: Tensor
    x: Tensor
    y: Tensor
    columns: list[int]
    inputs: Moments
    outputs: Moments
    labels: Moments
    spread: Tensor
    floor: float

    @property
    def written(self) -> tuple[Tensor, Tensor]:
        """x and y in the units that formulas are of."""
        return (
            self.x * self.inputs[1] + self.inputs[0],
            self.y * self.outputs[1] + self.outputs[0],
        )


def check_values(dataset: Dataset) -> None:
    """ValueError unless all values are finite."""
    for name, values in dataset.items():
        if not values.isfinite().all():
            raise ValueError(
                f"expected finite values in {name}, got {int((~values.isfinite()).sum())} NaN or "
                "infinite ones: leave those rows out"
            )


def problem_of(
    dataset: Dataset,
    inputs: Tensor,
    units: tuple[Moments, Moments],
    floor: float,
    seed: int,
) -> Problem:
    """At most 4096 training rows, drawn at random.

    Args:
        dataset: in units that networks train well in.
        inputs: indices of the features that are inputs.
        units: shifts and factors of all features and of the labels: formulas are of
            factor * value + shift.
        floor: see `kanfast.explain.score`.
        seed: of the draw.
    """
    x, y = (dataset[f"train_{part}"].detach().cpu().double() for part in ("input", "label"))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:ROWS]
    features, y = x[rows], y[rows]
    mean, std = y.mean(0), y.std(0, correction=0)
    std = torch.where(std <= CONSTANT * y.abs().amax(0), 1, std)
    chosen = inputs.cpu()
    shift, factor = units[0]
    return Problem(
        features,
        features[:, chosen],
        (y - mean) / std,
        chosen.tolist(),
        (shift[chosen], factor[chosen]),
        composed((mean, std), units[1]),
        units[1],
        std,
        floor,
    )


def rounding_floor(dataset: Dataset) -> float:
    """What rounding of the labels, in the dtype that they came in, leaves of an exact formula."""
    labels = dataset["train_label"].detach()
    values = labels.double()
    std = values.std(0, correction=0)
    offset = torch.where(std > 0, values.mean(0).abs() / std, 0).amax().item()
    return floor_of(labels.dtype, offset)


def distinct(lib: Functions) -> tuple[SymbolicFunction, ...]:
    """The candidates that are no constants, each of equals (sin and cos) once.

    Raises:
        KeyError, TypeError: as `Library.select`.
        ValueError: nothing but constants.
    """
    chosen = candidates(lib)
    kept = [
        function
        for function in chosen
        if function.search != "constant"
        and (function.twin is None or function.twin.base not in chosen)
    ]
    if not kept:
        raise ValueError(
            "lib must have a function that is not a constant, got "
            f"{[function.name for function in chosen]}"
        )
    return tuple(kept)
