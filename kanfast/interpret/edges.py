"""The edges of a network that are there, and what goes into and comes out of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.nn import symbols
from kanfast.nn.edges import Edge, edge_parts
from kanfast.nn.network import Network


@torch.no_grad()
def edge_samples(network: Network, edges: Sequence[Edge], x: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into and comes out of some edges for samples x: [E, rows] each, float64, CPU."""
    inputs = [t.reshape(-1, t.shape[-1]).cpu().double() for t in network.activations(x)[:-1]]
    given = torch.empty(len(edges), len(inputs[0]), dtype=torch.float64)
    taken = torch.empty_like(given)
    for l, layer in enumerate(network.kan_layers):
        rows = [e for e, edge in enumerate(edges) if edge.layer == l]
        if rows:
            pairs = torch.tensor([[edges[e].output, edges[e].input] for e in rows])
            given[rows] = inputs[l][:, pairs[:, 1]].T
            taken[rows] = edge_parts(layer, inputs[l], pairs).total.T
    return given, taken


def live_edges(network: Network, *, symbolic: bool) -> list[Edge]:
    """The edges that were not removed; those that are symbolic, or those that are not."""
    found = []
    for l, layer in enumerate(network.kan_layers):
        fixed = symbols.symbolic_mask(layer)
        mask = fixed if symbolic else symbols.numeric_mask(layer) & ~fixed
        found += [Edge(l, i, j) for i, j in mask.T.nonzero().tolist()]
    return found
