"""The splines of a layer: their values, their fit to points, their move to other knots."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanfast.engine import grid as grids
from kanfast.nn.knots import at_least_float32, refresh_grid
from kanfast.nn.layer import Layer, check_features


def b_splines(layer: Layer, x: Tensor) -> Tensor:
    """Values of the B-splines, x [..., I] -> [..., I, G+k]; `forward` never builds these."""
    check_features(layer, "x", x)
    rows = x.reshape(-1, layer.in_features).to(at_least_float32(x.dtype))
    values = grids.b_splines(rows, layer.grid, layer.spline_order)
    return values.reshape(*x.shape, layer.grid_size + layer.spline_order).to(x.dtype)


def curve2coeff(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """Coefficients [O, I, G+k] of the splines closest to the points x [N, I], y [N, I, O].

    Least squares of minimal norm, on the CPU in float64 wherever the tensors are; the result is
    on y's device in y's dtype.
    """
    expected = (layer.in_features, layer.out_features)
    if x.dim() != 2 or x.shape[1] != layer.in_features or y.shape != (len(x), *expected):
        raise ValueError(
            f"curve2coeff must get x [N, {layer.in_features}] and y [N, {layer.in_features}, "
            f"{layer.out_features}], got {list(x.shape)} and {list(y.shape)}"
        )
    return grids.fit_coefficients(x, y, layer.grid, layer.spline_order)


@torch.no_grad()
def update_grid(layer: Layer, x: Tensor, margin: float = 0.01) -> None:
    """Moves the knots to where the samples are, and keeps the function there by least squares.

    The knots of each input become `grid_eps` times an equally spaced grid over its samples and
    1 - `grid_eps` times their quantiles. `spline_weight` is refitted at the samples, with no
    change to the other parameters; what the samples leave open follows the old splines.

    The samples are copied to the CPU, where knots and fits are computed in float64 with a
    rank-revealing solver, and the results are copied back: on a GPU this waits for the device.

    Args:
        x: Samples [..., I], at least one row, finite.
        margin: How far beyond the samples the equally spaced part reaches.

    Raises:
        ValueError: Wrong shape, no rows, NaN or infinite samples, or samples so large that knots
            around them are no finite numbers.
        RuntimeError: `spline_weight` is computed from other tensors (`torch.nn.utils.prune`),
            so it cannot be set.
    """
    check_features(layer, "samples", x)
    samples = x.detach().reshape(-1, layer.in_features)
    if not len(samples):
        raise ValueError("update_grid needs at least one row of samples, got an empty batch")
    finite = samples.isfinite().all(dim=0)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"update_grid needs finite samples; there are NaN or infinite values in the "
            f"features {_listed(bad)}"
        )
    knots = grids.knots_from_samples(
        samples, layer.grid, layer.spline_order, grid_eps=layer.grid_eps, margin=margin
    )
    representable = knots.isfinite().all(dim=1) & knots.double().diff(dim=1).sum(1).isfinite()
    if not representable.all():
        bad = (~representable).nonzero().flatten().tolist()
        raise ValueError(
            f"samples must leave room for {layer.spline_order} more knots on either side, within "
            f"the range of {knots.dtype}, got values of up to {samples[:, bad].abs().max():.3g} in "
            f"the features {_listed(bad)}: scale them down"
        )
    weight = grids.refit(layer.spline_weight, samples, layer.grid, knots, layer.spline_order)
    _set_spline_weight(layer, weight)
    layer.grid.copy_(knots)
    refresh_grid(layer)


def _listed(features: list[int]) -> str:
    return f"{features[:8]}{' ...' if len(features) > 8 else ''}"


def _set_spline_weight(layer: Layer, weight: Tensor) -> None:
    if parametrize.is_parametrized(cast(nn.Module, layer), "spline_weight"):
        layer.spline_weight = weight  # type: ignore[assignment]  # by its right inverse
    elif "spline_weight" in layer._parameters:
        layer.spline_weight.copy_(weight)
    else:
        raise RuntimeError(
            "update_grid cannot set spline_weight: it is not a parameter but computed from "
            "others before each forward; make that permanent first "
            "(torch.nn.utils.prune.remove)"
        )
