"""The splines of a layer: their values, their fit to points, their move to other knots."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from kanfast.engine import grid as grids
from kanfast.nn import resize
from kanfast.nn.gridded import at_least_float32
from kanfast.nn.masked import MaskedLayer

Self = TypeVar("Self", bound="FittedLayer")


class FittedLayer(MaskedLayer):
    """A `MaskedLayer` whose splines follow points, and whose grid follows samples."""

    grid_eps: float

    def b_splines(self, x: Tensor) -> Tensor:
        """Values of the B-splines, x [..., I] -> [..., I, G+k]; `forward` never builds these."""
        self._check_features("x", x)
        rows = x.reshape(-1, self.in_features).to(at_least_float32(x.dtype))
        values = grids.b_splines(rows, self.grid, self.spline_order)
        return values.reshape(*x.shape, self.grid_size + self.spline_order).to(x.dtype)

    def curve2coeff(self, x: Tensor, y: Tensor) -> Tensor:
        """Coefficients [O, I, G+k] of the splines closest to the points x [N, I], y [N, I, O].

        Least squares of minimal norm, on the CPU in float64 wherever the tensors are; the result is
        on y's device in y's dtype.
        """
        expected = (self.in_features, self.out_features)
        if x.dim() != 2 or x.shape[1] != self.in_features or y.shape != (len(x), *expected):
            raise ValueError(
                f"curve2coeff expects x [N, {self.in_features}] and y [N, {self.in_features}, "
                f"{self.out_features}], got {list(x.shape)} and {list(y.shape)}"
            )
        return grids.fit_coefficients(x, y, self.grid, self.spline_order)

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01) -> None:
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
            ValueError: Wrong shape, no rows, or NaN or infinite samples.
            RuntimeError: `spline_weight` is computed from other tensors (`torch.nn.utils.prune`),
                so it cannot be set.
        """
        self._check_features("samples", x)
        samples = x.detach().reshape(-1, self.in_features)
        if not len(samples):
            raise ValueError("update_grid needs at least one row of samples, got an empty batch")
        finite = samples.isfinite().all(dim=0)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise ValueError(
                f"update_grid needs finite samples; there are NaN or infinite values in the "
                f"features {bad[:8]}{' ...' if len(bad) > 8 else ''}"
            )
        knots = grids.knots_from_samples(
            samples, self.grid, self.spline_order, grid_eps=self.grid_eps, margin=margin
        )
        weight = grids.refit(self.spline_weight, samples, self.grid, knots, self.spline_order)
        self._set_spline_weight(weight)
        self.grid.copy_(knots)
        self.refresh_grid()

    def _set_spline_weight(self, weight: Tensor) -> None:
        if parametrize.is_parametrized(self, "spline_weight"):
            self.spline_weight = weight  # type: ignore[assignment]  # by its right inverse
        elif "spline_weight" in self._parameters:
            self.spline_weight.copy_(weight)
        else:
            raise RuntimeError(
                "update_grid cannot set spline_weight: it is not a parameter but computed from "
                "others before each forward; make that permanent first "
                "(torch.nn.utils.prune.remove)"
            )

    def refine(self: Self, new_grid_size: int) -> Self:
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
        finer = copy.deepcopy(self)
        resize.set_grid_size(finer, new_grid_size)
        return finer
