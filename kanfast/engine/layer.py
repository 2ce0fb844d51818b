"""A layer from its parameters: one call in each direction, the same for every backend.

    y[b,o] = sum_i (base[o,i] b(x[b,i]) + scaler[o,i] sum_j weight[o,i,j] B_ij(x[b,i]))

Where nothing looks on, `Layer` is one autograd function over the parameters as they lie in memory;
in graphs of torch.compile it is an op in each direction. Transforms of torch.func, forward mode,
export, and knots that are trained need the three primitives, which are closed under
differentiation: there the coefficients are packed, and `engine.autograd` does the rest. A gradient
of a gradient is made of the primitives, too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import Function

from kanfast.engine import _torch, autograd, backends, checks, packing, primitives
from kanfast.engine.backends import Backend
from kanfast.engine.basis import Basis
from kanfast.engine.native import layer as native_layer
from kanfast.engine.primitives import (
    SCALARS,
    Spec,
    in_memory,
    module_of,
    spec_of,
    without_autocast,
)


class Plan(NamedTuple):
    """What a layer needs to know besides its tensors."""

    spec: Spec
    out_dtype: torch.dtype
    autocast: bool = True
    """Whether autocast may be on, and has to be off while the backend works."""


def layer(
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    *,
    basis: Basis,
    backend: Backend = "auto",
) -> Tensor:
    """A KAN layer; differentiable to any order in all tensors, in both modes but for the grid.

    Args:
        x: [..., I], float64, float32, bfloat16 or float16.
        weight: [O, I, G + k], the coefficients of the splines, of the dtype of x (under autocast
            dtypes mix, as in torch.nn.functional.linear).
        base: [O, I], the coefficients of the residual activation; None if the basis has none.
        scaler: [O, I], factors of the splines of each edge, or None for ones.
        grid: [I, G + 2k + 1], float32 or float64, knots in ascending order.
        basis: The functions. On CPUs it does not matter whether they are said to be uniform: every
            call looks at the knots.
        backend: As in `kanfast.kan_linear`.

    Returns:
        [..., O], of the dtype of x, or of autocast's.

    Raises:
        TypeError, ValueError: Arguments that do not fit together.
        RuntimeError: A backend that cannot run here.
    """
    tensors = (x, weight, base, scaler, grid)
    facts = tuple(
        [None if t is None else (t.shape, t.dtype, t.is_cpu or t.device) for t in tensors[1:]]
    )
    try:
        on_cpu = x.is_cpu
    except AttributeError:
        checks.check_is_tensor(x)
        raise
    device = "cpu" if on_cpu else x.device.type
    asks = backend == "triton" or not on_cpu  # for the precision that torch allows
    allowed = backends.float32_precision() if asks else None
    settings = (backends.autocast_dtype(device, x.dtype), allowed)
    compiling = torch.compiler.is_compiling()
    make = _make_plan if compiling else _plan
    features = x.shape[-1] if x.dim() else None
    plan = make(features, x.dtype, on_cpu or x.device, facts, basis, backend, settings)
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    if compiling:
        y = _in_graph(plan, rows, *tensors[1:])
    elif grid.requires_grad or _torch.is_forward_mode() or _torch.is_observed(*tensors):
        y = _composed(plan, rows, *tensors[1:])
    elif torch.is_grad_enabled() and packing.any_differentiable(*tensors):
        y = cast(Tensor, Layer.apply(plan, rows, *tensors[1:]))
    else:
        y = _forward(plan, rows, *tensors[1:])
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[1])


def _make_plan(
    features: int | None,
    dtype: torch.dtype,
    device: torch.device | bool,
    facts: tuple[Any, ...],
    basis: Basis,
    backend: Backend,
    settings: tuple[torch.dtype | None, str | None],
) -> Plan:
    """The plan of a layer, or an error that says what does not fit.

    For a device True says the CPU, as a tensor is asked for that in half the time.
    """
    autocast, _ = settings
    device = _device(device)
    facts = tuple([t and (*t[:2], _device(t[2])) for t in facts])
    checks.check_layer(features, dtype, device, facts, basis, autocast is not None)
    backend, precision, out_dtype = backends.resolve(device.type, dtype, autocast, backend)
    return Plan(Spec(basis, 0, precision, backend), out_dtype, autocast is not None)


def _device(device: torch.device | bool) -> torch.device:
    return torch.device("cpu") if isinstance(device, bool) else device


_plan = functools.lru_cache(4096)(_make_plan)
"""Every call asks for its plan by all that the plan follows from, so none can be out of date."""


def _in_graph(
    plan: Plan,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
) -> Tensor:
    """The layer while torch.compile or torch.export traces."""
    tensors = (x, weight, base, scaler, grid)
    if (
        _torch.is_transformed()
        or _torch.is_forward_mode()
        or grid.requires_grad
        or _torch.is_exporting()
    ):
        return _composed(plan, *tensors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return cast(Tensor, Layer.apply(plan, *tensors))
    return _forward(plan, *tensors)


def _composed(
    plan: Plan,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
) -> Tensor:
    """The layer by its packed coefficients and the primitives."""
    c = packing.pack(weight, base, scaler)
    return autograd.forward(x, c, None, grid, plan.spec, plan.out_dtype)


class Layer(Function):
    """The layer where nothing looks on, and in graphs of torch.compile."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.plan = plan
        return _forward(plan, *tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        plan, tensors, needs = ctx.plan, ctx.saved_tensors, ctx.needs_input_grad[1:]
        once = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if once and (torch.compiler.is_compiling() or not _torch.is_observed(g, *tensors)):
            return None, *_grad(plan, g, tensors, needs)
        x, weight, base, scaler, grid = tensors
        return None, *_differentiable_grad(plan, g, x, weight, base, scaler, grid, needs)


def _differentiable_grad(
    plan: Plan,
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients as functions of g, x and the parameters."""
    spec = plan.spec
    grads: list[Tensor | None] = [None] * len(needs)
    if needs[0]:
        c = packing.pack(weight, base, scaler)
        grads[0] = autograd.input_grad(g, x, c, grid, spec.differentiated(), x.dtype)
    if any(needs[1:]):
        dc = autograd.weight_grad(g, x, None, grid, spec, weight.dtype)
        d_scaled = dc[: spec.basis.num_splines].permute(2, 1, 0)
        grads[1] = d_scaled if scaler is None else d_scaled * scaler.unsqueeze(-1)
        if base is not None:
            grads[2] = dc[-1].T
        if scaler is not None:
            grads[3] = (d_scaled * weight).sum(-1)
    return tuple(grads)


def _forward(plan: Plan, *tensors: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        return cast(Tensor, layer_op(*tensors, *plan.spec.scalars(), plan.out_dtype))
    return _run_forward(plan, *tensors)


def _run_forward(plan: Plan, *tensors: Tensor | None) -> Tensor:
    spec = plan.spec
    call, tensors = _module(spec.backend).layer_forward, in_memory(spec.backend, tensors)
    if not plan.autocast:
        y: Tensor = call(*tensors, spec.basis, spec.precision, plan.out_dtype)
        return y
    with without_autocast(cast(Tensor, tensors[0])):
        y = call(*tensors, spec.basis, spec.precision, plan.out_dtype)
    return y


def _grad(
    plan: Plan, g: Tensor, tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> Sequence[Tensor | None]:
    """Gradients of x, weight, base, scaler and grid; those that are not needed are None."""
    if torch.compiler.is_compiling():
        wanted = list(needs)
        grads = iter(layer_grad_op(g, *tensors, *plan.spec.scalars(), wanted))
        return [next(grads) if need else None for need in wanted]
    return _run_grad(plan.spec, g, tensors, needs)


def _run_grad(
    spec: Spec, g: Tensor, tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> Sequence[Tensor | None]:
    call, tensors = _module(spec.backend).layer_grad, in_memory(spec.backend, (g, *tensors))
    if not checks.autocasting(g.device.type):
        grads: Sequence[Tensor | None] = call(*tensors, needs, spec.basis, spec.precision)
        return grads
    with without_autocast(g):
        grads = call(*tensors, needs, spec.basis, spec.precision)
    return grads


def _module(backend: str) -> ModuleType:
    """The implementation by this name, with a layer and its gradients."""
    return native_layer if backend == "native" else module_of(backend)


def _layer(*arguments: Any) -> Tensor:
    tensors = arguments[:5]
    checks.check_no_tangents(tensors)
    return _run_forward(Plan(spec_of(*arguments[5:12]), arguments[12]), *tensors)


def _fake_layer(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=others[-1])


def _layer_grad(g: Tensor, *arguments: Any) -> list[Tensor]:
    tensors = arguments[:5]
    checks.check_no_tangents((g, *tensors))
    grads = _run_grad(spec_of(*arguments[5:12]), g, tensors, arguments[12])
    return [t for t in grads if t is not None]


def _fake_layer_grad(g: Tensor, *arguments: Any) -> list[Tensor]:
    pairs = zip(arguments[:5], arguments[12], strict=True)
    return [t.new_empty(t.shape) for t, need in pairs if need]


_TENSORS = "Tensor x, Tensor weight, Tensor? base, Tensor? scaler, Tensor grid"
layer_op = primitives.define(
    "layer", f"{_TENSORS}, {SCALARS}, ScalarType out_dtype) -> Tensor", _layer, _fake_layer
)
layer_grad_op = primitives.define(
    "layer_grad",
    f"Tensor g, {_TENSORS}, {SCALARS}, bool[] needs) -> Tensor[]",
    _layer_grad,
    _fake_layer_grad,
)


def _layer_flops(x: Any, weight: Any, base: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    outputs, inputs, splines = weight
    return int(2 * x[0] * inputs * outputs * (splines + (base is not None)))


def _layer_grad_flops(g: Any, x: Any, weight: Any, base: Any, *rest: Any, **_: Any) -> int:
    needs = rest[-1]
    return _layer_flops(x, weight, base) * (int(needs[0]) + int(any(needs[1:])))


_torch.FLOP_FORMULAS[torch.ops.kanfast.layer] = _layer_flops
_torch.FLOP_FORMULAS[torch.ops.kanfast.layer_grad] = _layer_grad_flops
