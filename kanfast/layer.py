"""A whole layer, from parameters to output, in one native call: the usual case on CPUs.

Packing the coefficients by themselves, checking them and differentiating the packing take longer
than a small layer. Whatever is not the usual case takes `kanfast.kan_linear`, with the same result.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from kanfast import autograd, checks, native, packing
from kanfast.basis import Basis
from kanfast.ops import native_obstacle
from kanfast.primitives import Spec, layer_grad_op, layer_op, unobserved

FUSED = ("silu", "none")  # the activations that the native code evaluates by itself


def fits(
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
) -> bool:
    """Whether `layer` takes these: eager mode, nobody who looks on, plain contiguous CPU tensors.

    Of arguments that do not fit together it only says no: it is `kan_linear` that complains.
    """
    if torch.compiler.is_compiling():
        if torch.compiler.is_exporting() or not weight.is_cpu or native_obstacle() is not None:
            return False
    elif not unobserved(x, weight, base, scaler, grid) or forward_ad._current_level >= 0:
        return False
    dtype, edges = x.dtype, weight.shape[:2]
    return (
        (dtype == torch.float32 or dtype == torch.float64)
        and basis.activation in FUSED
        and (base is None) == (basis.activation == "none")
        and weight.dim() == 3
        and x.dim() > 0
        and x.shape[-1] == edges[1]
        and edges.numel() > 0
        and x.is_cpu
        and not checks.autocasting("cpu")
        and _plain(weight, dtype, (*edges, basis.num_splines))
        and (base is None or _plain(base, dtype, edges))
        and (scaler is None or _plain(scaler, dtype, edges))
        and (grid.dtype == torch.float32 or grid.dtype == torch.float64)
        and _plain(grid, grid.dtype, (edges[1], basis.num_knots))
        and native_obstacle() is None
    )


def _plain(t: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return t.dtype == dtype and t.shape == shape and t.is_cpu and t.is_contiguous()


def layer(
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
) -> Tensor:
    """x [..., I] -> y [..., O], for arguments that `fits`; differentiable to any order."""
    if torch.compiler.is_compiling():
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        z: Tensor = CompiledLayer.apply(rows, weight, base, scaler, grid, basis)
        return z.reshape(*x.shape[:-1], weight.shape[0])
    rows = (x if x.dim() == 2 else x.reshape(-1, x.shape[-1])).contiguous()
    if torch.is_grad_enabled() and any(map(_differentiable, (x, weight, base, scaler))):
        y: Tensor = Layer.apply(rows, weight, base, scaler, grid, basis)
    else:
        y = native.layer(rows, weight, base, scaler, grid, basis)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[1])


def _differentiable(t: Tensor | None) -> bool:
    return t is not None and t.requires_grad and not t.is_inference()


class Layer(Function):
    """`layer` over a matrix x; gradients of gradients are those of the primitives."""

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
        """Its arguments are those of `layer`."""
        ctx.save_for_backward(x, weight, base, scaler, grid)
        ctx.basis = basis
        return native.layer(x, weight, base, scaler, grid, basis)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, base and scaler."""
        x, weight, base, scaler, grid = ctx.saved_tensors
        needs = ctx.needs_input_grad[:4]
        if not torch.is_grad_enabled() and unobserved(g) and forward_ad._current_level < 0:
            grads = native.layer_grad(g, x, weight, base, scaler, grid, ctx.basis, needs)
        else:
            grads = _differentiable_grad(g, x, weight, base, scaler, grid, ctx.basis, needs)
        return *grads, None, None


class CompiledLayer(Function):
    """`Layer` in a graph of torch.compile, where nothing is differentiated twice."""

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
        """Its arguments are those of `layer`."""
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


def _differentiable_grad(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """`kanfast.native.layer_grad` as a function of g, x and the parameters."""
    spec = Spec(basis, 0, "float64" if x.dtype == torch.float64 else "ieee", "native")
    d_x, d_weight, d_base, d_scaler = None, None, None, None
    if needs[0]:
        c = packing.pack(weight, base, scaler)
        d_x = autograd.input_grad(g, x, c, grid, spec.differentiated(), x.dtype)
    if any(needs[1:]):
        dc = autograd.weight_grad(g, x, None, grid, spec, x.dtype)
        d_scaled = dc[: basis.num_splines].permute(2, 1, 0)
        d_weight = d_scaled if scaler is None else d_scaled * scaler.unsqueeze(-1)
        d_base = dc[-1].T if base is not None else None
        d_scaler = (d_scaled * weight).sum(-1) if scaler is not None else None
    return d_x, d_weight, d_base, d_scaler
