"""The command `kanfast explain`: a formula for a table."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from kanfast.cli import data
from kanfast.cli.data import InputError
from kanfast.cli.options import Commands, check_output, number, require
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
        type=number(int, 0),
        metavar="N",
        help="decimals of the constants (default: as few as do no harm)",
    )
    option(
        "--seconds",
        type=number(float, 0, strict=True),
        default=60.0,
        metavar="X",
        help="begin nothing new after that time (%(default)g)",
    )
    option("--seed", type=number(int, 0), default=0, metavar="N", help="(%(default)s)")
    option("--threads", type=whole, default=1, metavar="N", help="CPU threads (%(default)s)")
    option(
        "--output",
        type=Path,
        default=Path("kanfast-explain.png"),
        metavar="FILE",
        help="picture of the network and its formula (%(default)s)",
    )


def run(options: argparse.Namespace) -> str:
    """What the command prints.

    Features are scaled to [-1, 1], and the target to mean 0 and deviation 1, of the training rows;
    formulas are in the units of the table.
    """
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
    low, high = dataset["train_input"].amin(0), dataset["train_input"].amax(0)
    middle, half = (low + high) / 2, torch.where(high > low, (high - low) / 2, 1)
    label = dataset["train_label"]
    mean, std = label.mean(0), label.std(0, correction=0)
    if (std == 0).any():
        raise InputError(
            f"{options.csv.name} has one value in {options.target!r} in all of its training rows, "
            f"{label[0].item():g}: nothing to learn"
        )
    scaled = {
        name: (rows - middle) / half if name.endswith("input") else (rows - mean) / std
        for name, rows in dataset.items()
    }
    model = KAN([x.shape[1], *options.hidden, 1], options.grid_size, dtype=torch.float64)
    try:
        report = model.explain(
            scaled,
            lib=options.functions,
            var=names,
            digits=options.digits,
            normalizer=(middle, half),
            output_normalizer=(mean, std),
            seconds=options.seconds,
            seed=options.seed,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        report.figure(out_vars=[options.target]).savefig(options.output, dpi=120)
    except OSError as error:
        raise InputError(f"cannot write {options.output}: {error.strerror}") from error
    return f"{report.text([options.target])}\n\nPicture: {options.output}"
