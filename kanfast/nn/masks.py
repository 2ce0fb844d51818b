"""The weights of a layer's edges, and which of its edges are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kanfast.engine.ops import pack_coefficients
from kanfast.nn.layer import Layer


def set_mask(layer: Layer, mask: Tensor | None) -> None:
    """Removes splines with their residual functions: they are zero, and so are their gradients.

    Symbolic functions stay. Parameters of removed edges keep their values, whatever an
    optimizer does to them has no effect, and a later mask may bring the edges back. The mask is
    part of the state dict, and loading such a state dict sets it.

    Args:
        mask: [O, I], bool, False for removed ones; copied. None brings all of them back.

    Raises:
        ValueError: Another shape or dtype.
    """
    shape = (layer.out_features, layer.in_features)
    if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be a bool tensor [out_features, in_features] = {list(shape)}, got "
            f"{mask.dtype} {list(mask.shape)}"
        )
    layer.mask = None if mask is None else mask.detach().clone().to(layer.grid.device)
    layer._live_inputs.of(layer.mask)


def scaled_spline_weight(layer: Layer) -> Tensor:
    """Coefficients [O, I, G+k] with the factor of each edge, 0 for removed ones."""
    scaler = scaler_of(layer)
    return layer.spline_weight if scaler is None else layer.spline_weight * scaler.unsqueeze(-1)


def masked(layer: Layer, values: Tensor) -> Tensor:
    """Values [O, I] of the edges, 0 for removed ones."""
    return values if layer.mask is None else torch.where(layer.mask, values, 0)


def packed(layer: Layer, *, with_base: bool) -> Tensor:
    """Coefficients for `kan_linear`, with zeros for removed edges."""
    base = layer.base_weight if with_base else None
    return pack_coefficients(
        layer.spline_weight, None if base is None else masked(layer, base), scaler_of(layer)
    )


def make_room(layer: Layer, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Gives the layer a mask if the state dict that it is about to load has one."""
    if f"{prefix}mask" in state_dict and layer.mask is None:
        shape = (layer.out_features, layer.in_features)
        layer.mask = torch.ones(shape, dtype=torch.bool, device=layer.grid.device)


def scaler_of(layer: Layer) -> Tensor | None:
    """Factors [O, I] of the splines, 0 for removed edges; None if all are 1."""
    if layer.enable_standalone_scale_spline:
        return masked(layer, layer.spline_scaler)
    return None if layer.mask is None else layer.mask.to(layer.spline_weight.dtype)
