"""`KAN.fit` beside pykan's: time of a step of L-BFGS.

    python -m bench.training [--rounds 5] [--steps 20] [--threads 1] [--widths 2 5 1] [--fixed-grid]

Both start from the same weights and train on the same 1000 samples of exp(sin(pi x) + y^2), with
each one's `fit` and its defaults: knots follow the samples every fifth step, unless --fixed-grid is
there, which leaves them equally spaced. A step of L-BFGS has
up to 20 iterations and 25 evaluations of objective and gradient in both, so the evaluations are
counted, too. kanfast remembers 30 pairs of vectors, pykan 10, which costs kanfast time.

pykan is timed after its `speed()`. With penalties it then refuses (it sets lamb to 0) until
`save_act` is on again, as its message says: that is what the second row times, which is faster than
pykan without `speed()`.

Fits are interleaved, one of each a round; the first round is not counted. Medians, of wall time and
of the processor time of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kanfast import KAN, create_dataset

LAMBS = (0.0, 0.01)
SAMPLES = 1000


@dataclass
class Times:
    """Of the fits of one library: milliseconds and evaluations a step, and the last loss."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    evaluations: float = 0.0
    loss: float = 0.0


def target(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)


def dataset(inputs: int) -> dict[str, Tensor]:
    return create_dataset(target, n_var=inputs, train_num=SAMPLES, test_num=SAMPLES)


def pykan_model(widths: Sequence[int], lamb: float) -> Any:
    """As fast as pykan can be."""
    import kan

    model = kan.KAN(width=list(widths), grid=5, k=3, auto_save=False, seed=0).speed()
    model.save_act = lamb > 0
    return model


def kanfast_model(widths: Sequence[int]) -> KAN:
    """The same function and parameters."""
    return KAN.from_pykan(pykan_model(widths, 0.0))


class CountedLoss:
    """The mean squared error, which counts its evaluations with a graph."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prediction: Tensor, label: Tensor) -> Tensor:
        self.calls += prediction.requires_grad and torch.is_grad_enabled()
        return torch.nn.functional.mse_loss(prediction, label)


def fit(
    model: Any, data: dict[str, Tensor], steps: int, lamb: float, moving: bool, times: Times
) -> None:
    """One fit, recorded."""
    loss = CountedLoss()
    options = {"log": 0} if isinstance(model, KAN) else {}
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(data, steps=steps, lamb=lamb, loss_fn=loss, update_grid=moving, **options)
    times.wall.append((time.perf_counter() - wall) / steps * 1e3)
    times.cpu.append((time.process_time() - cpu) / steps * 1e3)
    times.evaluations = loss.calls / steps
    with torch.no_grad():
        times.loss = float(loss(model(data["train_input"]), data["train_label"])) ** 0.5


def measure(
    widths: Sequence[int], lamb: float, steps: int, rounds: int, moving: bool
) -> dict[str, Times]:
    """Interleaved fits of both libraries."""
    data = dataset(widths[0])
    build: dict[str, Callable[[], Any]] = {
        "kanfast": lambda: kanfast_model(widths),
        "pykan": lambda: pykan_model(widths, lamb),
    }
    found = {name: Times() for name in build}
    for round_ in range(rounds + 1):
        for name, times in found.items():
            silence = io.StringIO()
            with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                fit(build[name](), data, steps, lamb, moving, times if round_ else Times())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 5, 1])
    parser.add_argument("--fixed-grid", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # pykan's
    print(
        f"{options.widths}, {SAMPLES} samples, G = 5, k = 3, float32; {options.steps} steps, "
        f"median of {options.rounds}; torch {torch.__version__}, {options.threads} thread(s), "
        f"{platform.machine()}"
    )
    print("lamb   library  ms/step  cpu ms/step  evaluations/step  train RMSE")
    for lamb in LAMBS:
        found = measure(options.widths, lamb, options.steps, options.rounds, not options.fixed_grid)
        for name, times in found.items():
            wall, cpu = statistics.median(times.wall), statistics.median(times.cpu)
            print(
                f"{lamb:<6} {name:8} {wall:7.2f}  {cpu:11.2f}  {times.evaluations:16.1f}  "
                f"{times.loss:.2e}"
            )
        ours, theirs = found["kanfast"], found["pykan"]
        ratios = [
            statistics.median(getattr(theirs, k)) / statistics.median(getattr(ours, k))
            for k in ("wall", "cpu")
        ]
        print(f"{lamb:<6} ratio    {ratios[0]:6.2f}x  {ratios[1]:10.2f}x", flush=True)


if __name__ == "__main__":
    main()
