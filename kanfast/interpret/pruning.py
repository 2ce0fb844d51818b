"""Taking away what does not matter: nodes, edges and inputs, by the scores of `KAN.attribute`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kanfast.engine.checks import check_index
from kanfast.interpret.attribution import Attribution, attribute
from kanfast.nn import symbols
from kanfast.nn.network import AnyNetwork, Network
from kanfast.nn.resize import keep_nodes

Side = Literal["all", "up", "down"]


def prune(
    network: AnyNetwork, node_th: float = 1e-2, edge_th: float = 3e-2, *, x: Tensor | None = None
) -> AnyNetwork:
    """A new model without the nodes, and then the edges, of low scores.

    `prune_node`, then `prune_edge` by the scores of what is left.

    Example:
        >>> model = KAN([2, 5, 1], dtype=torch.float64)
        >>> data = kanfast.create_dataset(lambda x: (3 * x[:, :1]).sin(), 2, dtype=torch.float64)
        >>> history = model.fit(data, steps=10, lamb=1e-3, log=0)
        >>> small = model.prune()
        >>> small.width[1] < 5, small.width[0], small.width[2]
        (True, 2, 1)
    """
    return prune_edge(prune_node(network, node_th, x=x), edge_th, x=x)


def prune_node(
    network: AnyNetwork,
    threshold: float = 1e-2,
    mode: Literal["auto", "manual"] = "auto",
    active_neurons_id: Sequence[Sequence[int]] | None = None,
    *,
    x: Tensor | None = None,
) -> AnyNetwork:
    """A new, smaller model of the hidden nodes with scores above the threshold.

    All else is that of this model: dtype, device, frozen parameters, masks, settings. An
    optimizer of this model does not know the new parameters: see `kanfast.parameter_groups`.

    Args:
        threshold: Nodes stay if their score in `attribute` is above it.
        mode: "manual" needs active_neurons_id (which implies it, as in pykan).
        active_neurons_id: The nodes to keep, a list for each hidden layer; scores play no part.
        x: Samples [..., inputs]; `samples` if None.

    Raises:
        ValueError: A layer would have no nodes left; scores that are not finite; no samples.
    """
    if mode not in ("auto", "manual"):
        raise ValueError(f'mode must be "auto" or "manual", got {mode!r}')
    hidden = network.width[1:-1]
    if active_neurons_id is None:
        if mode == "manual":
            raise ValueError('mode "manual" needs active_neurons_id: a list for each hidden layer')
        scores = _scores(network, x).node_scores[1:-1]
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
    pruned = network.copy()
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
    network: AnyNetwork,
    threshold: float = 1e-2,
    active_inputs: Sequence[int] | None = None,
    *,
    x: Tensor | None = None,
) -> AnyNetwork:
    """A new, smaller model of the inputs with scores above the threshold, or of those given.

    It still takes all features, and selects its inputs itself (`input_mask`, `input_id`).
    """
    if active_inputs is None:
        kept = _above(_scores(network, x).node_scores[0], threshold, "inputs")
    else:
        kept = _listed(active_inputs, network.width[0], "inputs")
    features = network.input_id
    mask = torch.zeros_like(features if network.input_mask is None else network.input_mask).bool()
    pruned = network.copy()
    keep_nodes(pruned.kan_layers[0], inputs=kept)
    pruned.set_input_mask(mask.index_fill(0, features[kept.to(features.device)], True))
    return pruned


def prune_edge(
    network: AnyNetwork, threshold: float = 3e-2, *, x: Tensor | None = None
) -> AnyNetwork:
    """Removes the edges whose score is not above the threshold, in place; returns this model.

    Removed edges are zero and stay zero, whatever the optimizer (`KANLinear.set_mask`).
    """
    for layer, score in zip(network.kan_layers, _scores(network, x).edge_scores, strict=True):
        symbols.keep_edges(layer, score > threshold)
    return network


def remove_edge(network: Network, l: int, i: int, j: int) -> None:
    """Removes the edge from input i to output j of layer l, in place."""
    layer = network.layer_of_edge(l, i, j)
    alive = layer.edge_mask
    alive[j, i] = False
    symbols.keep_edges(layer, alive)


def remove_node(network: Network, l: int, i: int, mode: Side = "all") -> None:
    """Removes the edges of node i of layer l of nodes (0: inputs), in place.

    Args:
        l: Layer of nodes. i: The node.
        mode: "up" for the edges that leave it, "down" for those that come in, "all" for both.
    """
    if mode not in ("all", "up", "down"):
        raise ValueError(f'mode must be "all", "up" or "down", got {mode!r}')
    depth = len(network.layers)
    check_index("layer l of nodes", l, depth + 1)
    check_index(f"node i of layer {l}", i, network.width[l])
    if (l == 0 and mode == "down") or (l == depth and mode == "up"):
        raise ValueError(f'layer {l} of nodes has no edges on the side "{mode}"')
    if mode != "down" and l < depth:
        alive = network.kan_layers[l].edge_mask
        alive[:, i] = False
        symbols.keep_edges(network.kan_layers[l], alive)
    if mode != "up" and l > 0:
        alive = network.kan_layers[l - 1].edge_mask
        nodes = network.nodes_after(l - 1)
        alive[i if nodes is None else nodes.subnodes_of(torch.tensor([i]))] = False
        symbols.keep_edges(network.kan_layers[l - 1], alive)


def _scores(network: Network, x: Tensor | None) -> Attribution:
    found = attribute(network, x=x)
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
