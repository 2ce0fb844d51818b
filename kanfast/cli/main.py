"""The command-line program `kanfast`; `python -m kanfast` is the same."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch

from kanfast.cli import compare, explain, report
from kanfast.cli.data import MAX_CLASSES, Data, InputError, Task, digits, table
from kanfast.cli.options import Parser, check_output, number, require, threads
from kanfast.cli.output import OutputError, complain, deliver, say
from kanfast.cli.training import History
from kanfast.engine import native
from kanfast.engine.backends import GPU_TYPES, Backend, resolve_backend
from kanfast.kan import KAN


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    That is 0, or 2 when the input cannot be used or the result not be written, or 130 after Ctrl-C.
    """
    try:
        options = _parser().parse_args(arguments)
        if options.command == "explain":
            explain.run(options)
        else:
            _compare(options)
    except (InputError, OutputError) as error:
        complain("error", error)
        return 2
    except OSError as error:  # a temporary folder that is full, a closed standard error
        complain("error", error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _version() -> str:
    """The version, and whether the native library is there: without it CPUs are slow for ever."""
    obstacle = native.obstacle()
    without = f"none: {obstacle}; plain torch, several times slower, takes its place on CPUs"
    state = "built" if obstacle is None else without
    return f"kanfast {version('kanfast')} (native library: {state})"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kanfast", description="Kolmogorov-Arnold networks on fused kernels.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    explain.add(commands)
    add = commands.add_parser(
        "compare",
        allow_abbrev=False,
        help="train a KAN and an MLP with as many parameters, and compare them",
        description="Train a KAN and an MLP with as many parameters on the handwritten digits of"
        " scikit-learn, or on a table of yours; print what came out and draw the training. Both use"
        " the same learning rate and weight decay; the defaults were chosen on validation rows.",
    ).add_argument
    whole, positive = number(int, 1), number(float, 0, strict=True)
    add(
        "--widths",
        type=whole,
        nargs="+",
        metavar="N",
        help="widths of the KAN, from the features to the outputs (default: features 32 outputs)",
    )
    add(
        "--grid-size",
        type=whole,
        default=5,
        metavar="G",
        help="intervals of a spline's grid (%(default)s)",
    )
    add(
        "--spline-order",
        type=int,
        default=3,
        choices=range(8),
        metavar="K",
        help="degree of the splines, 0 to 7 (%(default)s)",
    )
    add(
        "--epochs",
        type=whole,
        default=60,
        metavar="N",
        help="passes over the training rows (%(default)s)",
    )
    add("--batch-size", type=whole, default=64, metavar="N", help="rows a step (%(default)s)")
    add(
        "--lr", type=positive, default=0.01, metavar="X", help="highest learning rate (%(default)s)"
    )
    add(
        "--weight-decay",
        type=number(float, 0),
        default=1.0,
        metavar="X",
        help="of AdamW (%(default)s)",
    )
    add(
        "--seed",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="of all that is random (%(default)s)",
    )
    add(
        "--device",
        default="auto",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, ... (%(default)s)",
    )
    add(
        "--threads",
        type=threads,
        default=1,
        metavar="N",
        help="CPU threads; small batches gain nothing from more than one (%(default)s)",
    )
    add(
        "--backend",
        default="auto",
        choices=get_args(Backend),
        help="of the KAN's kernels (%(default)s)",
    )
    add("--csv", type=Path, metavar="FILE", help="a table: commas, column names, numeric features")
    add("--target", metavar="COLUMN", help="the column of FILE to predict")
    add("--drop", nargs="+", default=(), metavar="COLUMN", help="columns of FILE to leave out")
    add(
        "--task",
        choices=get_args(Task),
        help="what to predict from FILE (default: classification if the target holds words or at"
        f" most {MAX_CLASSES} different whole numbers, regression if it holds other numbers)",
    )
    add(
        "--output",
        type=Path,
        default=Path("kanfast-compare.png"),
        metavar="FILE",
        help="picture of the training (%(default)s)",
    )
    return parser


def _compare(options: argparse.Namespace) -> None:
    # The CPU profiler that measures memory otherwise logs that it found no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    require("tqdm", "matplotlib")
    check_output(options.output)
    device = _device(options.device)
    data = _data(options).to(device)
    torch.set_num_threads(options.threads)
    widths = compare.check_widths(options.widths or (data.features, 32, data.outputs), data)
    torch.manual_seed(options.seed)
    kan = KAN(
        list(widths),
        options.grid_size,
        options.spline_order,
        device=device,
        backend=options.backend,
    )
    mlp_widths = compare.mlp_widths(widths, compare.count_parameters(kan))
    mlp = compare.mlp(mlp_widths).to(device)
    try:
        backend = resolve_backend(options.backend, data.train.x)
    except RuntimeError as error:
        raise InputError(f"--backend {options.backend}: {error}") from error
    rows = [len(split.x) for split in (data.train, data.validation, data.test)]
    say(
        f"{data.name}: {data.task}, features {data.features}, outputs {data.outputs};"
        " {} training, {} validation and {} test rows".format(*rows)
    )
    results = [
        _run(name, model, its_widths, data, its_backend, options)
        for name, model, its_widths, its_backend in (
            ("KAN", kan, widths, backend),
            ("MLP", mlp, mlp_widths, "torch"),
        )
    ]
    batch = min(options.batch_size, rows[0])
    deliver(
        f"\n{report.table(results, data, device)}\nRates and memory are for batches of {batch}"
        " rows; memory is the most that the tensors of two training steps hold at a time.",
        lambda: report.picture(results, data, device),
        options.output,
    )


def _device(name: str) -> torch.device:
    present = ["cpu", *(kind for kind in GPU_TYPES if getattr(torch, kind).is_available())]
    if name == "auto":
        return torch.device(present[-1])
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # what torch built without CUDA raises
        device = None
    if device is None or device.type not in present:
        raise InputError(f"no device {name!r} here: use --device {' or '.join(present)}")
    return device


def _data(options: argparse.Namespace) -> Data:
    if options.csv:
        if not options.target:
            raise InputError("--csv needs --target COLUMN: the column to predict")
        return table(
            options.csv,
            options.target,
            drop=tuple(options.drop),
            task=options.task,
            seed=options.seed,
        )
    for name in ("target", "drop", "task"):
        if getattr(options, name):
            raise InputError(f"--{name} is about a table of yours: give it with --csv FILE")
    require("sklearn")
    return digits(options.seed)


def _run(
    name: str,
    model: torch.nn.Module,
    widths: tuple[int, ...],
    data: Data,
    backend: str,
    options: argparse.Namespace,
) -> compare.Result:
    from tqdm import tqdm

    with tqdm(total=options.epochs, desc=name, unit="epoch") as bar:

        def show(history: History) -> None:
            score = report.format_score(history.score[-1], data.task)
            bar.set_postfix_str(f"loss {history.loss[-1]:.4f}, validation {score}", refresh=False)
            bar.update()

        return compare.run(
            name,
            model,
            widths,
            data,
            backend=backend,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            weight_decay=options.weight_decay,
            seed=options.seed,
            on_epoch=show,
        )
