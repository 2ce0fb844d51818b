"""The primitives, closed under differentiation: each one's derivatives are the other two.

    F_n:  dg -> dx = s P_{n+1}(g, x, c),  ds = P_n(g, x, c),       dc = W_n(g, x, s)
    P_n:  dv -> dg = F_n(x, v, c),        dx = v P_{n+1}(g, x, c), dc = W_n(g, x, v)
    W_n:  dV -> dg = F_n(x, s, V),        ds = P_n(g, x, V),       dx = s P_{n+1}(g, x, V)

So every order of differentiation runs on the same three kernels, and only x, c, the grid (and s or
g, where given) are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from kanfast import primitives
from kanfast.primitives import Spec


def forward(
    x: Tensor, c: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """F_n [B, O], differentiable in x, c and s."""
    if not _differentiating(x, c, s):
        return primitives.forward(x, c, s, grid, spec, out_dtype)
    function = ForwardDual if _forward_mode() else Forward
    return function.apply(x, c, s, grid, spec, out_dtype)


def input_grad(
    g: Tensor, x: Tensor, c: Tensor, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """P_n [B, I], differentiable in g, x and c."""
    if not _differentiating(g, x, c):
        return primitives.input_grad(g, x, c, grid, spec, out_dtype)
    function = InputGradDual if _forward_mode() else InputGrad
    return function.apply(g, x, c, grid, spec, out_dtype)


def weight_grad(
    g: Tensor, x: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """W_n [J, I, O], differentiable in g, x and s."""
    if not _differentiating(g, x, s):
        return primitives.weight_grad(g, x, s, grid, spec, out_dtype)
    function = WeightGradDual if _forward_mode() else WeightGrad
    return function.apply(g, x, s, grid, spec, out_dtype)


def _differentiating(*tensors: Tensor | None) -> bool:
    """Whether a derivative may be asked for: if not, the Function is skipped."""
    if torch.compiler.is_compiling():
        return True
    if _forward_mode() or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _forward_mode() -> bool:
    """Whether forward-mode AD is on; only then the Functions have a jvp, which compiling refuses."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def _scaled(s: Tensor | None, t: Tensor) -> Tensor:
    return t if s is None else s * t


def _sum(*terms: Tensor | None) -> Tensor | None:
    present = [t for t in terms if t is not None]
    return sum(present[1:], present[0]) if present else None


class Forward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, c, s, grid, spec, out_dtype):
        return primitives.forward(x, c, s, grid, spec, out_dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, c, s, grid, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(x, c, s, grid)

    @staticmethod
    def backward(ctx, g):
        x, c, s, grid = ctx.saved_tensors
        spec, dx, dc, ds = ctx.spec, None, None, None
        if ctx.needs_input_grad[0]:
            dx = _scaled(s, input_grad(g, x, c, grid, spec.differentiated(), x.dtype))
        if ctx.needs_input_grad[1]:
            dc = weight_grad(g, x, s, grid, spec, c.dtype)
        if ctx.needs_input_grad[2]:
            ds = input_grad(g, x, c, grid, spec, s.dtype)
        return dx, dc, ds, None, None, None


class InputGrad(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(g, x, c, grid, spec, out_dtype):
        return primitives.input_grad(g, x, c, grid, spec, out_dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        g, x, c, grid, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(g, x, c, grid)

    @staticmethod
    def backward(ctx, v):
        g, x, c, grid = ctx.saved_tensors
        spec, dg, dx, dc = ctx.spec, None, None, None
        if ctx.needs_input_grad[0]:
            dg = forward(x, c, v, grid, spec, g.dtype)
        if ctx.needs_input_grad[1]:
            dx = v * input_grad(g, x, c, grid, spec.differentiated(), x.dtype)
        if ctx.needs_input_grad[2]:
            dc = weight_grad(g, x, v, grid, spec, c.dtype)
        return dg, dx, dc, None, None, None


class WeightGrad(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(g, x, s, grid, spec, out_dtype):
        return primitives.weight_grad(g, x, s, grid, spec, out_dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        g, x, s, grid, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(g, x, s, grid)

    @staticmethod
    def backward(ctx, w):
        g, x, s, grid = ctx.saved_tensors
        spec, dg, dx, ds = ctx.spec, None, None, None
        if ctx.needs_input_grad[0]:
            dg = forward(x, w, s, grid, spec, g.dtype)
        if ctx.needs_input_grad[1]:
            dx = _scaled(s, input_grad(g, x, w, grid, spec.differentiated(), x.dtype))
        if ctx.needs_input_grad[2]:
            ds = input_grad(g, x, w, grid, spec, s.dtype)
        return dg, dx, ds, None, None, None


class ForwardDual(Forward):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        Forward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def jvp(ctx, dx, dc, ds, *_):
        x, c, s, grid = ctx.saved_tensors
        spec, dtype = ctx.spec, ctx.out_dtype
        return _sum(
            None if dx is None else forward(x, c, _scaled(s, dx), grid, spec.differentiated(), dtype),
            None if dc is None else forward(x, dc, s, grid, spec, dtype),
            None if ds is None else forward(x, c, ds, grid, spec, dtype),
        )


class InputGradDual(InputGrad):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        InputGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def jvp(ctx, dg, dx, dc, *_):
        g, x, c, grid = ctx.saved_tensors
        spec, dtype = ctx.spec, ctx.out_dtype
        return _sum(
            None if dg is None else input_grad(dg, x, c, grid, spec, dtype),
            None if dx is None else dx * input_grad(g, x, c, grid, spec.differentiated(), dtype),
            None if dc is None else input_grad(g, x, dc, grid, spec, dtype),
        )


class WeightGradDual(WeightGrad):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        WeightGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def jvp(ctx, dg, dx, ds, *_):
        g, x, s, grid = ctx.saved_tensors
        spec, dtype = ctx.spec, ctx.out_dtype
        return _sum(
            None if dg is None else weight_grad(dg, x, s, grid, spec, dtype),
            None if dx is None else weight_grad(
                g, x, _scaled(s, dx), grid, spec.differentiated(), dtype
            ),
            None if ds is None else weight_grad(g, x, ds, grid, spec, dtype),
        )
