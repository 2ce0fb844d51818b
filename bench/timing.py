"""Times of several works, interleaved: what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.measures import Work

MIN_REPEATS = 5
PATIENCE = 2  # times the seconds asked for, at most, until there are enough quiet repetitions
QUIET = 0.02  # share of a quiet repetition that its threads may wait for a core
CACHE = 256 << 20  # bytes written between repetitions on a GPU, more than any second-level cache


@dataclass(frozen=True)
class Sample:
    """One repetition, in milliseconds.

    `cpu` is the time of all the process's threads together: beside a GPU, what the launches cost.
    `quiet` says that no other process kept the threads from their cores.
    """

    wall: float
    cpu: float
    quiet: bool


def interleave(works: Mapping[str, Work], device: str, seconds: float) -> dict[str, list[Sample]]:
    """Repetitions of each work, for about so many seconds of each.

    The work that has used the least time goes next, so slow works are spread among many
    repetitions of fast ones. If there are enough quiet repetitions of every work, after a while of
    waiting for them, then only those are returned; otherwise all are, of every work.
    """
    once = _on_cpu if device == "cpu" else _OnGPU()
    samples: dict[str, list[Sample]] = {name: [] for name in works}
    used = dict.fromkeys(works, 0.0)
    while any(_wants_more(samples[name], used[name], seconds) for name in works):
        name = min(used, key=used.__getitem__)
        start = time.perf_counter()
        samples[name].append(once(works[name]))
        used[name] += time.perf_counter() - start
    quiet = {name: [s for s in samples[name] if s.quiet] for name in works}
    return quiet if all(len(q) >= MIN_REPEATS for q in quiet.values()) else samples


def percentiles(times: list[float]) -> tuple[float, float, float]:
    """p20, p50 and p80."""
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return fifths[0], statistics.median(times), fifths[3]


def _wants_more(samples: list[Sample], used: float, seconds: float) -> bool:
    if used < seconds or len(samples) < MIN_REPEATS:
        return True
    return used < PATIENCE * seconds and sum(s.quiet for s in samples) < MIN_REPEATS


def _on_cpu(work: Work) -> Sample:
    """The second of two repetitions: others had emptied the caches, as in no loop that trains."""
    work.run(work.prepare())
    state: Any = work.prepare()
    waited = _waited()
    start, cpu = time.perf_counter(), time.process_time()
    work.run(state)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    return Sample(1e3 * wall, 1e3 * cpu, _waited() - waited <= QUIET * wall)


def _waited() -> float:
    """Seconds that the threads of this process could have run but had no core.

    From Linux' scheduler (Documentation/scheduler/sched-stats.rst); always 0 elsewhere.
    """
    statistics_of_threads = Path("/proc/self/task").glob("*/schedstat")
    return 1e-9 * sum(int(path.read_text().split()[1]) for path in statistics_of_threads)


class _OnGPU:
    """Events around a run that starts with a cold cache, as `triton.testing.do_bench` does it."""

    def __init__(self) -> None:
        self.cache = torch.empty(CACHE, dtype=torch.int8, device="cuda")

    def __call__(self, work: Work) -> Sample:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        state: Any = work.prepare()
        self.cache.zero_()
        start.record()
        cpu = time.process_time()
        work.run(state)
        cpu = time.process_time() - cpu
        stop.record()
        torch.cuda.synchronize()
        return Sample(start.elapsed_time(stop), 1e3 * cpu, quiet=True)
