"""One symbolic network among all that are equal: without dead nodes, parameters in standard form.

Nothing here changes the network's function. Of each hidden node the shift is 0; its scale is that
of the edges behind it if their a is free (the first gets a = 1), or else makes the largest factor
of the edges to it 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch, is_free
from kanfast.explain.units import scale_input, shift_input
from kanfast.symbolic.function import SymbolicFunction


def tidied(one: Batch) -> tuple[Batch, Tensor]:
    """The network (a batch of 1) in standard form, and which parameters [P] that fixed."""
    batch = _without_dead_nodes(one.take([0]))
    fixed = [torch.zeros_like(edges[0], dtype=torch.bool) for edges in batch.edges]
    for l in range(len(batch.tables)):
        for node in range(batch.width[l]) if l else ():
            _absorb_shift(batch, l, node)
            _set_scale(batch, l, node, fixed)
        for _, o, i in (batch.tables[l] != NONE).nonzero().tolist():
            _set_phase(batch, l, o, i)
    parts = []
    for mask, shifts in zip(fixed, batch.shifts, strict=True):
        parts += [mask.flatten(), torch.zeros_like(shifts[0], dtype=torch.bool)]
    return batch, torch.cat(parts)


def _without_dead_nodes(batch: Batch) -> Batch:
    for l in range(1, len(batch.tables)):
        before, after = batch.tables[l - 1], batch.tables[l]
        for node in range(batch.width[l]):
            if not (before[0, node] != NONE).any():  # a constant
                shift = batch.shifts[l - 1][:, node, None, None].expand(-1, batch.width[l], 1)
                values = batch.curves(l, shift)[0, :, node, 0]
                batch.shifts[l] += values
                after[0, :, node] = NONE
    for l in reversed(range(1, len(batch.tables))):
        alive = (batch.tables[l][0] != NONE).any(0)
        alive[0] |= not alive.any()
        batch.tables[l] = batch.tables[l][:, :, alive]
        batch.edges[l] = batch.edges[l][:, :, alive]
        batch.tables[l - 1] = batch.tables[l - 1][:, alive]
        batch.edges[l - 1] = batch.edges[l - 1][:, alive]
        batch.shifts[l - 1] = batch.shifts[l - 1][:, alive]
    return batch


def _absorb_shift(batch: Batch, l: int, node: int) -> None:
    """Takes the shift of a node between layers l - 1 and l into the edges behind it."""
    shift = batch.shifts[l - 1][0, node].item()
    for o in (batch.tables[l][0, :, node] != NONE).nonzero().flatten().tolist():
        shift_input(batch, l, o, node, shift)
    batch.shifts[l - 1][0, node] = 0


def _set_scale(batch: Batch, l: int, node: int, fixed: list[Tensor]) -> None:
    table, edges = batch.tables[l][0, :, node], batch.edges[l][0, :, node]
    incoming = batch.edges[l - 1][0, node]  # [I, 3]
    there = batch.tables[l - 1][0, node] != NONE
    leaving = (table != NONE).nonzero().flatten().tolist()
    if not leaving or not there.any():
        return
    stretched = [o for o in leaving if is_free(batch.functions[int(table[o])])[0]]
    if stretched:
        factor = edges[stretched[0], 0].item()
    else:
        sizes = torch.where(there, incoming[:, 2], 0).abs()
        # of factors that differ by rounding, the first
        largest = int((sizes >= (1 - 1e-9) * sizes.max()).nonzero()[0])
        factor = 1 / incoming[largest, 2].item()
    if not math.isfinite(factor) or factor == 0:
        return
    if stretched:
        fixed[l][stretched[0], node, 0] = True
    else:
        fixed[l - 1][node, largest, 2] = True
    incoming[:, 2] *= factor
    for o in leaving:
        scale_input(batch, l, o, node, factor)


def _set_phase(batch: Batch, l: int, o: int, i: int) -> None:
    """a > 0 if f is even or odd, |b| at most half the period."""
    function = batch.functions[int(batch.tables[l][0, o, i])]
    edge, shift = batch.edges[l][0, o, i], batch.shifts[l][0, o : o + 1]
    if function.search == "linear":
        return
    if function.symmetric and edge[0] < 0:
        edge[:2] *= -1
        _mirror(function, 0.3, -0.3, edge, shift)
    if function.period is not None:
        turns = math.ceil((edge[1].item() - function.period / 2) / function.period - 1e-6)
        edge[1] -= turns * function.period
        if turns % 2:
            _mirror(function, 0.3, 0.3 + function.period, edge, shift)


def _mirror(
    function: SymbolicFunction, u: float, image: float, edge: Tensor, shift: Tensor
) -> None:
    """Makes up for f(image), in whose place f(u) stands: f(u) itself, or a constant minus it."""
    here, there = function(torch.tensor([u, image], dtype=torch.float64)).tolist()
    if abs(here - there) > 1e-9 * max(1.0, abs(here)):
        shift += edge[2] * (here + there)
        edge[2] *= -1
