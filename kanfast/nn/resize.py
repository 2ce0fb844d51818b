"""Layers of other sizes: more grid intervals, fewer nodes. All else of a layer stays as it is."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from kanfast.engine.insertion import regrid
from kanfast.engine.integers import integer
from kanfast.nn.knots import refresh_grid
from kanfast.nn.layer import Layer
from kanfast.nn.masks import set_mask

AnyLayer = TypeVar("AnyLayer", bound=Layer)


def refine(layer: AnyLayer, new_grid_size: int) -> AnyLayer:
    """A copy with another number of grid intervals and the same function.

    From grid_size on, the function is the same wherever it is evaluated, also where its splines
    fade out beyond the grid: every interval is split into new_grid_size / grid_size parts, or
    into the integers next to that, the k outer knots on either side stay, and coefficients
    follow by knot insertion. So an equally spaced grid is none any more (`update_grid` with
    grid_eps=1 makes one again). With fewer intervals the splines are approximated by least
    squares all along the grid.

    Dtype, device, what is frozen, masks and settings are those of this layer.

    Raises:
        TypeError, ValueError: new_grid_size is not an int of at least 1.
        RuntimeError: `spline_weight` is computed from other tensors.
    """
    finer = copy.deepcopy(layer)
    set_grid_size(finer, new_grid_size)
    return finer


@torch.no_grad()
def set_grid_size(layer: Layer, grid_size: int) -> None:
    """Gives the layer a grid of `grid_size` intervals, in place; see `KANLinear.refine`."""
    grid_size = integer("new_grid_size", grid_size)
    if grid_size < 1:
        raise ValueError(f"new_grid_size must be at least 1, got {grid_size}")
    weight = _parameter(layer, "spline_weight")
    knots, coefficients = regrid(weight, layer.grid, grid_size, layer.spline_order)
    _replace(layer, "spline_weight", coefficients)
    layer.grid_size = grid_size
    layer.grid = knots
    refresh_grid(layer)


@torch.no_grad()
def keep_nodes(layer: Layer, inputs: Tensor | None = None, outputs: Tensor | None = None) -> None:
    """Leaves the layer with these inputs and outputs (indices; None for all), in place."""
    device = layer.grid.device
    rows = torch.arange(layer.out_features) if outputs is None else outputs
    columns = torch.arange(layer.in_features) if inputs is None else inputs
    rows, columns = rows.to(device), columns.to(device)
    names = ["spline_weight"]
    if layer.base_weight is not None:
        names.append("base_weight")
    if layer.enable_standalone_scale_spline:
        names.append("spline_scaler")
    for name in names:
        _replace(layer, name, _parameter(layer, name)[rows][:, columns])
    layer.in_features, layer.out_features = len(columns), len(rows)
    layer.grid = layer.grid[columns]
    refresh_grid(layer)
    if layer.symbolic is not None:
        kept = layer.symbolic.taken(rows, columns)
        layer.symbolic = kept if kept.functions else None
    if layer.mask is not None:
        mask = layer.mask[rows][:, columns]
        set_mask(layer, None if mask.all() else mask)


def _parameter(layer: Layer, name: str) -> nn.Parameter:
    parameter = layer._parameters.get(name)
    if parameter is None:
        raise RuntimeError(
            f"{name} cannot get another size: it is not a parameter but computed from others "
            "before each forward; make that permanent first (torch.nn.utils.prune.remove, "
            "torch.nn.utils.parametrize.remove_parametrizations)"
        )
    return parameter


def _replace(layer: Layer, name: str, value: Tensor) -> None:
    trained = _parameter(layer, name).requires_grad
    setattr(layer, name, nn.Parameter(value.clone(), requires_grad=trained))
