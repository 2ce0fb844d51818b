"""What the program gives out: text on the standard output, and files that are whole or absent."""

from __future__ import annotations

import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_DRAWING = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What Matplotlib raises where it can't draw."""


class OutputError(Exception):
    """What was computed cannot be written; the message is one line."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an exception.

    It is a new file beside `path`, so that at any time `path` is the old file or the new one, also
    for a program that is killed. What is no file, such as a device or a pipe, is written to itself.

    Raises:
        OSError: there is no room, no permission, or a name that the file system can't hold.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        yield target
        return
    beside = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        yield beside
        if mode is not None:
            beside.chmod(stat.S_IMODE(mode))
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def say(text: str) -> None:
    """Prints, at once.

    Raises:
        OutputError: nobody reads the standard output any more, or it has no room.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in any alphabet
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would try again at the end, and write a traceback.
        with open(os.devnull, "w") as nowhere, suppress(OSError):
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        message = f"cannot write to the standard output: {error.strerror}"
        raise OutputError(message) from error


def complain(kind: str, message: object) -> None:
    """Writes one line on the standard error; where that is closed, there is nobody to tell."""
    with suppress(OSError):
        print(f"kanfast: {kind}:", *str(message).split(), file=sys.stderr, flush=True)


def deliver(text: str, draw: Callable[[], Figure], path: Path) -> None:
    """Prints a text, then draws and writes a picture, and prints where it is.

    A figure that cannot be drawn is a warning. The picture is written where the text could not be.

    Raises:
        OutputError: the text or the picture cannot be written.
    """
    failures: list[OutputError] = []
    drawn = True
    try:
        say(text)
    except OutputError as error:
        failures.append(error)
    try:
        with replacing(path) as file:
            draw().savefig(file, dpi=120, format=path.suffix[1:].lower())
    except OSError as error:
        failures.append(OutputError(f"cannot write {path}: {error.strerror or error}"))
    except _NO_DRAWING as error:
        complain("warning", f"no picture, as it could not be drawn: {error}")
        drawn = False
    if failures:
        raise OutputError("; ".join(map(str, failures)))
    if drawn:
        say(f"\nPicture: {path}")
