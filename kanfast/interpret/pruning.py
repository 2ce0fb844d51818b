"""Taking away what does not matter: nodes, edges and inputs, by the scores of `KAN.attribute`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor

from kanfast.engine.checks import check_index
from kanfast.interpret.attribution import Attribution, attribute
from kanfast.nn import symbols
from kanfast.nn.resize import keep_nodes

if TYPE_CHECKING:
    from kanfast.nn.stack import LayerStack

Side = Literal["all", "up", "down"]
Model = TypeVar("Model", bound="LayerStack")


def prune_node(
    model: Model,
    threshold: float,
    mode: str,
    active_neurons_id: Sequence[Sequence[int]] | None,
    x: Tensor | None,
) -> Model:
    """The body of `KAN.prune_node`."""
    if mode not in ("auto", "manual"):
        raise ValueError(f'mode must be "auto" or "manual", got {mode!r}')
    hidden = model.width[1:-1]
    if active_neurons_id is None:
        if mode == "manual":
            raise ValueError('mode "manual" needs active_neurons_id: a list for each hidden layer')
        scores = _scores(model, x).node_scores[1:-1]
        kept = [_above(s, threshold, f"nodes of layer {l}") for l, s in enumerate(scores, 1)]
    else:
        if len(active_neurons_id) != len(hidden):
            raise ValueError(
                f"active_neurons_id must have a list for each of {len(hidden)} hidden layers, got "
                f"{len(active_neurons_id)}"
            )
        kept = [
            _listed(nodes, count, f"nodes of layer {l}")
            for l, (nodes, count) in enumerate(zip(active_neurons_id, hidden, strict=True), 1)
        ]
    pruned = model.copy()
    layers = pruned.kan_layers
    for l, kept_nodes in enumerate(kept):
        its = pruned.nodes_after(l)
        subnodes = kept_nodes if its is None else its.subnodes_of(kept_nodes)
        if its is not None:
            pruned.set_nodes(l, its.taken(kept_nodes))
        keep_nodes(layers[l], outputs=subnodes)
        keep_nodes(layers[l + 1], inputs=kept_nodes)
    return pruned


def prune_input(
    model: Model, threshold: float, active_inputs: Sequence[int] | None, x: Tensor | None
) -> Model:
    """The body of `KAN.prune_input`."""
    if active_inputs is None:
        kept = _above(_scores(model, x).node_scores[0], threshold, "inputs")
    else:
        kept = _listed(active_inputs, model.width[0], "inputs")
    features = model.input_id
    mask = torch.zeros_like(features if model.input_mask is None else model.input_mask).bool()
    pruned = model.copy()
    keep_nodes(pruned.kan_layers[0], inputs=kept)
    pruned.set_input_mask(mask.index_fill(0, features[kept.to(features.device)], True))
    return pruned


def prune_edge(model: LayerStack, threshold: float, x: Tensor | None) -> None:
    """The body of `KAN.prune_edge`."""
    for layer, score in zip(model.kan_layers, _scores(model, x).edge_scores, strict=True):
        symbols.keep_edges(layer, score > threshold)


def remove_edge(model: LayerStack, l: int, i: int, j: int) -> None:
    """The body of `KAN.remove_edge`."""
    layer = model.layer_of_edge(l, i, j)
    alive = layer.edge_mask
    alive[j, i] = False
    symbols.keep_edges(layer, alive)


def remove_node(model: LayerStack, l: int, i: int, mode: Side) -> None:
    """The body of `KAN.remove_node`."""
    if mode not in ("all", "up", "down"):
        raise ValueError(f'mode must be "all", "up" or "down", got {mode!r}')
    depth = len(model.layers)
    check_index("layer l of nodes", l, depth + 1)
    check_index(f"node i of layer {l}", i, model.width[l])
    if (l == 0 and mode == "down") or (l == depth and mode == "up"):
        raise ValueError(f'layer {l} of nodes has no edges on the side "{mode}"')
    if mode != "down" and l < depth:
        alive = model.kan_layers[l].edge_mask
        alive[:, i] = False
        symbols.keep_edges(model.kan_layers[l], alive)
    if mode != "up" and l > 0:
        alive = model.kan_layers[l - 1].edge_mask
        nodes = model.nodes_after(l - 1)
        alive[i if nodes is None else nodes.subnodes_of(torch.tensor([i]))] = False
        symbols.keep_edges(model.kan_layers[l - 1], alive)


def _scores(model: LayerStack, x: Tensor | None) -> Attribution:
    found = attribute(model, x=x)
    if not isinstance(found, Attribution) or not all(s.isfinite().all() for s in found.edge_scores):
        raise ValueError(
            "scores are not finite, so nothing was pruned: there are NaN or infinite values in the "
            "samples or the model"
        )
    return found


def _above(score: Tensor, threshold: float, what: str) -> Tensor:
    kept = (score > threshold).nonzero().flatten()
    if not len(kept):
        raise ValueError(
            f"no {what} would be left: their highest score is {score.max().item():.3g}, and the "
            f"threshold is {threshold}; lower it"
        )
    return kept


def _listed(nodes: Sequence[int], count: int, what: str) -> Tensor:
    chosen = sorted({int(node) for node in nodes})
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(f"expected some of the {what} 0 to {count - 1}, got {list(nodes)}")
    return torch.tensor(chosen)
