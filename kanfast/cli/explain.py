"""The command `kanfast explain`: a formula for a table."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from kanfast.cli import data
from kanfast.cli.data import InputError
from kanfast.cli.options import Commands, check_output, number, require, threads
from kanfast.cli.output import deliver
from kanfast.interpret.dataset import create_dataset_from_data
from kanfast.kan import KAN
from kanfast.symbolic.library import default_library


def add(commands: Commands) -> None:
    """The command's arguments."""
    option = commands.add_parser(
        "explain",
        allow_abbrev=False,
        help="find a formula for a column of a table",
        description="Find a formula for a column of a table of numbers: train KANs on four fifths"
        " of the rows, turn them into formulas, choose one by accuracy and simplicity, print it"
        " with its accuracy on the other rows, and draw it.",
    ).add_argument
    whole = number(int, 1)
    option("--csv", type=Path, required=True, metavar="FILE", help="commas, column names, numbers")
    option("--target", required=True, metavar="COLUMN", help="the column to explain")
    option("--drop", nargs="+", default=(), metavar="COLUMN", help="columns to leave out")
    option(
        "--hidden",
        type=whole,
        nargs="+",
        default=[5],
        metavar="N",
        help="nodes of each hidden layer, at most as many as a formula needs (default: 5)",
    )
    option(
        "--grid-size",
        type=whole,
        default=5,
        metavar="G",
        help="intervals of a spline's grid (%(default)s)",
    )
    option(
        "--functions",
        nargs="+",
        metavar="NAME",
        help="that the formula may have (default: all of the library)",
    )
    option(
        "--digits",
        type=number(int, 1),
        metavar="N",
        help="significant digits of the constants (default: as few as do no harm)",
    )
    option(
        "--seconds",
        type=number(float, 0, strict=True),
        default=60.0,
        metavar="X",
        help="time for all of it (%(default)g)",
    )
    option("--seed", type=number(int, 0), default=0, metavar="N", help="(%(default)s)")
    option("--threads", type=threads, default=1, metavar="N", help="CPU threads (%(default)s)")
    option(
        "--output",
        type=Path,
        default=Path("kanfast-explain.png"),
        metavar="FILE",
        help="picture of the network and its formula (%(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Explains the table, prints the formula and draws it."""
    require("tqdm", "matplotlib")
    check_output(options.output)
    library = default_library()
    for name in options.functions or ():
        if name not in library:
            raise InputError(f"--functions: no function {name!r}; there are {', '.join(library)}")
    names, x, y = data.numbers(options.csv, options.target, drop=tuple(options.drop))
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    dataset = create_dataset_from_data(
        torch.from_numpy(x), torch.from_numpy(y)[:, None], seed=options.seed
    )
    model = KAN([x.shape[1], *options.hidden, 1], options.grid_size, dtype=torch.float64)
    try:
        report = model.explain(
            dataset,
            lib=options.functions,
            var=names,
            digits=options.digits,
            seconds=options.seconds,
            seed=options.seed,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    targets = [options.target]
    deliver(report.text(targets), lambda: report.figure(out_vars=targets), options.output)
