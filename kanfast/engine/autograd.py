"""The primitives, closed under differentiation: each one's derivatives are the other two.

    F_n:  dg -> dx = s P_{n+1}(g, x, c),  ds = P_n(g, x, c),       dc = W_n(g, x, s)
    P_n:  dv -> dg = F_n(x, v, c),        dx = v P_{n+1}(g, x, c), dc = W_n(g, x, v)
    W_n:  dV -> dg = F_n(x, s, V),        ds = P_n(g, x, V),       dx = s P_{n+1}(g, x, V)

So every order of differentiation runs on the same three kernels, and nothing but the arguments of a
primitive is kept for the backward pass.

Each Function has a subclass with a jvp, which is taken while forward-mode differentiation is on:
torch.compile refuses Functions that have one. And each has a twin for eager mode, which costs less.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from kanfast.engine import primitives, transforms
from kanfast.engine.primitives import Spec

GRAPHS_OF_GRAD = torch.__version__ >= "2.13"


def forward(
    x: Tensor, c: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """F_n [B, O], differentiable in x, c and s."""
    if not _differentiating(x, c, s):
        return primitives.forward(x, c, s, grid, spec, out_dtype)
    return _apply(Forward, x, c, s, grid, spec, out_dtype)


def input_grad(
    g: Tensor, x: Tensor, c: Tensor, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """P_n [B, I], differentiable in g, x and c."""
    if not _differentiating(g, x, c):
        return primitives.input_grad(g, x, c, grid, spec, out_dtype)
    return _apply(InputGrad, g, x, c, grid, spec, out_dtype)


def weight_grad(
    g: Tensor, x: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """W_n [J, I, O], differentiable in g, x and s."""
    if not _differentiating(g, x, s):
        return primitives.weight_grad(g, x, s, grid, spec, out_dtype)
    return _apply(WeightGrad, g, x, s, grid, spec, out_dtype)


def _differentiating(*tensors: Tensor | None) -> bool:
    """Whether a derivative may be asked for. If not, the Function would only cost time."""
    if torch.compiler.is_compiling():
        # An exported program is the bare op, in either mode of tracing. The flag, as is_exporting()
        # is True in all that the compiler of torch 2.10 traces.
        return not torch.compiler._is_exporting_flag
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return True
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def _apply(function: type[Function], *args: Any) -> Tensor:
    if torch.compiler.is_compiling():
        if forward_ad._current_level >= 0 or not _graphs_of_transforms():
            # In Python, and not as what follows a break of the graph: torch compiles that, too.
            return cast(Tensor, torch._dynamo.disable(_apply)(function, *args))
    elif forward_ad._current_level >= 0:
        function = DUAL[function]
    elif not torch._C._are_functorch_transforms_active():
        function = EAGER[function]
    result: Tensor = function.apply(*args)
    return result


def _graphs_of_transforms() -> bool:
    """Whether no transform of torch.func is at work but those of which torch.compile makes a graph.

    That is grad, from torch 2.13 on: there is no vmap of a Function in a graph, and of jvp it would
    drop the tangents.
    """
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or []
    grad = functorch.TransformType.Grad
    return not stack or (GRAPHS_OF_GRAD and all(its.key() == grad for its in stack))


# What torch.compiler.assume_constant_result does, but that imports the compiler.
_graphs_of_transforms._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _scaled(s: Tensor | None, t: Tensor) -> Tensor:
    return t if s is None else s * t


class Forward(Function):
    """F_n over x, c, s."""

    @staticmethod
    def forward(
        x: Tensor, c: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
    ) -> Tensor:
        return primitives.forward(x, c, s, grid, spec, out_dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, c, s, grid = ctx.saved_tensors
        spec, dx, dc, ds = ctx.spec, None, None, None
        if ctx.needs_input_grad[0]:
            dx = _scaled(s, input_grad(g, x, c, grid, spec.differentiated(), x.dtype))
        if ctx.needs_input_grad[1]:
            dc = weight_grad(g, x, s, grid, spec, c.dtype)
        if ctx.needs_input_grad[2]:
            ds = input_grad(g, x, c, grid, spec, s.dtype)
        return dx, dc, ds, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> transforms.Batched:
        return transforms.forward(forward, info, in_dims, *args)


class InputGrad(Function):
    """P_n over g, x, c."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, c: Tensor, grid: Tensor, spec: Spec, out_dtype: torch.dtype
    ) -> Tensor:
        return primitives.input_grad(g, x, c, grid, spec, out_dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, x, c, grid = ctx.saved_tensors
        spec, dg, dx, dc = ctx.spec, None, None, None
        if ctx.needs_input_grad[0]:
            dg = forward(x, c, v, grid, spec, g.dtype)
        if ctx.needs_input_grad[1]:
            dx = v * input_grad(g, x, c, grid, spec.differentiated(), x.dtype)
        if ctx.needs_input_grad[2]:
            dc = weight_grad(g, x, v, grid, spec, c.dtype)
        return dg, dx, dc, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> transforms.Batched:
        return transforms.input_grad(input_grad, info, in_dims, *args)


class WeightGrad(Function):
    """W_n over g, x, s."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
    ) -> Tensor:
        return primitives.weight_grad(g, x, s, grid, spec, out_dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        g, x, s, grid = ctx.saved_tensors
        spec, dg, dx, ds = ctx.spec, None, None, None
        if ctx.needs_input_grad[0]:
            dg = forward(x, w, s, grid, spec, g.dtype)
        if ctx.needs_input_grad[1]:
            dx = _scaled(s, input_grad(g, x, w, grid, spec.differentiated(), x.dtype))
        if ctx.needs_input_grad[2]:
            ds = input_grad(g, x, w, grid, spec, s.dtype)
        return dg, dx, ds, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> transforms.Batched:
        return transforms.weight_grad(weight_grad, info, in_dims, *args)


def _eager(function: type[Function]) -> type[Function]:
    """function in the older protocol, of which torch.func and its like know nothing.

    For the newer one torch binds the arguments to their names in each call, which takes longer than
    a small layer.
    """

    def forward(ctx: Any, *args: Any) -> Tensor:
        function.setup_context(ctx, args, None)
        result: Tensor = function.forward(*args)
        return result

    methods = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(function.__name__, (Function,), {"__module__": __name__, **methods})


EAGER: dict[type[Function], type[Function]] = {
    function: _eager(function) for function in (Forward, InputGrad, WeightGrad)
}


def _forward_rule(rule: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """A jvp from the terms of the tangent, given a primitive's arguments and their tangents.

    torch turns forward mode off within a jvp, which would silently lose the outer of two nested
    derivatives. So it is turned on, with the innermost tangents taken off the arguments.
    """

    @functools.wraps(rule)
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):
            tensors = [None if t is None else _primal(t) for t in ctx.saved_tensors]
            terms = rule(ctx.spec, ctx.out_dtype, *tensors, *tangents[:3])
            return functools.reduce(torch.add, terms)

    return jvp


def _primal(t: Tensor) -> Tensor:
    """t without the tangent of the current level of forward-mode differentiation."""
    functorch = torch._C._functorch
    level = functorch.maybe_current_level()
    primal: Tensor
    if level is None:
        primal = forward_ad.unpack_dual(t).primal
    else:
        primal = functorch._wrap_for_grad(functorch._unwrap_for_grad(t, level), level)
    return primal


class ForwardDual(Forward):
    """F_n while forward-mode differentiation is on."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Forward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    @_forward_rule
    def jvp(
        spec: Spec,
        dtype: torch.dtype,
        x: Tensor,
        c: Tensor,
        s: Tensor | None,
        grid: Tensor,
        dx: Tensor | None,
        dc: Tensor | None,
        ds: Tensor | None,
    ) -> list[Tensor]:
        terms = []
        if dx is not None:
            terms.append(forward(x, c, _scaled(s, dx), grid, spec.differentiated(), dtype))
        if dc is not None:
            terms.append(forward(x, dc, s, grid, spec, dtype))
        if ds is not None:
            terms.append(forward(x, c, ds, grid, spec, dtype))
        return terms


class InputGradDual(InputGrad):
    """P_n while forward-mode differentiation is on."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        InputGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    @_forward_rule
    def jvp(
        spec: Spec,
        dtype: torch.dtype,
        g: Tensor,
        x: Tensor,
        c: Tensor,
        grid: Tensor,
        dg: Tensor | None,
        dx: Tensor | None,
        dc: Tensor | None,
    ) -> list[Tensor]:
        terms = []
        if dg is not None:
            terms.append(input_grad(dg, x, c, grid, spec, dtype))
        if dx is not None:
            terms.append(dx * input_grad(g, x, c, grid, spec.differentiated(), dtype))
        if dc is not None:
            terms.append(input_grad(g, x, dc, grid, spec, dtype))
        return terms


class WeightGradDual(WeightGrad):
    """W_n while forward-mode differentiation is on."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        WeightGrad.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    @_forward_rule
    def jvp(
        spec: Spec,
        dtype: torch.dtype,
        g: Tensor,
        x: Tensor,
        s: Tensor | None,
        grid: Tensor,
        dg: Tensor | None,
        dx: Tensor | None,
        ds: Tensor | None,
    ) -> list[Tensor]:
        terms = []
        if dg is not None:
            terms.append(weight_grad(dg, x, s, grid, spec, dtype))
        if dx is not None:
            terms.append(weight_grad(g, x, _scaled(s, dx), grid, spec.differentiated(), dtype))
        if ds is not None:
            terms.append(weight_grad(g, x, ds, grid, spec, dtype))
        return terms


DUAL: dict[type[Function], type[Function]] = {
    Forward: ForwardDual,
    InputGrad: InputGradDual,
    WeightGrad: WeightGradDual,
}
