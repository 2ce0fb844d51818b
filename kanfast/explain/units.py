"""Edges whose inputs are scaled or shifted, and so networks in other units."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch, is_free
from kanfast.symbolic.function import SymbolicFunction

_LARGEST_EXPONENT = 30.0


def scale_input(batch: Batch, l: int, o: int, i: int, factor: float) -> None:
    """Makes an edge of the first network the function of factor times its input that it was.

    In place. |a| stays 1 where f is homogeneous or a logarithm; d goes to the node.
    """
    function = batch.functions[int(batch.tables[l][0, o, i])]
    edge = batch.edges[l][0, o, i]
    if function.search == "linear":
        edge[2] /= factor
    elif is_free(function)[0]:
        edge[0] /= factor
    else:
        size = abs(factor)
        edge[0] *= math.copysign(1.0, factor)
        edge[1] *= size
        one, two = function(torch.tensor([1.0, 2.0], dtype=torch.float64)).tolist()
        if abs(one) < 1e-12:  # f(u / size) = f(u) - f(size)
            at = function(torch.tensor(size, dtype=torch.float64)).item()
            batch.shifts[l][0, o] -= edge[2] * at
        else:
            edge[2] *= size ** -math.log2(two / one)


def shift_input(batch: Batch, l: int, o: int, i: int, shift: float) -> None:
    """Makes an edge of the first network the function of its input minus `shift` that it was.

    In place; d goes to the node.
    """
    function = batch.functions[int(batch.tables[l][0, o, i])]
    edge = batch.edges[l][0, o, i]
    offset = shift * edge[0].item()
    if function.search == "linear":
        batch.shifts[l][0, o] += edge[2] * offset
    elif function.search == "rate" and abs(offset) < _LARGEST_EXPONENT:
        edge[2] *= _ratio(function, offset)
    else:
        edge[1] += offset


def in_units(one: Batch, inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]) -> Batch:
    """A network of x and with outputs y, from one of (x - mean) / std and (y - mean) / std.

    Args:
        one: a batch of 1.
        inputs, outputs: means and standard deviations, [I] and [O].
    """
    batch = one.take([0])
    for _, o, i in (batch.tables[0] != NONE).nonzero().tolist():
        scale_input(batch, 0, o, i, inputs[1][i].item())
        shift_input(batch, 0, o, i, -inputs[0][i].item())
    batch.edges[-1][..., 2] *= outputs[1][:, None]
    batch.shifts[-1] = batch.shifts[-1] * outputs[1] + outputs[0]
    return batch


def inverse(moments: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Means and deviations that undo these."""
    mean, std = moments
    return -mean / std, 1 / std


def _ratio(function: SymbolicFunction, offset: float) -> float:
    values = function(torch.tensor([0.0, offset], dtype=torch.float64))
    return (values[1] / values[0]).item()
