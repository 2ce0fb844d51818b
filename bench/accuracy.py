"""What `fit` reaches on functions of one to four variables, and how soon, on one thread.

    python -m bench.accuracy            # 10 seeds of six functions, 3 of others -> accuracy.csv
    python -m bench.accuracy --curves   # error over time of four optimizers -> the figure in docs

Labels are exact; 1000 training and 1000 test rows are drawn uniformly from the box. Nothing is
chosen by the test rows: starts and grids are, on training rows that `fit` holds out.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kanfast import KAN, create_dataset

RESULTS = Path(__file__).parent / "results" / "accuracy.csv"
CURVES = RESULTS.with_name("training.csv")
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "training.png"
GRIDS = (3, 5, 10, 20, 40)


class Case(NamedTuple):
    """A function, the shape of a network for it, and where its variables are."""

    function: Callable[..., Tensor]
    widths: tuple[int, ...]
    ranges: tuple[float, float] | tuple[tuple[float, float], ...] = (-1, 1)
    grids: tuple[int, ...] = GRIDS
    restarts: int = 16
    seeds: int = 3


def four(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The KAN paper's function of four variables."""
    return torch.exp(
        (torch.sin(torch.pi * (a**2 + b**2)) + torch.sin(torch.pi * (c**2 + d**2))) / 2
    )


def toy(x: Tensor, y: Tensor) -> Tensor:
    """The KAN paper's function of two variables."""
    return torch.exp(torch.sin(torch.pi * x) + y**2)


special = torch.special
CASES = {
    "exp(sin(pi x) + y^2)": Case(toy, (2, 1, 1), seeds=10),
    "exp(sin(pi x) + y^2), wide": Case(toy, (2, 5, 1), seeds=10),
    "exp(1/2 sum sin)": Case(four, (4, 2, 1, 1), grids=GRIDS[:4], restarts=32, seeds=10),
    "exp(1/2 sum sin), wide": Case(four, (4, 4, 2, 1), grids=GRIDS[:4], seeds=10),
    "J0(20 x)": Case(
        lambda x: special.bessel_j0(20 * x), (1, 1), grids=(*GRIDS, 80, 160), seeds=10
    ),
    "x y": Case(lambda x, y: x * y, (2, 2, 1), seeds=10),
    "sqrt(1 + x^2 + y^2)": Case(lambda x, y: torch.sqrt(1 + x**2 + y**2), (2, 1, 1)),
    "x / (1 + y^2)": Case(lambda x, y: x / (1 + y**2), (2, 3, 1)),
    "sin(x + 3 y^2)": Case(lambda x, y: torch.sin(x + 3 * y**2), (2, 1, 1)),
    "tanh(4 x y)": Case(lambda x, y: torch.tanh(4 * x * y), (2, 2, 1, 1)),
    "relativistic velocities": Case(lambda u, v: (u + v) / (1 + u * v), (2, 2, 1), (-0.9, 0.9)),
    "Planck": Case(lambda f, t: f**3 / torch.expm1(f / t), (2, 3, 1), ((0.2, 4), (0.5, 2))),
    "Lennard-Jones": Case(
        lambda e, r: 4 * e * (r**-12 - r**-6), (2, 2, 1), ((0.5, 2), (0.95, 2.5))
    ),
    "Gauss": Case(lambda x, s: torch.exp(-((x / s) ** 2) / 2) / s, (2, 3, 1), ((-2, 2), (0.5, 2))),
    "Bessel I0(x) J1(y)": Case(
        lambda x, y: special.i0(x) * special.bessel_j1(y), (2, 2, 1), ((0, 3), (0, 8))
    ),
    "erf(x + y^3)": Case(lambda x, y: torch.erf(x + y**3), (2, 1, 1), (-1.5, 1.5)),
    "log beta": Case(
        lambda a, b: torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b), (2, 3, 1), (0.5, 4)
    ),
    "Legendre P5(x) y": Case(lambda x, y: (63 * x**5 - 70 * x**3 + 15 * x) / 8 * y, (2, 2, 1)),
    "oblique waves": Case(
        lambda x, y: torch.sin(4 * (x + y)) + torch.cos(5 * (x - 2 * y)), (2, 2, 1)
    ),
    "distance of three": Case(lambda x, y, z: 1 / torch.sqrt(0.2 + x**2 + y**2 + z**2), (3, 1, 1)),
    "exp(-x^2) sin(6 y), deep": Case(
        lambda x, y: torch.exp(-(x**2)) * torch.sin(6 * y), (2, 3, 2, 2, 1)
    ),
}


def data(case: Case, seed: int) -> dict[str, Tensor]:
    """Rows of a case, float64."""
    return create_dataset(
        lambda x: case.function(*x.split(1, -1)),
        n_var=case.widths[0],
        ranges=case.ranges,
        seed=seed,
        dtype=torch.float64,
    )


def error(model: KAN, rows: dict[str, Tensor], split: str = "test") -> float:
    """Root mean square error."""
    with torch.no_grad():
        difference = model(rows[f"{split}_input"]) - rows[f"{split}_label"]
    return float(difference.square().mean().sqrt())


def measure(name: str, seed: int) -> dict[str, str | int | float]:
    """One training."""
    case, rows = CASES[name], data(CASES[name], seed)
    torch.manual_seed(seed)
    model = KAN(list(case.widths), grid_size=case.grids[0], dtype=torch.float64)
    begin = time.perf_counter()
    history = model.fit(
        rows, "LM", steps=60, restarts=case.restarts, grids=case.grids, seed=seed, log=0
    )
    seconds = time.perf_counter() - begin
    return {
        "function": name,
        "widths": "-".join(map(str, case.widths)),
        "seed": seed,
        "deviation": f"{float(rows['train_label'].std()):.3g}",
        "train": f"{error(model, rows, 'train'):.3g}",
        "test": f"{error(model, rows):.3g}",
        "seconds": f"{seconds:.2f}",
        "grid": str(model.grid_size),
        "stages": " ".join(f"{s.grid_size}:{s.held_out_loss:.2g}" for s in history.stages),
    }


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, help="of every function, in place of its own number")
    parser.add_argument("--only", help="functions whose names contain this")
    parser.add_argument("--curves", action="store_true", help="error over time, and the figure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.curves:
        from bench import training_curves

        training_curves.main(CURVES, FIGURE)
        return
    names = [name for name in CASES if not options.only or options.only in name]
    written = None
    with RESULTS.open("w", newline="") if not options.only else open("/dev/null", "w") as file:
        for name in names:
            entries = [measure(name, seed) for seed in range(options.seeds or CASES[name].seeds)]
            if written is None:
                written = csv.DictWriter(file, entries[0])
                written.writeheader()
            written.writerows(entries)
            file.flush()
            tests = sorted(float(e["test"]) for e in entries)
            seconds = statistics.median(float(e["seconds"]) for e in entries)
            print(
                f"{name:30} {entries[0]['widths']:10} median {statistics.median(tests):.1e}, "
                f"worst {tests[-1]:.1e}, {seconds:.1f} s  " + " ".join(f"{t:.0e}" for t in tests),
                flush=True,
            )


if __name__ == "__main__":
    main()
