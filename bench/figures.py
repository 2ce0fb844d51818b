"""`python -m bench.figures`: pictures drawn from the CSV alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bench import records
from bench.cases import MIDDLE, NARROW, WIDE
from bench.providers import PROVIDERS
from bench.records import Record
from bench.report import TITLES, pictures, threads_of

CASES = (*MIDDLE, *NARROW, WIDE)
COLORS = dict(zip(PROVIDERS, mpl.color_sequences["tab20"], strict=False))
COLORS["kanfast"] = "black"


def draw(group: Sequence[Record], what: str) -> Figure | None:
    """One measure on one machine, a panel for each of the main cases."""
    timed = [r for r in group if r.what == what and r.p50 is not None]
    cases = [case for case in CASES if any(r.case == case for r in timed)]
    if not cases:
        return None
    figure = Figure(figsize=(3 + 2.2 * len(cases), 4.2), layout="constrained")
    panels = figure.subplots(1, len(cases), squeeze=False)[0]
    names = [name for name in PROVIDERS if any(r.provider == name for r in timed)]
    for panel, case in zip(panels, cases, strict=True):
        found = {r.provider: r for r in timed if r.case == case}
        for position, name in enumerate(reversed(names)):
            if name in found:
                _point(panel, position, found[name])
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.margins(x=0.25)
        panel.grid(axis="y", color="lightgrey", linewidth=0.5)
        panel.set_title(str(case), fontsize=9)
        panel.set_yticks(range(len(names)), list(reversed(names)) if panel is panels[0] else [])
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.set_xlabel("ms")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{TITLES[what]}: {_machine(timed)}", fontsize=10)
    return figure


def _point(panel: Axes, position: int, record: Record) -> None:
    """The median, and p20 to p80."""
    low, middle, high = record.p20, record.p50, record.p80
    color = COLORS[record.provider]
    panel.hlines(position, low, high, color=color, linewidth=2)
    panel.plot(middle, position, "o", color=color)
    text = f"{middle:.0f}" if middle >= 99.5 else f"{middle:.2g}"
    panel.annotate(
        text, (high, position), (5, 0), textcoords="offset points", va="center", fontsize=7
    )


def _machine(group: Sequence[Record]) -> str:
    first = group[0]
    threads = f", {threads_of(first)}" if first.device == "cpu" else ""
    disturbed = ", disturbed by other processes" if any(r.quiet is False for r in group) else ""
    return f"{first.name}{threads}, torch {first.torch}, {first.dtype}{disturbed}"


def draw_all(all_records: Sequence[Record], folder: Path) -> list[Path]:
    """A file for each machine and measure."""
    paths = []
    ordered = sorted(all_records, key=lambda record: record.machine)
    for _, machine in groupby(ordered, key=lambda record: record.machine):
        group = list(machine)
        for what, name in pictures(group).items():
            if figure := draw(group, what):
                paths.append(folder / name)
                figure.savefig(paths[-1], dpi=110)
    return paths


def main(csv: Path = records.RESULTS) -> int:
    for path in draw_all(records.read(csv), csv.parent):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
