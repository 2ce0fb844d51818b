"""What turns a user's function into an entry of the library."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch import Tensor

TensorFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SympyPower:
    """x -> x^exponent."""

    exponent: int | sympy.Rational

    def __call__(self, x: sympy.Expr) -> sympy.Expr:
        """The power of x."""
        return x**self.exponent


@dataclass(frozen=True)
class Clamped:
    """A user's function, evaluated at the nearest point of its domain.

    Open ends, at which the function or its derivative is infinite, are moved inside by 1/limit.
    """

    fun: TensorFunction
    domain: tuple[float, float]
    open_ends: tuple[bool, bool]

    def __call__(self, x: Tensor, limit: float) -> Tensor:
        """The function at x, elementwise."""
        low, high = self.domain
        inset = max(1 / limit, torch.finfo(x.dtype).eps)
        if self.open_ends[0]:
            low += inset * max(1.0, abs(low))
        if self.open_ends[1]:
            high -= inset * max(1.0, abs(high))
        bounded = (low, high) != (-math.inf, math.inf)
        return self.fun(x.clamp(low, high) if bounded else x)


def clamped(fun: TensorFunction, domain: tuple[float, float]) -> Clamped:
    """`fun` on its domain; which of the ends are open is found out by evaluating there."""
    low, high = (math.isfinite(end) and not _finite_at(fun, end) for end in domain)
    return Clamped(fun, domain, (low, high))


def _finite_at(fun: TensorFunction, end: float) -> bool:
    with torch.enable_grad():
        at = torch.tensor([end], dtype=torch.float64, requires_grad=True)
        value = fun(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return math.isfinite(value.item()) and math.isfinite(slope.item())


class _WithDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fun: TensorFunction, derivative: TensorFunction) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = derivative
        return fun(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.derivative(x), None, None


@dataclass(frozen=True)
class Differentiable:
    """A function with its derivative attached, for functions autograd cannot differentiate.

    The derivative may be another `Differentiable`; then second derivatives work as well. For the
    Bessel functions, which not every release of torch differentiates:

        >>> j1 = Differentiable(torch.special.bessel_j1, lambda x: j0(x) - j1(x) / x)
        >>> j0 = Differentiable(torch.special.bessel_j0, lambda x: -j1(x))
    """

    fun: TensorFunction
    derivative: TensorFunction

    def __call__(self, x: Tensor) -> Tensor:
        """The function at x, elementwise."""
        return cast(Tensor, _WithDerivative.apply(x, self.fun, self.derivative))


def probes(domain: tuple[float, float], count: int = 64) -> Tensor:
    """Points of the domain (float64), irregular, within a few units of the finite ends or of 0."""
    low, high = domain
    fractions = (torch.arange(1, count + 1, dtype=torch.float64) * 0.6180339887498949) % 1
    if math.isinf(low):
        low = -4.0 if math.isinf(high) else high - 4.0
    return low + fractions * ((low + 8.0 if math.isinf(high) else high) - low)


def is_differentiable(name: str, fun: TensorFunction, domain: tuple[float, float]) -> bool:
    """Whether autograd differentiates fun.

    Raises:
        ValueError: fun is not an elementwise function, finite in its domain.
    """
    x = probes(domain).requires_grad_()
    value = fun(x)
    if not isinstance(value, Tensor) or value.shape != x.shape or not value.isfinite().all():
        raise ValueError(
            f"expected {name!r} to map a tensor to a finite tensor of its shape on the domain "
            f"{domain}, got {value!r}"
        )
    if not value.requires_grad:
        return False
    try:
        (slope,) = torch.autograd.grad(value.sum(), x)
    except (RuntimeError, NotImplementedError):
        return False
    return bool(slope.isfinite().all())


def is_symmetric(fun: TensorFunction, domain: tuple[float, float]) -> bool:
    """Whether f(-u) = f(u), or f(u) + f(-u) is constant, on sample points."""
    if domain[0] != -domain[1]:
        return False
    x = probes(domain)
    with torch.no_grad():
        value, mirrored = fun(x), fun(-x)
    total = value + mirrored
    even = torch.allclose(value, mirrored, rtol=1e-12, atol=1e-12)
    return even or torch.allclose(total, total[0], rtol=1e-12, atol=1e-12)
