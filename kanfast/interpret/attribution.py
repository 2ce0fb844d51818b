"""Scores of edges, nodes and features: pykan's backward attribution.

A node's score is divided among the edges into it in proportion to the standard deviations of their
activations over the standard deviation of the node (Liu et al., "KAN 2.0", 2024, section 4.1):

    edge[o, i] = score[o] std(phi[o, i]) / (std(y[o]) + 1e-4),    score[i] = sum_o edge[o, i]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanfast.statistics import EdgeStatistics

if TYPE_CHECKING:
    from kanfast.nn.kan import KAN

# Keeps the scores of a node that does not vary finite; pykan's value.
_FLOOR = 1e-4


@dataclass(frozen=True)
class LayerActivity:
    """What a layer [I] -> [O] does over a batch."""

    edges: EdgeStatistics
    """Of the activations, [O, I]."""
    input_std: Tensor
    """[I]."""
    output_std: Tensor
    """[O]."""


@dataclass(frozen=True)
class Attribution:
    """Scores of a network of L layers, where layer l goes from nodes l to nodes l + 1.

    Attributes:
        node_scores: L + 1 tensors [nodes l], means of `node_scores_all` over the outputs.
        edge_scores: L tensors [nodes l + 1, nodes l], means of `edge_scores_all`.
        node_scores_all: L + 1 tensors [outputs, nodes l]: by output.
        edge_scores_all: L tensors [outputs, nodes l + 1, nodes l].
    """

    node_scores: list[Tensor]
    edge_scores: list[Tensor]
    node_scores_all: list[Tensor]
    edge_scores_all: list[Tensor]


def activity(model: KAN, activations: Sequence[Tensor]) -> list[LayerActivity]:
    """What the layers do, from `KAN.activations` of a batch; differentiable once."""
    deviations = pairwise([standard_deviation(x) for x in activations])
    return [
        LayerActivity(layer.edge_statistics(x), *std)
        for layer, x, std in zip(model.kan_layers, activations[:-1], deviations, strict=True)
    ]


def backward_scores(layers: Sequence[LayerActivity], out_score: Tensor) -> Attribution:
    """Attribution of scores [outputs, last nodes]; differentiable.

    pykan takes the nodes' deviations for constants in its gradient, which so is not the gradient of
    the scores, and line searches fail. The values are the same.
    """
    nodes, edges = [out_score], []
    for layer in reversed(layers):
        per_node = nodes[-1] / (layer.output_std + _FLOOR)
        edges.append(per_node.unsqueeze(-1) * layer.edges.std)
        nodes.append(edges[-1].sum(dim=1))
    nodes.reverse()
    edges.reverse()
    return Attribution([t.mean(0) for t in nodes], [t.mean(0) for t in edges], nodes, edges)


def node_attributions(layers: Sequence[LayerActivity]) -> list[Tensor]:
    """For the nodes after each layer, the scores [nodes, inputs] of the network's inputs."""
    whole = backward_scores(layers, _identity(layers))
    return [
        backward_scores(layers[:depth], torch.diag(whole.node_scores[depth])).node_scores_all[0]
        for depth in range(1, len(layers) + 1)
    ]


@torch.no_grad()
def attribute(
    model: KAN,
    l: int | None = None,
    i: int | None = None,
    out_score: Tensor | None = None,
    *,
    x: Tensor | None = None,
) -> Attribution | Tensor:
    """The body of `KAN.attribute`."""
    layers = activity(model, model.activations(model.samples_or(x)))
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
        return _identity(layers)
    like = layers[-1].output_std
    if out_score.shape != like.shape:
        raise ValueError(
            f"out_score must have one number for each of {len(like)} outputs, got shape "
            f"{list(out_score.shape)}"
        )
    return torch.diag(out_score.to(like))


def _identity(layers: Sequence[LayerActivity]) -> Tensor:
    like = layers[-1].output_std
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def standard_deviation(x: Tensor) -> Tensor:
    """Deviation [I] of x [..., I] with divisor B - 1; 0 for one row."""
    rows = x.flatten(0, -2) if x.dim() > 1 else x[None]
    rows = rows.to(torch.promote_types(x.dtype, torch.float32))
    return rows.std(dim=0) if len(rows) > 1 else 0 * rows[0]
