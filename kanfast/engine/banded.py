"""Least squares with B-splines on fine grids, where a matrix of all splines would be mostly zeros.

At each point k + 1 splines live, so the normal equations are banded: a chain of blocks, factorised
from one end to the other. They square the condition of the problem. What that costs in digits comes
back by solving again for what is left over at the points themselves; a damping that these
repetitions take back keeps the factors positive, where points are missing too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Splines in a block of the chain, at least; the degree is smaller.
_BLOCK = 32
# Of the largest diagonal element, one for each repetition. The square root of the last one is the
# share of the largest singular value from which on directions are determined. Rounding errors of
# the rest, over the damping, are those of the other directions, so the rest has to be small first.
_DAMPING = (1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-11, 1e-11)


class LocalSplines(NamedTuple):
    """The splines that live at points [I, N], and the size of the whole basis.

    Attributes:
        first: [I, N], index of the first of the k + 1 splines, plus k: those before the first and
            after the last spline of the grid are there, with values of 0.
        values: [I, N, k+1].
        splines: G + k.
    """

    first: Tensor
    values: Tensor
    splines: int

    def sums(self, coefficients: Tensor) -> Tensor:
        """Curves [I, N, O] at the points, from coefficients [I, G+k, O]."""
        degree = self.values.shape[2] - 1
        padded = torch.nn.functional.pad(coefficients, (0, 0, degree, degree))
        curves = coefficients.new_zeros(*self.first.shape, coefficients.shape[2])
        for r in range(degree + 1):
            index = (self.first + r)[..., None].expand(curves.shape)
            curves = torch.addcmul(curves, padded.gather(1, index), self.values[..., r, None])
        return curves

    def products(self, curves: Tensor) -> Tensor:
        """Sums over the points [I, G+k, O] of each spline times curves [I, N, O]."""
        degree = self.values.shape[2] - 1
        padded = curves.new_zeros(len(curves), self.splines + 2 * degree, curves.shape[2])
        for r in range(degree + 1):
            index = (self.first + r)[..., None].expand(curves.shape)
            padded = padded.scatter_add(1, index, curves * self.values[..., r, None])
        return padded[:, degree : degree + self.splines]

    def bands(self) -> Tensor:
        """Sums over the points [I, G+k, k+1] of each spline times itself and the k after it."""
        padded = torch.nn.functional.pad(self.values, (0, self.values.shape[2] - 1))
        shifted = padded.unfold(2, self.values.shape[2], 1)  # [I, N, r, s]: value r + s
        degree = self.values.shape[2] - 1
        bands = padded.new_zeros(len(padded), self.splines + 2 * degree, degree + 1)
        for r in range(degree + 1):
            index = (self.first + r)[..., None].expand(-1, -1, degree + 1)
            bands.scatter_add_(1, index, self.values[..., r, None] * shifted[:, :, r])
        return bands[:, degree : degree + self.splines]


def local_splines(x: Tensor, knots: Tensor, degree: int) -> LocalSplines:
    """B-splines at x [I, N] on ascending knots [I, G+2k+1], by Cox-de Boor's recursion."""
    count = knots.shape[1]
    cell = torch.searchsorted(knots.contiguous(), x.contiguous(), right=True) - 1
    inside = (cell >= 0) & (cell < count - 1)
    cell = cell.clamp(0, count - 2)
    # Beyond the ends the outermost knot stands again: only splines that do not exist are on those.
    around = [knots.gather(1, (cell + n).clamp(0, count - 1)) for n in range(-degree, degree + 2)]
    values = [inside.to(x.dtype)]
    for d in range(1, degree + 1):
        # Each spline of degree d - 1 rises in one of degree d, and falls in the one before it.
        shares = [torch.zeros_like(x)]
        for r, value in enumerate(values):
            low, high = around[degree - d + 1 + r], around[degree + 1 + r]
            width = high - low
            share = torch.where(width > 0, value / torch.where(width > 0, width, 1), 0)
            shares[-1] = shares[-1] + (high - x) * share
            shares.append((x - low) * share)
        values = shares
    splines = count - degree - 1
    exists = [(cell + r >= degree) & (cell + r < splines + degree) for r in range(degree + 1)]
    values = [torch.where(e, v, 0) for e, v in zip(exists, values, strict=True)]
    return LocalSplines(cell, torch.stack(values, dim=2), splines)


def least_squares(basis: LocalSplines, curves: Tensor, start: Tensor) -> Tensor:
    """Coefficients [I, G+k, O] of the splines closest to curves [I, N, O] at the basis's points.

    Where the points leave some open they are the ones closest to `start`.
    """
    bands, fitted = basis.bands(), start
    chains = {damping: _factorise(bands, damping) for damping in set(_DAMPING)}
    for damping in _DAMPING:
        rest = curves - basis.sums(fitted)
        fitted = fitted + _solve(chains[damping], basis.products(rest))
    return fitted


class _Chain(NamedTuple):
    """A lower triangular matrix of blocks [I, b, b]: the diagonal ones and those below."""

    diagonal: list[Tensor]
    below: list[Tensor]


def _factorise(bands: Tensor, damping: float) -> _Chain:
    """The Cholesky factor of the damped matrix with these bands [I, n, k+1] above the diagonal."""
    inputs, size, width = bands.shape
    block = max(_BLOCK, width)
    count = -(-size // block)
    largest = bands[..., 0].amax(dim=1, keepdim=True)
    added = damping * torch.where(largest > 0, largest, 1)
    # Rows [I, count, block, 2 block]: each block of rows with the columns of its own and the next.
    rows = bands.new_zeros(inputs, count * block, 2 * block)
    at = torch.arange(size)
    for d in range(width):
        rows[:, at, at % block + d] = bands[:, :, d]
    rows[:, at, at % block] += added
    at = torch.arange(size, count * block)
    rows[:, at, at % block] = 1
    rows = rows.view(inputs, count, block, 2 * block)
    own = rows[..., :block].triu()
    own = own + rows[..., :block].triu(1).mT
    chain = _Chain([], [])
    for n in range(count):
        matrix = own[:, n]
        if n:
            matrix = matrix - chain.below[-1] @ chain.below[-1].mT
        factor = torch.linalg.cholesky(matrix)
        chain.diagonal.append(factor)
        after = torch.linalg.solve_triangular(factor, rows[:, n, :, block:], upper=False)
        chain.below.append(after.mT)
    return chain


def _solve(chain: _Chain, right: Tensor) -> Tensor:
    """The solution [I, n, O] with the factor's product with its transpose."""
    size, block = right.shape[1], chain.diagonal[0].shape[1]
    padded = torch.nn.functional.pad(right, (0, 0, 0, len(chain.diagonal) * block - size))
    parts = list(padded.split(block, dim=1))
    for n, factor in enumerate(chain.diagonal):
        part = parts[n] - chain.below[n - 1] @ parts[n - 1] if n else parts[n]
        parts[n] = torch.linalg.solve_triangular(factor, part, upper=False)
    for n in reversed(range(len(parts))):
        last = n + 1 == len(parts)
        part = parts[n] if last else parts[n] - chain.below[n].mT @ parts[n + 1]
        parts[n] = torch.linalg.solve_triangular(chain.diagonal[n].mT, part, upper=True)
    return torch.cat(parts, dim=1)[:, :size]
