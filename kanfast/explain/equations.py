"""The outputs of a formula as equations: what they are called, and their LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy

from kanfast.symbolic.formula import Formula


def named(formula: Formula, out_vars: Sequence[Any] | None = None) -> list[tuple[str, sympy.Expr]]:
    """The outputs and what they are called: y, or f if that is a variable."""
    count = len(formula.outputs)
    if out_vars is None:
        letter = "f" if any(str(v) == "y" for v in formula.inputs) else "y"
        out_vars = [letter] if count == 1 else [f"{letter}_{k}" for k in range(1, count + 1)]
    return list(zip(map(str, out_vars), formula.outputs, strict=True))


def latex(expr: sympy.Expr) -> str:
    """LaTeX, with a thin space between factors: names may have several letters."""
    return str(sympy.latex(expr, mul_symbol=r" \, "))
