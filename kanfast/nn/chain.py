"""Layers of a stack in one native call and one autograd function: the usual case on CPUs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from kanfast import layer as layers
from kanfast.native.layers import chain
from kanfast.nn.linear import KANLinear

_FORWARD = KANLinear.forward


def evaluate(modules: Iterable[nn.Module | None], x: Tensor) -> Tensor | None:
    """One module after the other, or None unless a call of each would do no more than its splines.

    So where somebody looks on (hooks, tracers, transforms of torch.func), where a layer has
    symbolic edges, a mask or a forward of its own, it is None, and modules are called one by one.
    """
    if KANLinear.forward is not _FORWARD or _has_any_global_hook() or not layers.takes(x):
        return None
    dtype, width = x.dtype, x.shape[-1]
    shapes, tensors = [], []
    for module in modules:
        # A call of the module has to be no more than `KANLinear.forward`, without symbolic edges.
        if (
            type(module) is not KANLinear
            or module._modules["symbolic"] is not None
            or module._compiled_call_impl is not None
            or "forward" in module.__dict__
            or module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            return None
        its = module.usual_layer(dtype)
        if its is None or its[0].inputs != width:
            return None
        shape, of_layer = its
        width = shape.outputs
        shapes.append(shape)
        tensors += of_layer
    return layers.evaluate(x, chain(*shapes), tensors)
