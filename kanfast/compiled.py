"""Whole layers in graphs of torch.compile: an op in each direction, from their parameters."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import Function

from kanfast import layer as layers
from kanfast.basis import Basis
from kanfast.primitives import layer_grad_op, layer_op


def evaluate(
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
) -> Tensor | None:
    """x [..., I] -> y [..., O] while torch.compile traces, or None if it is not the usual case."""
    if (
        torch.compiler.is_exporting()
        or x.dtype not in layers.FLOATS
        or not x.is_cpu
        or x.dim() == 0
        or torch.is_autocast_enabled("cpu")
        or not layers.has_code_for(weight, base, grid, basis)
        or x.shape[-1] != weight.shape[1]
    ):
        return None
    edges = weight.shape[:2]
    for t, size, dtype in (
        (weight, (*edges, basis.num_splines), x.dtype),
        (base, edges, x.dtype),
        (scaler, edges, x.dtype),
        (grid, (edges[1], basis.num_knots), grid.dtype),
    ):
        if t is not None and not (
            t.shape == size and t.dtype == dtype and t.is_cpu and t.is_contiguous()
        ):
            return None
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    y = cast(Tensor, Layer.apply(rows.contiguous(), weight, base, scaler, grid, basis))
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[1])


class Layer(Function):
    """A layer in a graph, where nothing is differentiated twice."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        base: Tensor | None,
        scaler: Tensor | None,
        grid: Tensor,
        basis: Basis,
    ) -> Tensor:
        """Its arguments are a matrix x and those of `evaluate`."""
        ctx.save_for_backward(x, weight, base, scaler, grid)
        ctx.basis = basis
        return cast(Tensor, layer_op(x, weight, base, scaler, grid, *_scalars(basis)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, base and scaler."""
        x, weight, base, scaler, grid = ctx.saved_tensors
        given, needs = (x, weight, base, scaler), list(ctx.needs_input_grad[:4])
        grads = iter(layer_grad_op(g, *given, grid, needs, *_scalars(ctx.basis)))
        return *[next(grads) if need else None for need in needs], None, None


def _scalars(basis: Basis) -> tuple[int, int, str, bool]:
    return basis.grid_size, basis.degree, basis.activation, basis.uniform
