"""What the functions on a layer need of it: its sizes, parameters, knots and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from kanfast.engine.backends import Backend
from kanfast.nn.selection import Selection

if TYPE_CHECKING:  # SymPy, behind it, takes a while
    from kanfast.symbolic.edges import SymbolicEdges


class Layer(Protocol):
    """The state of a `KANLinear`, where the attributes are described.

    The functions beside this file take a layer as their first argument; `KANLinear` has the public
    ones as methods.
    """

    in_features: int
    out_features: int
    grid_size: int
    spline_order: int
    enable_standalone_scale_spline: bool
    scale_noise: float
    scale_base: float
    scale_spline: float
    grid_eps: float
    grid_range: tuple[float, ...]
    grid: Tensor
    base_activation: Callable[..., Any] | None
    base_weight: nn.Parameter | None
    spline_weight: nn.Parameter
    spline_scaler: nn.Parameter
    mask: Tensor | None
    symbolic: SymbolicEdges | None

    _backend: Backend
    _uniform: bool
    _looked_at: tuple[Tensor, int]
    _live_inputs: Selection
    _parameters: dict[str, nn.Parameter | None]


def check_features(layer: Layer, what: str, x: Tensor) -> None:
    """Raise ValueError unless x is [..., I]."""
    if x.dim() == 0 or x.shape[-1] != layer.in_features:
        raise ValueError(f"{what} must be [..., {layer.in_features}], got {list(x.shape)}")
