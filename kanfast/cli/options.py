"""What the commands of the program share: arguments and their errors."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from kanfast import extras
from kanfast.cli.data import InputError


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line; --help has the rest."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        self.exit(2, f"kanfast: error: {message} (see {self.prog} --help)\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def number(kind: type[int] | type[float], least: float, *, strict: bool = False) -> Any:
    """The type of an argument: a finite number of at least `least`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value) or value < least or (strict and value == least):
            raise argparse.ArgumentTypeError(
                f"expected a number {'above' if strict else 'of at least'} {least:g}, got {text}"
            )
        return value

    parse.__name__ = kind.__name__
    return parse


def require(*modules: str) -> None:
    """InputError unless these modules of an extra are installed."""
    try:
        extras.require(*modules)
    except extras.MissingExtra as error:
        raise InputError(str(error)) from error


def check_output(path: Path) -> None:
    """InputError unless a picture can be written there.

    Before the training rather than after it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise InputError(f"cannot write {path}: end its name in one of .{', .'.join(known)}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: name a file in a folder that exists and is yours")
