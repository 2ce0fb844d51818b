"""Layers of a stack as one autograd function: the usual case on CPUs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from kanfast import layer as layers
from kanfast.nn.linear import KANLinear

_FORWARD = KANLinear.forward


def evaluate(modules: Iterable[nn.Module | None], x: Tensor) -> Tensor | None:
    """One module after the other, or None unless a call of each would do no more than its splines.

    So where somebody looks on (hooks, tracers, transforms of torch.func), where a layer has
    symbolic edges, a mask or a forward of its own, it is None, and modules are called one by one.
    """
    if _has_any_global_hook():
        return None
    chain = []
    for module in modules:
        if not isinstance(module, KANLinear) or not _bare(module):
            return None
        arguments = module.usual_arguments()
        if arguments is None:
            return None
        chain.append(arguments)
    return layers.evaluate(x, chain) if layers.fits(x, chain) else None


def _bare(layer: KANLinear) -> bool:
    """Whether a call of it is no more than `KANLinear.forward`, without symbolic edges."""
    return (
        type(layer) is KANLinear
        and layer._modules["symbolic"] is None
        and getattr(layer.forward, "__func__", None) is _FORWARD
        and layer._compiled_call_impl is None
        and not (
            layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or layer._backward_pre_hooks
        )
    )
