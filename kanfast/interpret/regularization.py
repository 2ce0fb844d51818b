"""Penalties on what edges do over a batch, which make a network sparse.

The sizes of a layer's edges form a matrix v[o, i]; the penalty is lamb_l1 times their sum plus
lamb_entropy times an entropy of their shares. "edge_forward_l1" is the KAN paper's (Liu et al.,
2024, eqs. 2.17-2.20): v is the mean |phi| and the entropy is that of all shares v / sum v. The
others are pykan's, which works with standard deviations and adds the mean entropies of rows and of
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from kanfast.interpret.attribution import (
    LayerActivity,
    activity,
    backward_scores,
    identity,
    node_attributions,
)

if TYPE_CHECKING:
    from kanfast.nn.stack import LayerStack, Trace

RegMetric = Literal[
    "edge_forward_l1",
    "edge_forward_spline_n",
    "edge_forward_spline_u",
    "edge_forward_sum",
    "edge_backward",
    "node_backward",
]
REG_METRICS: tuple[str, ...] = get_args(RegMetric)


def check_metric(reg_metric: str) -> None:
    """Raise ValueError for an unknown metric."""
    if reg_metric not in REG_METRICS:
        raise ValueError(f"reg_metric must be one of {REG_METRICS}, got {reg_metric!r}")


def regularization(
    model: LayerStack,
    trace: Trace,
    reg_metric: RegMetric,
    lamb_l1: float,
    lamb_entropy: float,
    lamb_coef: float,
    lamb_coefdiff: float,
) -> Tensor:
    """The body of `KAN.regularization`, from `KAN.trace` of a batch."""
    check_metric(reg_metric)
    total = trace.nodes[-1].new_zeros(())
    if lamb_l1 != 0 or lamb_entropy != 0:
        sizes = edge_sizes(activity(model, trace), reg_metric)
        entropy = _entropy if reg_metric == "edge_forward_l1" else _pykan_entropy
        for size in sizes:
            total = total + lamb_l1 * size.sum() + lamb_entropy * entropy(size)
    if lamb_coef != 0 or lamb_coefdiff != 0:
        for layer in model.kan_layers:
            coefficients: Tensor = layer.spline_weight
            if layer.mask is not None:
                coefficients = torch.where(layer.mask.unsqueeze(-1), coefficients, 0)
            total = total + lamb_coef * coefficients.abs().mean(0).sum()
            total = total + lamb_coefdiff * coefficients.diff(dim=-1).abs().mean(0).sum()
    return total


def edge_sizes(layers: Sequence[LayerActivity], reg_metric: str) -> list[Tensor]:
    """A matrix of sizes for each layer: [O, I], or [nodes, inputs] for "node_backward"."""
    if reg_metric == "edge_forward_l1":
        return [layer.edges.mean_abs for layer in layers]
    if reg_metric == "edge_forward_spline_u":
        return [layer.edges.std for layer in layers]
    if reg_metric == "node_backward":
        return node_attributions(layers)
    if reg_metric == "edge_backward":
        return backward_scores(layers, identity(layers)).edge_scores
    sizes = [layer.edges.std / (layer.input_std + 0.1) for layer in layers]
    if reg_metric == "edge_forward_sum":
        return sizes
    return [
        size if layer.numeric is None else torch.where(layer.numeric, size, 0)
        for size, layer in zip(sizes, layers, strict=True)
    ]


def _entropy(size: Tensor) -> Tensor:
    """-sum p log p of the shares p of all edges; 0 log 0 = 0, also in the gradient."""
    total = size.sum()
    share = size / torch.where(total > 0, total, 1)
    return -(share * torch.where(share > 0, share, 1).log()).sum()


def _pykan_entropy(size: Tensor) -> Tensor:
    """The mean entropy of rows plus that of columns, in bits, with pykan's offsets."""
    entropies = []
    for dim in (0, 1):
        share = size / (size.sum(dim, keepdim=True) + 1)
        entropies.append(-(share * torch.log2(share + 1e-4)).sum(dim).mean())
    return entropies[0] + entropies[1]
