"""How good a whole formula is: accuracy against simplicity, in bits.

The score is the description length of the data, up to a constant. With n labels, p free parameters
and a mean square error e relative to the variance of the labels,

    n/2 log2(e + floor) + p/2 log2(n) + 2 (sum of the complexities of all functions)
        + sum over edges of max(0, log2(max |c f|) - log2(max |c f - mean|) - 4)

and the lowest wins (Rissanen, "Modeling by shortest data description", 1978; the first two terms
are Schwarz's criterion in bits). So on noisy data a function has to earn its place, and where a
formula fits exactly, nothing that is off by a billionth can compete with it: `floor` is what
rounding leaves of an exact formula. The last term is for functions that are used as a line or a
parabola (sin of a tiny frequency, a pole far away): large numbers that nearly cancel take so many
more digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch

_PER_COMPLEXITY = 2.0
_FREE_CANCELLED_BITS = 4.0


def floor_of(dtype: torch.dtype) -> float:
    """The relative mean square error that an exact formula may have on data of this dtype."""
    return max(1e-22, (8 * torch.finfo(dtype).eps) ** 2)


def description_length(
    batch: Batch, errors: Tensor, x: Tensor, labels: int, floor: float
) -> Tensor:
    """Scores [K] of networks.

    Args:
        batch: the networks.
        errors: [K], their relative mean square errors.
        x: [N, inputs], rows that show how large the values of functions are.
        labels: the number n.
        floor: see the module.
    """
    accuracy = labels / 2 * torch.log2(errors + floor)
    return accuracy + price(batch, labels) + _cancelled_bits(batch, x)


def price(batch: Batch, labels: int) -> Tensor:
    """What functions and parameters cost, [K]."""
    functions = batch.functions
    complexity = torch.tensor([*(f.complexity for f in functions), 0.0], dtype=torch.float64)
    total = torch.zeros(len(batch), dtype=torch.float64)
    for table in batch.tables:
        total += complexity[table].sum((1, 2))
    return _PER_COMPLEXITY * total + free_parameters(batch) / 2 * math.log2(labels)


def free_parameters(batch: Batch) -> Tensor:
    """The number of independent parameters, [K].

    All outputs have one d; those of hidden nodes are made up for behind them, and so is the scale
    of a hidden node.
    """
    own = torch.tensor([*(f.parameters - 1.0 for f in batch.functions), 0.0], dtype=torch.float64)
    free = torch.full((len(batch),), float(batch.width[-1]), dtype=torch.float64)
    for l, table in enumerate(batch.tables):
        free += own[table].sum((1, 2))
        if l:
            free -= (table != NONE).any(1).sum(1)
    return free


def _cancelled_bits(batch: Batch, x: Tensor) -> Tensor:
    """Digits that cancel within the edges, in bits [K]."""
    total = torch.zeros(len(batch), dtype=torch.float64)
    for l, s in enumerate(batch.nodes(x)[:-1]):
        values = batch.curves(l, s)
        largest = values.abs().amax(-1)
        spread = (values - values.mean(-1, keepdim=True)).abs().amax(-1)
        bits = torch.log2(largest.clamp_min(1e-300)) - torch.log2(spread.clamp_min(1e-300))
        total += (bits.nan_to_num(0) - _FREE_CANCELLED_BITS).clamp_min(0).sum((1, 2))
    return total
