"""The picture of an explanation: the network before, and the formula's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sympy
from matplotlib.figure import Figure

from kanfast import plot
from kanfast.explain.equations import in_latex, named
from kanfast.nn.network import Network
from kanfast.plot.text import check_names, is_math, text_width
from kanfast.symbolic.formula import Formula
from kanfast.symbolic.writing import latex_name, quoted, text

_SIZE = (10.0, 5.2)
_WIDTH = 9.6  # inches, of the heading
_FONTS = (15.0, 13.0, 11.0, 9.0)
_FEW_DIGITS = (3, 2)


def picture(
    formula: Formula,
    rounded: Formula,
    panels: Sequence[tuple[Network, str, float]],
    in_vars: Sequence[Any] | None,
    out_vars: Sequence[Any] | None,
) -> Figure:
    """Networks side by side under the formula.

    Args:
        formula, rounded: What is written above: the second, or the first with fewer digits.
        panels: The two networks with their samples, what each is called, and its root mean square
            error.
        in_vars, out_vars: As in `kanfast.plot.network`.
    """
    names = formula.inputs if in_vars is None else in_vars
    outputs = named(rounded, out_vars)
    figure = Figure(figsize=_SIZE, facecolor="white")
    for k, (name, output) in enumerate(outputs):
        line, font = _fitting(name, _shorter_and_shorter(formula, k, output))
        figure.text(
            0.5, 0.97 - 0.065 * k, line, ha="center", va="top", fontsize=font,
            parse_math=is_math(line),
        )  # fmt: skip
    labels = [sympy.Symbol(name) for name, _ in outputs]
    labels = labels if out_vars is None else check_names("out_vars", out_vars, len(outputs))
    top = 0.86 - 0.06 * (len(outputs) - 1)
    for left, (network, title, rmse) in zip((0.0, 0.5), panels, strict=True):
        axes = figure.add_axes((left, 0.0, 0.5, top))
        plot.network(
            network, network.samples, in_vars=names, out_vars=labels,
            title=f"{title}: test RMSE {rmse:.1e}", ax=axes,
        )  # fmt: skip
    return figure


def _shorter_and_shorter(formula: Formula, k: int, output: sympy.Expr) -> Iterator[sympy.Expr]:
    yield output
    for digits in _FEW_DIGITS:
        yield formula.significant(digits).outputs[k]


def _fitting(name: str, forms: Iterator[sympy.Expr]) -> tuple[str, float]:
    """The first of these forms that the picture has room for, whole, and its font's size."""
    operations = 0
    for form in forms:
        operations = operations or int(form.count_ops())
        line = _line(name, form)
        for font in _FONTS:
            if text_width(line, font) <= _WIDTH:
                return line, font
    return f"{quoted(name)} = a formula of {operations} operations", _FONTS[0]


def _line(name: str, output: sympy.Expr) -> str:
    left = name[1:-1] if is_math(name) else latex_name(name)
    line = f"${left} = {in_latex(output)}$"
    return line if is_math(line) else f"{quoted(name)} = {text(output)}"
