"""The knots of a layer: their dtype, and whether they are equally spaced: the fast path."""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.engine import grid as grids
from kanfast.engine._torch import is_batched
from kanfast.engine.activations import Activation
from kanfast.engine.basis import Basis, shared_basis
from kanfast.nn.layer import Layer
from kanfast.nn.selection import version_of


def refresh_grid(layer: Layer) -> None:
    """Looks again whether the grid is equally spaced.

    Needed on a GPU alone, after a change of `grid` that torch does not count: through `.data` or
    DLPack, by another process, or before a compiled forward. On a CPU every call looks at the knots
    itself.
    """
    grid = layer.grid
    layer._uniform = grid.is_meta or grids.is_uniform(grid, layer.spline_order)
    layer._looked_at = (grid, version_of(grid))


def basis_of(layer: Layer, activation: Activation) -> Basis:
    """The functions that the layer combines, with this residual function among them."""
    uniform = says_uniform(layer)
    return shared_basis(layer.grid_size, layer.spline_order, activation, uniform)


def says_uniform(layer: Layer) -> bool:
    """Whether the engine is told that the knots are equally spaced.

    On CPUs it looks at them itself, in every call. Elsewhere a look would wait for the device, so
    the layer keeps what was seen, and looks again where its grid is another tensor, or another
    version of it.
    """
    grid = layer.grid
    if grid.is_cpu:
        return True
    if is_batched(grid):
        return False
    if not torch.compiler.is_compiling():
        seen, version = layer._looked_at
        if grid is not seen or version != version_of(grid):
            refresh_grid(layer)
    return layer._uniform


def initial_grid(layer: Layer, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
    """Equally spaced knots [I, G+2k+1] over `grid_range`, for a layer of this dtype."""
    return grids.uniform_knots(
        layer.grid_range,
        layer.grid_size,
        layer.spline_order,
        layer.in_features,
        device=device,
        dtype=at_least_float32(dtype),
    )


def core_knots(layer: Layer) -> Tensor:
    """The knots [I, G+1] without the k outer ones on either side."""
    return layer.grid[:, layer.spline_order : layer.spline_order + layer.grid_size + 1]


def keep_wide(layer: Layer, before: Tensor) -> None:
    """Takes the grid back to float32 or wider after a cast of the layer.

    A knot in bfloat16 is off by up to 1/256 of its value, an eighth of an interval at G = 64 on
    [-1, 1]: that would deform every spline of a trained layer, and saves next to no memory.

    Args:
        before: The grid before the cast.
    """
    wide = at_least_float32(layer.grid.dtype)
    if before.is_meta and not layer.grid.is_meta:
        layer.grid = initial_grid(layer, layer.grid.device, wide)
    elif wide != layer.grid.dtype:
        layer.grid = before.to(layer.grid.device, wide)
    refresh_grid(layer)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """What knots of a layer of this dtype have, and what is computed of them."""
    return torch.promote_types(dtype, torch.float32)
