"""One function an edge may become: its torch and SymPy forms and what a fit must know about it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import sympy
import torch
from torch import Tensor

from .primitives import default_limit

SafeFunction = Callable[[Tensor, float], Tensor]
SympyFunction = Callable[[sympy.Expr], sympy.Expr]

Search = Literal[
    "constant", "linear", "quadratic", "location", "step", "rate", "harmonic", "affine"
]
"""Which parameters of c f(a x + b) + d a fit has to search for, c and d being linear.

- constant, linear, quadratic: none, linear least squares is exact.
- location: f is homogeneous (or log), so |a| = 1 and only b is searched.
- step: b too, among the gaps between samples (f is piecewise constant).
- rate: f turns shifts into factors (exp), only a is searched.
- harmonic: sin(a x + b) is a linear combination of sin(a x) and cos(a x), only a is searched.
- affine: a and b.
"""

_PARAMETERS: dict[Search, int] = {
    "constant": 1, "linear": 2, "quadratic": 3, "location": 3, "step": 3, "rate": 3,
    "harmonic": 4, "affine": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Twin:
    """f(u) is base(u + shift) up to a factor and a constant: the base is fitted in f's place."""

    base: "SymbolicFunction"
    shift: float = 0.0


@dataclass(frozen=True, eq=False)
class SymbolicFunction:
    """An immutable entry of a `Library`. Call it to evaluate: `function(x)`.

    Two functions are equal when they are the same object. One that is in the default library is
    pickled by its name; copies of it are the function itself.

    Args:
        name: its key in a library, such as "sin" or "x^2".
        evaluate: `evaluate(x, limit)`, elementwise, finite near singularities
            (see `kanfast.symbolic.primitives`); x is float32 or float64.
        sympy_fun: maps a SymPy expression to a SymPy expression.
        complexity: the price of the function where accuracy is weighed against simplicity.
        search: how it is fitted.
        domain: the interval of arguments a fit may use.
        closed: f is finite at the finite ends of the domain, so a fit may reach them.
        symmetric: f(-u) is f(u) or a constant minus f(u): then fits have a > 0.
        period: p if f(u + p) is f(u) or a constant minus f(u): then fits have |b| <= p/2.
        reach: f has its features within |u| <= reach; only for search "affine" on the whole line.
        twin: how f follows from another function that a fit may share.
    """

    name: str
    evaluate: SafeFunction = field(repr=False)
    sympy_fun: SympyFunction = field(repr=False)
    complexity: float
    search: Search = "affine"
    domain: tuple[float, float] = (-math.inf, math.inf)
    closed: bool = False
    symmetric: bool = False
    period: float | None = None
    reach: float = 4.0
    twin: Twin | None = field(default=None, repr=False)

    @property
    def parameters(self) -> int:
        """How many of a, b, c, d are independent: "0" has 1, "x" 2, "x^2" 3, "sin" 4."""
        return _PARAMETERS[self.search]

    def __call__(self, x: Tensor, limit: float | None = None) -> Tensor:
        """f(x), elementwise, in the dtype of x (16-bit dtypes are computed in float32).

        Args:
            x: floating tensor of any shape.
            limit: where a pole is cut off, by default that of the dtype
                (1e20 for float64, 1e10 for float32 and bfloat16, 100 for float16).

        Raises:
            TypeError: x is not of a floating dtype.
            ValueError: limit is not above 1.
        """
        cut = default_limit(x.dtype) if limit is None else limit
        if not cut > 1:
            raise ValueError(f"expected limit > 1, got {limit}")
        if x.dtype in (torch.float32, torch.float64):
            return self.evaluate(x, cut)
        largest = torch.finfo(x.dtype).max
        return self.evaluate(x.float(), cut).clamp(-largest, largest).to(x.dtype)

    def value_and_derivative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and f'(x), detached, for a fit."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self(leaf)
            (derivative,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), derivative

    def __copy__(self) -> "SymbolicFunction":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "SymbolicFunction":
        return self
