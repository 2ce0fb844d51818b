"""Penalties on what edges do over a batch, which make a network sparse.

The sizes of a layer's edges form a matrix v[o, i]; the penalty is lamb_l1 times their sum plus
lamb_entropy times an entropy of their shares. "edge_forward_l1" is the KAN paper's (Liu et al.,
2024, eqs. 2.17-2.20): v is the mean |phi| and the entropy is that of all shares v / sum v. The
others are pykan's, which works with standard deviations and adds the mean entropies of rows and of
columns.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from kanfast.interpret.attribution import (
    activity,
    backward_scores,
    identity,
    node_attributions,
    standard_deviation,
)
from kanfast.nn.network import Network, Trace
from kanfast.nn.symbols import symbolic_mask

RegMetric = Literal[
    "edge_forward_l1",
    "edge_forward_spline_n",
    "edge_forward_spline_u",
    "edge_forward_sum",
    "edge_backward",
    "node_backward",
]
_OFFSET = 1e-4  # keeps the logarithm of a share finite; pykan's value
REG_METRICS: tuple[str, ...] = get_args(RegMetric)


def check_metric(reg_metric: str) -> None:
    """Raise ValueError for an unknown metric."""
    if reg_metric not in REG_METRICS:
        raise ValueError(f"reg_metric must be one of {REG_METRICS}, got {reg_metric!r}")


def regularization(
    network: Network,
    x: Tensor | None = None,
    reg_metric: RegMetric = "edge_forward_spline_n",
    lamb_l1: float = 1.0,
    lamb_entropy: float = 2.0,
    lamb_coef: float = 0.0,
    lamb_coefdiff: float = 0.0,
) -> Tensor:
    """Penalty on what the edges do at the samples x; differentiable once.

    Summed over the layers: lamb_l1 times the sum of the sizes of edges, lamb_entropy times an
    entropy of their shares, lamb_coef (lamb_coefdiff) times the mean over outputs of absolute
    coefficients (differences of neighbours).

    Args:
        x: Samples [..., inputs]; `samples` if None.
        reg_metric: What the size of an edge is: "edge_forward_l1", its mean |phi|, with the
            entropy of all shares in a layer (the KAN paper, eqs. 2.17-2.20); or one of pykan's,
            with the mean entropies of rows and columns: "edge_forward_spline_u", the deviation
            of phi; "edge_forward_spline_n", that over the deviation of the input plus 0.1, and
            0 for symbolic edges; "edge_forward_sum", the same with symbolic edges (pykan's has
            no gradient); "edge_backward", the edge scores of `attribute`; "node_backward", the
            scores of inputs for all nodes.
    """
    trace = network.trace(network.samples_or(x))
    return penalty(network, trace, reg_metric, lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff)


def penalty(
    network: Network,
    trace: Trace,
    reg_metric: RegMetric,
    lamb_l1: float,
    lamb_entropy: float,
    lamb_coef: float,
    lamb_coefdiff: float,
) -> Tensor:
    """The value of `regularization`, from `Network.trace` of a batch."""
    check_metric(reg_metric)
    total = trace.nodes[-1].new_zeros(())
    if lamb_l1 != 0 or lamb_entropy != 0:
        sizes = edge_sizes(network, trace, reg_metric)
        for size in sizes:
            if reg_metric == "edge_forward_l1":
                total = total + lamb_l1 * size.sum() + lamb_entropy * _entropy(size)
            else:
                total = total + _PykanPenalty.apply(size, lamb_l1, lamb_entropy)
    if lamb_coef != 0 or lamb_coefdiff != 0:
        for layer in network.kan_layers:
            coefficients: Tensor = layer.spline_weight
            if layer.mask is not None:
                coefficients = torch.where(layer.mask.unsqueeze(-1), coefficients, 0)
            total = total + lamb_coef * coefficients.abs().mean(0).sum()
            total = total + lamb_coefdiff * coefficients.diff(dim=-1).abs().mean(0).sum()
    return total


def edge_sizes(network: Network, trace: Trace, reg_metric: str) -> list[Tensor]:
    """A matrix of sizes for each layer: [O, I], or [nodes, inputs] for "node_backward"."""
    if reg_metric in ("edge_backward", "node_backward"):
        layers = activity(network, trace)
        if reg_metric == "node_backward":
            return node_attributions(layers)
        return backward_scores(layers, identity(layers)).edge_scores
    inputs = list(zip(network.kan_layers, trace.nodes[:-1], strict=True))
    edges = [layer.edge_statistics(x) for layer, x in inputs]
    if reg_metric == "edge_forward_l1":
        return [statistics.mean_abs for statistics in edges]
    if reg_metric == "edge_forward_spline_u":
        return [statistics.std for statistics in edges]
    sizes = [
        statistics.std / (standard_deviation(x) + 0.1)
        for statistics, (_, x) in zip(edges, inputs, strict=True)
    ]
    if reg_metric == "edge_forward_sum":
        return sizes
    return [
        size if layer.symbolic is None else torch.where(symbolic_mask(layer), 0, size)
        for size, layer in zip(sizes, network.kan_layers, strict=True)
    ]


def _entropy(size: Tensor) -> Tensor:
    """-sum p log p of the shares p of all edges; 0 log 0 = 0, also in the gradient."""
    total = size.sum()
    share = size / torch.where(total > 0, total, 1)
    return -(share * torch.where(share > 0, share, 1).log()).sum()


class _PykanPenalty(Function):
    """lamb_l1 times the sum of sizes plus lamb_entropy times pykan's entropy: the mean entropy of
    rows plus that of columns, in bits, with its offsets.

    The matrices are so small that a graph of two dozen operations costs more than everything else
    in a step; the gradient is written down instead. With shares p = s / (sum s + 1) of a row and
    h = d(-p log2(p + e)) / dp, that of a row's entropy is (h_k - sum_j h_j p_j) / (sum s + 1).
    """

    @staticmethod
    def forward(ctx: Any, size: Tensor, lamb_l1: float, lamb_entropy: float) -> Tensor:
        penalty = lamb_l1 * size.sum()
        slope = torch.full_like(size, lamb_l1)
        for dim in (0, 1):
            total = size.sum(dim, keepdim=True).add_(1)
            share = size / total
            shifted = share + _OFFSET
            information = shifted.log2()
            weight = lamb_entropy * size.shape[dim] / size.numel()
            penalty = penalty - weight * (share * information).sum()
            h = information.add_(share / shifted, alpha=1 / math.log(2)).neg_()
            slope += h.sub_((h * share).sum(dim, keepdim=True)).div_(total).mul_(weight)
        ctx.save_for_backward(slope)
        return penalty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return g * slope, None, None
