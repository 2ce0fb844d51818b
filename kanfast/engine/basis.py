"""The family of functions on a KAN edge: the B-splines of a grid and the residual activation.

B-splines of degree k have degree k - n pieces in their n-th derivative, and that derivative is an
n-fold difference of the B-splines of degree k - n on the same knots (de Boor, A Practical Guide to
Splines, chapter X). So `evaluate` makes the splines of degree k - n, on a uniform grid in closed
form and on general knots by the Cox-de Boor recursion, and then takes n differences.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanfast.engine import _torch
from kanfast.engine.activations import ACTIVATIONS, Activation, activation
from kanfast.engine.grid import is_uniform

MAX_DEGREE = 7
# Steps from the middle of a grid to its end, with which the place between two knots loses digits.
_FINE = 16


@dataclass(frozen=True)
class Basis:
    """A basis shared by all edges of a layer: G + k B-splines and, last, the residual activation.

    Args:
        grid_size: number of intervals G, at least 1.
        degree: spline degree k, 0 to 7 (what KAN papers call the spline order).
        activation: the residual function; "none" leaves the splines alone. "gelu" is the exact one.
        uniform: every input's knots are equally spaced (origin and step may differ between
            inputs). Of a uniform grid only the ends of the domain, t[k] and t[G + k], are read.

    Raises:
        ValueError: a value outside these ranges.
        TypeError: grid_size or degree that is not an int.
    """

    grid_size: int
    degree: int
    activation: Activation = "silu"
    uniform: bool = True

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():
            return  # the ops make it again; tracing the checks would add a guard for each
        for name, value in (("grid_size", self.grid_size), ("degree", self.degree)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {value!r}")
        if self.grid_size < 1:
            raise ValueError(
                f"grid_size must be at least 1, got {self.grid_size}: "
                "a grid has one interval or more"
            )
        if not 0 <= self.degree <= MAX_DEGREE:
            raise ValueError(
                f"degree must be 0 to {MAX_DEGREE}, got {self.degree}: "
                "choose a degree in that range (3 is usual)"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {ACTIVATIONS}, got {self.activation!r}: "
                'for any other function use "none" and add its term yourself'
            )

    @property
    def num_splines(self) -> int:
        """G + k."""
        return self.grid_size + self.degree

    @property
    def num_functions(self) -> int:
        """J: the splines and the residual activation, if there is one."""
        return self.num_splines + int(self.activation != "none")

    @property
    def num_knots(self) -> int:
        """G + 2k + 1: the knots of the grid extended by k on both sides."""
        return self.grid_size + 2 * self.degree + 1


def shared_basis(grid_size: int, degree: int, activation: Activation, uniform: bool) -> Basis:
    """A `Basis` that was checked before; eager layers ask for theirs in every call."""
    if torch.compiler.is_compiling():  # which warns of caches
        return Basis(grid_size, degree, activation, uniform)
    return _shared_basis(grid_size, degree, activation, uniform)


_shared_basis = functools.cache(Basis)


def evaluate(x: Tensor, grid: Tensor, basis: Basis, deriv: int = 0) -> Tensor:
    """The derivative of order `deriv` of all J functions at x.

    Args:
        x: [B, I], float32 or float64, which is also the dtype of the arithmetic.
        grid: [I, G + 2k + 1], float32 or float64, knots in ascending order.
        basis: the family.
        deriv: order of the derivative.

    Returns:
        [B, J, I], of the dtype of x: the splines in the order of their knots, then the activation.
        Splines vanish outside the extended grid, and their derivatives of an order above k
        everywhere. At a jump the value from the right is taken. NaN in x gives NaN in all J.
    """
    out = x.new_empty(x.shape[0], basis.num_functions, x.shape[1])
    evaluator(grid, basis, deriv, x.dtype)(x, out)
    return out


def spline_basis(x: Tensor, grid: Tensor, basis: Basis, deriv: int = 0) -> Tensor:
    """The splines of `evaluate` alone: [B, G + k, I]."""
    return evaluate(x, grid, replace(basis, activation="none"), deriv)


Evaluator = Callable[[Tensor, Tensor], None]


def evaluator(grid: Tensor, basis: Basis, deriv: int, dtype: torch.dtype) -> Evaluator:
    """`evaluate` with the work that depends on the grid alone done once.

    Returns:
        A function of x, [rows, I], and out, [rows, J, I], both of this dtype, that writes out.
    """
    splines = _splines(grid, basis, deriv, dtype)

    def write(x: Tensor, out: Tensor) -> None:
        splines(x, out[:, : basis.num_splines])
        if basis.activation != "none":
            out[:, -1].copy_(activation(basis.activation, x, deriv))

    return write


def _splines(grid: Tensor, basis: Basis, deriv: int, dtype: torch.dtype) -> Evaluator:
    if deriv > basis.degree:
        return _no_splines
    if basis.uniform and _looks_uniform(grid, basis.degree):
        return _uniform_splines(grid, basis, deriv, dtype)
    return _general_splines(grid, basis, deriv, dtype)


def _looks_uniform(grid: Tensor, degree: int) -> bool:
    """Whether knots that are said to be equally spaced are, as far as a look costs little.

    A look at tensors of a GPU waits for it, so there the word of the basis counts. Tracers and
    transforms have no values to look at.
    """
    if _torch.is_observed(grid):
        return False
    return not grid.is_cpu or is_uniform(grid, degree)


def _no_splines(x: Tensor, out: Tensor) -> None:
    out.copy_(_zero(x))


def _zero(x: Tensor) -> Tensor:
    """[B, 1, I]: 0, but NaN where x is NaN."""
    return torch.where(x.isnan(), x, 0)[:, None]


def _uniform_splines(grid: Tensor, basis: Basis, deriv: int, dtype: torch.dtype) -> Evaluator:
    degree = basis.degree - deriv
    # On fine grids the place between two knots is all behind float32's digits. Not so for steps,
    # which jump at the knots: rounded to the dtype of the grid, an x at a knot is right of it.
    ends = grid if degree == 0 else grid.double()
    lo, hi = ends[:, basis.degree], ends[:, basis.grid_size + basis.degree]
    middle, step = (lo + hi) / 2, (hi - lo) / basis.grid_size
    if degree == 0:
        middle, step = middle.to(dtype), step.to(dtype)
    slope = (step**-deriv).to(dtype)
    # In steps from the middle of the domain, where knot j is at j - (G/2 + k).
    start = -(basis.grid_size / 2 + basis.degree)

    def write(x: Tensor, out: Tensor) -> None:
        z = (x - middle).div_(step)
        if deriv == 0:
            _cardinal_splines(z, degree, start, out)
            return
        f = x.new_empty(z.shape[0], basis.num_splines + deriv, z.shape[1])
        _cardinal_splines(z, degree, start, f)
        for _ in range(deriv - 1):
            f = f[:, :-1] - f[:, 1:]
        torch.sub(f[:, :-1], f[:, 1:], out=out).mul_(slope)

    return write


def _cardinal_splines(z: Tensor, degree: int, start: float, out: Tensor) -> None:
    """B-splines of unit step, one for each j of out [B, j, I], with support from start + j on.

    With u the distance from the centre of the support, R = (p + 1)/2 and e_m = min(|u| - R + m, 0),
    N_p(u) = (-1)^p / p! sum_{m <= p/2} (-1)^m C(p + 1, m) e_m^p: the truncated powers counted from
    the nearer end of the support, so that nothing cancels.
    """
    index = torch.arange(out.shape[1], dtype=out.dtype, device=z.device)[:, None]
    if degree == 0:
        torch.eq(torch.floor(z - start)[:, None], index, out=out)
        out.add_(_zero(z))
        return
    radius = (degree + 1) / 2
    if -start < _FINE:
        e = torch.sub(z.to(out.dtype)[:, None], index + (start + radius))
    else:
        # Multiples of a half, whose distances from the centres are exact, and a rest. No spline
        # lives beyond the bounds.
        z = z.clamp_(start - 1, 1 - start)
        near = (z * 2).round_().div_(2)
        e = torch.sub(near.to(out.dtype)[:, None], index + (start + radius))
        e.add_(z.sub_(near).to(out.dtype)[:, None])
    e.abs_().sub_(radius).clamp_max_(0)
    scale = (-1) ** degree / math.factorial(degree)
    _power(e, degree, out).mul_(scale)
    term = torch.empty_like(e) if degree > 1 else e
    for m in range(1, degree // 2 + 1):
        e.add_(1).clamp_max_(0)
        out.add_(_power(e, degree, term), alpha=scale * (-1) ** m * math.comb(degree + 1, m))


def _power(e: Tensor, p: int, out: Tensor) -> Tensor:
    """e ** p by multiplications, as torch's pow is slow for exponents above 3."""
    torch.pow(e, p if p <= 3 else p // 2, out=out)
    if p > 3:
        out.square_()
        if p % 2:
            out.mul_(e)
    return out


def _general_splines(grid: Tensor, basis: Basis, deriv: int, dtype: torch.dtype) -> Evaluator:
    knots = grid.to(dtype).T.contiguous()  # [G + 2k + 1, I]
    reciprocals = [_reciprocal_widths(knots, d) for d in range(1, basis.degree + 1)]
    degree = basis.degree - deriv

    def write(x: Tensor, out: Tensor) -> None:
        # All splines are zero from the last knot on. Taking every x outside the grid there keeps
        # the quotients below finite: they meet zeros there.
        x = torch.where(x < knots[0], knots[-1], x).clamp_max_(knots[-1])
        distance = x[:, None] - knots
        f = torch.ge(distance, 0, out=torch.empty_like(distance))
        f = f[:, :-1] - f[:, 1:]  # 1 in the interval of x, 0 elsewhere
        if degree == 0:
            f.add_(_zero(x))
        for reciprocal in reciprocals[:degree]:
            # With R_j = (x - t_j) / (t_j+d - t_j) B_j,d-1 the recursion reads: B_j,d is R_j plus
            # B_j+1,d-1 minus R_j+1.
            rising = (distance[:, : f.shape[1]] * reciprocal).mul_(f)
            f = (f[:, 1:] - rising[:, 1:]).add_(rising[:, :-1])
        for d, reciprocal in enumerate(reciprocals[degree:], degree + 1):
            f = f * (d * reciprocal)
            f = f[:, :-1] - f[:, 1:]
        out.copy_(f)

    return write


def _reciprocal_widths(knots: Tensor, d: int) -> Tensor:
    """1 / (t_j+d - t_j), and 0 where knots coincide: [number of knots - d, I].

    0 / 0 := 0 in the recursion, as the spline over such a support is zero. Widths count as zero
    below the smallest one whose reciprocal, times the width of the whole grid, is finite.
    """
    width = knots[d:] - knots[:-d]
    smallest = (knots[-1] - knots[0]).clamp_min(1) * torch.finfo(knots.dtype).tiny
    return torch.where(width > smallest, 1 / torch.where(width > smallest, width, 1), 0)
