"""Which edges of a network are drawn, and how strongly: their scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.nn.linear import KANLinear
from kanfast.plot.functions import LayerSymbols, core_range, edge_parts, sweep, symbolic_mask
from kanfast.symbolic.edges import SymbolicEdges

# Points of each input where no samples are given.
_POINTS = 101


@torch.no_grad()
def relative_scores(
    layers: Sequence[KANLinear], inputs: Sequence[Tensor] | None, symbols: Sequence[LayerSymbols]
) -> list[Tensor]:
    """How much each edge varies, relative to the edge of its layer that varies most: [O, I] each.

    Measured by the standard deviation over the samples `inputs` of each layer, [rows, I], and
    without samples by the range of values over the grid. A layer of constants gets zeros. Nothing
    of size rows x O x I is made.
    """
    scores = []
    for index, layer in enumerate(layers):
        if inputs is None:
            x = sweep(*core_range(layer), _POINTS).to(layer.spline_weight)
        else:
            x = inputs[index]
        statistics = layer.edge_statistics(x)
        spread = statistics.max - statistics.min if inputs is None else statistics.std
        score = spread.cpu().double()
        _set_symbolic(score, layer, x, symbols[index], use_range=inputs is None)
        highest = score.max()
        scores.append(score / highest if highest > 0 else score)
    return scores


def _set_symbolic(
    score: Tensor, layer: KANLinear, x: Tensor, symbols: LayerSymbols, *, use_range: bool
) -> None:
    """Puts the spread of what symbolic edges do, functions and splines together, into score."""
    if not isinstance(symbols, SymbolicEdges):
        return
    edges = symbolic_mask(layer, symbols).nonzero()
    phi = edge_parts(layer, x.cpu().double(), edges, symbols).total
    spread = phi.amax(0) - phi.amin(0) if use_range else phi.std(0)
    score[edges[:, 0], edges[:, 1]] = spread


def check_scores(scores: Sequence[Tensor], layers: Sequence[KANLinear]) -> list[Tensor]:
    """Scores [O, I] of all layers, as float64 on the CPU.

    Raises:
        ValueError: Another number of layers or shape, or scores that are not finite or negative.
    """
    if len(scores) != len(layers):
        raise ValueError(
            f"scores must have one tensor for each of {len(layers)} layers, got {len(scores)}"
        )
    checked = []
    for index, (layer, given) in enumerate(zip(layers, scores, strict=True)):
        score = torch.as_tensor(given).detach().cpu().double()
        if score.shape != (layer.out_features, layer.in_features):
            raise ValueError(
                f"the scores of layer {index} must have the shape [{layer.out_features}, "
                f"{layer.in_features}], got {list(score.shape)}"
            )
        if not score.isfinite().all():
            raise ValueError(
                f"the scores of layer {index} are not all finite: are there NaN or infinite "
                "values in the weights or in x?"
            )
        if (score < 0).any():
            raise ValueError(
                f"the scores of layer {index} must not be negative, got {score.min():.3g}"
            )
        checked.append(score)
    return checked


def top(score: Tensor, live: Tensor, count: int) -> Tensor:
    """The `count` live edges of highest score, or all if they are fewer: [E, 2], pairs (o, i).

    They come in the order of inputs, then outputs, in which their lines cross least. Of equal
    scores the first in that order win.
    """
    edges = live.T.nonzero().flip(1)
    order = score[edges[:, 0], edges[:, 1]].argsort(descending=True, stable=True)
    return edges[order[:count].sort().values]
