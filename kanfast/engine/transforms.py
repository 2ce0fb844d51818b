"""Rules of torch.func.vmap for the primitives, as ops and as differentiable functions.

A batched x (with its g and s) is more rows; coefficients or output gradients that are batched alone
are more outputs. Both are one call. Anything else is a call for each element of the batch.

Each rule takes the callable it batches first, then what torch passes to a rule: info, with the
batch size, the dimensions in which the arguments are batched, and the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanfast.engine import checks

Batched = tuple[Tensor, int]


def forward(
    call: Callable[..., Tensor],
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    c: Tensor,
    s: Tensor | None,
    grid: Tensor,
    *rest: Any,
) -> Batched:
    """The rule of F_n: (result, its batch dimension)."""
    size, (x_dim, c_dim, s_dim, grid_dim) = info.batch_size, in_dims[:4]
    checks.check_grid_not_batched(grid_dim)
    if c_dim is None:
        scale = None if s is None else _rows(s, s_dim, size)
        y = call(_rows(x, x_dim, size), c, scale, grid, *rest)
        return y.unflatten(0, (size, y.shape[0] // size)), 0
    if x_dim is None and s_dim is None:
        y = call(x, _outputs(c, c_dim), s, grid, *rest)
        return y.unflatten(1, (size, y.shape[1] // size)), 1
    return _each(call, size, in_dims, x, c, s, grid, *rest)


def input_grad(
    call: Callable[..., Tensor],
    info: Any,
    in_dims: tuple[int | None, ...],
    g: Tensor,
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    *rest: Any,
) -> Batched:
    """The rule of P_n."""
    size, (g_dim, x_dim, c_dim, grid_dim) = info.batch_size, in_dims[:4]
    checks.check_grid_not_batched(grid_dim)
    if c_dim is None:
        v = call(_rows(g, g_dim, size), _rows(x, x_dim, size), c, grid, *rest)
        return v.unflatten(0, (size, v.shape[0] // size)), 0
    return _each(call, size, in_dims, g, x, c, grid, *rest)


def weight_grad(
    call: Callable[..., Tensor],
    info: Any,
    in_dims: tuple[int | None, ...],
    g: Tensor,
    x: Tensor,
    s: Tensor | None,
    grid: Tensor,
    *rest: Any,
) -> Batched:
    """The rule of W_n."""
    size, (g_dim, x_dim, s_dim, grid_dim) = info.batch_size, in_dims[:4]
    checks.check_grid_not_batched(grid_dim)
    if g_dim is not None and x_dim is None and s_dim is None:
        w = call(_outputs(g, g_dim), x, s, grid, *rest)
        return w.unflatten(2, (size, w.shape[2] // size)), 2
    return _each(call, size, in_dims, g, x, s, grid, *rest)


def _rows(t: Tensor, dim: int | None, size: int) -> Tensor:
    """[V, B, n] as [V * B, n]; without a batch dimension the same rows V times."""
    t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.reshape(size * t.shape[1], t.shape[2])


def _outputs(t: Tensor, dim: int) -> Tensor:
    """[V, ..., O] as [..., V * O]."""
    return t.movedim(dim, -2).flatten(-2)


def _each(
    call: Callable[..., Tensor], size: int, in_dims: tuple[int | None, ...], *args: Any
) -> Batched:
    results = [
        call(*(a if d is None else a.select(d, v) for a, d in zip(args, in_dims, strict=True)))
        for v in range(size)
    ]
    return torch.stack(results), 0
