"""Formulas that are linear in a few of the inputs: the first to be tried, in no time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanfast.explain.batch import Batch
from kanfast.symbolic.function import SymbolicFunction

_PER_INPUT = 2.0  # bits, as `kanfast.explain.score` has for the function "x"


def line(functions: tuple[SymbolicFunction, ...], width: list[int], x: Tensor, y: Tensor) -> Batch:
    """A network (a batch of 1) that is linear in the inputs that matter: forward selection.

    One input after another, the one most correlated with what is left, until a further one costs
    more bits than it saves. Choosing among I inputs costs log2(I) bits.

    Args:
        functions: with "x".
        width: one node in hidden layers, and one output.
        x: [N, I]. y: [N, 1], mean 0.
    """
    (count, inputs), target = x.shape, y[:, 0]
    centred = x - x.mean(0)
    length = centred.square().mean(0).sqrt()
    unit = centred / torch.where(length > 1e-12 * x.abs().amax(0), length, math.inf)
    price = math.log2(count) / 2 + _PER_INPUT + math.log2(inputs)
    chosen: list[int] = []
    slopes, rest = torch.zeros(0, dtype=x.dtype), target
    while len(chosen) < min(inputs, count // 3):
        correlation = (unit.T @ rest).abs()
        correlation[chosen] = -1
        trial = [*chosen, int(correlation.argmax())]
        fitted = torch.linalg.lstsq(unit[:, trial], target[:, None]).solution[:, 0]
        left = target - unit[:, trial] @ fitted
        before, after = (r.square().mean().clamp_min(1e-30).log2().item() for r in (rest, left))
        if not count / 2 * (before - after) > price:
            break
        chosen, slopes, rest = trial, fitted, left
    batch = Batch.empty(functions, width, 1)
    index = [function.name for function in functions].index("x")
    for column, slope in zip(chosen, slopes.tolist(), strict=True):
        batch.tables[0][0, 0, column] = index
        batch.edges[0][0, 0, column, 2] = slope / length[column]
    if chosen:
        for table in batch.tables[1:]:
            table.fill_(index)
    return batch
