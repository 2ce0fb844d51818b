"""The functions on a network's edges, as a picture needs them: values of chosen edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanfast.basis import Basis, spline_basis
from kanfast.nn import KAN, KANLinear
from kanfast.nn.residual import fused_name
from kanfast.symbolic.edges import SymbolicEdges

LayerSymbols = Tensor | SymbolicEdges | None
"""Which edges of a layer are symbolic: a mask [O, I], or the layer's `SymbolicEdges`."""

Symbols = Sequence[LayerSymbols] | Mapping[int, LayerSymbols] | None
"""`LayerSymbols` of all layers, or by the index of the layer."""


class EdgeParts(NamedTuple):
    """The terms of the functions of some edges at P points: [P, E], float64, on the CPU."""

    spline: Tensor
    residual: Tensor
    symbolic: Tensor

    @property
    def total(self) -> Tensor:
        """phi, the sum of the terms."""
        return self.spline + self.residual + self.symbolic


def check_model(model: Any) -> KAN:
    """The model itself; TypeError if it is not a KAN."""
    if not isinstance(model, KAN):
        raise TypeError(f"expected a kanfast.KAN, got {type(model).__name__}")
    return model


@torch.no_grad()
def layer_inputs(model: KAN, x: Tensor, *, least: int) -> list[Tensor]:
    """What each layer gets for x [..., features]: [rows, I], on the model's device.

    Raises:
        ValueError: Fewer rows than `least`, or values that are not finite.
    """
    inputs = [value.reshape(-1, value.shape[-1]) for value in model.activations(x)[:-1]]
    if len(inputs[0]) < least:
        raise ValueError(
            f"x is expected to have at least {least} row{'s' * (least > 1)}, got shape "
            f"{list(x.shape)}"
        )
    for index, value in enumerate(inputs):
        if not value.isfinite().all():
            raise ValueError(
                f"x leads to values that are not finite at the inputs of layer {index}"
            )
    return inputs


def layer_symbols(layers: Sequence[KANLinear], symbolic: Symbols) -> list[LayerSymbols]:
    """`symbolic` as a list with an item for each layer.

    Raises:
        ValueError: Another number of layers, an index without a layer, or a mask of another shape.
        TypeError: An item that is neither a tensor, nor a `SymbolicEdges`, nor None.
    """
    if symbolic is None:
        return [None] * len(layers)
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
    base = _base_weight(layer)
    if base is not None:
        live |= (base != 0).cpu()
    if isinstance(symbols, SymbolicEdges):
        factors, affine = symbols.mask.detach().cpu(), symbols.affine.detach().cpu()
        for edge, function in symbols.functions.items():
            _, _, c, d = affine[edge].tolist()
            nonzero = d != 0 or (c != 0 and function.name != "0")
            live[edge] |= bool(factors[edge] != 0) and nonzero
    return live


@torch.no_grad()
def edge_parts(
    layer: KANLinear, points: Tensor, edges: Tensor, symbols: LayerSymbols = None
) -> EdgeParts:
    """The functions of some edges.

    Args:
        layer: The layer, of any dtype and on any device.
        points: [P, I], float64, on the CPU: column i for the edges from input i.
        edges: [E, 2], pairs (o, i).
        symbols: The layer's symbolic edges; a mask has no function.

    Returns:
        The terms. Splines and fused residual functions are evaluated in float64; another residual
        function and symbolic ones in the dtype of their layer.
    """
    outs, ins = edges[:, 0], edges[:, 1]
    spline, residual, symbolic = (points.new_zeros(len(points), len(edges)) for _ in range(3))
    # By their knots: what is equally spaced is so up to rounding.
    basis = Basis(layer.grid_size, layer.spline_order, "none", uniform=False)
    grid, weight = (t.detach().cpu().double() for t in (layer.grid, layer.scaled_spline_weight))
    for i in ins.unique():
        chosen = ins == i
        functions = spline_basis(points[:, i, None], grid[i, None], basis)[..., 0]
        spline[:, chosen] = functions @ weight[outs[chosen], i].T
    base = _base_weight(layer)
    act = layer.base_activation
    if base is not None and act is not None:
        # The fused functions take any dtype. Others may hold parameters, even one for each input.
        at = points if fused_name(act) is not None else points.to(layer.spline_weight)
        residual = act(at).cpu().double()[:, ins] * base.cpu().double()[outs, ins]
    if isinstance(symbols, SymbolicEdges) and symbols.functions:
        values = symbols.postactivations(points.to(symbols.affine)).cpu().double()
        column = torch.full((layer.out_features, layer.in_features), -1)
        rows, columns = (index.cpu() for index in symbols.edges)
        column[rows, columns] = torch.arange(len(rows))
        place = column[outs, ins]
        symbolic[:, place >= 0] = values[:, place[place >= 0]]
    return EdgeParts(spline, residual, symbolic)


def core_range(layer: KANLinear) -> tuple[Tensor, Tensor]:
    """Where the grid of each input begins and ends, without its extension: [I], float64, CPU."""
    grid, k = layer.grid.detach().cpu().double(), layer.spline_order
    return grid[:, k], grid[:, k + layer.grid_size]


def sweep(low: Tensor, high: Tensor, count: int) -> Tensor:
    """`count` equally spaced points of each input, from low [I] to high [I]: [count, I]."""
    return torch.lerp(low, high, torch.linspace(0, 1, count, dtype=low.dtype)[:, None])


def _base_weight(layer: KANLinear) -> Tensor | None:
    weight = layer.base_weight
    if weight is None or layer.mask is None:
        return None if weight is None else weight.detach()
    return torch.where(layer.mask, weight.detach(), 0)
