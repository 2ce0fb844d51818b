"""What a layer's edges do: their statistics over samples, and the size of their coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanfast.nn import symbolic as symbols
from kanfast.nn.fitted import FittedLayer
from kanfast.nn.residual import fused_name
from kanfast.backends import Backend
from kanfast.ops import kan_linear
from kanfast.statistics import EdgeStatistics, edge_statistics


class MeasuredLayer(FittedLayer):
    """A `FittedLayer` with the methods for looking at its edges."""

    base_activation: Callable[..., Any] | None
    _backend: Backend

    def edge_statistics(self, x: Tensor) -> EdgeStatistics:
        """Mean, size, deviation and range of every edge's function over the rows of x [..., I].

        Exact, differentiable once, without a tensor of rows x edges: see
        `kanfast.edge_statistics`.
        """
        self._check_features("samples", x)
        activation = fused_name(self.base_activation)
        residual = None
        if activation is None and self.base_activation is not None:
            residual = self.base_activation(x)
        numeric = edge_statistics(
            x,
            self._packed(with_base=True),
            self.grid,
            basis=self._basis(activation or "none"),
            residual=residual,
            backend=self._backend,
        )
        if self.symbolic is None:
            return numeric
        live = symbols.numeric_mask(self)
        return symbols.with_symbolic(numeric, self.symbolic, x, self._splines(), live)

    def _splines(self) -> Callable[[int, int, Tensor], Tensor]:
        """(o, i, rows) -> [rows]: what edges are without their symbolic functions, from now on."""
        activation = fused_name(self.base_activation)
        basis, grid = self._basis(activation or "none"), self.grid
        c = self._packed(with_base=activation is not None)
        weight = None if self.base_weight is None else self._masked(self.base_weight)

        def spline(o: int, i: int, rows: Tensor) -> Tensor:
            packed = c[:, i : i + 1, o : o + 1].to(rows.dtype)
            y = kan_linear(rows[:, i : i + 1], packed, grid[i : i + 1], basis=basis)[:, 0]
            if activation is None and self.base_activation is not None and weight is not None:
                y = y + self.base_activation(rows)[:, i] * weight[o, i]
            return y

        return spline

    def regularization_loss(
        self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0
    ) -> Tensor:
        """efficient-kan's stand-in for the L1 norm and entropy of the KAN paper (section 2.5.1).

        The size of an edge is the mean absolute coefficient of its unscaled spline. The loss is the
        weighted sum of the total size and the entropy -sum p log p of the sizes' shares p. Edges of
        size zero have no part in it, nor a gradient.
        """
        size = self._masked(self.spline_weight.abs().mean(-1))
        total = size.sum()
        share = size / torch.where(total > 0, total, 1)
        entropy = -(share * torch.where(share > 0, share, 1).log()).sum()
        return regularize_activation * total + regularize_entropy * entropy
