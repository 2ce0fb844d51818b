"""What `fit` returns: numbers by name, one for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Entry(float):
    """A number with the `item` that those of pykan, arrays of NumPy, have."""

    def item(self) -> float:
        """The number."""
        return float(self)


class History(dict[str, list[float]]):
    """A list of numbers under each name; all are equally long."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__({name: [] for name in names})

    def append(self, row: Sequence[float]) -> None:
        """Adds one number under each name, in their order."""
        for entries, value in zip(self.values(), row, strict=True):
            entries.append(Entry(value))

    def converged(self) -> bool:
        """Whether the last step did not change the training loss."""
        losses = self["train_loss"]
        return len(losses) > 1 and abs(losses[-2] - losses[-1]) <= 1e-9 * abs(losses[-1])


def name_of(metric: Callable[[], Any]) -> str:
    """The name of a metric in the history."""
    return getattr(metric, "__name__", type(metric).__name__)
