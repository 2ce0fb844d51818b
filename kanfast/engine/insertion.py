"""Grid extension: more knots for the same function.

B-splines on some knots lie in the space of those on any more knots that contain them, so a layer
can be given a finer grid without any change of its function: coefficients follow by knot insertion
(Cohen, Lyche and Riesenfeld, "Discrete B-splines and subdivision techniques", 1980), here as
blossoms. Computed on the CPU in float64, as in `kanfast.engine.grid`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.engine import grid as grids

# Inputs are taken in blocks of so many coefficients (16 MB of float64).
_ELEMENTS = 2**21


def split_knots(grid: Tensor, grid_size: int, degree: int) -> Tensor:
    """Knots with `grid_size` intervals that contain all of the old ones, for grid_size >= G.

    Each interval of the grid is split into grid_size / G equal parts, or into the integers next to
    that. The k outer knots on either side stay, so the splines fade out where they did.

    Args:
        grid: [I, G+2k+1].

    Returns:
        [I, grid_size+2k+1], dtype and device of `grid`.
    """
    size = grid.shape[1] - 1 - 2 * degree
    ends = torch.arange(size + 1) * grid_size // size
    parts = ends.diff()
    cell = torch.repeat_interleave(torch.arange(size), parts)
    fraction = (torch.arange(grid_size) - ends[cell]) / parts[cell].double()
    core = grid.detach().to("cpu", torch.float64)[:, degree : degree + size + 1]
    inner = torch.lerp(core[:, cell], core[:, cell + 1], fraction).to(grid.device, grid.dtype)
    return torch.cat([grid[:, :degree], inner, grid[:, degree + size :]], dim=1)


def merged_knots(grid: Tensor, grid_size: int, degree: int) -> Tensor:
    """Knots with `grid_size` < G intervals, evenly spread in the numbering of the old ones."""
    size = grid.shape[1] - 1 - 2 * degree
    position = torch.arange(grid_size + 1, dtype=torch.float64) * size / grid_size
    cell = position.long().clamp_max(size - 1)
    core = grid.detach().to("cpu", torch.float64)[:, degree : degree + size + 1]
    inner = torch.lerp(core[:, cell], core[:, cell + 1], position - cell)
    outer = (grid[:, :degree], grid[:, degree + size + 1 :])
    return torch.cat([outer[0], inner.to(grid.device, grid.dtype), outer[1]], dim=1)


def regrid(
    coefficients: Tensor, grid: Tensor, grid_size: int, degree: int
) -> tuple[Tensor, Tensor]:
    """New knots and the coefficients on them.

    Args:
        coefficients: [O, I, G+k].
        grid: [I, G+2k+1].
        grid_size: Number of intervals. From G on, the function is kept everywhere, to rounding;
            below G it is approximated by least squares all along the grid.
        degree: k.

    Returns:
        [I, grid_size+2k+1] and [O, I, grid_size+k], of the dtypes and devices of the arguments.
    """
    if grid_size >= grid.shape[1] - 1 - 2 * degree:
        new = split_knots(grid, grid_size, degree)
        return new, insert_knots(coefficients, grid, new, degree)
    new = merged_knots(grid, grid_size, degree)
    breaks = torch.cat([grid, new], dim=1).detach().to("cpu", torch.float64).sort(dim=1).values
    points = grids.between(breaks, degree + 2).T
    return new, grids.refit(coefficients, points, grid, new, degree)


def insert_knots(coefficients: Tensor, old: Tensor, new: Tensor, degree: int) -> Tensor:
    """Coefficients of the same splines on knots that contain the old ones.

    Args:
        coefficients: [O, I, G+k] on the old knots.
        old: [I, G+2k+1], ascending.
        new: [I, G'+2k+1], ascending: all of the old ones, as often as there, and others between.
        degree: k.

    Returns:
        [O, I, G'+k], dtype and device of `coefficients`.
    """
    knots = [t.detach().to("cpu", torch.float64) for t in (old, new)]
    source = coefficients.detach().to("cpu", torch.float64)
    inserted = []
    step = max(1, _ELEMENTS // ((source.shape[0] + degree * degree) * new.shape[1]))
    for start in range(0, len(old), step):
        rows = slice(start, start + step)
        first, weights = _blossoms(knots[0][rows], knots[1][rows], degree)
        padded = torch.nn.functional.pad(source[:, rows], (degree, degree))
        block = source.new_zeros(source.shape[0], *first.shape)
        for j in range(degree + 1):
            index = (first + j).expand(source.shape[0], -1, -1)
            block.addcmul_(padded.gather(2, index), weights[..., j])
        inserted.append(block)
    return torch.cat(inserted, dim=1).to(coefficients.device, coefficients.dtype)


def _blossoms(old: Tensor, new: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """New coefficients as sums of k + 1 old ones: the first one's index [I, G'+k], and weights.

    The coefficient of new spline n is the blossom, at the knots n + 1 .. n + k of the new ones, of
    the polynomial that the old spline is on the interval from new knot n on. Old splines are zero
    beyond their knots: indices are those of coefficients with k zeros on either side.

    Returns:
        [I, G'+k], and [I, G'+k, k+1].
    """
    before = torch.arange(-degree, 0) + old[:, :1]
    after = torch.arange(1, degree + 1) + old[:, -1:]
    knots = torch.cat([before, old, after], dim=1)
    count = new.shape[1] - degree - 1
    found = torch.searchsorted(knots, new[:, :count].contiguous(), right=True) - 1
    first = found.clamp_max(old.shape[1] + degree - 2) - degree
    weights = torch.eye(degree + 1, dtype=old.dtype).repeat(len(old), count, 1, 1)
    for s in range(1, degree + 1):
        # The last argument first: then combinations near it are convex, and old knots give 0 or 1.
        argument = new[:, degree - s + 1 : degree - s + 1 + count]
        for r in range(degree, s - 1, -1):
            low = knots.gather(1, first + r)
            width = knots.gather(1, first + degree + r - s + 1) - low
            share = torch.where(width > 0, (argument - low) / torch.where(width > 0, width, 1), 0)
            weights[:, :, r] = torch.lerp(weights[:, :, r - 1], weights[:, :, r], share[..., None])
    return first, weights[:, :, degree]
