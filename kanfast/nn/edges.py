"""The functions on chosen edges of a layer, term by term, in float64: for pictures and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from kanfast.engine.basis import Basis, spline_basis
from kanfast.nn.layer import Layer
from kanfast.nn.masks import scaled_spline_weight
from kanfast.nn.residual import fused_name

if TYPE_CHECKING:
    from kanfast.symbolic.edges import SymbolicEdges


class Edge(NamedTuple):
    """An edge of a network, as pykan counts. It equals the tuple (layer, input, output)."""

    layer: int
    input: int
    output: int

    def __str__(self) -> str:
        return f"({self.layer}, {self.input}, {self.output})"


class EdgeParts(NamedTuple):
    """The terms of the functions of some edges at P points: [P, E], float64, on the CPU."""

    spline: Tensor
    residual: Tensor
    symbolic: Tensor

    @property
    def total(self) -> Tensor:
        """phi, the sum of the terms."""
        return self.spline + self.residual + self.symbolic


@torch.no_grad()
def edge_parts(
    layer: Layer, points: Tensor, edges: Tensor, symbols: SymbolicEdges | Tensor | None = None
) -> EdgeParts:
    """The functions of some edges.

    Args:
        layer: The layer, of any dtype and on any device.
        points: [P, I], float64, on the CPU: column i for the edges from input i.
        edges: [E, 2], pairs (o, i).
        symbols: Symbolic edges in place of those of the layer; a mask has no functions.

    Returns:
        The terms. Splines and fused residual functions are evaluated in float64; another residual
        function and symbolic ones in the dtype of their layer.
    """
    outs, ins = edges[:, 0], edges[:, 1]
    spline, residual, symbolic = (points.new_zeros(len(points), len(edges)) for _ in range(3))
    # By their knots: what is equally spaced is so up to rounding.
    basis = Basis(layer.grid_size, layer.spline_order, "none", uniform=False)
    grid, weight = (t.detach().cpu().double() for t in (layer.grid, scaled_spline_weight(layer)))
    for i in ins.unique():
        chosen = ins == i
        functions = spline_basis(points[:, i, None], grid[i, None], basis)[..., 0]
        spline[:, chosen] = functions @ weight[outs[chosen], i].T
    base = base_weight(layer)
    act = layer.base_activation
    if base is not None and act is not None:
        # The fused functions take any dtype. Others may hold parameters, even one for each input.
        at = points if fused_name(act) is not None else points.to(layer.spline_weight)
        residual = act(at).cpu().double()[:, ins] * base.cpu().double()[outs, ins]
    symbols = symbols if isinstance(symbols, nn.Module) else layer.symbolic
    if symbols is not None and symbols.functions:
        values = symbols.postactivations(points.to(symbols.affine)).cpu().double()
        column = torch.full((layer.out_features, layer.in_features), -1)
        rows, columns = (index.cpu() for index in symbols.edges)
        column[rows, columns] = torch.arange(len(rows))
        place = column[outs, ins]
        symbolic[:, place >= 0] = values[:, place[place >= 0]]
    return EdgeParts(spline, residual, symbolic)


def base_weight(layer: Layer) -> Tensor | None:
    """Factors [O, I] of the residual function, 0 for edges without a spline; None without one."""
    weight = layer.base_weight
    if weight is None or layer.mask is None:
        return None if weight is None else weight.detach()
    return torch.where(layer.mask, weight.detach(), 0)
