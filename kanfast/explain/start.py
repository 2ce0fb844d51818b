"""First guesses: what the edges of a numeric network look like, one by one and in groups."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kanfast.explain.batch import Batch
from kanfast.interpret.edges import edge_samples, live_edges
from kanfast.nn.edges import Edge
from kanfast.nn.network import Network
from kanfast.symbolic.fit import EdgeFits, fit_affine
from kanfast.symbolic.function import SymbolicFunction
from kanfast.symbolic.select import scores

# How far edges of a numeric network may be from the right functions (1 - r2): where several nodes
# share the work, curves are bent that could as well be straight.
_TOLERANCES = (3e-1, 1e-1, 1e-2, 1e-3, 1e-5, 1e-8)
_GUESSES = 40  # for each tolerance and grouping


def guesses(model: Network, x: Tensor, functions: tuple[SymbolicFunction, ...]) -> Batch:
    """Symbolic networks like a numeric one, starting points for a fit of all their parameters.

    Every edge has its fits; combinations of functions are tried in the order of the sum of their
    scores (`kanfast.symbolic.scores`), at several tolerances: each edge by itself, and with one
    function for all edges that leave a node, as in sums and differences of the same terms.
    """
    edges = live_edges(model, symbolic=False)
    inputs, outputs = edge_samples(model, edges, x)
    fits = fit_affine(inputs, outputs, functions)
    picked: dict[tuple[int, ...], None] = {}
    for tolerance in _TOLERANCES:
        table = scores(fits, noise=tolerance)
        for grouping in _groupings(edges, len(model.layers)):
            summed = torch.stack([table[group].sum(0) for group in grouping])
            for combination in _best(summed, _GUESSES):
                chosen = [0] * len(edges)
                for group, function in zip(grouping, combination, strict=True):
                    for e in group:
                        chosen[e] = function
                picked[tuple(chosen)] = None
    return _assembled(model.width, edges, fits, torch.tensor(list(picked)))


def _assembled(
    width: Sequence[int], edges: Sequence[Edge], fits: EdgeFits, chosen: Tensor
) -> Batch:
    """The networks with these functions [K, E]."""
    batch = Batch.empty(fits.functions, width, len(chosen))
    for e, (l, i, o) in enumerate(edges):
        params = fits.affine[e, chosen[:, e]]
        batch.tables[l][:, o, i] = chosen[:, e]
        batch.edges[l][:, o, i] = params[:, :3]
        batch.shifts[l][:, o] += params[:, 3]
    return batch


def _groupings(edges: Sequence[Edge], depth: int) -> list[list[list[int]]]:
    """Each edge by itself; by the node they leave; that, with the last layer as one group."""
    single: dict[tuple[int, ...], list[int]] = {}
    by_node: dict[tuple[int, ...], list[int]] = {}
    by_layer: dict[tuple[int, ...], list[int]] = {}
    for e, (l, i, o) in enumerate(edges):
        single.setdefault((l, i, o), []).append(e)
        by_node.setdefault((l, i), []).append(e)
        by_layer.setdefault((l,) if l == depth - 1 else (l, i), []).append(e)
    return [list(groups.values()) for groups in (single, by_node, by_layer)]


def _best(table: Tensor, count: int) -> Iterator[tuple[int, ...]]:
    """The `count` choices of a column in each row of [E, F] with the lowest sums, lowest first."""
    ranked, order = table.sort(1)
    ranks, columns = ranked.tolist(), order.tolist()
    first = (0,) * len(ranks)
    heap = [(sum(row[0] for row in ranks), first)]
    seen = {first}
    while heap and count:
        total, choice = heapq.heappop(heap)
        yield tuple(columns[e][rank] for e, rank in enumerate(choice))
        count -= 1
        for e, rank in enumerate(choice):
            following = (*choice[:e], rank + 1, *choice[e + 1 :])
            if rank + 1 < len(ranks[e]) and following not in seen:
                more = ranks[e][rank + 1] - ranks[e][rank]
                if math.isfinite(more):
                    seen.add(following)
                    heapq.heappush(heap, (total + more, following))
