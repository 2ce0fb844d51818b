"""The parameters of a layer at the start, and the sizes that it may have."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kanfast.engine.basis import MAX_DEGREE
from kanfast.engine.grid import fit_coefficients
from kanfast.engine.integers import integer
from kanfast.nn.knots import at_least_float32, core_knots
from kanfast.nn.layer import Layer
from kanfast.nn.splines import curve2coeff


@torch.no_grad()
def reset_parameters(layer: Layer) -> None:
    """Draws new parameters for the present grid, as efficient-kan does and in its order."""
    if layer.spline_weight.is_meta:
        return
    if layer.base_weight is not None:
        nn.init.kaiming_uniform_(layer.base_weight, a=math.sqrt(5) * layer.scale_base)
    weight = layer.spline_weight
    points = core_knots(layer).T
    noise = torch.rand(
        *points.shape,
        layer.out_features,
        device=weight.device,
        dtype=at_least_float32(weight.dtype),
    )
    noise = (noise - 1 / 2) * layer.scale_noise / layer.grid_size
    factor = 1.0 if layer.enable_standalone_scale_spline else layer.scale_spline
    weight.copy_(factor * _coefficients(layer, points, noise))
    if layer.enable_standalone_scale_spline:
        nn.init.kaiming_uniform_(layer.spline_scaler, a=math.sqrt(5) * layer.scale_spline)


def _coefficients(layer: Layer, points: Tensor, values: Tensor) -> Tensor:
    """`curve2coeff`, [O, I, G+k]; where all inputs have the same knots, by one small matrix."""
    if not (layer.grid == layer.grid[0]).all():
        return curve2coeff(layer, points, values)
    unit = torch.eye(len(points), dtype=torch.float64)[:, None]  # [N, 1, N]
    inverse = fit_coefficients(points[:, :1].cpu(), unit, layer.grid[:1].cpu(), layer.spline_order)
    return torch.einsum("nio,nj->oij", values, inverse[:, 0].to(values))


def check_sizes(
    in_features: int,
    out_features: int,
    grid_size: int,
    spline_order: int,
    grid_range: Sequence[float],
) -> tuple[int, int, int, int]:
    """The four sizes of a `KANLinear` as ints.

    Raises:
        TypeError, ValueError: Sizes that make no sense.
    """
    sizes = []
    for name, value, least in (
        ("in_features", in_features, 1),
        ("out_features", out_features, 1),
        ("grid_size", grid_size, 1),
        ("spline_order", spline_order, 0),
    ):
        size = integer(name, value)
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")
        sizes.append(size)
    if sizes[3] > MAX_DEGREE:
        raise ValueError(f"spline_order must be 0 to {MAX_DEGREE}, got {sizes[3]}")
    if len(grid_range) != 2 or not -math.inf < grid_range[0] < grid_range[1] < math.inf:
        raise ValueError(f"grid_range must be two finite numbers, low < high, got {grid_range}")
    return sizes[0], sizes[1], sizes[2], sizes[3]
