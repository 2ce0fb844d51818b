"""The picture of an explanation: the network before, and the formula's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sympy
from matplotlib.figure import Figure

from kanfast import plot
from kanfast.explain.report import Explanation, in_latex, named
from kanfast.plot.text import check_names, is_math, text_width
from kanfast.symbolic.writing import latex_name, quoted, text

_SIZE = (10.0, 5.2)
_WIDTH = 9.6  # inches, of the heading
_FONTS = (15.0, 13.0, 11.0, 9.0)
_FEW_DIGITS = (3, 2)


def picture(
    report: Explanation, in_vars: Sequence[Any] | None, out_vars: Sequence[Any] | None
) -> Figure:
    """The body of `Explanation.figure`."""
    names = report.formula.inputs if in_vars is None else in_vars
    outputs = named(report.rounded, out_vars)
    figure = Figure(figsize=_SIZE, facecolor="white")
    for k, (name, output) in enumerate(outputs):
        line, font = _fitting(name, _shorter_and_shorter(report, k, output))
        figure.text(
            0.5, 0.97 - 0.065 * k, line, ha="center", va="top", fontsize=font,
            parse_math=is_math(line),
        )  # fmt: skip
    labels = [sympy.Symbol(name) for name, _ in outputs]
    labels = labels if out_vars is None else check_names("out_vars", out_vars, len(outputs))
    top = 0.86 - 0.06 * (len(report.rounded.outputs) - 1)
    for left, model, title, accuracy in (
        (0.0, report.numeric, "as learned", report.numeric_accuracy),
        (0.5, report.symbolic, "as a formula", report.rounded_accuracy),
    ):
        axes = figure.add_axes((left, 0.0, 0.5, top))
        plot.network(
            model, model.samples, in_vars=names, out_vars=labels,
            title=f"{title}: test RMSE {accuracy.rmse:.1e}", ax=axes,
        )  # fmt: skip
    return figure


def _shorter_and_shorter(report: Explanation, k: int, output: sympy.Expr) -> Iterator[sympy.Expr]:
    yield output
    for digits in _FEW_DIGITS:
        yield report.formula.significant(digits).outputs[k]


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
