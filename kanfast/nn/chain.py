"""Layers of a stack in one native call and one autograd function: the usual case on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from kanfast import layer as layers
from kanfast.native import layers as native
from kanfast.nn.linear import KANLinear
from kanfast.primitives import is_plain

_FORWARD = KANLinear.forward

# Of a layer, where hooks are, and what beside tensors and modules decides on its functions.
_HOOKS = itemgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)
_STATE = itemgetter(
    "_backend", "grid_size", "spline_order", "enable_standalone_scale_spline", "_uniform"
)


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
            found = [_look(module, x) for module in modules.values()]
            whole = [its for its in found if its is not None]
            if not whole or len(whole) < len(found):
                return None
            tensors = [t for _, of_layer in whole for t in of_layer]
            self._known = known = Known(cast("list[KANLinear]", [*modules.values()]), whole)
        if not known.fits or x.shape[-1] != known.inputs:
            return None
        return layers.evaluate(x, known.chain, tensors)


def _look(module: nn.Module | None, x: Tensor) -> layers.Layer | None:
    """The layer, unless a call of it does more than `KANLinear.forward` without symbolic edges."""
    if (
        type(module) is not KANLinear
        or module.symbolic is not None
        or module._compiled_call_impl is not None
        or "forward" in module.__dict__
        or any(_HOOKS(module.__dict__))
    ):
        return None
    return module.usual_layer(x.dtype)


class Known:
    """Layers that were looked at, to tell whether they still are what they were.

    It keeps no tensor. It holds to the dictionaries of modules, as attributes of a module cost more
    than the evaluation of a small layer.
    """

    def __init__(self, modules: list[KANLinear], found: Sequence[layers.Layer]) -> None:
        self.chain = native.chain(*[shape for shape, _ in found])
        first, *rest = self.chain.shapes
        self.dtype, self.inputs = first.dtype, first.inputs
        self.fits = [its.outputs for its in self.chain.shapes[:-1]] == [its.inputs for its in rest]
        self._modules = modules
        self._layers: list[tuple[Any, ...]] = []
        self._hooks: list[Any] = []
        self._notes: list[tuple[Any, ...] | None] = []
        for module in modules:
            its, inner = module.__dict__, module._modules
            kind = type(inner.get("base_activation"))
            self._layers.append(
                (its, _STATE(its), kind, module._parameters, module._buffers, inner)
            )
            self._hooks += _HOOKS(its)
            self._notes += [
                None if t is None else _note(t) for t in _tensors_of(*self._layers[-1][3:5])
            ]

    def tensors(self, modules: Mapping[str, nn.Module | None]) -> list[Tensor] | None:
        """Those of the layers if these are the same and nothing else has changed, or None."""
        if [*modules.values()] != self._modules or any(self._hooks):
            return None
        given: list[Tensor | None] = []
        for its, state, kind, parameters, buffers, inner in self._layers:
            looked_at, version = its["_looked_at"]
            if (
                _STATE(its) != state
                or type(inner.get("base_activation")) is not kind
                or inner.get("symbolic") is not None
                or buffers.get("mask") is not None
                or looked_at is not buffers.get("grid")
                or looked_at.is_inference()
                or looked_at._version != version
                or "forward" in its
                or "_compiled_call_impl" in its
            ):
                return None
            given += _tensors_of(parameters, buffers)
        tensors = []
        for t, note in zip(given, self._notes, strict=True):
            if t is None:
                if note is not None:
                    return None
                continue
            if note is None:
                return None
            kind, size, dtype, trained = note
            if (
                type(t) is not kind
                or t.shape != size
                or t.dtype is not dtype
                or t.requires_grad is not trained
                or not t.is_cpu
                or not t.is_contiguous()
                or not (kind is nn.Parameter or is_plain(t))
            ):
                return None
            tensors.append(t)
        return tensors


def _tensors_of(
    parameters: Mapping[str, Tensor | None], buffers: Mapping[str, Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Weight, base, scaler and grid."""
    return (
        parameters.get("spline_weight"),
        parameters.get("base_weight"),
        parameters.get("spline_scaler"),
        buffers.get("grid"),
    )


def _note(t: Tensor) -> tuple[Any, ...]:
    return type(t), t.shape, t.dtype, t.requires_grad
