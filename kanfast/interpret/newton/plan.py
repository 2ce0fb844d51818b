"""Where the parameters of a network are in one vector, and which of them are free.

The vector holds effective coefficients, the products of an edge's factor and its spline's
coefficients, in float64: splines of all layers, edge by edge, then all else ("dense" columns).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kanfast.engine import native
from kanfast.nn.linear import KANLinear
from kanfast.nn.masks import masked, scaler_of
from kanfast.nn.network import Network
from kanfast.nn.nodes import AFFINE, Nodes

_FLOOR = 1e-7  # of the mean diagonal: coefficients of splines without rows are damped as if by it
SECOND_ORDER = 2000
"""Parameters of a network up to which equations are solved directly where no optimizer is named."""


class Piece(NamedTuple):
    """A tensor of the network and its place in the vector."""

    layer: int
    name: str
    at: slice
    shape: tuple[int, ...]


class Plan:
    """The parameters of a network as one vector, for starts that share its shape.

    Attributes:
        network: Whose parameters these are.
        pieces: Of the vector, by (layer, name).
        splines: How many of the parameters belong to splines: the first ones.
        size: P.
        free: bool [P], which of them training may change.
        directions: [P, Z] or None. Where only the factor of an edge is trained, its coefficients
            move along a line; then changes of the vector are `directions @ z`.
    """

    def __init__(self, network: Network, *, moves_grids: bool = True) -> None:
        self.network = network
        self.moves_grids = moves_grids
        self.layers = network.kan_layers
        self.nodes = [network.nodes_after(index) for index in range(len(self.layers))]
        self.pieces: dict[tuple[int, str], Piece] = {}
        at = 0
        for index, name, tensor in sorted(self._tensors(), key=lambda item: item[1] != "spline"):
            stop = at + tensor.numel()
            self.pieces[index, name] = Piece(index, name, slice(at, stop), tuple(tensor.shape))
            at = stop
            if name == "spline":
                self.splines = stop
        self.size = at
        self.free, self.directions = self._freedom()
        self._columns = self.free.nonzero().flatten()
        self._all_free = len(self._columns) == self.size and self.directions is None
        group = torch.zeros(self.size, dtype=torch.long)
        shared = torch.zeros(self.size, dtype=torch.bool)
        for n, piece in enumerate(self.pieces.values()):
            group[piece.at], shared[piece.at] = n, piece.name == "spline"
        group, shared = group.to(self.free.device), shared.to(self.free.device)
        if self.directions is None:
            self._group, self._shared = group[self._columns], shared[self._columns]
        else:
            first = self.directions.abs().argmax(0)
            self._group, self._shared = group[first], torch.zeros_like(first, dtype=torch.bool)
            self._shared[: len(self._columns)] = shared[self._columns]
        members = torch.bincount(self._group, minlength=len(self.pieces))
        self._members = members.clamp_min(1)

    def _tensors(self) -> Iterator[tuple[int, str, Tensor]]:
        """(layer, name, effective values) of everything that the vector holds."""
        for index, (layer, nodes) in enumerate(zip(self.layers, self.nodes, strict=True)):
            scaler = scaler_of(layer)
            weight = layer.spline_weight.double()
            spline = weight if scaler is None else weight * scaler.double().unsqueeze(-1)
            yield index, "spline", spline
            if layer.base_weight is not None:
                yield index, "base", masked(layer, layer.base_weight).double()
            if layer.symbolic is not None:
                yield index, "symbolic", layer.symbolic.affine[layer.symbolic.edges].double()
            for name in AFFINE if nodes is not None else ():
                values = getattr(nodes, name)
                if values is not None:
                    yield index, name, values.double()

    @torch.no_grad()
    def read(self) -> Tensor:
        """The present parameters [P]."""
        vector = torch.empty(self.size, dtype=torch.float64, device=self.layers[0].grid.device)
        for index, name, tensor in self._tensors():
            vector[self.pieces[index, name].at] = tensor.reshape(-1)
        return vector

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Sets the network's parameters to a vector [P]; frozen ones keep every bit."""
        for piece in self.pieces.values():
            values = vector[piece.at].view(piece.shape)
            layer = self.layers[piece.layer]
            if piece.name == "spline":
                _write_splines(layer, values)
            elif piece.name == "base":
                _write(layer.base_weight, values, layer.mask)
            elif piece.name == "symbolic" and layer.symbolic is not None:
                if layer.symbolic.affine.requires_grad:
                    outs, ins = layer.symbolic.edges
                    layer.symbolic.affine[outs, ins] = values.to(layer.symbolic.affine)
            else:
                _write(getattr(self.nodes[piece.layer], piece.name), values, None)

    def count(self, grid_size: int) -> int:
        """How many parameters would be free with so many grid intervals in the trained layers."""
        total = int(self.free.sum())
        for index, layer in enumerate(self.layers):
            piece = self.pieces[index, "spline"]
            edges = int(self.free[piece.at].sum()) // piece.shape[-1]
            total += edges * (grid_size - layer.grid_size)
        return total

    def restrict(self, h: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Equations [S, Z, Z], [S, Z] of what is free, from those of all parameters."""
        if self.directions is not None:
            return self.directions.T @ h @ self.directions, g @ self.directions
        if self._all_free:
            return h, g
        return h[:, self._columns][:, :, self._columns], g[:, self._columns]

    def expand(self, step: Tensor) -> Tensor:
        """Changes [S, P] of all parameters from those [S, Z] of what is free."""
        if self.directions is not None:
            return step @ self.directions.T
        if self._all_free:
            return step
        return step.new_zeros(len(step), self.size).index_copy(1, self._columns, step)

    def scales(self, h: Tensor) -> Tensor:
        """Units [S, Z] of steps: roots of the diagonal, its mean for the splines of a layer."""
        diagonal = h.diagonal(dim1=1, dim2=2)
        mean = diagonal.new_zeros(len(h), len(self.pieces)).index_add(1, self._group, diagonal)
        mean = mean / self._members
        floor = torch.where(self._shared, _FLOOR, 1e-8)
        own = torch.maximum(diagonal, floor * mean[:, self._group])
        return torch.where(own > 0, own, 1.0).sqrt()

    def dense_width(self, residuals: int, *, cpu: bool) -> int:
        """How many numbers a row of the Jacobian takes while it is made."""
        edges = sum(layer.in_features * layer.out_features for layer in self.layers)
        columns = self.size - self.splines if cpu and native.available() else 2 * self.size
        return residuals * (columns + 4 * edges) + 16 * edges

    def _freedom(self) -> tuple[Tensor, Tensor | None]:
        device = self.layers[0].grid.device
        free = torch.zeros(self.size, dtype=torch.bool, device=device)
        lines: list[tuple[Tensor, Tensor]] = []
        for piece in self.pieces.values():
            layer = self.layers[piece.layer]
            own = free[piece.at].view(piece.shape)
            if piece.name == "spline":
                factors, live = _factors(layer), _live(layer)
                if layer.spline_weight.requires_grad:
                    own |= (live & (factors_trained(layer) | (factors != 0))).unsqueeze(-1)
                elif factors_trained(layer):
                    start = torch.arange(math.prod(piece.shape), device=device).view(piece.shape)
                    for o, i in live.nonzero().tolist():
                        along = layer.spline_weight[o, i].detach().double()
                        lines.append((start[o, i] + piece.at.start, along))
            elif piece.name == "base":
                base = cast(nn.Parameter, layer.base_weight)
                own |= _live(layer) & base.requires_grad
            elif piece.name == "symbolic":
                assert_symbolic = layer.symbolic
                own |= assert_symbolic is not None and assert_symbolic.affine.requires_grad
            else:
                own |= getattr(self.nodes[piece.layer], piece.name).requires_grad
        if not lines:
            return free, None
        columns = free.nonzero().flatten()
        directions = torch.zeros(
            self.size, len(columns) + len(lines), dtype=torch.float64, device=device
        )
        directions[columns, torch.arange(len(columns), device=device)] = 1
        for n, (index, along) in enumerate(lines):
            directions[index, len(columns) + n] = along
        return free, directions


def factors_trained(layer: KANLinear) -> bool:
    """Whether the factors of the splines are trained."""
    return layer.enable_standalone_scale_spline and layer.spline_scaler.requires_grad


def _factors(layer: KANLinear) -> Tensor:
    """Factors [O, I] of the splines, whatever edges were removed."""
    if layer.enable_standalone_scale_spline:
        return layer.spline_scaler.detach().double()
    return layer.spline_weight.new_ones(layer.spline_weight.shape[:2]).double()


def _live(layer: KANLinear) -> Tensor:
    shape = layer.spline_weight.shape[:2]
    if layer.mask is None:
        return torch.ones(shape, dtype=torch.bool, device=layer.grid.device)
    return layer.mask


def _write(parameter: nn.Parameter | None, values: Tensor, mask: Tensor | None) -> None:
    if parameter is not None and parameter.requires_grad:
        new = values.to(parameter)
        parameter.copy_(new if mask is None else torch.where(mask, new, parameter))


def _write_splines(layer: KANLinear, values: Tensor) -> None:
    """Coefficients, or factors where they alone are trained, from effective coefficients."""
    factors, live, weight = _factors(layer), _live(layer), layer.spline_weight
    if weight.requires_grad:
        if factors_trained(layer):
            # A factor so small that coefficients would be large is made 1.
            size = values.abs().amax(-1)
            small = live & ~(factors.abs() > _LEAST_FACTOR * size.clamp_min(1))
            factors = torch.where(small, 1.0, factors)
            layer.spline_scaler.copy_(
                torch.where(small, 1.0, layer.spline_scaler.double()).to(layer.spline_scaler)
            )
        changed = live & (factors != 0)
        new = values / torch.where(changed, factors, 1.0).unsqueeze(-1)
        weight.copy_(torch.where(changed.unsqueeze(-1), new.to(weight), weight))
    elif factors_trained(layer):
        along = weight.double()
        square = along.square().sum(-1)
        ratio = (values * along).sum(-1) / torch.where(square > 0, square, 1.0)
        new = torch.where(live & (square > 0), ratio, factors)
        layer.spline_scaler.copy_(new.to(layer.spline_scaler))


_LEAST_FACTOR = 1e-6


def obstacle(network: Network) -> str | None:
    """Why a network cannot be trained by Levenberg-Marquardt, or None if it can."""
    known = {id(p) for p in _known(network)}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            return f"{name} is none of the parameters of splines, symbolic edges and nodes"
    for index, layer in enumerate(network.kan_layers):
        for name in ("spline_weight", "base_weight", "spline_scaler"):
            if name not in layer._parameters and hasattr(layer, name):
                return f"{name} of layer {index} is computed from other tensors"
        if layer.spline_weight.is_complex() or layer.spline_weight.is_meta:
            return f"layer {index} holds no real numbers"
    return None


def _known(network: Network) -> Sequence[Tensor]:
    known: list[Tensor | None] = []
    for index, layer in enumerate(network.kan_layers):
        known += [layer._parameters.get(n) for n in ("spline_weight", "base_weight")]
        known.append(layer._parameters.get("spline_scaler"))
        known.append(None if layer.symbolic is None else layer.symbolic.affine)
        nodes: Nodes | None = network.nodes_after(index)
        known += [] if nodes is None else [getattr(nodes, name) for name in AFFINE]
    return [t for t in known if t is not None]
