"""What each edge of a layer does over a batch: mean, mean size, spread and range of phi(x).

The function of edge (o, i) at row b is phi[b, o, i] = sum_j c[j, i, o] f_ij(x[b, i]). These are the
activations that the KAN paper regularises (Liu et al., 2024, eqs. 2.17-2.20) and pykan scores edges
by. B x O x I of them are many, so every backend makes them a part at a time, reduces them and makes
them again in the backward pass: what is kept is [O, I].
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kanfast.engine import _torch, checks, chunked
from kanfast.engine.backends import Backend, resolve_backend
from kanfast.engine.basis import Basis
from kanfast.engine.native import statistics as native_statistics
from kanfast.engine.primitives import in_memory


class EdgeStatistics(NamedTuple):
    """Statistics of phi[b, o, i] over b = 0 .. B - 1; all [O, I]."""

    mean: Tensor
    mean_abs: Tensor
    """The L1 norm of the KAN paper, eq. 2.17."""
    std: Tensor
    """With divisor B - 1, and 0 for a batch of one row."""
    min: Tensor
    max: Tensor


def edge_statistics(
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    *,
    basis: Basis,
    residual: Tensor | None = None,
    backend: Backend = "auto",
) -> EdgeStatistics:
    """Exact statistics of every edge over a batch, differentiable once in x, c and residual.

    |phi| has gradient 0 where phi is zero, and std where all phi of an edge are equal. Of equal
    extremes the first row has the gradient.

    Args:
        x: [..., I], float64, float32 or 16-bit; at least one row.
        c: [J, I, O], packed coefficients as in `kan_linear`; with `residual` [J + 1, I, O].
        grid: [I, G + 2k + 1].
        basis: the functions; its activation must be "none" with `residual`.
        residual: values [..., I] of a residual function that the basis does not know; its
            coefficients are the last ones of c.
        backend: as in `kan_linear`; "auto" is plain torch within torch.compile and wherever else
            something has to see torch's own operations.

    Returns:
        Five tensors [O, I], float64 for float64 x and float32 otherwise. NaN in x[b, i] makes the
        statistics of the edges (:, i) NaN, and no others.

    Raises:
        ValueError: No rows, shapes that do not fit, or an unknown backend.
        RuntimeError: A backend that cannot run here.

    Example:
        >>> layer = kanfast.KANLinear(3, 4, enable_standalone_scale_spline=False)
        >>> c = kanfast.pack_coefficients(layer.spline_weight, layer.base_weight)
        >>> basis = kanfast.Basis(layer.grid_size, layer.spline_order)
        >>> statistics = kanfast.edge_statistics(torch.rand(10, 3), c, layer.grid, basis=basis)
        >>> statistics.std.shape, bool((statistics.min <= statistics.max).all())
        (torch.Size([4, 3]), True)
    """
    inputs = x.shape[-1]
    functions = basis.num_functions + (residual is not None)
    if (
        c.dim() != 3
        or c.shape[:2] != (functions, inputs)
        or grid.shape != (inputs, basis.num_knots)
    ):
        raise ValueError(
            f"c and grid must be [{functions}, {inputs}, out_features] and "
            f"[{inputs}, {basis.num_knots}] for x {list(x.shape)}, got {list(c.shape)} and "
            f"{list(grid.shape)}"
        )
    if residual is not None and (residual.shape != x.shape or basis.activation != "none"):
        raise ValueError(
            'residual must have the shape of x and a basis with activation "none", got '
            f"{list(residual.shape)} for {list(x.shape)} and {basis.activation!r}"
        )
    if x.numel() == 0:
        raise ValueError(f"statistics need at least one row, got x of shape {list(x.shape)}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    precision = "float64" if dtype == torch.float64 else None
    if backend == "auto" and _torch.is_observed(x, c, residual, grid):
        backend = "reference"
    backend = resolve_backend(backend, x, precision)
    rows = x.reshape(-1, inputs).to(dtype)
    values = None if residual is None else residual.reshape(-1, inputs).to(dtype)
    with _exact(x):
        return EdgeStatistics(
            *_EdgeStatistics.apply(rows, c.to(dtype), values, grid, basis, backend)
        )


class _EdgeStatistics(torch.autograd.Function):
    """Results as in `EdgeStatistics`; saves the arguments and [O, I] tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        c: Tensor,
        residual: Tensor | None,
        grid: Tensor,
        basis: Basis,
        backend: str,
    ) -> tuple[Tensor, ...]:
        tensors = in_memory(backend, (x, c, residual, grid))
        statistics = _module(backend).edge_statistics(*tensors, basis=basis)
        ctx.basis, ctx.backend = basis, backend
        ctx.save_for_backward(x, c, residual, grid, *statistics)
        ctx.set_materialize_grads(False)
        return cast(tuple[Tensor, ...], statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, c, residual, grid, *statistics = ctx.saved_tensors
        with _exact(x):
            found = _module(ctx.backend).edge_statistics_grad(
                *in_memory(ctx.backend, (x, c, residual, grid)),
                statistics,
                in_memory(ctx.backend, gradients),
                ctx.needs_input_grad[:3],
                basis=ctx.basis,
            )
        return *found, None, None, None


def _exact(x: Tensor) -> AbstractContextManager[None]:
    """No autocast: sums over a batch need their digits."""
    device = x.device.type
    if checks.autocasting(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _module(backend: str) -> ModuleType:
    """The implementation by this name."""
    if backend == "triton":  # imported when it is needed: kanfast works where it is not installed
        return importlib.import_module("kanfast.kernels")
    return native_statistics if backend == "native" else chunked
