"""Numeric networks to read formulas off: the model sparsified, and ever larger parts of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic

import torch

from kanfast.explain.budget import is_over
from kanfast.interpret.attribution import attribute
from kanfast.interpret.dataset import Dataset
from kanfast.interpret.fit import fit
from kanfast.interpret.pruning import prune_edge, prune_node
from kanfast.interpret.refinement import refine
from kanfast.nn.network import AnyNetwork, Network

_DEAD_NODE = 1e-2
_DEAD_EDGE = 1e-3
_FINER = 2  # times the grid intervals, for the networks formulas are read off
_INPUTS = 24  # at most, of networks that formulas are read off


class TimeIsOver(Exception):
    """A training ends after the step that it is at."""


@dataclass(frozen=True)
class Trained(Generic[AnyNetwork]):
    """A network and its mean square error on the training rows.

    Attributes:
        noise: the error, corrected for the network's parameters: an estimate of the variance of
            the noise if there is nothing else left; infinite if there are as many as labels.
    """

    model: AnyNetwork
    error: float
    noise: float


def sparsified(
    model: AnyNetwork, dataset: Dataset, steps: int, lamb: float, deadline: float
) -> AnyNetwork:
    """The model trained with a penalty, without its dead hidden nodes.

    `lamb` is in units of the variance of the labels.
    """
    sparse = model.copy()
    variance = dataset["train_label"].var(0, correction=0).mean().item()
    with warnings.catch_warnings(), suppress(TimeIsOver):
        warnings.simplefilter("ignore", RuntimeWarning)  # what there is after a failure will do
        fit(sparse, dataset, steps=steps, lamb=lamb * variance, log=0, metrics=[_clock(deadline)])
    scores = attribute(sparse).node_scores[1:-1]
    kept = [(s > _DEAD_NODE).nonzero().flatten().tolist() or [int(s.argmax())] for s in scores]
    return prune_node(sparse, active_neurons_id=kept)


def important_inputs(sparse: Network, others: Sequence[int]) -> list[int]:
    """The inputs to search among: the 24 that matter most to the sparsified model, and others."""
    order: list[int] = attribute(sparse).node_scores[0].argsort(descending=True).tolist()
    return sorted({*order[:_INPUTS], *others})


def of_size(
    model: AnyNetwork,
    sparse: AnyNetwork,
    size: int,
    dataset: Dataset,
    steps: int,
    restarts: int,
    seed: int,
    deadline: float,
) -> list[Trained[AnyNetwork]]:
    """Networks with at most `size` nodes in every hidden layer, the most accurate first.

    The first to train are the most important nodes of the sparsified model; the others start from
    new parameters. There is at least one of them, and nothing new begins after the deadline.
    """
    nodes = [
        score.argsort(descending=True)[:size].tolist()
        for score in attribute(sparse).node_scores[1:-1]
    ]
    found = [trained(prune_node(sparse, active_neurons_id=nodes), dataset, steps, deadline)]
    counts = [range(min(size, width)) for width in model.width[1:-1]]
    smaller = prune_node(model, active_neurons_id=counts)
    for restart in range(restarts):
        if not is_over(deadline):
            found.append(trained(_renewed(smaller, seed + restart), dataset, steps, deadline))
    return sorted(found, key=lambda network: network.error)


def finer(
    network: Trained[AnyNetwork], dataset: Dataset, steps: int, deadline: float
) -> Trained[AnyNetwork]:
    """The network on a finer grid, trained on, without dead edges; on the old one if that fails."""
    if is_over(deadline):
        return network
    grid_size = [_FINER * layer.grid_size for layer in network.model.kan_layers]
    fine = network.model
    for l, size in enumerate(grid_size):
        fine = refine(fine, size, [l])
    prune_edge(fine, _DEAD_EDGE, x=dataset["train_input"])
    result = trained(fine, dataset, steps, deadline, update_grid=False)
    return result if result.error < 4 * network.error else network


def trained(
    model: AnyNetwork, dataset: Dataset, steps: int, deadline: float, *, update_grid: bool = True
) -> Trained[AnyNetwork]:
    """The model after `fit` without penalty, in place."""
    with warnings.catch_warnings(), suppress(TimeIsOver):
        # a start from which training fails is one of several
        warnings.simplefilter("ignore", RuntimeWarning)
        clock = [_clock(deadline)]
        fit(model, dataset, "LBFGS", steps, log=0, update_grid=update_grid, metrics=clock)
    with torch.no_grad():
        difference = model(dataset["train_input"]) - dataset["train_label"]
    error, labels = difference.square().mean().item(), difference.numel()
    parameters = sum(
        int(layer.edge_mask.sum()) * (layer.grid_size + layer.spline_order + 1)
        for layer in model.kan_layers
    )
    noise = error * labels / (labels - parameters) if labels > parameters else math.inf
    return Trained(model, error, noise)


def _clock(deadline: float) -> Callable[[], float]:
    """What `fit` calls after each step, to end there when the time is over."""

    def clock() -> float:
        if is_over(deadline):
            raise TimeIsOver
        return 0.0

    return clock


def _renewed(model: AnyNetwork, seed: int) -> AnyNetwork:
    """A copy with new parameters; the global generator stays as it is."""
    fresh = model.copy()
    devices: Sequence[torch.device] = []
    device = fresh.kan_layers[0].grid.device
    if device.type == "cuda":
        devices = [device]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for layer in fresh.kan_layers:
            layer.reset_parameters()
    return fresh
