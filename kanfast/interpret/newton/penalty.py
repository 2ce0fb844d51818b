"""Roughness of splines: what keeps fine grids from following noise between the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.interpret.newton.networks import Networks

_SPARSE = 2  # power of the deficit of rows around a knot, by which its roughness weighs more


@dataclass(frozen=True)
class Penalty:
    """strength times the mean square of the (k+1)-th derivative of edges, in units of theirs.

    That is a sum of squares of differences of coefficients, divided by the square of the range of
    the node that an edge leads to; inputs count in units of the grid's width. Where rows are
    sparse, as at the ends of a node's range, it weighs more: there splines have to be smooth for
    what lies between the rows, or beyond the last one.

    Attributes:
        strength: [S].
        units: 1 over the squared ranges of the sums [S, O] of each layer.
        forms: Quadratic forms [S, I, G+k, G+k] of the coefficients of each layer.
    """

    strength: Tensor
    units: list[Tensor]
    forms: list[Tensor]

    @classmethod
    def none(cls, networks: Networks) -> Penalty:
        """No penalty."""
        return cls(networks.theta.new_zeros(len(networks)), [], [])

    @classmethod
    def of(cls, networks: Networks, x: Tensor, strength: Tensor) -> Penalty:
        """A penalty in units of what the nodes of networks are at rows x."""
        values = networks.inputs(x)
        units, forms = [], []
        for index, layer in enumerate(networks.plan.layers):
            nodes, after = values[index + 1], networks.plan.nodes[index]
            width = nodes.amax(1) - nodes.amin(1)
            if after is not None:
                width = width[:, after.node_of_subnode().to(width.device)]
            units.append(torch.where(width > 0, width, 1.0).square().reciprocal())
            forms.append(_form(values[index], networks.knots[index], layer.spline_order))
        return cls(strength, units, forms)

    def take(self, rows: Tensor) -> Penalty:
        """The penalty of some of the networks."""
        parts = ([t[rows] for t in ts] for ts in (self.units, self.forms))
        return Penalty(self.strength[rows], *parts)

    def value(self, networks: Networks) -> Tensor:
        """[S]."""
        total = torch.zeros_like(self.strength)
        for index, (unit, form) in enumerate(zip(self.units, self.forms, strict=True)):
            c = networks.splines(index)
            rough = (torch.einsum("soin,sinm->soim", c, form) * c).sum((2, 3))
            total = total + (rough * unit).sum(1)
        return total * self.strength

    def add(self, networks: Networks, h: Tensor, g: Tensor) -> None:
        """Adds half the second derivatives to h [S, P, P], and half the slopes to g [S, P]."""
        for index, (unit, form) in enumerate(zip(self.units, self.forms, strict=True)):
            c, at = networks.splines(index), networks.plan.pieces[index, "spline"].at
            outputs, inputs, count = c.shape[1:]
            curvature = (self.strength[:, None] * unit)[..., None, None, None] * form[:, None]
            g[:, at] += torch.einsum("soinm,soim->soin", curvature, c).flatten(1)
            edges = (outputs * inputs, count)
            blocks = h[:, at, at].unflatten(1, edges).unflatten(3, edges)
            diagonal = blocks.diagonal(dim1=1, dim2=3)  # [S, n, m, edges]
            diagonal += curvature.flatten(1, 2).permute(0, 2, 3, 1)


def _form(h: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Quadratic forms [S, I, G+k, G+k] for inputs [S, B, I]."""
    count = knots.shape[-1] - 1 - degree
    size, order = count - degree, min(degree + 1, count - 1)
    eye = torch.eye(count, dtype=torch.float64, device=h.device)
    # Derivatives by u in [0, 1], whose intervals are 1 / G long; mean over the range.
    differences = torch.diff(eye, n=order, dim=0) * float(size) ** (order - 0.5)
    if size < 2:
        plain: Tensor = differences.T @ differences
        return plain.expand(*knots.shape[:2], -1, -1)
    inner = knots[..., degree + 1 : degree + size].contiguous()
    cells = torch.searchsorted(inner, h.transpose(1, 2).contiguous(), right=True)
    rows = h.new_zeros(*inner.shape[:2], size).scatter_add_(
        -1, cells, torch.ones_like(cells, dtype=h.dtype)
    )
    around = rows[..., :-1] + rows[..., 1:]  # each of the inner knots, where derivatives jump
    weight = (2 * h.shape[1] / size / (around + 1)).clamp_min(1) ** _SPARSE
    form: Tensor = torch.einsum("rn,sir,rm->sinm", differences, weight, differences)
    return form
