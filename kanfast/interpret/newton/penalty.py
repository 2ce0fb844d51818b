"""Roughness of splines: what keeps fine grids from following noise between the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.interpret.newton.networks import Networks


@dataclass(frozen=True)
class Penalty:
    """strength times the mean square of the (k+1)-th derivative of edges, in units of theirs.

    That is a sum of squares of differences of coefficients, divided by the square of the range of
    the node that an edge leads to; inputs count in units of the grid's width.

    Attributes:
        strength: [S].
        units: Ranges of the sums [S, O] of each layer.
    """

    strength: Tensor
    units: list[Tensor]

    @classmethod
    def none(cls, networks: Networks) -> Penalty:
        """No penalty."""
        return cls(networks.theta.new_zeros(len(networks)), [])

    @classmethod
    def of(cls, networks: Networks, x: Tensor, strength: Tensor) -> Penalty:
        """A penalty in units of what the nodes of networks are at rows x."""
        values = networks.inputs(x)[1:]
        units = []
        for index, nodes in enumerate(values):
            after = networks.plan.nodes[index]
            width = nodes.amax(1) - nodes.amin(1)
            if after is not None:
                width = width[:, after.node_of_subnode().to(width.device)]
            units.append(torch.where(width > 0, width, torch.ones_like(width)))
        return cls(strength, units)

    def take(self, rows: Tensor) -> Penalty:
        """The penalty of some of the networks."""
        return Penalty(self.strength[rows], [unit[rows] for unit in self.units])

    def value(self, networks: Networks) -> Tensor:
        """[S]."""
        total = torch.zeros_like(self.strength)
        for index, unit in enumerate(self.units):
            c = networks.splines(index)
            rough = torch.einsum("soin,nm,soim->so", c, self._form(networks, index), c)
            total = total + (rough / unit.square()).sum(1)
        return total * self.strength

    def add(self, networks: Networks, h: Tensor, g: Tensor) -> None:
        """Adds half the second derivatives to h [S, P, P], and half the slopes to g [S, P]."""
        for index, unit in enumerate(self.units):
            c, at = networks.splines(index), networks.plan.pieces[index, "spline"].at
            starts, outputs, inputs, count = c.shape
            form = self._form(networks, index)
            weight = (self.strength[:, None] / unit.square())[:, :, None].expand(-1, -1, inputs)
            g[:, at] += (torch.einsum("soin,nm->soim", c, form) * weight[..., None]).flatten(1)
            edges = outputs * inputs
            block = h[:, at, at].unflatten(1, (edges, count)).unflatten(3, (edges, count))
            diagonal = block.diagonal(dim1=1, dim2=3)  # [S, n, m, edges]
            diagonal += form[..., None] * weight.flatten(1)[:, None, None]

    @staticmethod
    def _form(networks: Networks, index: int) -> Tensor:
        """The quadratic form of a spline's coefficients [G+k, G+k]."""
        count = networks.plan.pieces[index, "spline"].shape[-1]
        degree = networks.plan.layers[index].spline_order
        size, order = count - degree, min(degree + 1, count - 1)
        eye = torch.eye(count, dtype=torch.float64, device=networks.theta.device)
        differences = torch.diff(eye, n=order, dim=0)
        # Derivatives by u in [0, 1], whose intervals are 1 / G long; mean over the range.
        return differences.T @ differences * (float(size) ** (2 * order - 1))
