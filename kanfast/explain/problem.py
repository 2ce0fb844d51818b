"""The rows a formula is searched on, and what may be said about them beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.explain.score import floor_of
from kanfast.interpret.candidates import Functions, candidates
from kanfast.interpret.dataset import Dataset
from kanfast.symbolic.function import SymbolicFunction

_ROWS = 4096


@dataclass(frozen=True)
class Problem:
    """Rows in an order without meaning; float64 on the CPU.

    Attributes:
        features: [N, features]. x: [N, inputs], those that are inputs of the model.
        y: [N, outputs], labels with mean 0 and deviation 1.
        mean, std: [outputs], of the labels as they were.
        floor: see `kanfast.explain.score`.
    """

    features: Tensor
    x: Tensor
    y: Tensor
    mean: Tensor
    std: Tensor
    floor: float

    @property
    def labels(self) -> Tensor:
        """The labels as they were, [N, outputs]."""
        return self.y * self.std + self.mean


def problem_of(dataset: Dataset, inputs: Tensor, seed: int) -> Problem:
    """At most 4096 training rows, drawn at random.

    Args:
        dataset: with finite values.
        inputs: indices of the features that are inputs.
        seed: of the draw.

    Raises:
        ValueError: labels that do not vary, or values that are not finite.
    """
    for name, values in dataset.items():
        if not values.isfinite().all():
            raise ValueError(
                f"expected finite values in {name}, got {int((~values.isfinite()).sum())} NaN or "
                "infinite ones: leave those rows out"
            )
    x, y = (dataset[f"train_{part}"].detach().cpu().double() for part in ("input", "label"))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:_ROWS]
    features, y = x[rows], y[rows]
    mean, std = y.mean(0), y.std(0, correction=0)
    if (std <= 1e-14 * y.abs().amax(0)).any():
        constant = int((std <= 1e-14 * y.abs().amax(0)).nonzero()[0])
        raise ValueError(
            f"the label in column {constant} of train_label is the same in all rows: there is "
            "nothing to explain"
        )
    floor = floor_of(dataset["train_label"].dtype)
    return Problem(features, features[:, inputs.cpu()], (y - mean) / std, mean, std, floor)


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
