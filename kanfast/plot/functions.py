"""The functions on a network's edges, as a picture needs them: values of chosen edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kanfast.nn.edges import EdgeParts as EdgeParts
from kanfast.nn.edges import base_weight
from kanfast.nn.edges import edge_parts as edge_parts
from kanfast.nn.linear import KANLinear
from kanfast.nn.network import Network
from kanfast.symbolic.edges import SymbolicEdges

LayerSymbols = Tensor | SymbolicEdges | None
"""Which edges of a layer are symbolic: a mask [O, I], or the layer's `SymbolicEdges`."""

Symbols = Sequence[LayerSymbols] | Mapping[int, LayerSymbols] | None
"""`LayerSymbols` of all layers, or by the index of the layer."""


def check_model(model: Any) -> Network:
    """The model itself; TypeError if it is not a KAN."""
    if not isinstance(model, Network):
        raise TypeError(f"expected a kanfast.KAN, got {type(model).__name__}")
    return model


@torch.no_grad()
def layer_inputs(model: Network, x: Tensor, *, least: int) -> list[Tensor]:
    """What each layer gets for x [..., features]: [rows, I], on the model's device.

    Raises:
        ValueError: Fewer rows than `least`, or values that are not finite.
    """
    inputs = [value.reshape(-1, value.shape[-1]) for value in model.activations(x)[:-1]]
    if len(inputs[0]) < least:
        raise ValueError(
            f"x must have at least {least} row{'s' * (least > 1)}, got shape {list(x.shape)}"
        )
    for index, value in enumerate(inputs):
        if not value.isfinite().all():
            raise ValueError(
                f"x leads to values that are not finite at the inputs of layer {index}: are there "
                "NaN or infinite values in x or in the weights?"
            )
    return inputs


def layer_symbols(layers: Sequence[KANLinear], symbolic: Symbols) -> list[LayerSymbols]:
    """`symbolic` as a list with an item for each layer; None stands for what the layers have.

    Raises:
        ValueError: Another number of layers, an index without a layer, or a mask of another shape.
        TypeError: An item that is neither a tensor, nor a `SymbolicEdges`, nor None.
    """
    if symbolic is None:
        return [layer.symbolic for layer in layers]
    if isinstance(symbolic, Mapping):
        unknown = [index for index in symbolic if index not in range(len(layers))]
        if unknown:
            raise ValueError(
                f"symbolic has the layers {unknown}, but the model has 0 to {len(layers) - 1}"
            )
        items = [symbolic.get(index) for index in range(len(layers))]
    else:
        items = list(symbolic)
    if len(items) != len(layers):
        raise ValueError(
            f"symbolic must have one item for each of {len(layers)} layers, got {len(items)}"
        )
    for index, (layer, item) in enumerate(zip(layers, items, strict=True)):
        if item is None:
            continue
        if not isinstance(item, Tensor | SymbolicEdges):
            raise TypeError(
                f"symbolic[{index}] must be a mask [O, I], a SymbolicEdges or None, got "
                f"{type(item).__name__}"
            )
        shape = (item if isinstance(item, Tensor) else item.mask).shape
        if shape != (layer.out_features, layer.in_features):
            raise ValueError(
                f"symbolic[{index}] must have the shape [{layer.out_features}, "
                f"{layer.in_features}] of its layer, got {list(shape)}"
            )
    return items


def symbolic_mask(layer: KANLinear, symbols: LayerSymbols) -> Tensor:
    """Which edges are symbolic: bool [O, I], on the CPU."""
    mask = torch.zeros(layer.out_features, layer.in_features, dtype=torch.bool)
    if isinstance(symbols, SymbolicEdges):
        factors = symbols.mask.detach().cpu()
        for edge in symbols.functions:
            mask[edge] = factors[edge] != 0
    elif symbols is not None:
        mask = symbols.detach().cpu() != 0
    return mask


@torch.no_grad()
def live_edges(layer: KANLinear, symbols: LayerSymbols) -> Tensor:
    """Which edges are there: those with a weight or a function that is not zero. Bool [O, I]."""
    live = (layer.scaled_spline_weight != 0).any(dim=-1).cpu()
    base = base_weight(layer)
    if base is not None:
        live |= (base != 0).cpu()
    symbols = symbols if isinstance(symbols, SymbolicEdges) else layer.symbolic
    if symbols is not None:
        factors, affine = symbols.mask.detach().cpu(), symbols.affine.detach().cpu()
        for edge, function in symbols.functions.items():
            _, _, c, d = affine[edge].tolist()
            nonzero = d != 0 or (c != 0 and function.name != "0")
            live[edge] |= bool(factors[edge] != 0) and nonzero
    return live


def core_range(layer: KANLinear) -> tuple[Tensor, Tensor]:
    """Where the grid of each input begins and ends, without its extension: [I], float64, CPU."""
    grid, k = layer.grid.detach().cpu().double(), layer.spline_order
    return grid[:, k], grid[:, k + layer.grid_size]


def sweep(low: Tensor, high: Tensor, count: int) -> Tensor:
    """`count` equally spaced points of each input, from low [I] to high [I]: [count, I]."""
    return torch.lerp(low, high, torch.linspace(0, 1, count, dtype=low.dtype)[:, None])
