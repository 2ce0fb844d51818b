"""The primitives closed under differentiation.

    T_n(g, s, c; x) = sum_{b,o,i,j}  g[b,o] s[b,i] c[j,i,o] f_ij^(n)(x[b,i])

is linear in each of its factors g, s and c, and a primitive is its derivative in one of them, the
factor that the primitive leaves out. So for v in the place of the factor that is left out

- the derivative of a primitive in one of its factors is the primitive that leaves out that one;
- its derivative in x[b,i] is s[b,i] P_{n+1}(g, x, c)[b,i];
- its tangent is the sum of the primitive itself with the tangent of each factor in the factor's
  place, and of the primitive of order n + 1 with s times the tangent of x in the place of s.

So every order of differentiation runs on the same three kernels, and nothing but the arguments of a
primitive is kept for the backward pass. The derivative in the knots alone is plain torch
(`engine.free_knots`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import Function

from kanfast.engine import _torch, free_knots, primitives, transforms
from kanfast.engine.primitives import PRIMITIVES, Spec, spec_of


class Factors(NamedTuple):
    """The factors of the trilinear form."""

    g: Tensor | None
    s: Tensor | None  # None for ones
    c: Tensor | None

    def with_(self, name: str, factor: Tensor | None) -> Factors:
        """The same with another factor of this name."""
        return self._replace(**{name: factor})


def forward(
    x: Tensor, c: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """F_n [B, O], differentiable in x, c, s and the grid."""
    return contract(x, grid, None, s, c, "g", spec, out_dtype)


def input_grad(
    g: Tensor, x: Tensor, c: Tensor, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """P_n [B, I], differentiable in g, x, c and the grid."""
    return contract(x, grid, g, None, c, "s", spec, out_dtype)


def weight_grad(
    g: Tensor, x: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """W_n [J, I, O], differentiable in g, x, s and the grid."""
    return contract(x, grid, g, s, None, "c", spec, out_dtype)


def contract(
    x: Tensor,
    grid: Tensor,
    g: Tensor | None,
    s: Tensor | None,
    c: Tensor | None,
    missing: str,
    spec: Spec,
    out_dtype: torch.dtype,
) -> Tensor:
    """The primitive that leaves out the factor `missing`, differentiable in all its tensors."""
    arguments = (x, grid, g, s, c, missing, spec, out_dtype)
    if torch.compiler.is_compiling():
        if _torch.is_exporting():  # an exported program is the bare op
            return _primitive(*arguments)
        if _torch.is_forward_mode() or not _torch.can_trace_transforms():
            # In Python, and not as what follows a break of the graph: torch compiles that, too.
            return cast(Tensor, _torch.outside_of_graphs(Contraction.apply)(*arguments))
        function: type[Function] = Contraction
    elif _torch.is_jit_tracing():  # so is a traced one
        return _primitive(*arguments)
    elif _torch.is_forward_mode():
        function = DualContraction
    elif _torch.is_transformed():
        function = Contraction
    elif torch.is_grad_enabled() and _requires_grad(x, grid, g, s, c):
        function = EagerContraction
    else:
        return _primitive(*arguments)
    return cast(Tensor, function.apply(*arguments))


def _requires_grad(*tensors: Tensor | None) -> bool:
    for t in tensors:  # noqa: SIM110 (a generator takes longer)
        if t is not None and t.requires_grad:
            return True
    return False


def _primitive(
    x: Tensor,
    grid: Tensor,
    g: Tensor | None,
    s: Tensor | None,
    c: Tensor | None,
    missing: str,
    spec: Spec,
    out_dtype: torch.dtype,
) -> Tensor:
    tensors = {"x": x, "grid": grid, "g": g, "s": s, "c": c}
    return primitives.contract(missing, tensors, spec, out_dtype)


def _scaled(s: Tensor | None, t: Tensor) -> Tensor:
    return t if s is None else s * t


def _gradients(ctx: Any, v: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of x, the grid, g, s and c, those that are needed."""
    x, grid, *others = ctx.saved_tensors
    spec, factors = ctx.spec, Factors(*others).with_(ctx.missing, v)
    g, s, c = factors
    grads: list[Tensor | None] = [None, None]
    if needs[0]:
        slope = contract(x, grid, g, None, c, "s", spec.differentiated(), x.dtype)
        grads[0] = _scaled(s, slope)
    if needs[1]:
        grads[1] = free_knots.gradient(
            x, grid, cast(Tensor, g), s, cast(Tensor, c), spec.basis, spec.deriv
        )
    for name, factor, needed in zip(Factors._fields, factors, needs[2:], strict=True):
        if factor is None or not needed:
            grads.append(None)
        else:
            left = factors.with_(name, None)
            grads.append(contract(x, grid, *left, name, spec, factor.dtype))
    return grads


class Contraction(Function):
    """The primitives for transforms of torch.func and for torch.compile."""

    @staticmethod
    def forward(
        x: Tensor,
        grid: Tensor,
        g: Tensor | None,
        s: Tensor | None,
        c: Tensor | None,
        missing: str,
        spec: Spec,
        out_dtype: torch.dtype,
    ) -> Tensor:
        return _primitive(x, grid, g, s, c, missing, spec, out_dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.missing, ctx.spec, ctx.out_dtype = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, v, ctx.needs_input_grad[:5]), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        return transforms.batched(contract, info.batch_size, in_dims, *arguments)


class EagerContraction(Function):
    """The primitives for eager mode.

    Transforms of torch.func know nothing of this older protocol. For the newer one torch binds the
    arguments to their names in each call, which takes longer than a small layer.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        Contraction.setup_context(ctx, arguments, arguments[0])
        return _primitive(*arguments)

    backward = Contraction.backward


class DualContraction(Contraction):
    """The primitives while forward-mode differentiation is on.

    torch.compile refuses Functions that have a jvp.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Contraction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:5])
        ctx.set_materialize_grads(False)  # a tensor without a tangent has none, rather than zeros

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        if tangents[1] is not None:
            raise RuntimeError(
                "the grid must have no tangent in forward-mode differentiation, got one: "
                "differentiate in the knots in reverse mode"
            )
        with _torch.with_forward_mode():
            tensors = [None if t is None else _torch.primal(t) for t in ctx.saved_tensors]
            x, grid = cast(tuple[Tensor, Tensor], tensors[:2])
            factors = Factors(*tensors[2:])
            terms = [
                contract(x, grid, *factors.with_(name, t), ctx.missing, ctx.spec, ctx.out_dtype)
                for name, t in zip(Factors._fields, tangents[2:5], strict=True)
                if t is not None
            ]
            if tangents[0] is not None:
                terms.append(_slope_term(ctx, x, grid, factors, tangents[0]))
            return functools.reduce(torch.add, terms)


def _slope_term(ctx: Any, x: Tensor, grid: Tensor, factors: Factors, dx: Tensor) -> Tensor:
    """What the tangent dx of x adds to that of a primitive."""
    spec = ctx.spec.differentiated()
    if ctx.missing == "s":
        return dx * contract(x, grid, *factors, "s", spec, ctx.out_dtype)
    factors = factors._replace(s=_scaled(factors.s, dx))
    return contract(x, grid, *factors, ctx.missing, spec, ctx.out_dtype)


def _register(missing: str) -> None:
    """Gradients, batches and counts of operations of an op by itself.

    That is how exported programs, and nothing else, have it. The count is that of the matrix
    product over all functions, as many as a linear layer with as many parameters takes, whatever
    the backend leaves out.
    """
    factors, name = PRIMITIVES[missing].factors, f"kanfast::{PRIMITIVES[missing].name}"

    def arguments(tensors: tuple[Any, ...], scalars: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of the op in the order of `contract`."""
        named = dict(zip((*factors, "grid"), tensors, strict=True))
        ordered = [named.get(key) for key in ("x", "grid", *Factors._fields)]
        return (*ordered, missing, spec_of(*scalars[:7]), scalars[7])

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Contraction.setup_context(ctx, arguments(inputs[:4], inputs[4:]), output)
        ctx.needed = arguments(ctx.needs_input_grad[:4], inputs[4:])[:5]

    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        grads = _gradients(ctx, v, [bool(need) for need in ctx.needed])
        named = dict(zip(("x", "grid", *Factors._fields), grads, strict=True))
        return (*[named[key] for key in (*factors, "grid")], *[None] * 8)

    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        dims = arguments(in_dims[:4], inputs[4:])[:5]
        given = arguments(inputs[:4], inputs[4:])
        return transforms.batched(contract, info.batch_size, dims, *given)

    def count(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        named = dict(zip((*factors, "grid"), shapes[:4], strict=True))
        rows, inputs = named["x"]
        outputs = named["g"][1] if "g" in named else named["c"][2]
        grid_size, degree, activation = shapes[4:7]
        return int(2 * rows * inputs * outputs * (grid_size + degree + (activation != "none")))

    library = primitives.LIBRARY
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=library)
    torch.library.register_vmap(name, vmap, lib=library)
    _torch.FLOP_FORMULAS[getattr(torch.ops.kanfast, PRIMITIVES[missing].name)] = count


for _missing in PRIMITIVES:
    _register(_missing)
