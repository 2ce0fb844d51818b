"""The residual function of an edge: what may be given for it, and what goes into the fused ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from kanfast.engine.activations import Activation

# By exact type, as a subclass may compute something else. GELU is fused in its exact form only.
_FUSED: dict[type, Activation] = {
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ReLU: "relu",
    nn.Identity: "identity",
}


def fused_name(function: Callable[..., Any] | None) -> Activation | None:
    """The name of a residual function among the fused ones, or None if it is not one of them."""
    if function is None:
        return "none"
    name = _FUSED.get(type(function))
    if name == "gelu" and cast(nn.GELU, function).approximate != "none":
        return None
    return name


def make_residual(base_activation: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The residual function from the `base_activation` of `KANLinear`.

    Raises:
        TypeError: Neither a module, nor None, nor something that makes a function.
    """
    if base_activation is None or isinstance(base_activation, nn.Module):
        return base_activation
    wanted = (
        "base_activation must be an nn.Module class, a function without arguments that makes the "
        "activation, an nn.Module, or None"
    )
    if not callable(base_activation):
        raise TypeError(f"{wanted}; got {base_activation!r}")
    try:
        activation = base_activation()
    except TypeError as error:
        raise TypeError(f"{wanted}; calling {base_activation!r} failed: {error}") from error
    if not callable(activation):
        raise TypeError(f"{wanted}; {base_activation!r} made {activation!r}")
    return cast(Callable[..., Any], activation)
