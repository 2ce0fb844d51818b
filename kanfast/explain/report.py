"""What `KAN.explain` returns: the formula, how good it is, and what else was possible."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import sympy
from torch import Tensor

from kanfast.explain.equations import latex, named
from kanfast.nn.network import AnyNetwork
from kanfast.symbolic.formula import Formula
from kanfast.symbolic.select import EdgeReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNCERTAIN_BITS = 5.0


@dataclass(frozen=True)
class Accuracy:
    """On the test rows, means over outputs: root mean square error in the formula's units, R2."""

    rmse: float
    r2: float

    def __str__(self) -> str:
        return f"RMSE {self.rmse:.2e}, 1 - R2 {1 - self.r2:.1e}"


@dataclass(frozen=True)
class Alternative:
    """Another formula, fitted to the same rows.

    Attributes:
        formula: with fitted constants.
        score: description length in bits (`kanfast.explain.score`), the lower the better.
        error: root mean square error on the training rows over the labels' standard deviation.
        parameters: the number of independent constants.
    """

    formula: Formula
    score: float
    error: float
    parameters: int


@dataclass(frozen=True, eq=False)
class Explanation(Generic[AnyNetwork]):
    """A formula for a dataset. `print` it, or let a notebook show it.

    Attributes:
        formula: constants as fitted, simple numbers exact: 1/2, pi.
        rounded: constants rounded to `digits` decimals besides.
        digits: see `KAN.explain`.
        exact: the formula leaves nothing but rounding errors on the training rows.
        numeric_accuracy, formula_accuracy, rounded_accuracy: on the test rows, of `numeric`, of
            `formula` and of `rounded`.
        edges: for each function in `symbolic` what else it could be, with the score and r2 of the
            whole formula, everything else fitted again.
        alternatives: other formulas, best first; the first is the one that was taken, before its
            constants were simplified.
        numeric: the network of splines, pruned, that formulas of this size were read off.
        symbolic: the formula as a network, whose constants `fit` can train.
        samples: the training inputs, for the pictures.
        seconds: how long it took.
    """

    formula: Formula
    rounded: Formula
    digits: int
    exact: bool
    numeric_accuracy: Accuracy
    formula_accuracy: Accuracy
    rounded_accuracy: Accuracy
    edges: tuple[EdgeReport, ...]
    alternatives: tuple[Alternative, ...]
    numeric: AnyNetwork
    symbolic: AnyNetwork
    samples: Tensor
    seconds: float

    @property
    def uncertain(self) -> tuple[EdgeReport, ...]:
        """The edges on which another function costs less than 5 bits (odds of 32 to 1)."""
        return tuple(edge for edge in self.edges if edge.margin < _UNCERTAIN_BITS)

    def figure(
        self, in_vars: Sequence[Any] | None = None, out_vars: Sequence[Any] | None = None
    ) -> Figure:
        """The network as it was learned beside the one that is the formula.

        Args:
            in_vars: Names of all features; the formula's variables if None.
            out_vars: Names of the outputs.

        Raises:
            ImportError: Matplotlib is missing: `pip install "kanfast[run]"`.
        """
        from kanfast.explain.picture import picture

        panels = (
            (self.numeric, "as learned", self.numeric_accuracy.rmse),
            (self.symbolic, "as a formula", self.formula_accuracy.rmse),
        )
        return picture(self.rounded, panels, self.samples, in_vars, out_vars)

    def __str__(self) -> str:
        return self.text()

    def text(self, out_vars: Sequence[Any] | None = None) -> str:
        """The formula and what is known of it, in lines; `str` of the report gives the same."""
        lines = [f"{name} = {output}" for name, output in named(self.rounded, out_vars)]
        if self.exact:
            lines.append("Exact on the training rows, up to rounding errors.")
        lines += [
            "",
            "on the test rows",
            f"  network    {self.numeric_accuracy}",
            f"  formula    {self.formula_accuracy}",
            f"  rounded    {self.rounded_accuracy}",
        ]
        others = self.alternatives[1:]
        if others:
            lines += ["", "others  more bits  error / std  constants"]
            best = self.alternatives[0].score
            for other in others:
                lines.append(
                    f"{other.score - best:>17.0f}  {other.error:>11.1e}  {other.parameters:>9}  "
                    f"{_short(other.formula)}"
                )
        if self.uncertain:
            lines += ["", "uncertain: " + "; ".join(map(_doubt, self.uncertain))]
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        lines = [
            rf"{sympy.latex(sympy.Symbol(name))} &= {latex(output)}"
            for name, output in named(self.rounded)
        ]
        return "$\\displaystyle \\begin{aligned}" + r" \\ ".join(lines) + "\\end{aligned}$"

    def _repr_html_(self) -> str:
        return f"{self._repr_latex_()}<pre>{html.escape(str(self))}</pre>"


def _short(formula: Formula) -> str:
    text = "; ".join(str(_three_digits(output)) for output in formula.outputs)
    return text if len(text) <= 70 else text[:67] + "..."


def _three_digits(expr: sympy.Expr) -> sympy.Expr:
    return expr.xreplace({value: sympy.Float(value, 3) for value in expr.atoms(sympy.Float)})


def _doubt(edge: EdgeReport) -> str:
    others = ", ".join(candidate.name for candidate in edge.candidates[1:3])
    return f"{edge.edge} is {edge.best.name}, {edge.margin:.1f} bits before {others}"
