"""The weights of a layer's edges, and which of its edges are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from kanfast.engine.ops import pack_coefficients
from kanfast.nn import symbols
from kanfast.nn.gridded import GriddedLayer
from kanfast.nn.selection import Selection

if TYPE_CHECKING:
    from kanfast.symbolic.edges import SymbolicEdges

Self = TypeVar("Self", bound="MaskedLayer")


class MaskedLayer(GriddedLayer):
    """A `GriddedLayer` with weights on its edges, any of which may be removed or symbolic.

    Attributes:
        base_weight, spline_weight, spline_scaler, mask, symbolic: See `KANLinear`.
    """

    enable_standalone_scale_spline: bool
    base_weight: nn.Parameter | None
    spline_weight: nn.Parameter
    spline_scaler: nn.Parameter
    mask: Tensor | None
    symbolic: SymbolicEdges | None
    _live_inputs: Selection

    def set_mask(self, mask: Tensor | None) -> None:
        """Removes splines with their residual functions: they are zero, and so are their gradients.

        Symbolic functions stay. Parameters of removed edges keep their values, whatever an
        optimizer does to them has no effect, and a later mask may bring the edges back. The mask is
        part of the state dict, and loading such a state dict sets it.

        Args:
            mask: [O, I], bool, False for removed ones; copied. None brings all of them back.

        Raises:
            ValueError: Another shape or dtype.
        """
        shape = (self.out_features, self.in_features)
        if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be a bool tensor [out_features, in_features] = {list(shape)}, got "
                f"{mask.dtype} {list(mask.shape)}"
            )
        self.mask = None if mask is None else mask.detach().clone().to(self.grid.device)
        self._live_inputs.of(self.mask)

    @property
    def edge_mask(self) -> Tensor:
        """Which edges are there, as splines or symbolic functions: bool [O, I]."""
        return symbols.numeric_mask(self) | symbols.symbolic_mask(self)

    @property
    def scaled_spline_weight(self) -> Tensor:
        """Coefficients [O, I, G+k] with the factor of each edge, 0 for removed ones."""
        scaler = self._scaler()
        return self.spline_weight if scaler is None else self.spline_weight * scaler.unsqueeze(-1)

    def _scaler(self) -> Tensor | None:
        if self.enable_standalone_scale_spline:
            return self._masked(self.spline_scaler)
        return None if self.mask is None else self.mask.to(self.spline_weight.dtype)

    def _masked(self, values: Tensor) -> Tensor:
        """Values [O, I] of the edges, 0 for removed ones."""
        return values if self.mask is None else torch.where(self.mask, values, 0)

    def _packed(self, *, with_base: bool) -> Tensor:
        """Coefficients for `kan_linear`, with zeros for removed edges."""
        base = self.base_weight if with_base else None
        return pack_coefficients(
            self.spline_weight, None if base is None else self._masked(base), self._scaler()
        )

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._live_inputs.of(self.mask)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}mask" in state_dict and self.mask is None:
            shape = (self.out_features, self.in_features)
            self.mask = torch.ones(shape, dtype=torch.bool, device=self.grid.device)
        if f"{prefix}symbolic.affine" in state_dict and self.symbolic is None:
            self.symbolic = symbols.make_edges(self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._live_inputs.of(self.mask)
