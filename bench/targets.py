"""What the library promises to be, as ratios of measurements on the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.cases import MIDDLE, NARROW, Case
from bench.records import Record

CORE = MIDDLE + NARROW


@dataclass(frozen=True)
class Target:
    """`provider` is so many times better than the best of its rivals: faster, or smaller."""

    provider: str
    rivals: tuple[str, ...]
    measures: tuple[str, ...]
    at_least: float
    cases: tuple[Case, ...] = CORE
    figure: str = "p50"


@dataclass(frozen=True)
class Verdict:
    """A ratio: of medians of wall time (or of memory), and of the processor time behind them."""

    target: Target
    case: Case
    what: str
    rival: str
    ratio: float
    cpu_ratio: float | None

    @property
    def met(self) -> bool:
        return self.ratio >= self.target.at_least


STEPS = ("forward", "train")
CPU_TARGETS = (
    Target("kanfast", ("cox-de-boor",), STEPS, 8),
    Target("kanfast-compiled", ("kanfast",), STEPS, 1, MIDDLE),
    Target("kanfast", ("pykan",), STEPS, 20),
    Target("kanfast", ("inkan", "flashkan"), STEPS, 1.5),
    Target("kanfast", ("mlp-parameters",), STEPS, 1),
    Target("kanfast", ("cox-de-boor",), ("pinn",), 5),
    Target("kanfast", ("efficient-kan",), ("train",), 5, figure="memory"),
)


def verdicts(records: Sequence[Record]) -> list[Verdict]:
    """Of all targets, as far as these records of one machine tell."""
    by_key = {(r.case, r.what, r.provider): r for r in records if r.status == "ok"}
    found = []
    for target in CPU_TARGETS:
        for case in target.cases:
            for what in target.measures:
                ours = by_key.get((case, what, target.provider))
                keys = [(case, what, rival) for rival in target.rivals]
                theirs = [by_key[key] for key in keys if key in by_key]
                if ours and theirs:
                    found.append(_verdict(target, case, what, ours, theirs))
    return found


def _verdict(target: Target, case: Case, what: str, ours: Record, theirs: list[Record]) -> Verdict:
    best = min(theirs, key=lambda record: getattr(record, target.figure))
    ratio = getattr(best, target.figure) / getattr(ours, target.figure)
    timed = target.figure == "p50"
    cpu_ratio = best.cpu / ours.cpu if timed and best.cpu and ours.cpu else None
    return Verdict(target, case, what, best.provider, ratio, cpu_ratio)


def geometric_mean(verdicts: Sequence[Verdict]) -> float:
    return statistics.geometric_mean(verdict.ratio for verdict in verdicts)
