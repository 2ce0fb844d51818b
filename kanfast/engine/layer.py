"""Layers from their parameters to their outputs in one native call: the usual case on CPUs.

Packing the coefficients by themselves, checking them and differentiating the packing take longer
than a small layer, and so does an autograd function for each of several layers. Whatever is not the
usual case takes `kanfast.kan_linear`, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.nn import Parameter

from kanfast.engine import autograd, packing
from kanfast.engine.basis import Basis
from kanfast.engine.native import layers as native
from kanfast.engine.native.layers import Chain, Shape
from kanfast.engine.ops import native_obstacle
from kanfast.engine.primitives import Spec, is_observed, is_plain, unobserved

FUSED = ("silu", "none")  # the activations that the native code evaluates by itself
FLOATS = (torch.float32, torch.float64)

Layer: TypeAlias = "tuple[Shape, list[Tensor]]"  # its tensors in the order of `Shape`


def takes(x: Tensor) -> bool:
    """Whether `evaluate` takes this input in eager mode: a plain one, and nobody who looks on."""
    return (
        not is_observed()
        and forward_ad._current_level < 0
        and is_plain(x)
        and x.dtype in FLOATS
        and x.is_cpu
        and x.dim() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _alone(*tensors: Tensor | None) -> bool:
    """Whether nobody looks on, and no tangents are about."""
    return unobserved(*tensors) and forward_ad._current_level < 0


def fit(
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
    dtype: torch.dtype,
) -> Layer | None:
    """A layer for `evaluate` and inputs of this dtype, or None unless its tensors are the usual.

    Of arguments that do not fit together it only says no: it is `kan_linear` that complains.
    """
    if not has_code_for(weight, base, grid, basis) or grid.requires_grad:
        return None
    outputs, inputs, _ = weight.shape
    shape = native.shape(
        *(basis.grid_size, basis.degree, basis.activation, basis.uniform),
        *(outputs, inputs, dtype, grid.dtype, scaler is not None),
    )
    size, edges, knots = shape.sizes
    tensors = [weight]
    for t in (base, scaler):
        if t is not None:
            if t.shape != edges:
                return None
            tensors.append(t)
    for t in tensors:
        if t.dtype is not dtype or not _is_usual(t):
            return None
    if weight.shape != size or grid.shape != knots or not _is_usual(grid):
        return None
    tensors.append(grid)
    return shape, tensors


def _is_usual(t: Tensor) -> bool:
    return t.is_contiguous() and t.is_cpu and (type(t) is Parameter or is_plain(t))


def has_code_for(weight: Tensor, base: Tensor | None, grid: Tensor, basis: Basis) -> bool:
    """Whether there is native code for layers of this kind."""
    return (
        basis.activation in FUSED
        and (base is None) == (basis.activation == "none")
        and grid.dtype in FLOATS
        and weight.dim() == 3
        and weight.shape[0] * weight.shape[1] > 0
        and native_obstacle() is None
    )


def evaluate(x: Tensor, chain: Chain, tensors: Sequence[Tensor]) -> Tensor:
    """x [..., I] -> y [..., O] of the last layer; differentiable to any order.

    Args:
        x: What `takes` takes, of the chain's dtype.
        chain: Of the shapes of layers that `fit`.
        tensors: Theirs, one after the other.
    """
    if x.dim() == 2:
        return _rows(x.contiguous(), chain, tensors)
    y = _rows(x.reshape(-1, x.shape[-1]).contiguous(), chain, tensors)
    return y.reshape(*x.shape[:-1], y.shape[1])


def _rows(x: Tensor, chain: Chain, tensors: Sequence[Tensor]) -> Tensor:
    if torch.is_grad_enabled():
        if tensors[0].requires_grad and not tensors[0].is_inference():
            return cast(Tensor, Layers.apply(chain, x, *tensors)[-1])
        for n, at in enumerate(chain.starts):  # no gradient goes further than a trained layer
            its = tensors[at : at + chain.counts[n]]
            if packing.any_differentiable(x, *its):
                if n:
                    x = native.forward(native.chain(*chain.shapes[:n]), x, tensors[:at])
                    chain, tensors = native.chain(*chain.shapes[n:]), tensors[at:]
                return cast(Tensor, Layers.apply(chain, x, *tensors)[-1])
    return native.forward(chain, x, tensors)


class Layers(Function):
    """Layers one after the other over a matrix x, in a native call.

    The values between them are outputs, too, so that they are part of the graph wherever a gradient
    is differentiated in its turn; then gradients are those of the primitives.
    """

    @staticmethod
    def forward(ctx: Any, chain: Chain, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Values of all layers."""
        values = native.all_values(chain, x, tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*values[:-1], *tensors)
        ctx.chain = chain
        return tuple(values[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of x and of tensors."""
        chain, saved, needs = ctx.chain, ctx.saved_tensors, ctx.needs_input_grad[1:]
        g, once = gradients[-1], not torch.is_grad_enabled() and _alone(*gradients)
        if once and g is not None and not any(map(_is_there, gradients[:-1])):
            return None, *native.backward(chain, g, saved, needs)
        inputs, tensors = saved[: chain.count], saved[chain.count :]
        g = None
        found: tuple[Tensor | None, ...] = ()
        for n in range(chain.count - 1, -1, -1):
            g, at = _sum(g, gradients[n]), chain.starts[n]
            its = tensors[at : at + chain.counts[n]]
            wanted = (True in needs[: at + 1], *needs[at + 1 :][: len(its)])
            grads: Sequence[Tensor | None] = (None,) * len(wanted)
            if g is not None and once:
                alone = native.chain(chain.shapes[n])
                grads = native.backward(alone, g, (inputs[n], *its), wanted)
            elif g is not None:
                grads = _differentiable_grad(g, inputs[n], chain.shapes[n], its, wanted)
            g, found = grads[0], (*grads[1:], *found)
        return None, g, *found


def _is_there(t: Tensor | None) -> bool:
    return t is not None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _differentiable_grad(
    g: Tensor, x: Tensor, shape: Shape, tensors: Sequence[Tensor], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """`native.layers.backward` of one layer as a function of g, x and the parameters."""
    weight, *others, grid = tensors
    base = others[0] if shape.has_base else None
    scaler = others[-1] if shape.has_scaler else None
    spec = Spec(shape.basis, 0, "float64" if x.dtype == torch.float64 else "ieee", "native")
    d_x, d_weight = None, None
    d_others: list[Tensor | None] = [None] * len(others)
    if needs[0]:
        c = packing.pack(weight, base, scaler)
        d_x = autograd.input_grad(g, x, c, grid, spec.differentiated(), x.dtype)
    if any(needs[1:]):
        dc = autograd.weight_grad(g, x, None, grid, spec, x.dtype)
        d_scaled = dc[: shape.basis.num_splines].permute(2, 1, 0)
        d_weight = d_scaled if scaler is None else d_scaled * scaler.unsqueeze(-1)
        if base is not None:
            d_others[0] = dc[-1].T
        if scaler is not None:
            d_others[-1] = (d_scaled * weight).sum(-1)
    return d_x, d_weight, *d_others, None
