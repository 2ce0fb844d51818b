"""The units of a dataset: what makes training the same for metres and for nanometres.

A network that has not seen the data yet takes and gives numbers of about 1. Where those of the
data are far away, its first layer is stretched to the inputs and its last one to the labels, by
powers of two, before training; where an optimizer takes steps of an absolute size, they are in
these units.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanfast.nn.linear import KANLinear
from kanfast.nn.network import Network

_FAR = 2.0**10
"""Scales that differ by less are left to the optimizer."""


def scale_of(values: Tensor) -> float:
    """The power of two next to the root mean square, 1 for zeros and for values not finite."""
    wide = values.detach().double()
    size = float(wide.abs().max()) if wide.numel() else 0.0
    if not 0 < size < math.inf:
        return 1.0
    return 2.0 ** round(math.log2(size * float((wide / size).square().mean().sqrt())))


@torch.no_grad()
def adopt_units(network: Network, x: Tensor, y: Tensor, *, stretch_grid: bool) -> None:
    """Stretches a network whose inputs or outputs are of another order of magnitude than the data.

    Args:
        network: Changed in place; a network that fits the data roughly stays as it is.
        x: Inputs [N, features].
        y: Labels [N, outputs].
        stretch_grid: Whether knots may move.
    """
    first = network.kan_layers[0]
    if stretch_grid and _is_free(first):
        rows = network.select_inputs(x).double()
        factors = torch.ones(first.in_features, dtype=torch.float64)
        for i, size in enumerate(rows.abs().amax(0).tolist()):
            reach = float(first.grid[i].abs().max())
            if 0 < size < math.inf and not 1 / _FAR < size / reach < _FAR:
                factors[i] = 2.0 ** round(math.log2(size))
        if (factors != 1).any():
            stretch = factors.to(first.grid)
            first.grid.mul_(stretch[:, None])
            first.refresh_grid()
            if first.base_weight is not None:
                first.base_weight.div_(stretch.to(first.base_weight))
            if first.symbolic is not None:
                first.symbolic.affine[..., 0] /= stretch.to(first.symbolic.affine)
    size, wanted = scale_of(network(x)), scale_of(y)
    if not 1 / _FAR < size / wanted < _FAR and _is_free(network.kan_layers[-1]):
        scale_outputs(network, wanted if 1 / _FAR < size < _FAR else wanted / size)


@torch.no_grad()
def scale_outputs(network: Network, factor: float) -> None:
    """Multiplies the outputs by a factor, in place, by the weights of the last layer."""
    depth = len(network.kan_layers) - 1
    last, nodes = network.kan_layers[depth], network.nodes_after(depth)
    factors = torch.full((last.out_features,), factor, dtype=torch.float64)
    if nodes is not None:
        at = nodes.sums
        for arity in nodes.arities:  # one factor of each product
            factors[at + 1 : at + arity] = 1
            at += arity
        for name, by in (("subnode_bias", factors), ("node_bias", factors.new_tensor(factor))):
            bias = getattr(nodes, name)
            if bias is not None:
                bias.mul_(by.to(bias))
    for weight in (last.base_weight, last.spline_weight):
        if weight is not None:
            weight.mul_(factors.to(weight).view(-1, *[1] * (weight.dim() - 1)))
    if last.symbolic is not None:
        last.symbolic.affine[..., 2:] *= factors.to(last.symbolic.affine)[:, None, None]


def parameter_units(network: Network, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """Units of the parameters of the first and the last layer that are not 1, by their `id`."""
    units: dict[int, Tensor] = {}
    first, last = network.kan_layers[0], network.kan_layers[-1]
    if first.base_weight is not None:
        rows = network.select_inputs(x)
        scales = torch.tensor([scale_of(column) for column in rows.unbind(-1)])
        scales = torch.where((scales > 1 / _FAR) & (scales < _FAR), 1.0, scales.double())
        units[id(first.base_weight)] = (
            (1 / scales).to(first.base_weight).expand_as(first.base_weight)
        )
    wanted = scale_of(y)
    if not 1 / _FAR < wanted < _FAR:
        for weight in (last.base_weight, last.spline_weight):
            if weight is not None:
                unit = units.get(id(weight), torch.ones_like(weight))
                units[id(weight)] = unit.detach() * wanted
    return {key: unit for key, unit in units.items() if bool((unit != 1).any())}


def _is_free(layer: KANLinear) -> bool:
    """Whether the layer's own weights may change."""
    weight, base = layer._parameters.get("spline_weight"), layer._parameters.get("base_weight")
    frozen = weight is None or not weight.requires_grad
    return not (frozen or (base is not None and not base.requires_grad))
