"""The picture of an explanation: the network before, and the formula's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser

from kanfast import plot
from kanfast.explain.report import Explanation, latex, named
from kanfast.nn.network import AnyNetwork

_SIZE = (10.0, 5.2)
_LONGEST = 90


def picture(
    report: Explanation[AnyNetwork], in_vars: Sequence[Any] | None, out_vars: Sequence[Any] | None
) -> Figure:
    """The body of `Explanation.figure`."""
    names = report.formula.inputs if in_vars is None else in_vars
    outputs = named(report.rounded, out_vars)
    figure = Figure(figsize=_SIZE, facecolor="white")
    heading = "\n".join(_line(name, output) for name, output in outputs)
    figure.text(0.5, 0.97, heading, ha="center", va="top", fontsize=15)
    labels = [sympy.Symbol(name) for name, _ in outputs] if out_vars is None else out_vars
    top = 0.86 - 0.06 * (len(report.rounded.outputs) - 1)
    for left, model, title, accuracy in (
        (0.0, report.numeric, "as learned", report.numeric_accuracy),
        (0.5, report.symbolic, "as a formula", report.formula_accuracy),
    ):
        axes = figure.add_axes((left, 0.0, 0.5, top))
        plot.network(
            model, report.samples, in_vars=names, out_vars=labels,
            title=f"{title}: test RMSE {accuracy.rmse:.1e}", ax=axes,
        )  # fmt: skip
    return figure


def _line(name: str, output: sympy.Expr) -> str:
    left = name.strip("$") if name.startswith("$") else sympy.latex(sympy.Symbol(name))
    text = f"${left} = {latex(output)}$"
    try:
        MathTextParser("path").parse(text)
    except ValueError:  # Matplotlib knows a part of LaTeX only
        text = f"{name} = {output}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 4].replace("$", "") + " ..."
