"""What `fit` returns: numbers by name, one for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """A grid that was tried.

    Attributes:
        grid_size: Intervals.
        held_out_loss: Root mean square error on the training rows that were held out.
        reason: Why it was kept or not.
    """

    grid_size: int
    held_out_loss: float
    reason: str


class Entry(float):
    """A number with the `item` that those of pykan, arrays of NumPy, have."""

    def item(self) -> float:
        """The number."""
        return float(self)


class History(dict[str, list[float]]):
    """A list of numbers under each name; all are equally long.

    Attributes:
        starts: Training losses that the starts of a second-order training reached, the model's own
            first; of starts that were dropped, where that was.
        stages: The grids that it tried.
    """

    starts: list[float]
    stages: list[Stage]

    def __init__(self, names: Sequence[str]) -> None:
        self.starts, self.stages = [], []
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
