"""The knots of a layer: their dtype, and whether they are equally spaced: the fast path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kanfast import grid as grids
from kanfast.activations import Activation
from kanfast._torch import is_batched
from kanfast.basis import Basis, shared_basis
from kanfast.nn.selection import version_of

Self = TypeVar("Self", bound="GriddedLayer")


class GriddedLayer(nn.Module):
    """A module with knots for each of its inputs, which keeps them at float32 or wider.

    Attributes:
        grid: Buffer of knots [I, G+2k+1].
    """

    in_features: int
    out_features: int
    grid_size: int
    spline_order: int
    grid_range: Sequence[float]
    grid: Tensor

    def refresh_grid(self) -> None:
        """Looks again whether the grid is equally spaced.

        Needed only after an in-place change of `grid` by hand whose next use is a compiled forward.
        Everything else notices by itself.
        """
        grid = self.grid
        self._uniform = grid.is_meta or grids.is_uniform(grid, self.spline_order)
        self._looked_at = (grid, version_of(grid))

    def _basis(self, activation: Activation) -> Basis:
        return shared_basis(self.grid_size, self.spline_order, activation, self._says_uniform())

    def _says_uniform(self) -> bool:
        """What the engine is told of the knots.

        On CPUs it looks at them itself, in every call. Elsewhere a look would wait for the device,
        so the module keeps what it has seen, and looks again where another tensor, or another
        version of it, is the grid.
        """
        grid = self.grid
        if grid.is_cpu:
            return True
        if is_batched(grid):
            return False
        if not torch.compiler.is_compiling():
            seen, version = self._looked_at
            if grid is not seen or version != version_of(grid):
                self.refresh_grid()
        return self._uniform

    def _initial_grid(self, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
        return grids.uniform_knots(
            self.grid_range,
            self.grid_size,
            self.spline_order,
            self.in_features,
            device=device,
            dtype=dtype,
        )

    def _core_knots(self) -> Tensor:
        return self.grid[:, self.spline_order : self.spline_order + self.grid_size + 1]

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts as every module, but keeps the grid at float32 when casting to 16 bits.

        A knot in bfloat16 is off by up to 1/256 of its value, an eighth of an interval at G = 64 on
        [-1, 1]: that would deform every spline of a trained layer, and saves next to no memory.
        """
        grid = self.grid
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        wide = at_least_float32(self.grid.dtype)
        if grid.is_meta and not self.grid.is_meta:
            self.grid = self._initial_grid(self.grid.device, wide)
        elif wide != self.grid.dtype:
            self.grid = grid.to(self.grid.device, wide)
        self.refresh_grid()
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.grid = self.grid.to(at_least_float32(self.grid.dtype))
        self.refresh_grid()

    def _check_features(self, what: str, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"{what} must be [..., {self.in_features}], got {list(x.shape)}")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """What knots of a layer of this dtype have, and what is computed of them."""
    return torch.promote_types(dtype, torch.float32)
