"""Whole layers in graphs of torch.compile: an op in each direction, from their parameters."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import Function

from kanfast import layer as layers
from kanfast.basis import Basis
from kanfast.native.layers import sizes_of_tensors
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
        or not layers.evaluates(x)
        or not layers.has_code_for(weight, grid, basis)
        or (base is None) != (basis.activation == "none")
        or x.shape[-1] != weight.shape[1]
    ):
        return None
    tensors = [t for t in (weight, base, scaler, grid) if t is not None]
    outputs, inputs, _ = weight.shape
    sizes = sizes_of_tensors(basis, outputs, inputs, scaler is not None)
    if not layers.match(tensors, sizes, [*[x.dtype] * (len(tensors) - 1), grid.dtype]):
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
