"""The time an explanation may take, and how its parts share it."""

from __future__ import annotations

import time
from dataclasses import dataclass

_FINISH = 0.3  # of the time, but no more than so many seconds, is for constants and the report
_MOST_FINISH = 12.0
_FIRST = 0.2  # of the time is for the first networks, of the model's own size
_NETWORKS = 0.3  # of what is left for the search is for the networks of a size


@dataclass(frozen=True)
class Budget:
    """Ends of the parts, on the clock of time.monotonic().

    Attributes:
        begin, end: of all.
        first: of training the model itself.
        search: of all networks and searches.
    """

    begin: float
    first: float
    search: float
    end: float

    @staticmethod
    def of(begin: float, seconds: float) -> Budget:
        """So many seconds from a time on."""
        finish = min(_FINISH * seconds, _MOST_FINISH)
        return Budget(begin, begin + _FIRST * seconds, begin + seconds - finish, begin + seconds)

    @property
    def networks(self) -> float:
        """When networks that are about to be trained have to be ready."""
        return part_of(self.search, _NETWORKS)

    @property
    def finish(self) -> float:
        """When constants have to be simple, half of the time that is left now."""
        return part_of(self.end, 0.5)


def part_of(deadline: float, share: float) -> float:
    """When this share of the time from now to a deadline is over."""
    now = time.monotonic()
    return now + share * max(0.0, deadline - now)


def is_over(deadline: float) -> bool:
    """Whether a time has come."""
    return time.monotonic() > deadline
