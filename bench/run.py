"""Measuring: build, check against float64, weigh, then time all providers of a case together."""

from __future__ import annotations

import datetime
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from bench import gate, records, timing
from bench.cases import Case, Data, Weights, make_data, make_weights
from bench.measures import MEASURES, Result, Work
from bench.providers import Provider, Subject, make_subject
from bench.records import Record
from kanfast.cli.compare import peak_memory

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure, on what, and for how many seconds of each."""

    cases: Sequence[Case]
    providers: Sequence[Provider]
    measures: Sequence[str]
    device: str = "cpu"
    seconds: float = 3.0


def run(plan: Plan, say: Report) -> Iterator[Record]:
    """The records of a plan, those of one case and measure at a time."""
    here = asdict(records.machine(plan.device))
    for case in plan.cases:
        say(f"{case}")
        torch.set_float32_matmul_precision("high" if case.dtype == "tf32" else "highest")
        data, weights = make_data(case), make_weights(case)
        subjects, failures = _build(plan, case)
        for what in plan.measures:
            blank = Record(
                date=datetime.date.today().isoformat(),
                **here,
                load=records.load(),
                widths="-".join(map(str, case.widths)),
                batch=case.batch,
                grid_size=case.grid_size,
                degree=case.degree,
                dtype=case.dtype,
                provider="",
                version="",
                what=what,
                status="",
            )
            results = _measure(plan, subjects, what, data, weights)
            for provider in plan.providers:
                name, version = provider.name, provider.version
                found = results.get(name) or {"status": failures[name]}
                record = replace(blank, provider=name, version=version, **found)
                say(f"  {what:9}{name:22}{_line(record)}")
                yield record


def _build(plan: Plan, case: Case) -> tuple[dict[str, Subject], dict[str, str]]:
    """The networks that can be built, and why the others cannot."""
    subjects, failures = {}, {}
    for provider in plan.providers:
        obstacle = provider.obstacle(case) or _lacks_memory(provider, case, plan.device)
        if obstacle:
            failures[provider.name] = f"skipped: {obstacle}"
            continue
        subjects[provider.name] = make_subject(provider, case, plan.device)
    return subjects, failures


def _lacks_memory(provider: Provider, case: Case, device: str) -> str:
    needed = 4 * provider.elements(case)
    if device == "cpu":
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free, _ = torch.cuda.mem_get_info()
    if 2 * needed <= free:  # others are at work, too
        return ""
    return f"needs about {needed / 2**30:.0f} GiB of memory"


def _measure(
    plan: Plan, subjects: dict[str, Subject], what: str, data: Data, weights: Weights
) -> dict[str, dict[str, object]]:
    """Status and figures of each provider."""
    # Else what one provider has compiled for other cases would count against its limits.
    torch.compiler.reset()
    results: dict[str, dict[str, object]] = {}
    works: dict[str, Work] = {}
    splines: Result | None = None  # all B-spline KANs compute the same
    for name, subject in subjects.items():
        subject.load(weights)
        own = subject.provider.edges is None
        try:
            truth = splines if splines and not own else gate.expected(subject, what, data, weights)
            splines = splines if own else truth
            work, results[name] = _check(subject, what, data, truth)
        except (RuntimeError, ValueError, TypeError) as error:
            results[name] = {"status": f"failed: {_first_line(error)}"}
            continue
        if results[name]["status"] == "ok":
            works[name] = work
    for name, samples in timing.interleave(works, plan.device, plan.seconds).items():
        p20, p50, p80 = timing.percentiles([sample.wall for sample in samples])
        cpu = statistics.median(sample.cpu for sample in samples)
        quiet = all(sample.quiet for sample in samples)
        results[name] |= {"repeats": len(samples), "quiet": quiet, "cpu": cpu}
        results[name] |= {"p20": p20, "p50": p50, "p80": p80}
    return results


def _check(
    subject: Subject, what: str, data: Data, truth: Result
) -> tuple[Work, dict[str, object]]:
    """The work of a provider, past the gate or not, and its error and peak memory."""
    work = MEASURES[what](subject, data.to(subject.device, subject.case.torch_dtype))
    error = gate.error_of(work.result(work.run(work.prepare())), truth)
    if not gate.passes(error, subject.case.dtype):
        return work, {"status": "wrong", "error": error}

    def step() -> None:
        work.run(work.prepare())

    subject.module.zero_grad()
    memory = peak_memory(step, torch.device(subject.device))
    return work, {"status": "ok", "error": error, "memory": memory}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:120]


def _line(record: Record) -> str:
    if record.p50 is None:
        return record.status + ("" if record.error is None else f" (error {record.error:.1e})")
    times = f"{record.p50:10.3f} ms [{record.p20:.3f}, {record.p80:.3f}] x{record.repeats}"
    times += f"  cpu {record.cpu:.3f} ms" + ("" if record.quiet else " (disturbed)")
    return f"{times}  {record.memory / 2**20:.1f} MiB  error {record.error:.1e}"
