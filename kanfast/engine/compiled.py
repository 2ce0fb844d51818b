"""Layers one after the other in graphs of torch.compile: an op in each direction for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from kanfast.engine import checks
from kanfast.engine import layer as layers
from kanfast.engine.basis import Basis
from kanfast.engine.native import layers as native


class Part(NamedTuple):
    """A layer's tensors, as they are named in `native.layers.Shape`, and its basis."""

    weight: Tensor
    base: Tensor | None
    scaler: Tensor | None
    grid: Tensor
    basis: Basis


def evaluate(x: Tensor, parts: Sequence[Part]) -> Tensor | None:
    """x [..., I] -> y [..., O] of the last layer while torch.compile traces, or None if it is not
    the usual case."""
    if (
        torch.compiler._is_exporting_flag
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or x.dtype not in layers.FLOATS
        or not x.is_cpu
        or x.dim() == 0
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    width, shapes, tensors = x.shape[-1], [], []
    for part in parts:
        weight, base, scaler, grid, basis = part
        if not layers.has_code_for(weight, base, grid, basis) or weight.shape[1] != width:
            return None
        if grid.requires_grad:
            return None
        width, edges = weight.shape[0], weight.shape[:2]
        for t, size, dtype in (
            (weight, (*edges, basis.num_splines), x.dtype),
            (base, edges, x.dtype),
            (scaler, edges, x.dtype),
            (grid, (edges[1], basis.num_knots), grid.dtype),
        ):
            if t is None:
                continue
            if not (t.shape == size and t.dtype == dtype and t.is_cpu and t.is_contiguous()):
                return None
            tensors.append(t)
        shapes.append(native.describe(basis, weight, grid, scaler is not None))
    rows, chain = x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), ";".join(shapes)
    rows = rows.contiguous()
    if torch.is_grad_enabled() and any(t.requires_grad for t in (rows, *tensors)):
        y = cast(Tensor, Layers.apply(chain, rows, *tensors))
    else:
        y = layers_op(rows, tensors, chain)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[1])


class Layers(Function):
    """Layers in a graph, where nothing is differentiated twice."""

    @staticmethod
    def forward(ctx: Any, chain: str, x: Tensor, *tensors: Tensor) -> Tensor:
        """The last one's values."""
        *hidden, y = layers_values_op(x, tensors, chain)
        ctx.save_for_backward(x, *hidden, *tensors)
        ctx.chain = chain
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of tensors."""
        needs = list(ctx.needs_input_grad[1:])
        grads = iter(layers_grad_op(g, ctx.saved_tensors, needs, ctx.chain))
        return None, *[next(grads) if need else None for need in needs]


def _layers(x: Tensor, tensors: list[Tensor], chain: str) -> Tensor:
    """`kanfast.engine.native.layers.forward`, for compiled code."""
    checks.check_no_tangents((x, *tensors))
    return native.forward(native.described_chain(chain), x, tensors)


def _layers_values(x: Tensor, tensors: list[Tensor], chain: str) -> list[Tensor]:
    """Of `kanfast.engine.native.layers.all_values` those of the layers, for compiled code."""
    checks.check_no_tangents((x, *tensors))
    return native.all_values(native.described_chain(chain), x, tensors)[1:]


def _layers_grad(g: Tensor, given: list[Tensor], needs: list[bool], chain: str) -> list[Tensor]:
    """Of `kanfast.engine.native.layers.backward` those that are needed, for compiled code."""
    checks.check_no_tangents((g, *given))
    grads = native.backward(native.described_chain(chain), g, given, needs)
    return [t for t in grads if t is not None]


def _fake_layers(x: Tensor, tensors: list[Tensor], chain: str) -> Tensor:
    return x.new_empty((x.shape[0], native.described_chain(chain).outputs))


def _fake_layers_values(x: Tensor, tensors: list[Tensor], chain: str) -> list[Tensor]:
    return native.new_values(native.described_chain(chain), x)


def _fake_layers_grad(
    g: Tensor, given: list[Tensor], needs: list[bool], chain: str
) -> list[Tensor]:
    x, *others = given
    tensors = others[native.described_chain(chain).count - 1 :]
    return [torch.empty_like(t) for t, need in zip((x, *tensors), needs, strict=True) if need]


_LIBRARY = torch.library.Library("kanfast", "FRAGMENT")


def _define(
    name: str, run: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverload[..., Any]:
    """An op without what `torch.library.custom_op` does around each call: that takes longer than a
    small layer. Nothing else calls it, and graphs are differentiated already."""
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
    _LIBRARY.define(name + torch.library.infer_schema(run, mutates_args=()), tags=tags)
    _LIBRARY.impl(name, run, "CPU")
    torch.library.register_fake(f"kanfast::{name}", fake, lib=_LIBRARY)
    op: torch._ops.OpOverload[..., Any] = getattr(torch.ops.kanfast, name).default
    return op


layers_op = _define("layers", _layers, _fake_layers)
layers_values_op = _define("layers_values", _layers_values, _fake_layers_values)
layers_grad_op = _define("layers_grad", _layers_grad, _fake_layers_grad)
