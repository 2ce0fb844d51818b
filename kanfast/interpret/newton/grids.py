"""Grids that follow: knots over the ranges of nodes, or more of them, for the same functions."""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.engine.normal import layer
from kanfast.interpret.newton.networks import Networks
from kanfast.interpret.newton.plan import Plan
from kanfast.nn.resize import set_grid_size

# A grid reaches beyond the outermost value of a node by twice the distance from there to the sixth
# one, in bounds that are shares of the range: where values are sparse, new ones lie farther out.
_OUTER, _BEYOND, _BOUNDS = 5, 2.0, (0.01, 0.15)
_LOOSE = 0.7  # a grid moves when less of it is in use


def uniform(low: Tensor, high: Tensor, grid_size: int, degree: int) -> Tensor:
    """Equally spaced knots [..., G+2k+1] with G intervals from low to high [...]."""
    steps = torch.arange(-degree, grid_size + degree + 1, dtype=low.dtype, device=low.device)
    return low.unsqueeze(-1) + steps / grid_size * (high - low).unsqueeze(-1)


def follow(networks: Networks, x: Tensor, *, always: bool = False) -> Networks:
    """The networks with the grid of every trained layer over the range of its inputs at rows x.

    A grid that fits stays: one with all inputs inside and not much room beside them.
    """
    theta, knots = networks.theta.clone(), list(networks.knots)
    moved = networks
    for index, own in enumerate(networks.plan.layers):
        if own.spline_weight.requires_grad:
            h = moved.inputs(x)[index] if index else x.expand(len(networks), *x.shape)
            old, degree = networks.knots[index], own.spline_order
            new = _placed(h, old, degree, always=always)
            if not torch.equal(new, old):
                at = networks.plan.pieces[index, "spline"].at
                theta[:, at] = refitted(networks.splines(index), old, new).flatten(1)
                knots[index] = new
                moved = Networks(networks.plan, theta, knots)
    return Networks(networks.plan, theta, knots)


def span(h: Tensor) -> tuple[Tensor, Tensor]:
    """Ends [S, I] of grids for inputs [S, B, I]; they are the same where all inputs are."""
    ordered = h.sort(1).values
    low, high = ordered[:, 0], ordered[:, -1]
    width, at = high - low, min(_OUTER, h.shape[1] - 1)
    before, after = (
        torch.clamp(_BEYOND * sparse, _BOUNDS[0] * width, _BOUNDS[1] * width)
        for sparse in (ordered[:, at] - low, high - ordered[:, -1 - at])
    )
    return low - before, high + after


def _placed(h: Tensor, old: Tensor, degree: int, *, always: bool) -> Tensor:
    size = old.shape[-1] - 1 - 2 * degree
    low, high = h.amin(1), h.amax(1)
    start, end = old[..., degree], old[..., degree + size]
    width = high - low
    inside = (low >= start) & (high <= end) & (width > _LOOSE * (end - start))
    moves = width.isfinite() & (width > 1e-9 * torch.maximum(low.abs(), high.abs()))
    if not always:
        moves = moves & ~inside
    return torch.where(moves.unsqueeze(-1), uniform(*span(h), size, degree), old)


def refitted(c: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Coefficients [S, O, I, G'+k] on new knots of the splines closest to those on old ones."""
    degree = old.shape[-1] - 1 - c.shape[-1]
    count = new.shape[-1] - 1 - degree
    low, high = new[..., degree], new[..., count]
    share = torch.linspace(0, 1, 8 * count + 1, dtype=c.dtype, device=c.device)
    points = low.unsqueeze(1) + share[:, None] * (high - low).unsqueeze(1)  # [S, p, I]
    points = torch.minimum(points, new[:, None, :, count].nextafter(low.unsqueeze(1)))
    eye = torch.eye(count, dtype=c.dtype, device=c.device).expand(*c.shape[:1], -1, -1)
    b = _curves(points, old, c)
    a = _curves(points, new, eye.unsqueeze(2).expand(-1, -1, c.shape[2], -1))
    normal = a.mT @ a
    ridge = 1e-13 * normal.diagonal(dim1=-2, dim2=-1).mean(-1)
    normal.diagonal(dim1=-2, dim2=-1).add_(ridge.unsqueeze(-1))
    solution: Tensor = torch.linalg.solve(normal, a.mT @ b)  # [S, I, G'+k, O]
    return solution.permute(0, 3, 1, 2).contiguous()


def _curves(points: Tensor, knots: Tensor, c: Tensor) -> Tensor:
    """Splines of each input by themselves, [S, I, p, O], at points [S, p, I]; c [S, O, I, G+k]."""
    x = points.transpose(1, 2).flatten(0, 1).unsqueeze(-1)
    own = c.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    y = layer(x, knots.flatten(0, 1).unsqueeze(1), own, slopes=False).y
    return y.view(c.shape[0], c.shape[2], *y.shape[1:])


def resized(networks: Networks, grid_size: int) -> Networks:
    """The networks on grids of so many intervals; the plan's network gets them in place."""
    plan = networks.plan
    layers = [own for own in plan.layers if own.spline_weight.requires_grad]
    changed = [own for own in layers if own.grid_size != grid_size]
    if not changed:
        return networks
    for own in changed:
        set_grid_size(own, grid_size)
    plan.network.refresh_sizes()
    fresh = Plan(plan.network, moves_grids=plan.moves_grids)
    theta = networks.theta.new_empty(len(networks), fresh.size)
    knots = list(networks.knots)
    for key, piece in fresh.pieces.items():
        theta[:, piece.at] = (
            networks.theta[:, plan.pieces[key].at]
            if piece.shape == plan.pieces[key].shape
            else torch.nan
        )
    for index, own in enumerate(plan.layers):
        if own not in changed:
            continue
        old, degree = networks.knots[index], own.spline_order
        core = old[..., degree : old.shape[-1] - degree]
        knots[index] = uniform(core[..., 0], core[..., -1], grid_size, degree)
        at = fresh.pieces[index, "spline"].at
        theta[:, at] = refitted(networks.splines(index), old, knots[index]).flatten(1)
    return Networks(fresh, theta, knots)
