"""What the commands of the program share: arguments and their errors."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from kanfast import extras
from kanfast.cli.data import InputError
from kanfast.cli.output import complain, say


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line; --help has the rest."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version."""
        say(message.rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        complain("error", f"{message} (see {self.prog} --help)")
        self.exit(2)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def number(
    kind: type[int] | type[float], least: float, most: float = math.inf, *, strict: bool = False
) -> Any:
    """The type of an argument: a finite number from `least`, or above it if `strict`, to `most`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value) or value < least or (strict and value == least):
            raise argparse.ArgumentTypeError(
                f"expected a number {'above' if strict else 'of at least'} {least:g}, got {text}"
            )
        if value > most:
            raise argparse.ArgumentTypeError(f"expected a number of at most {most:g}, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


# More threads help nobody, unless there are as many processors, and the system may have no room for
# their stacks.
threads = number(int, 1, max(64, os.cpu_count() or 1))


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
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: name a file in a folder that exists and is yours")
