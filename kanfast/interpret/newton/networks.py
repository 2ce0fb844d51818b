"""Networks of one shape with parameters and knots of their own, and their Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanfast.engine.activations import activation
from kanfast.engine.native.normal import Block, Splines
from kanfast.engine.normal import layer
from kanfast.interpret.newton.plan import Plan
from kanfast.nn.nodes import Nodes
from kanfast.nn.residual import fused_name
from kanfast.nn.resize import set_grid_size


class Linearized(NamedTuple):
    """Outputs and their derivatives by all parameters.

    Attributes:
        y: [S, B, Q].
        blocks: Columns of the splines.
        dense: Other columns [S, B, Q, D].
    """

    y: Tensor
    blocks: list[Block]
    dense: Tensor


@dataclass(frozen=True)
class Networks:
    """S networks.

    Attributes:
        plan: What the vectors hold.
        theta: Parameters [S, P].
        knots: [S, I, G+2k+1] of each layer.
    """

    plan: Plan
    theta: Tensor
    knots: list[Tensor]

    @classmethod
    def of(cls, plan: Plan) -> Networks:
        """The network of a plan as it is, one start."""
        knots = [own.grid.detach().double().unsqueeze(0) for own in plan.layers]
        return cls(plan, plan.read().unsqueeze(0), knots)

    def __len__(self) -> int:
        return len(self.theta)

    def take(self, rows: Tensor) -> Networks:
        """Some of the networks, by indices or a mask."""
        return replace(self, theta=self.theta[rows], knots=[t[rows] for t in self.knots])

    def at(self, theta: Tensor) -> Networks:
        """The networks with other parameters."""
        return replace(self, theta=theta)

    def write(self, start: int) -> None:
        """Makes the plan's network this one, its grids included."""
        with torch.no_grad():
            for own, knots in zip(self.plan.layers, self.knots, strict=True):
                size = knots.shape[-1] - 1 - 2 * own.spline_order
                if own.grid_size != size:
                    set_grid_size(own, size)
                    self.plan.network.refresh_sizes()
                new = knots[start].to(own.grid)
                if not torch.equal(new, own.grid):
                    own.grid.copy_(new)
                    own.refresh_grid()
        self.plan.write(self.theta[start])

    def part(self, index: int, name: str) -> Tensor | None:
        """A tensor of a layer [S, ...]."""
        piece = self.plan.pieces.get((index, name))
        if piece is None:
            return None
        return self.theta[:, piece.at].view(len(self), *piece.shape)

    def splines(self, index: int) -> Tensor:
        """Effective coefficients [S, O, I, G+k]."""
        found = self.part(index, "spline")
        if found is None:
            raise KeyError(index)
        return found

    def inputs(self, x: Tensor) -> list[Tensor]:
        """Inputs [S, B, I] of every layer, and the outputs, for rows x [B, I]."""
        values = [x.expand(len(self), *x.shape)]
        for index in range(len(self.plan.layers)):
            values.append(self._layer(index, values[-1], slopes=False).nodes)
        return values

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [S, B, Q] for rows x [B, I]."""
        h = x.expand(len(self), *x.shape)
        for index in range(len(self.plan.layers)):
            h = self._layer(index, h, slopes=False).nodes
        return h

    def linearize(self, x: Tensor) -> Linearized:
        """Outputs with their derivatives for rows x [B, I]."""
        passes = []
        h = x.expand(len(self), *x.shape)
        for index in range(len(self.plan.layers)):
            passes.append(self._layer(index, h, slopes=True))
            h = passes[-1].nodes
        eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
        delta = eye.expand(*h.shape[:2], *eye.shape)
        dense: dict[tuple[int, str], Tensor] = {}
        blocks: list[Block] = []
        for index in reversed(range(len(passes))):
            delta = passes[index].pull(delta, index, dense)
            splines, rises = passes[index].splines, passes[index].rises
            if splines.first is None or splines.values is None:
                raise RuntimeError("a pass with slopes is expected")
            count = self.plan.pieces[index, "spline"].shape[-1]
            blocks.append(Block(splines.first, splines.values, delta, count))
            if index:
                delta = (delta.unsqueeze(-1) * rises.unsqueeze(2)).sum(3)
        order = [key for key in self.plan.pieces if key[1] != "spline"]
        columns = [dense[key] for key in order]
        if not columns:
            columns = [eye.new_zeros(*h.shape[:2], h.shape[-1], 0)]
        return Linearized(h, blocks[::-1], torch.cat(columns, -1))

    def _layer(self, index: int, h: Tensor, *, slopes: bool) -> Pass:
        own = self.plan.layers[index]
        splines = layer(h, self.knots[index], self.splines(index), slopes=slopes)
        y, rises = splines.y, splines.slopes
        made = Pass(splines, h, y, y, y, y)
        base = self.part(index, "base")
        if base is not None and own.base_activation is not None:
            values, rise = _residual(own.base_activation, h, slopes=slopes)
            y = y + values @ base.mT
            made = made._replace(residual=values)
            if rise is not None and rises is not None:
                rises = rises + rise.unsqueeze(2) * base.unsqueeze(1)
        affine = self.part(index, "symbolic")
        if affine is not None and own.symbolic is not None and len(own.symbolic.edges[0]):
            symbolic = _symbolic(own.symbolic, affine, h, slopes=slopes)
            outs, ins = own.symbolic.edges
            y = y.index_add(-1, outs, symbolic.value)
            made = made._replace(symbolic=symbolic.by_affine, outs=outs)
            if rises is not None and symbolic.slope is not None:
                rises = rises.clone()
                rises[:, :, outs, ins] += symbolic.slope
        nodes = self.plan.nodes[index]
        if nodes is None:
            return made._replace(sums=y, scaled=y, products=y, nodes=y, rises=rises)
        parts = {name: self.part(index, name) for name in _AFFINE}
        scaled = _affine(y, parts["subnode_scale"], parts["subnode_bias"])
        products = _products(nodes, scaled)
        after = _affine(products, parts["node_scale"], parts["node_bias"])
        return made._replace(
            sums=y,
            scaled=scaled,
            products=products,
            nodes=after,
            rises=rises,
            spec=nodes,
            affine=parts,
        )


_AFFINE = ("subnode_scale", "subnode_bias", "node_scale", "node_bias")


class Pass(NamedTuple):
    """What a layer made of its inputs [S, B, I]: sums, affine maps of them, products, nodes."""

    splines: Splines
    h: Tensor
    sums: Tensor
    scaled: Tensor
    products: Tensor
    nodes: Tensor
    rises: Any = None
    residual: Tensor | None = None
    symbolic: Tensor | None = None
    outs: Tensor | None = None
    spec: Nodes | None = None
    affine: Any = None

    def pull(self, delta: Tensor, index: int, dense: dict[tuple[int, str], Tensor]) -> Tensor:
        """Slopes [S, B, Q, O] by the sums, from those [S, B, Q, N] by the nodes.

        Columns of the other parameters of layer `index` are put into `dense`.
        """
        if self.spec is not None:
            delta = self._through_nodes(delta, index, dense)
        if self.residual is not None:
            columns = delta.unsqueeze(-1) * self.residual[:, :, None, None, :]
            dense[index, "base"] = columns.flatten(3)
        if self.symbolic is not None:
            columns = delta[..., self.outs].unsqueeze(-1) * self.symbolic.unsqueeze(2)
            dense[index, "symbolic"] = columns.flatten(3)
        return delta

    def _through_nodes(
        self, delta: Tensor, index: int, dense: dict[tuple[int, str], Tensor]
    ) -> Tensor:
        steps = (("node", self.products), ("subnode", self.sums))
        for name, before in steps:
            scale, bias = self.affine[f"{name}_scale"], self.affine[f"{name}_bias"]
            if bias is not None:
                dense[index, f"{name}_bias"] = delta
            if scale is not None:
                dense[index, f"{name}_scale"] = delta * before.unsqueeze(2)
                delta = delta * scale[:, None, None]
            if name == "node" and self.spec is not None:
                delta = _pull_products(self.spec, self.scaled, delta)
        return delta


def _affine(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if scale is not None:
        x = x * scale.unsqueeze(1)
    return x if bias is None else x + bias.unsqueeze(1)


def _products(nodes: Nodes, x: Tensor) -> Tensor:
    if not nodes.arities:
        return x
    parts = x.split([1] * nodes.sums + list(nodes.arities), -1)
    return torch.cat([part.prod(-1, keepdim=True) for part in parts], -1)


def _pull_products(nodes: Nodes, x: Tensor, delta: Tensor) -> Tensor:
    """Slopes by the factors, from those by the products."""
    if not nodes.arities:
        return delta
    slopes = []
    for part in x.split([1] * nodes.sums + list(nodes.arities), -1):
        factors = range(part.shape[-1])
        others = [part[..., [f for f in factors if f != own]].prod(-1) for own in factors]
        slopes.append(torch.stack(others, -1))
    return delta[..., nodes.node_of_subnode().to(x.device)] * torch.cat(slopes, -1).unsqueeze(2)


def _residual(
    function: Callable[..., Any], h: Tensor, *, slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """Values and slopes of a residual function."""
    name = fused_name(function)
    if name not in (None, "none"):
        return activation(str(name), h), activation(str(name), h, 1) if slopes else None
    return _with_slope(function, h, slopes=slopes)


def _with_slope(
    function: Callable[..., Any], x: Tensor, *, slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """Values and slopes of an elementwise function."""
    if not slopes:
        with torch.no_grad():
            return function(x), None
    with torch.enable_grad():
        x = x.detach().contiguous().requires_grad_()
        y = function(x)
        if not y.requires_grad:
            return y, torch.zeros_like(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


class _Symbolic(NamedTuple):
    value: Tensor
    by_affine: Tensor | None
    slope: Tensor | None


def _symbolic(edges: Any, affine: Tensor, h: Tensor, *, slopes: bool) -> _Symbolic:
    """Values, slopes by a, b, c, d and by the inputs of symbolic edges: [S, B, n] and [..., 4]."""
    ins = edges.edges[1]
    factors = edges.mask[edges.edges].double()
    a, b, c, d = (t.unsqueeze(1) for t in affine.unbind(-1))
    x = h.index_select(-1, ins)
    value, rise = _with_slope(edges.values_of, a * x + b, slopes=slopes)
    total = factors * (c * value + d)
    if rise is None:
        return _Symbolic(total, None, None)
    by = torch.stack([c * rise * x, c * rise, value, torch.ones_like(value)], -1)
    return _Symbolic(total, by * factors.unsqueeze(-1), factors * c * a * rise)
