"""Error over time: Levenberg-Marquardt against L-BFGS and Adam here, and pykan."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.accuracy import CASES, data
from kanfast import KAN

SEEDS, LIMIT = 3, 10.0  # seconds of each training
NAMES = ("exp(sin(pi x) + y^2)", "exp(sin(pi x) + y^2), wide")
Points = list[tuple[float, float]]


class Over(Exception):
    """The time of a training is over."""


class Clock:
    """A metric of `fit` that notes time and test error."""

    def __init__(self, model: Any, rows: dict[str, Tensor]) -> None:
        self.model, self.rows, self.points = model, rows, Points()
        self.begin, self.__name__ = time.perf_counter(), "clock"

    def __call__(self) -> Tensor:
        with torch.no_grad():
            difference = self.model(self.rows["test_input"]) - self.rows["test_label"]
        seconds = time.perf_counter() - self.begin
        self.points.append((seconds, float(difference.square().mean().sqrt())))
        if seconds > LIMIT:
            raise Over
        return torch.zeros(())


def kanfast(name: str, rows: dict[str, Tensor], seed: int, opt: str) -> Points:
    """A training of a network with 10 intervals, or of one with grids that are chosen."""
    torch.manual_seed(seed)
    grid_size = 3 if opt == "LM" else 10
    model = KAN(list(CASES[name].widths), grid_size=grid_size, dtype=torch.float64)
    clock = Clock(model, rows)
    options: dict[str, Any] = {"LM": {"restarts": 16, "grids": (3, 5, 10, 20, 40), "steps": 60}}
    options |= {"LBFGS": {"steps": 10**6}, "Adam": {"steps": 10**6, "lr": 1e-2}}
    with contextlib.suppress(Over):
        model.fit(rows, opt, log=0, metrics=[clock], seed=seed, **options[opt])
    return clock.points


def pykan(name: str, rows: dict[str, Tensor], seed: int) -> Points:
    """pykan's L-BFGS on its own first values."""
    import kan

    before, default = Path.cwd(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        try:
            widths = list(CASES[name].widths)
            model = kan.KAN(width=widths, grid=10, k=3, seed=seed, auto_save=False)
            clock = Clock(model, rows)
            with contextlib.suppress(Over), contextlib.redirect_stderr(io.StringIO()):
                model.fit(rows, opt="LBFGS", steps=10**6, metrics=(clock,), log=10**6)
        finally:
            os.chdir(before)
            torch.set_default_dtype(default)
    return clock.points


def main(results: Path, figure: Path) -> None:
    """Measures, and draws the median over the seeds of the lowest error so far."""
    torch.set_num_threads(1)
    methods: dict[str, Any] = {
        "LM": lambda *a: kanfast(*a, "LM"),
        "L-BFGS": lambda *a: kanfast(*a, "LBFGS"),
        "Adam": lambda *a: kanfast(*a, "Adam"),
        "pykan": pykan,
    }
    with results.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["function", "method", "seed", "seconds", "test"])
        for name in NAMES:
            for seed in range(SEEDS):
                for method, run in methods.items():
                    last = 0.0
                    for seconds, error in run(name, data(CASES[name], seed), seed):
                        if seconds > 1.05 * last:  # what a logarithmic axis shows
                            writer.writerow([name, method, seed, f"{seconds:.4f}", f"{error:.3e}"])
                            last = seconds
    draw(results, figure)


def draw(results: Path, figure: Path) -> None:
    """The figure, from the file."""
    import matplotlib.pyplot as plt
    import numpy as np

    with results.open() as file:
        entries = list(csv.DictReader(file))
    colors = {"LM": "#0b6e4f", "L-BFGS": "#3366aa", "Adam": "#cc7722", "pykan": "#888888"}
    shown, axes = plt.subplots(1, len(NAMES), figsize=(10, 3.8), sharey=True, layout="constrained")
    times = np.geomspace(0.03, LIMIT, 200)
    for axis, name in zip(axes, NAMES, strict=True):
        for method, color in colors.items():
            curves = []
            for seed in range(SEEDS):
                own = [e for e in entries if (e["function"], e["method"]) == (name, method)]
                own = [e for e in own if e["seed"] == str(seed)]
                seconds = np.array([float(e["seconds"]) for e in own])
                lowest = np.minimum.accumulate([float(e["test"]) for e in own])
                at = np.searchsorted(seconds, times, side="right") - 1
                curves.append(np.where(at >= 0, lowest[at.clip(0)], np.inf))
            for curve in curves:
                axis.loglog(times, curve, color=color, alpha=0.2, linewidth=0.8)
            axis.loglog(times, np.median(curves, 0), color=color, linewidth=2, label=method)
        axis.set_title(f"{name.removesuffix(', wide')}   {list(CASES[name].widths)}", fontsize=10)
        axis.set_xlabel("seconds, one thread")
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("test RMSE")
    axes[0].legend(frameon=False)
    figure.parent.mkdir(exist_ok=True)
    shown.savefig(figure, dpi=130)
