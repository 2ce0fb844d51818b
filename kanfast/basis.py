"""The family of functions on a KAN edge: the B-splines of a grid and the residual activation.

B-splines of degree k have degree k - n pieces in their n-th derivative, and that derivative is an
n-fold difference of the B-splines of degree k - n on the same knots (de Boor, A Practical Guide to
Splines, chapter X). So `evaluate` makes the splines of degree k - n, on a uniform grid in closed
form and on general knots by the Cox-de Boor recursion, and then takes n differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.activations import (
    ACTIVATIONS,
    Activation,
    activation,
    hermite,
    sigmoid_derivative,
    tanh_derivative,
)

__all__ = [
    "MAX_DEGREE",
    "Activation",
    "Basis",
    "cardinal_splines",
    "evaluate",
    "hermite",
    "sigmoid_derivative",
    "spline_basis",
    "tanh_derivative",
]

MAX_DEGREE = 7


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
        for name, value in (("grid_size", self.grid_size), ("degree", self.degree)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is expected to be an int, got {value!r}")
        if self.grid_size < 1:
            raise ValueError(
                f"grid_size is expected to be at least 1, got {self.grid_size}: "
                "a grid has one interval or more"
            )
        if not 0 <= self.degree <= MAX_DEGREE:
            raise ValueError(
                f"degree is expected to be 0 to {MAX_DEGREE}, got {self.degree}: "
                "choose a degree in that range (3 is usual)"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is expected to be one of {ACTIVATIONS}, got {self.activation!r}: "
                'for any other function use "none" and add its term yourself'
            )

    @property
    def num_splines(self) -> int:
        """G + k."""
        return self.grid_size + self.degree

    @property
    def num_functions(self) -> int:
        """J: the splines and the residual activation, if there is one."""
        return self.num_splines + (self.activation != "none")

    @property
    def num_knots(self) -> int:
        """G + 2k + 1: the knots of the grid extended by k on both sides."""
        return self.grid_size + 2 * self.degree + 1


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
    splines = spline_basis(x, grid, basis, deriv)
    if basis.activation == "none":
        return splines
    return torch.cat([splines, activation(basis.activation, x, deriv)[:, None]], dim=1)


def spline_basis(x: Tensor, grid: Tensor, basis: Basis, deriv: int = 0) -> Tensor:
    """The splines of `evaluate` alone: [B, G + k, I]."""
    if deriv > basis.degree:
        zero = torch.where(x.isnan(), x, torch.zeros_like(x))
        return zero[:, None].expand(-1, basis.num_splines, -1).contiguous()
    if basis.uniform:
        return _uniform_basis(x, grid, basis, deriv)
    return _general_basis(x, grid, basis, deriv)


def _uniform_basis(x: Tensor, grid: Tensor, basis: Basis, deriv: int) -> Tensor:
    lo, hi = grid[:, basis.degree], grid[:, basis.grid_size + basis.degree]
    middle, step = ((lo + hi) / 2).to(x.dtype), ((hi - lo) / basis.grid_size).to(x.dtype)
    p = basis.degree - deriv
    # In steps from the middle of the domain, where knot j is at j - (G/2 + k).
    z = (x - middle) / step
    out = cardinal_splines(z, p, basis.num_splines + deriv, -(basis.grid_size / 2 + basis.degree))
    for _ in range(deriv):
        out = out[:, :-1] - out[:, 1:]
    return out if deriv == 0 else out.mul_(step ** -deriv)


def cardinal_splines(z: Tensor, degree: int, count: int, start: float) -> Tensor:
    """B-splines of unit step whose supports begin at start, start + 1, ...: [B, count, I].

    With u the distance from the centre of the support, R = (p + 1)/2 and r_m = max(R - m - |u|, 0),
    N_p(u) = 1/p! sum_{m <= p/2} (-1)^m C(p + 1, m) r_m^p: the truncated powers counted from the
    nearer end of the support, so that nothing cancels.
    """
    index = torch.arange(count, dtype=z.dtype, device=z.device)[:, None]
    if degree == 0:
        cell = torch.floor(z - start)[:, None]
        return torch.where(z.isnan()[:, None], z[:, None], (cell == index).to(z.dtype))
    radius = (degree + 1) / 2
    r = (index + (start + radius) - z[:, None]).abs_().neg_().add_(radius).relu_()
    out = _power(r, degree).mul_(1 / math.factorial(degree))
    for m in range(1, degree // 2 + 1):
        r = r.sub_(1).relu_()
        weight = (-1) ** m * math.comb(degree + 1, m) / math.factorial(degree)
        out.add_(_power(r, degree), alpha=weight)
    return out


def _power(r: Tensor, p: int) -> Tensor:
    """r ** p by multiplications: torch's pow is slow for exponents above 3."""
    if p <= 3:
        return r.pow(p)
    if p == 4:
        return r.square().square_()
    if p == 5:
        return r.square().square_().mul_(r)
    if p == 6:
        return r.pow(3).square_()
    return r.pow(3).square_().mul_(r)


def _general_basis(x: Tensor, grid: Tensor, basis: Basis, deriv: int) -> Tensor:
    knots = grid.to(x.dtype).T  # [G + 2k + 1, I]
    last = knots.shape[0] - 1
    p = basis.degree - deriv
    inside = (x[:, None] >= knots[:-1]) & (x[:, None] < knots[1:])
    out = torch.where(x.isnan()[:, None], x[:, None], inside.to(x.dtype))
    # Clamped, so that (x - t) / (knot distance) is finite: it meets a zero spline out there.
    x = torch.clamp(x, knots[0], knots[-1])[:, None]
    for d in range(1, p + 1):
        # weight_j rises from 0 to 1 over the support of spline j of degree d - 1;
        # B_j,d = weight_j B_j,d-1 + (1 - weight_j+1) B_j+1,d-1.
        rising = ((x - knots[: last + 1 - d]) * _reciprocal_widths(knots, d)).mul_(out)
        out = (rising[:, :-1] - rising[:, 1:]).add_(out[:, 1:])
    for d in range(p + 1, basis.degree + 1):
        out = out * (d * _reciprocal_widths(knots, d))
        out = out[:, :-1] - out[:, 1:]
    return out


def _reciprocal_widths(knots: Tensor, d: int) -> Tensor:
    """1 / (t_j+d - t_j), and 0 where knots coincide: [number of knots - d, I].

    0 / 0 := 0 in the recursion, as the spline over such a support is zero. Widths count as zero
    below the smallest one whose reciprocal, times the width of the whole grid, is finite.
    """
    width = knots[d:] - knots[:-d]
    smallest = (knots[-1] - knots[0]).clamp_min(1) * torch.finfo(knots.dtype).tiny
    safe = torch.where(width > smallest, width, torch.ones_like(width))
    return torch.where(width > smallest, 1 / safe, torch.zeros_like(width))
