"""The picture of an explanation: the network before, and the formula's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from torch import Tensor

from kanfast import plot
from kanfast.explain.equations import latex, named
from kanfast.nn.network import Network
from kanfast.symbolic.formula import Formula

_SIZE = (10.0, 5.2)
_LONGEST = 90


def picture(
    formula: Formula,
    panels: Sequence[tuple[Network, str, float]],
    samples: Tensor,
    in_vars: Sequence[Any] | None,
    out_vars: Sequence[Any] | None,
) -> Figure:
    """Networks side by side under the formula.

    Args:
        formula: What is written above.
        panels: The two networks, what each is called, and its root mean square error.
        samples, in_vars, out_vars: As in `kanfast.plot.network`.
    """
    names = formula.inputs if in_vars is None else in_vars
    outputs = named(formula, out_vars)
    figure = Figure(figsize=_SIZE, facecolor="white")
    heading = "\n".join(_line(name, output) for name, output in outputs)
    figure.text(0.5, 0.97, heading, ha="center", va="top", fontsize=15)
    labels = [sympy.Symbol(name) for name, _ in outputs] if out_vars is None else out_vars
    top = 0.86 - 0.06 * (len(outputs) - 1)
    for left, (network, title, rmse) in zip((0.0, 0.5), panels, strict=True):
        axes = figure.add_axes((left, 0.0, 0.5, top))
        plot.network(
            network, samples, in_vars=names, out_vars=labels,
            title=f"{title}: test RMSE {rmse:.1e}", ax=axes,
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
