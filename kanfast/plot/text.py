"""Texts of pictures, their width and how they are written; whose axes they are on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import sympy
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.textpath import text_to_path

from kanfast.symbolic.writing import latex
from kanfast.symbolic.writing import text as plain

Horizontal = Literal["left", "center", "right"]
Vertical = Literal["top", "center", "bottom"]


def default_names(letter: str, count: int) -> list[str]:
    """x_1, x_2, ... as mathematics; of outputs y alone if there is one."""
    if letter == "y" and count == 1:
        return ["$y$"]
    return [f"${letter}_{{{index + 1}}}$" for index in range(count)]


def check_names(what: str, names: Sequence[Any], count: int) -> list[str]:
    """Names as strings on one line; expressions of SymPy as mathematics, if that can be drawn.

    Raises:
        ValueError: Not so many.
    """
    if len(names) != count:
        raise ValueError(f"{what} must have {count} names, got {len(names)}")
    return [_written(name) for name in names]


def _written(name: Any) -> str:
    if not isinstance(name, sympy.Basic):
        return " ".join(str(name).split())
    mathematics = f"${latex(name)}$"
    return mathematics if is_math(mathematics) else plain(name)


def is_math(text: str) -> bool:
    """Whether a text is mathematics as a whole that Matplotlib, which knows a part of LaTeX, draws.

    A dollar sign elsewhere is just that.
    """
    inner = text[1:-1].replace("\\$", "")
    return len(text) > 2 and text[0] == text[-1] == "$" and "$" not in inner and _parses(text)


@lru_cache
def _parses(text: str) -> bool:
    try:
        MathTextParser("path").parse(text)
    except ValueError:
        return False
    return True


def text_width(text: str, size: float) -> float:
    """Width in inches of a text of this size in points."""
    if not text:
        return 0.0
    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, is_math(text))
    return float(width) / 72


def draw_text(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    ha: Horizontal = "center",
    va: Vertical = "center",
    upright: bool = False,
    color: tuple[float, ...] = (0.0, 0.0, 0.0),
    backed: bool = False,
) -> None:
    """Writes text at a point; `backed` hides what is behind it."""
    ax.text(
        x,
        y,
        text,
        size=size,
        ha=ha,
        va=va,
        rotation=90 if upright else 0,
        color=color,
        parse_math=is_math(text),
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4} if backed else None,
    )


def root_figure(ax: Axes) -> Figure:
    """The figure that axes are on."""
    figure = ax.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    return figure
