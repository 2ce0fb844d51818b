"""How a comparison is shown: a table of text and a picture of the training."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from kanfast.cli.compare import Result
from kanfast.cli.data import Data, Task

SCORE: dict[Task, str] = {"classification": "accuracy", "regression": "R2"}


def device_name(device: torch.device) -> str:
    """What a reader knows the device by."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({platform.machine()}, {threads} thread{'s' * (threads > 1)})"


def format_score(value: float, task: Task) -> str:
    """A score as it is read."""
    return f"{value:.2%}" if task == "classification" else f"{value:.4f}"


def table(results: Sequence[Result], data: Data, device: torch.device) -> str:
    """One column a model."""
    rows = {
        "widths": [" ".join(map(str, r.widths)) for r in results],
        "parameters": [f"{r.parameters:,}" for r in results],
        f"test {SCORE[data.task]}": [format_score(r.test_score, data.task) for r in results],
        "training time [s]": [f"{r.history.seconds[-1]:.2f}" for r in results],
        "forward [samples/s]": [f"{r.forward_rate:,.0f}" for r in results],
        "training [samples/s]": [f"{r.training_rate:,.0f}" for r in results],
        "peak memory [MB]": [f"{r.peak_memory / 1e6:.2f}" for r in results],
        "backend": [r.backend for r in results],
        "device": [device_name(device)] * len(results),
    }
    cells = [["", *(r.name for r in results)], *([name, *row] for name, row in rows.items())]
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [name.ljust(sizes[0]), *(c.rjust(n) for c, n in zip(row, sizes[1:], strict=True))]
        )
        for name, *row in cells
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def picture(results: Sequence[Result], data: Data, device: torch.device, path: Path) -> None:
    """Loss and validation score over the wall-clock time of the training, written to `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for result in results:
        history = result.history
        final = format_score(result.test_score, data.task)
        left.plot(history.seconds, history.loss, label=f"{result.name} {list(result.widths)}")
        right.plot(history.seconds, history.score, label=f"{result.name}: test {final}")
    left.set(yscale="log", ylabel="training loss")
    right.set(ylabel=f"validation {SCORE[data.task]}")
    for axes in (left, right):
        axes.set_xlabel("training time [s]")
        axes.grid(alpha=0.3)
        axes.legend()
    sizes = " and ".join(f"{r.name} with {r.parameters:,}" for r in results)
    figure.suptitle(
        f"{data.name}: {sizes} parameters\n{device_name(device)}, torch {torch.__version__}",
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
