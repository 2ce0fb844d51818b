"""What an iteration of second-order training costs, beside a training step of the engine.

    python -m bench.newton     # -> results/newton.csv

One iteration has the Jacobian's normal equations, a factorisation and a trial; a training step is
the network forward and backward, without an optimizer. Both take turns in one process, on one
thread, in float64; the ratio is the median of those of the pairs.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kanfast import KAN
from kanfast.interpret.newton.marquardt import Problem, iterate
from kanfast.interpret.newton.networks import Networks
from kanfast.interpret.newton.penalty import Penalty
from kanfast.interpret.newton.plan import Plan
from kanfast.interpret.newton.starts import fresh

RESULTS = Path(__file__).parent / "results" / "newton.csv"
SHAPES = (((2, 5, 1), 5), ((2, 1, 1), 5), ((4, 4, 2, 1), 5), ((2, 5, 1), 20))
ROWS, ROUNDS, STEPS = 1000, 15, 5


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(widths: tuple[int, ...], grid_size: int) -> dict[str, object]:
    """Medians of one shape."""
    torch.manual_seed(0)
    model = KAN(list(widths), grid_size=grid_size, dtype=torch.float64)
    x = torch.rand(ROWS, widths[0], dtype=torch.float64) * 2 - 1
    y = torch.sin(3 * x).prod(-1, keepdim=True)
    problem = Problem(x, y, float(y.std()))
    one = Networks.of(Plan(model))
    many = fresh(one, 16, problem, torch.Generator().manual_seed(0))

    def step() -> None:
        for _ in range(STEPS):
            model.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()

    def iterations(networks: Networks) -> None:
        with torch.no_grad():
            for _ in iterate(networks, lambda _: problem, STEPS, Penalty.none(networks)):
                pass

    calls = [step, lambda: iterations(one), lambda: iterations(many)]
    for call in calls:
        call()
    times = [[timed(call) for call in calls] for _ in range(ROUNDS)]
    milliseconds = [statistics.median(column) / STEPS * 1e3 for column in zip(*times, strict=True)]
    return {
        "widths": "-".join(map(str, widths)),
        "grid": grid_size,
        "rows": ROWS,
        "step_ms": f"{milliseconds[0]:.3f}",
        "iteration_ms": f"{milliseconds[1]:.3f}",
        "iteration_16_starts_ms": f"{milliseconds[2]:.3f}",
        "iteration_over_step": f"{statistics.median(b / a for a, b, _ in times):.2f}",
        "16_starts_over_one": f"{statistics.median(c / b for _, b, c in times):.2f}",
    }


def main() -> None:
    """Measures all shapes."""
    torch.set_num_threads(1)
    entries = [measure(*shape) for shape in SHAPES]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, entries[0])
        writer.writeheader()
        writer.writerows(entries)
    for entry in entries:
        print(*(f"{key} {value}" for key, value in entry.items()), sep=", ")


if __name__ == "__main__":
    main()
