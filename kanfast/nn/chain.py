"""Layers of a stack in one native call and one autograd function: the usual case on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, TypeGuard, cast

from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn.modules.module import _has_any_global_hook

from kanfast.engine import compiled
from kanfast.engine import layer as layers
from kanfast.engine.native import layers as native
from kanfast.nn.linear import KANLinear

_FORWARD = KANLinear.forward

# Of a layer, hooks and what beside its tensors and modules decides on its functions; and those.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SIZES = ("_backend", "grid_size", "spline_order", "enable_standalone_scale_spline", "_uniform")
_STATE = itemgetter(*_HOOKS, *_SIZES)
_PARTS = itemgetter("_parameters", "_buffers", "_modules", "_looked_at")
# Of a tensor, what decides on its place in a native call.
_NOTE = attrgetter("__class__", "shape", "dtype", "is_cpu", "requires_grad")


class ChainCache:
    """Evaluates the layers of a stack, and looks at all of them closely only where they changed."""

    def __init__(self) -> None:
        self._known: Known | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ChainCache, ()  # a copy of the stack looks at its own layers

    def evaluate(self, modules: Mapping[str, nn.Module | None], x: Tensor) -> Tensor | None:
        """One module after the other, or None unless calls would do no more than their splines.

        So where somebody looks on (hooks, tracers, transforms of torch.func), where a layer has
        symbolic edges, a mask or a forward of its own, it is None, and modules are called one by
        one.
        """
        if KANLinear.forward is not _FORWARD or _has_any_global_hook() or not layers.takes(x):
            return None
        known = self._known
        tensors = None if known is None else known.tensors(modules)
        if known is None or tensors is None or known.dtype is not x.dtype:
            found = [
                module.usual_layer(x.dtype) if _does_no_more(module) else None
                for module in modules.values()
            ]
            whole = [its for its in found if its is not None]
            if not whole or len(whole) < len(found):
                return None
            tensors = [t for _, of_layer in whole for t in of_layer]
            self._known = known = Known(cast("list[KANLinear]", [*modules.values()]), whole)
        if not known.fits or x.shape[-1] != known.inputs:
            return None
        return layers.evaluate(x, known.chain, tensors)


def evaluate_compiled(modules: Mapping[str, nn.Module | None], x: Tensor) -> Tensor | None:
    """The same as `ChainCache.evaluate` while torch.compile traces."""
    if _has_any_global_hook():
        return None
    parts = []
    for module in modules.values():
        part = module.compiled_part() if _does_no_more(module) else None
        if part is None:
            return None
        parts.append(part)
    return compiled.evaluate(x, parts) if parts else None


def _does_no_more(module: nn.Module | None) -> TypeGuard[KANLinear]:
    """Whether a call does no more than `KANLinear.forward` without symbolic edges."""
    return (
        type(module) is KANLinear
        and module.symbolic is None
        and module._compiled_call_impl is None
        and "forward" not in module.__dict__
        and not any(map(module.__dict__.get, _HOOKS))
    )


class Known:
    """Layers that were looked at, to tell whether they still are what they were.

    It keeps no tensor, and takes what it compares from the dictionaries of modules, as attributes
    of a module cost more than the evaluation of a small layer.
    """

    def __init__(self, modules: list[KANLinear], found: Sequence[layers.Layer]) -> None:
        self.chain = native.chain(*[shape for shape, _ in found])
        first, *rest = self.chain.shapes
        self.dtype, self.inputs = first.dtype, first.inputs
        self.fits = [its.outputs for its in self.chain.shapes[:-1]] == [its.inputs for its in rest]
        self._modules = modules
        self._states = [
            ({}, {}, {}, {}, *_STATE(module.__dict__)[len(_HOOKS) :]) for module in modules
        ]
        self._activations = [type(module._modules.get("base_activation")) for module in modules]
        self._notes = [_NOTE(t) for _, tensors in found for t in tensors]

    def tensors(self, modules: Mapping[str, nn.Module | None]) -> list[Tensor] | None:
        """Those of the layers if these are the same and nothing else has changed, or None."""
        if [*modules.values()] != self._modules:
            return None
        tensors: list[Any] = []
        for module, state, activation in zip(
            self._modules, self._states, self._activations, strict=True
        ):
            its = module.__dict__
            parameters, buffers, inner, (grid, version) = _PARTS(its)
            base, scaler = parameters.get("base_weight"), parameters.get("spline_scaler")
            if (
                type(module) is not KANLinear
                or _STATE(its) != state
                or "forward" in its
                or "_compiled_call_impl" in its
                or type(inner.get("base_activation")) is not activation
                or inner.get("symbolic") is not None
                or buffers.get("mask") is not None
                or buffers.get("grid") is not grid
                or grid.is_inference()
                or grid._version != version
                or is_legacy_batchedtensor(grid)
                or (base is None) is not (activation is type(None))
                or (scaler is None) is its["enable_standalone_scale_spline"]
            ):
                return None
            weight = parameters.get("spline_weight")
            if weight is None:
                return None
            tensors.append(weight)
            if base is not None:
                tensors.append(base)
            if scaler is not None:
                tensors.append(scaler)
            tensors.append(grid)
        same = [*map(_NOTE, tensors)] == self._notes and all(map(Tensor.is_contiguous, tensors))
        return tensors if same else None
