"""How good a whole formula is: accuracy against simplicity, in bits.

The score is the description length of the data, up to a constant. With n labels, p free parameters
and a mean square error e relative to the variance of the labels,

    n/2 log2(e + floor) + p/2 log2(n) + 2 (sum of the complexities of all functions)
        + sum over edges of max(0, log2(max |c f|) - log2(max |c f - mean|) - 4)
        + p (p + 1) / (n - p - 1) / ln 2 + 64 n if it cannot be used

and the lowest wins (Rissanen, "Modeling by shortest data description", 1978; the first two terms
are Schwarz's criterion in bits; the last but one is what Hurvich and Tsai add to Akaike's for few
labels). So on noisy data a function has to earn its place, and where a
formula fits exactly, nothing that is off by a billionth can compete with it: `floor` is what
rounding leaves of an exact formula. The last term is for functions that are used as a line or a
parabola (sin of a tiny frequency, a pole far away): large numbers that nearly cancel take so many
more digits. A formula cannot be used if arguments of its functions leave their domains on the rows,
if there is a pole between the rows (unless it is exact: then the data show that pole), or if it has
as many parameters as there are labels, or one less. The mean of the labels is better than that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.symbolic.function import SymbolicFunction

EXACT = 10.0  # times the floor: errors below it are rounding
_UNUSABLE_BITS = 64.0  # for each label
_AT_AN_END = 1e-9  # of the largest argument, that one may be beyond an end that f reaches
_ELEMENTS = 2**22  # numbers in the largest tensor
_PER_COMPLEXITY = 2.0
_FREE_CANCELLED_BITS = 4.0


def floor_of(dtype: torch.dtype, offset: float = 0.0) -> float:
    """The relative mean square error that an exact formula may have on data of this dtype.

    Args:
        dtype: of the labels.
        offset: |mean| of the labels over their deviation.
    """
    return max(1e-22, (8 * torch.finfo(dtype).eps * max(1.0, offset)) ** 2)


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
    cancelled, outside, beside_poles = _looked_at(batch, x)
    unusable = outside | (beside_poles & (errors > EXACT * floor))
    parameters = free_parameters(batch)
    left = labels - parameters - 1  # of few labels, a formula with many parameters says little
    unusable |= (left <= 0) & (parameters > batch.width[-1])
    small = parameters * (parameters + 1) / left.clamp_min(1) / math.log(2)
    return (
        accuracy
        + small
        + price(batch, labels)
        + cancelled
        + torch.where(unusable, _UNUSABLE_BITS * labels, 0)
    )


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


def _looked_at(batch: Batch, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At all networks, [K] each: see `_cancelled_bits` and `_off_limits`."""
    size = max(1, _ELEMENTS // (len(x) * max(table[0].numel() for table in batch.tables)))
    columns = []
    for start in range(0, len(batch), size):
        part = batch.take(range(start, min(start + size, len(batch))))
        nodes = part.nodes(x)[:-1]
        columns.append((_cancelled_bits(part, nodes), *_off_limits(part, nodes)))
    cancelled, outside, beside_poles = (torch.cat(c) for c in zip(*columns, strict=True))
    return cancelled, outside, beside_poles


def _cancelled_bits(batch: Batch, nodes: list[Tensor]) -> Tensor:
    """Digits that cancel within the edges, in bits [K]."""
    total = torch.zeros(len(batch), dtype=torch.float64)
    for l, s in enumerate(nodes):
        values = batch.curves(l, s)
        largest = values.abs().amax(-1)
        spread = (values - values.mean(-1, keepdim=True)).abs().amax(-1)
        bits = torch.log2(largest.clamp_min(1e-300)) - torch.log2(spread.clamp_min(1e-300))
        total += (bits.nan_to_num(0) - _FREE_CANCELLED_BITS).clamp_min(0).sum((1, 2))
    return total


def _off_limits(batch: Batch, nodes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Networks [K] in which f is not defined at some row, and those with a pole between rows."""
    outside = torch.zeros(len(batch), dtype=torch.bool)
    beside_poles = outside.clone()
    for table, edges, s in zip(batch.tables, batch.edges, nodes, strict=True):
        ends = torch.stack([s.amin(-1), s.amax(-1)], -1)[:, None]  # [K, 1, I, 2]
        low, high = (edges[..., 0, None] * ends + edges[..., 1, None]).sort(-1).values.unbind(-1)
        for index, function in enumerate(batch.functions):
            if function.domain == (-math.inf, math.inf):
                continue
            there = table == index
            missed, crossed = _leaves_domain(function, low, high)
            outside |= (there & missed).any(2).any(1)
            beside_poles |= (there & crossed).any(2).any(1)
    return outside, beside_poles


def _leaves_domain(function: SymbolicFunction, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Whether arguments from low to high are outside of the domain of f, or on both sides of poles.

    There are poles at open ends of a domain beyond which f goes on, as even, odd or periodic ones.
    """
    start, end = function.domain
    if function.period is not None:
        shift = torch.floor((low - start) / function.period) * function.period
        low, high = low - shift, high - shift
    rim = _AT_AN_END * torch.maximum(low.abs(), high.abs())
    within = _inside(function, low, high, rim)
    if function.symmetric:
        within |= _inside(function, -high, -low, rim)
    goes_on = function.period is not None or (
        function.symmetric and not function.closed and start == 0 and end == math.inf
    )
    nowhere = torch.zeros_like(within)
    return (nowhere, ~within) if goes_on else (~within, nowhere)


def _inside(function: SymbolicFunction, low: Tensor, high: Tensor, rim: Tensor) -> Tensor:
    start, end = function.domain
    if function.closed:
        return (low >= start - rim) & (high <= end + rim)
    return (low > start) & (high < end)
