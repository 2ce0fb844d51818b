"""Knots, and the least-squares fits that carry splines between them.

A layer's grid has one row of knots per input, t[i, 0 .. G+2k]: G intervals between lo = t[k] and
hi = t[G+k], and k more knots on either side. Everything here that solves or sorts runs on the CPU
in float64: the GPU solvers of `torch.linalg.lstsq` assume full rank, and fits on grids that follow
data often lack it (a constant input, fewer samples than knots).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.engine.banded import least_squares, local_splines

# Work is done in blocks of this many samples, and of so many inputs that a block of basis values
# has this many elements (16 MB of float64).
_SAMPLES, _ELEMENTS = 1024, 2**21

# Directions that the samples determine to less than half of float64's digits are left as they were.
_RESOLUTION = 1e-8

# From this many splines of an input on, fits are made by banded equations, an edge at a time. Below
# it matrices of all splines take less time: one serves all edges of an input.
_FINE = 64


def uniform_knots(
    grid_range: Sequence[float],
    grid_size: int,
    degree: int,
    in_features: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Equally spaced knots [in_features, G+2k+1] with G intervals on `grid_range`."""
    low, high = grid_range
    steps = torch.arange(-degree, grid_size + degree + 1, device=device, dtype=dtype)
    knots = steps * ((high - low) / grid_size) + low
    return knots.repeat(in_features, 1)


def is_uniform(grid: Tensor, degree: int) -> bool:
    """Whether every row of knots is equally spaced, as far as the dtype of the grid can tell.

    A knot may be off the line through lo and hi by two units of rounding of the largest knot: that
    is what computing `j * h + lo` in this dtype costs. So a grid made in float32 and cast to
    float64 is not uniform, and is evaluated knot by knot. Reads values, hence waits for a GPU.
    """
    knots = grid.detach().double()
    grid_size = knots.shape[1] - 1 - 2 * degree
    low, high = knots[:, degree, None], knots[:, degree + grid_size, None]
    steps = torch.arange(-degree, grid_size + degree + 1, device=knots.device, dtype=knots.dtype)
    error = (low + steps * ((high - low) / grid_size) - knots).abs()
    tolerance = 2 * torch.finfo(grid.dtype).eps * knots.abs().amax(dim=1, keepdim=True)
    return bool(((error <= tolerance) & (high > low)).all())


def b_splines(x: Tensor, grid: Tensor, degree: int, deriv: int = 0) -> Tensor:
    """Values of the B-splines on any knots, x [N, I] -> [N, I, G+k], by Cox-de Boor's recursion.

    `engine.basis` evaluates the same for the ops, and is built for speed. This plain form can be
    differentiated with respect to x and the knots. NaN in x gives NaN. With `deriv` the values are
    those of the derivative of that order, whose recursion's last levels are differences.
    """
    distance = x.unsqueeze(-1) - grid  # [N, I, G+2k+1]
    values = (distance >= 0).to(distance.dtype)
    values = values[..., :-1] - values[..., 1:] + 0 * distance[..., :-1]
    for d in range(1, degree + 1):
        width = grid[:, d:] - grid[:, :-d]
        # Where knots coincide there is no support, so that any finite width will do.
        width = torch.where(width > 0, width, 1)
        if d > degree - deriv:
            slope = values * (d / width)
            values = slope[..., :-1] - slope[..., 1:]
            continue
        ramp = distance[..., :-d] / width
        values = ramp[..., :-1] * values[..., :-1] + (1 - ramp[..., 1:]) * values[..., 1:]
    return values


def fit_coefficients(x: Tensor, y: Tensor, grid: Tensor, degree: int) -> Tensor:
    """Coefficients of the splines that come closest to given points, of minimal norm if not unique.

    Args:
        x: Positions [N, I].
        y: Values [N, I, O] of the O curves of each input at these positions.
        grid: Knots [I, G+2k+1].
        degree: Degree k of the splines.

    Returns:
        Coefficients [O, I, G+k], in the dtype and on the device of y. The fit itself runs on the
        CPU in float64; what the points determine to less than y's precision is not fitted.
    """
    columns, knots = (t.detach().to("cpu", torch.float64) for t in (x, grid))
    values = y.to("cpu", torch.float64).transpose(0, 1)
    if grid.shape[1] - degree - 1 < _FINE:
        basis = b_splines(columns, knots, degree).transpose(0, 1)
        rounding = torch.finfo(torch.float64).eps * max(basis.shape[1:])
        rcond = max(torch.finfo(y.dtype).eps, rounding)
        solution = torch.linalg.lstsq(basis, values, rcond=rcond, driver="gelsd").solution
    else:
        blocks = [
            least_squares(
                local_splines(columns.T[rows], knots[rows], degree),
                values[rows],
                values.new_zeros(len(values[rows]), grid.shape[1] - degree - 1, y.shape[2]),
            )
            for rows in _blocks_of_inputs(len(x), y.shape[2], grid)
        ]
        solution = torch.cat(blocks)
    coefficients: Tensor = solution.permute(2, 0, 1).contiguous()
    return coefficients.to(y.device, y.dtype)


def refit(coefficients: Tensor, samples: Tensor, old: Tensor, new: Tensor, degree: int) -> Tensor:
    """Coefficients on new knots of the splines closest, at the samples, to those on the old knots.

    For each input, least squares of the new basis against the old one gives a matrix that holds
    for all its edges. What the samples leave open (fewer samples than splines, a constant input)
    follows the old spline all along the new grid, so the function is kept between samples, too.

    Args:
        coefficients: [O, I, G+k] on the old knots.
        samples: Finite values [N, I], any N.
        old: Knots [I, G+2k+1].
        new: Knots [I, G'+2k+1].
        degree: Degree k of the splines.

    Returns:
        Coefficients [O, I, G'+k], dtype and device of `coefficients`. Computed on the CPU in
        float64.
    """
    source = coefficients.detach().to("cpu", torch.float64)
    knots = [grid.detach().to("cpu", torch.float64) for grid in (old, new)]
    fitted = []
    fine = new.shape[1] - degree - 1 >= _FINE
    width = old.shape[1] + new.shape[1]
    inputs = max(1, _ELEMENTS // ((_SAMPLES + width) * width))
    blocks = (
        _blocks_of_inputs(len(samples), len(source), new) if fine else _slices(len(old), inputs)
    )
    for rows in blocks:
        points = samples.detach()[:, rows].to("cpu", torch.float64).T
        before, after = knots[0][rows], knots[1][rows]
        if fine:
            fitted.append(_refit_fine(source[:, rows], points, before, after, degree))
        else:
            transfer = _transfer(points, before, after, degree)
            fitted.append(torch.einsum("inm,oim->oin", transfer, source[:, rows]))
    return torch.cat(fitted, dim=1).to(coefficients.device, coefficients.dtype)


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]


def _blocks_of_inputs(points: int, outputs: int, knots: Tensor) -> list[slice]:
    """Inputs whose curves at the points, or coefficients, are so many elements at most."""
    return _slices(len(knots), max(1, _ELEMENTS // ((points + knots.shape[1]) * outputs)))


def _refit_fine(source: Tensor, points: Tensor, old: Tensor, new: Tensor, degree: int) -> Tensor:
    """`refit` [O, I, G'+k] for the samples [I, N] of some inputs, an edge at a time."""
    coefficients = source.permute(1, 2, 0)
    core = new[:, degree : new.shape[1] - degree]
    fit = coefficients.new_zeros(len(new), new.shape[1] - degree - 1, len(source))
    for at in (between(core, degree + 2), points):
        curves = local_splines(at, old, degree).sums(coefficients)
        fit = least_squares(local_splines(at, new, degree), curves, fit)
    return fit.permute(2, 0, 1)


def _transfer(points: Tensor, old: Tensor, new: Tensor, degree: int) -> Tensor:
    """Matrices [I, G'+k, G+k] of `refit` for the samples [I, N] of some inputs."""
    size = new.shape[1] - degree - 1
    basis, target = _compressed(points, old, new, degree)
    transfer, rank = _least_squares(basis, target)
    deficient = rank < size
    if deficient.any():
        core = new[deficient, degree : new.shape[1] - degree]
        along = between(core, degree + 2)
        prior, _ = _least_squares(*_compressed(along, old[deficient], new[deficient], degree))
        rest = target[deficient] - basis[deficient] @ prior
        change, _ = _least_squares(basis[deficient], rest)
        transfer[deficient] = prior + change
    return transfer


def _least_squares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Minimal-norm solutions and ranks, of batches."""
    fit = torch.linalg.lstsq(a, b, rcond=_RESOLUTION, driver="gelsd")
    return fit.solution, fit.rank


def _compressed(points: Tensor, old: Tensor, new: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """New and old basis at all points [I, N], up to a common rotation to at most G+G'+2k rows.

    It is the R of a QR factorisation of [new | old], which needs the rows only block by block.
    """
    width = new.shape[1] + old.shape[1] - 2 * (degree + 1)
    factor = points.new_empty(len(points), 0, width)
    for block in torch.split(points, _SAMPLES, dim=1):
        bases = [b_splines(block.T, grid, degree).transpose(0, 1) for grid in (new, old)]
        rows = torch.cat([factor, torch.cat(bases, dim=-1)], dim=1)
        factor = torch.linalg.qr(rows, mode="r").R
    size = new.shape[1] - degree - 1
    return factor[..., :size], factor[..., size:]


def between(knots: Tensor, count: int) -> Tensor:
    """`count` points inside each interval of the rows of knots [I, M] -> [I, (M-1) * count]."""
    fraction = (torch.arange(count, device=knots.device, dtype=knots.dtype) + 0.5) / count
    return torch.lerp(knots[:, :-1, None], knots[:, 1:, None], fraction).flatten(1)


def knots_from_samples(
    samples: Tensor, grid: Tensor, degree: int, *, grid_eps: float, margin: float
) -> Tensor:
    """Knots that follow the samples of each input, as efficient-kan places them.

    The inner knots are `grid_eps` times an equally spaced grid from min - margin to max + margin
    plus 1 - `grid_eps` times the samples' quantiles; k knots at the equal spacing follow on either
    side.

    Args:
        samples: Finite values [N, I], N >= 1.
        grid: The present knots [I, G+2k+1]. An input whose samples span less than its dtype can
            resolve keeps them.
        degree: Degree k of the splines.
        grid_eps: Share of the equally spaced grid, 0 to 1.
        margin: How far the equally spaced grid reaches beyond the samples.

    Returns:
        Knots [I, G+2k+1] in the grid's dtype, on its device; not finite where that dtype has no
        such numbers. Computed on the CPU in float64.
    """
    grid_size = grid.shape[1] - 1 - 2 * degree
    picks = torch.linspace(0, samples.shape[0] - 1, grid_size + 1, dtype=torch.int64, device="cpu")
    steps = torch.arange(grid_size + 1, dtype=torch.float64, device="cpu")
    beyond = torch.arange(1, degree + 1, dtype=torch.float64, device="cpu")
    rows = []
    for columns in torch.split(samples.detach(), max(1, _ELEMENTS // len(samples)), dim=1):
        ordered = columns.T.to("cpu", torch.float64).sort(dim=1).values
        low, high = ordered[:, :1] - margin, ordered[:, -1:] + margin
        step = (high - low) / grid_size
        quantiles = ordered[:, picks]
        inner = grid_eps * (low + steps * step) + (1 - grid_eps) * quantiles
        before = inner[:, :1] - beyond.flip(0) * step
        after = inner[:, -1:] + beyond * step
        rows.append(torch.cat([before, inner, after], dim=1))
    knots = torch.cat(rows)
    span = (knots[:, -1:] - knots[:, :1]) / (grid_size + 2 * degree)
    # Samples next to the largest number make knots that are infinite, which are not merged.
    largest = knots.abs().amax(dim=1, keepdim=True)
    merged = span.isfinite() & (span <= 4 * torch.finfo(grid.dtype).eps * largest)
    kept = grid.detach().to("cpu", torch.float64)
    return torch.where(merged, kept, knots).to(grid.device, grid.dtype)
