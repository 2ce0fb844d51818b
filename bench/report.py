"""`python -m bench.report`: the Markdown report of the CSV. Nothing is measured here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from bench import records
from bench.cases import Case, sets
from bench.measures import MEASURES
from bench.providers import PROVIDERS
from bench.records import Record
from bench.targets import verdicts

HEAD = """# Benchmarks

Made by `python -m bench.report` from `{csv}`. Each figure there has its conditions beside it.

Times are medians of interleaved repetitions, in milliseconds; in brackets how many times that of
kanfast they take. Nothing is timed before its result has been compared with float64; "wrong" is
what differs. `cox-de-boor` is the formulation of efficient-kan, written anew; `mlp-parameters` and
`mlp-widths` are MLPs with as many parameters and with the same widths. Other packages run as their
documentation uses them; those that compute B-spline KANs compute the same function here.
"""
NO_GPU = """## GPU

Not measured yet. On a machine with an NVIDIA GPU this fills the tables:

    make bench
"""
TITLES = {
    "forward": "Forward pass, without gradients",
    "backward": "Backward pass, to parameters and input",
    "train": "Training step, without optimizer",
    "optimize": "Training step, with Adam",
    "pinn": "Training step on second derivatives",
}


def report(all_records: Sequence[Record], csv: str = "results.csv", figures: str = "") -> str:
    """The whole report; `figures` is where the pictures lie, seen from it, "" for none."""
    parts = [HEAD.format(csv=csv)]
    ordered = sorted(all_records, key=lambda record: record.machine)
    for _, group in groupby(ordered, key=lambda record: record.machine):
        parts += _machine(list(group), figures)
    if all(record.device == "cpu" for record in all_records):
        parts += [NO_GPU, *(_empty(what) for what in MEASURES)]
    return "\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _machine(group: list[Record], figures: str) -> list[str]:
    first = group[0]
    title = f"{first.name}, {threads_of(first)}" if first.device == "cpu" else first.name
    parts = [f"## {title}\n", _conditions(group)]
    if figures:
        parts += [f"![{TITLES[w]}]({figures}/{name})\n" for w, name in pictures(group).items()]
    parts += [_grid(group, what, _time, TITLES[what]) for what in MEASURES]
    parts.append(_grid(group, "train", _memory, "Peak memory of a training step, MiB"))
    parts.append(_grid(group, "train", _error, "Error of the gradients against float64"))
    if first.device == "cpu":
        parts.append(_targets(group))
    return [part for part in parts if part]


def pictures(group: Sequence[Record]) -> dict[str, str]:
    """Names of the figures of one machine, by measure."""
    device, name, threads = group[0].machine
    words = f"{device} {name} {threads if device == 'cpu' else ''}".lower().split()
    present = {record.what for record in group}
    return {what: f"{'-'.join(words)}-{what}.png" for what in MEASURES if what in present}


def threads_of(record: Record) -> str:
    return f"{record.threads} thread{'s' if record.threads > 1 else ''}"


def _conditions(group: list[Record]) -> str:
    def distinct(get: Callable[[Record], object]) -> str:
        return ", ".join(sorted({str(get(record)) for record in group if get(record)}))

    loads = [record.load for record in group]
    disturbed = sum(record.quiet is False for record in group)
    text = (
        f"{distinct(lambda r: r.date)}; kanfast {distinct(lambda r: r.commit)}; torch "
        f"{distinct(lambda r: r.torch)}; Triton {distinct(lambda r: r.triton)}; Python "
        f"{distinct(lambda r: r.python)}; load of a core {min(loads)} to {max(loads)}"
    )
    if settings := distinct(lambda r: r.environment):
        text += f"; {settings}"
    if disturbed:
        text += f". Other processes disturbed {disturbed} of {len(group)} figures"
    return text + ".\n"


def _grid(group: list[Record], what: str, cell: Callable[[Record, float], str], title: str) -> str:
    """A table of cases by providers, "" if there is nothing to show."""
    found = {(r.case, r.provider): r for r in group if r.what == what}
    providers = [name for name in PROVIDERS if any(name == key[1] for key in found)]
    cases = dict.fromkeys(case for case, _ in found)
    rows = []
    for case in cases:
        ours = found.get((case, "kanfast"))
        unit = ours.p50 if ours and ours.p50 else 0.0
        cells = [found.get((case, name)) for name in providers]
        rows.append([str(case), *(cell(r, unit) if r else "" for r in cells)])
    return f"### {title}\n\n{table(['', *providers], rows)}" if rows else ""


def _time(record: Record, unit: float) -> str:
    if record.p50 is None:
        return record.status.partition(":")[0]
    text = _short(record.p50)
    return f"{text} ({record.p50 / unit:.1f})" if unit and record.provider != "kanfast" else text


def _memory(record: Record, _: float) -> str:
    return "" if record.memory is None else _short(record.memory / 2**20)


def _error(record: Record, _: float) -> str:
    return "" if record.error is None else f"{record.error:.0e}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _targets(group: list[Record]) -> str:
    rows = []
    for v in verdicts(group):
        cpu = "" if v.cpu_ratio is None else f"{v.cpu_ratio:.2f}"
        wanted, met = f"{v.target.at_least:g}", "yes" if v.met else "no"
        what = v.what if v.target.figure == "p50" else f"{v.what}, memory"
        name = f"{v.target.provider} over {v.rival}"
        rows.append([name, str(v.case), what, f"{v.ratio:.2f}", cpu, wanted, met])
    head = ["", "case", "", "ratio", "of CPU time", "wanted", "met"]
    return f"### Targets\n\n{table(head, rows)}" if rows else ""


def _empty(what: str) -> str:
    """The table that a GPU would fill."""
    cases: tuple[Case, ...] = sets("cuda")["core"]
    names = list(PROVIDERS)
    rows = [[str(case), *("" for _ in names)] for case in cases]
    return f"### {TITLES[what]}\n\n{table(['', *names], rows)}"


def main(csv: Path = records.RESULTS) -> int:
    path = csv.with_name("REPORT.md")
    path.write_text(report(records.read(csv), csv.name, figures="."))
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
