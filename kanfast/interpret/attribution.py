"""Scores of edges, nodes and features: pykan's backward attribution.

A node's score is divided among the edges into it in proportion to the standard deviations of their
activations over the standard deviation of the node (Liu et al., "KAN 2.0", 2024, section 4.1):

    edge[o, i] = score[o] std(phi[o, i]) / (std(y[o]) + 1e-4),    score[i] = sum_o edge[o, i]

Here y[o] is a subnode, before its affine map, and score[o] that of the node it belongs to: every
factor of a product has the score of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from kanfast.engine.statistics import EdgeStatistics
from kanfast.nn.network import Network, Trace

# Keeps the scores of a node that does not vary finite; pykan's value.
_FLOOR = 1e-4


@dataclass(frozen=True)
class LayerActivity:
    """What a layer [I] -> [O] does over a batch."""

    edges: EdgeStatistics
    """Of the activations, [O, I]."""
    output_std: Tensor
    """[O], of the subnodes."""
    node_of_subnode: Tensor | None
    """[O]; None where subnodes are nodes."""

    def to_subnodes(self, score: Tensor) -> Tensor:
        """Scores [..., nodes] -> [..., O]: those of a product go to each of its factors."""
        index = self.node_of_subnode
        return score if index is None else score.index_select(-1, index.to(score.device))


@dataclass(frozen=True)
class Attribution:
    """Scores of a network of L layers, where layer l goes from nodes l to nodes l + 1.

    Attributes:
        node_scores: L + 1 tensors [nodes l], means of `node_scores_all` over the outputs.
        edge_scores: L tensors [subnodes l + 1, nodes l], means of `edge_scores_all`.
        node_scores_all: L + 1 tensors [outputs, nodes l]: by output.
        edge_scores_all: L tensors [outputs, subnodes l + 1, nodes l].
        subnode_scores: L tensors [subnodes l + 1]: a factor of a product has the product's score.
        subnode_scores_all: L tensors [outputs, subnodes l + 1].
    """

    node_scores: list[Tensor]
    edge_scores: list[Tensor]
    node_scores_all: list[Tensor]
    edge_scores_all: list[Tensor]
    subnode_scores: list[Tensor]
    subnode_scores_all: list[Tensor]


def activity(network: Network, trace: Trace) -> list[LayerActivity]:
    """What the layers do, from `KAN.trace` of a batch; differentiable once."""
    layers = []
    for index, layer in enumerate(network.kan_layers):
        x, y = trace.nodes[index], trace.subnodes[index]
        nodes = network.nodes_after(index)
        layers.append(
            LayerActivity(
                layer.edge_statistics(x),
                standard_deviation(y),
                None if nodes is None or not nodes.arities else nodes.node_of_subnode(),
            )
        )
    return layers


def backward_scores(layers: Sequence[LayerActivity], out_score: Tensor) -> Attribution:
    """Attribution of scores [outputs, last nodes]; differentiable.

    pykan takes the nodes' deviations for constants in its gradient, which so is not the gradient of
    the scores, and line searches fail. The values are the same.
    """
    nodes, edges, subnodes = [out_score], [], []
    for layer in reversed(layers):
        subnodes.append(layer.to_subnodes(nodes[-1]))
        per_node = subnodes[-1] / (layer.output_std + _FLOOR)
        edges.append(per_node.unsqueeze(-1) * layer.edges.std)
        nodes.append(edges[-1].sum(dim=1))
    means = []
    for scores in (nodes, edges, subnodes):
        scores.reverse()
        means.append([t.mean(0) for t in scores])
    return Attribution(means[0], means[1], nodes, edges, means[2], subnodes)


def node_attributions(layers: Sequence[LayerActivity]) -> list[Tensor]:
    """For the nodes after each layer, the scores [nodes, inputs] of the network's inputs."""
    whole = backward_scores(layers, identity(layers))
    return [
        backward_scores(layers[:depth], torch.diag(whole.node_scores[depth])).node_scores_all[0]
        for depth in range(1, len(layers) + 1)
    ]


@overload
def attribute(
    network: Network,
    l: None = None,
    i: None = None,
    out_score: Tensor | None = None,
    *,
    x: Tensor | None = None,
) -> Attribution: ...


@overload
def attribute(
    network: Network,
    l: int,
    i: int | None = None,
    out_score: None = None,
    *,
    x: Tensor | None = None,
) -> Tensor: ...


@torch.no_grad()
def attribute(
    network: Network,
    l: int | None = None,
    i: int | None = None,
    out_score: Tensor | None = None,
    *,
    x: Tensor | None = None,
) -> Attribution | Tensor:
    """Scores of edges and nodes: pykan 2.0's backward attribution.

    Each output starts with score 1. The score of a node is divided among the edges into it in
    proportion to the deviation of their values over the samples, and that of an edge goes to
    the node it comes from.

    Args:
        l: Layer of nodes, 1 (after the first layer) to the number of layers.
        i: One of its nodes.
        out_score: Scores of the outputs, [outputs], in place of 1.
        x: Samples [..., inputs]; `samples` if None.

    Returns:
        Without l the `Attribution` of the outputs. With l the scores of the inputs for each
        node of that layer, times its own score, [nodes, inputs]; with i as well, [inputs].

    Raises:
        ValueError: No samples, or no such node.
    """
    layers = activity(network, network.trace(network.samples_or(x)))
    if l is None:
        if i is not None:
            raise ValueError(f"a node is (l, i), got i = {i} without l")
        return backward_scores(layers, _out_scores(layers, out_score))
    if not 1 <= l <= len(layers):
        raise ValueError(f"l must be 1 to {len(layers)}, a layer of nodes with inputs, got {l}")
    if out_score is not None:
        raise ValueError("out_score is that of the outputs: it cannot be given together with l")
    scores = node_attributions(layers)[l - 1]
    if i is None:
        return scores
    if not 0 <= i < len(scores):
        raise ValueError(f"layer {l} has nodes 0 to {len(scores) - 1}, got i = {i}")
    return scores[i]


def _out_scores(layers: Sequence[LayerActivity], out_score: Tensor | None) -> Tensor:
    if out_score is None:
        return identity(layers)
    like = identity(layers)[0]
    if out_score.shape != like.shape:
        raise ValueError(
            f"out_score must have one number for each of {len(like)} outputs, got shape "
            f"{list(out_score.shape)}"
        )
    return torch.diag(out_score.to(like))


def identity(layers: Sequence[LayerActivity]) -> Tensor:
    """Score 1 for each output by itself: [outputs, outputs]."""
    like, index = layers[-1].output_std, layers[-1].node_of_subnode
    outputs = len(like) if index is None else int(index[-1]) + 1
    return torch.eye(outputs, dtype=like.dtype, device=like.device)


def standard_deviation(x: Tensor) -> Tensor:
    """Deviation [I] of x [..., I] with divisor B - 1; 0 for one row."""
    rows = x.flatten(0, -2) if x.dim() > 1 else x[None]
    rows = rows.to(torch.promote_types(x.dtype, torch.float32))
    return rows.std(dim=0) if len(rows) > 1 else 0 * rows[0]
