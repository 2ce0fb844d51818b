"""Expressions evaluated by NumPy as they stand, whatever their variables and functions are called.

`sympy.lambdify` puts new symbols in the place of names that Python has a use for, for which it
builds the expression anew: that is slow, and SymPy may build another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy.printing.numpy import NumPyPrinter, SciPyPrinter

Values = NDArray[np.float64]

_LARGEST_INTEGER = 2**53
# SciPy has the special functions of a user's own SymPy forms.
_Printer = SciPyPrinter if find_spec("scipy") else NumPyPrinter


def evaluate(
    expr: sympy.Expr,
    variables: Sequence[sympy.Symbol],
    columns: Sequence[Values],
    functions: Mapping[str, Callable[[Any], Values]],
) -> Values:
    """The expression at these columns, float64; NaN where it is not a real number.

    Args:
        expr: of the variables.
        variables: as many as columns. columns: arrays of one shape.
        functions: what functions that SymPy does not know are, by name.
    """
    printer = _Code(variables, list(functions))
    code = printer.doprint(expr)
    scope: dict[str, Any] = {"x": columns, "f": list(functions.values()), "numpy": np}
    for module in printer.module_imports:
        scope[module.partition(".")[0]] = import_module(module.partition(".")[0])
        import_module(module)
    with np.errstate(all="ignore"):
        value = np.asarray(eval(code, scope))
    if np.iscomplexobj(value):
        value = np.where(value.imag == 0, value.real, math.nan)
    return value.astype(np.float64)


class _Code(_Printer):  # type: ignore[misc, valid-type]  # SymPy is not typed
    """Python code in which the variables are x[0], x[1], ..., and own functions f[0], f[1], ..."""

    def __init__(self, variables: Sequence[sympy.Symbol], functions: Sequence[str]) -> None:
        super().__init__({"fully_qualified_modules": True, "allow_unknown_functions": True})
        self._places = {symbol: f"x[{k}]" for k, symbol in enumerate(variables)}
        self._own = {name: f"f[{k}]" for k, name in enumerate(functions)}

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return self._places[expr]

    _print_Dummy = _print_Symbol

    def _print_AppliedUndef(self, expr: sympy.Expr) -> str:
        arguments = ", ".join(map(self._print, expr.args))
        return f"{self._own[expr.func.__name__]}({arguments})"

    def _print_ComplexInfinity(self, expr: sympy.Expr) -> str:
        return "numpy.nan"

    def _print_Integer(self, expr: sympy.Integer) -> str:
        return repr(float(expr)) if abs(expr) > _LARGEST_INTEGER else str(expr)
