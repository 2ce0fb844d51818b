"""What a layer's edges do: their statistics over samples, and the size of their coefficients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kanfast.engine import statistics
from kanfast.engine.ops import kan_linear
from kanfast.engine.statistics import EdgeStatistics
from kanfast.nn import symbols
from kanfast.nn.knots import basis_of
from kanfast.nn.layer import Layer, check_features
from kanfast.nn.masks import masked, packed
from kanfast.nn.residual import fused_name


def edge_statistics(layer: Layer, x: Tensor) -> EdgeStatistics:
    """Mean, size, deviation and range of every edge's function over the rows of x [..., I].

    Exact, differentiable once, without a tensor of rows x edges: see
    `kanfast.edge_statistics`.
    """
    check_features(layer, "samples", x)
    activation = fused_name(layer.base_activation)
    residual = None
    if activation is None and layer.base_activation is not None:
        residual = layer.base_activation(x)
    numeric = statistics.edge_statistics(
        x,
        packed(layer, with_base=True),
        layer.grid,
        basis=basis_of(layer, activation or "none"),
        residual=residual,
        backend=layer._backend,
    )
    if layer.symbolic is None:
        return numeric
    live = symbols.numeric_mask(layer)
    return symbols.with_symbolic(numeric, layer.symbolic, x, _splines(layer), live)


def _splines(layer: Layer) -> Callable[[int, int, Tensor], Tensor]:
    """(o, i, rows) -> [rows]: what edges are without their symbolic functions, from now on."""
    activation = fused_name(layer.base_activation)
    basis, grid = basis_of(layer, activation or "none"), layer.grid
    c = packed(layer, with_base=activation is not None)
    weight = None if layer.base_weight is None else masked(layer, layer.base_weight)

    def spline(o: int, i: int, rows: Tensor) -> Tensor:
        part = c[:, i : i + 1, o : o + 1].to(rows.dtype)
        y = kan_linear(rows[:, i : i + 1], part, grid[i : i + 1], basis=basis)[:, 0]
        if activation is None and layer.base_activation is not None and weight is not None:
            y = y + layer.base_activation(rows)[:, i] * weight[o, i]
        return y

    return spline


def regularization_loss(
    layer: Layer, regularize_activation: float = 1.0, regularize_entropy: float = 1.0
) -> Tensor:
    """efficient-kan's stand-in for the L1 norm and entropy of the KAN paper (section 2.5.1).

    The size of an edge is the mean absolute coefficient of its unscaled spline. The loss is the
    weighted sum of the total size and the entropy -sum p log p of the sizes' shares p. Edges of
    size zero have no part in it, nor a gradient.
    """
    size = masked(layer, layer.spline_weight.abs().mean(-1))
    total, tiny = size.sum(), torch.finfo(size.dtype).tiny
    share = (size / torch.where(total > 0, total, 1)).flatten()
    negative_entropy = share.dot(share.clamp_min(tiny).log())
    return regularize_activation * total - regularize_entropy * negative_entropy
