"""The search for the best symbolic network: guesses, fits of whole networks, moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.explain.budget import is_over, part_of
from kanfast.explain.marquardt import fit
from kanfast.explain.moves import neighbours, removals
from kanfast.explain.score import EXACT, description_length

THIN = 200  # rows for sorting out
_KEPT = 8
_BEAM, _BEAM_EDGES = 4, 48
_ROUNDS = 8
_CUT = 1000  # rows that decide on taking edges away


@dataclass
class Ranking:
    """Symbolic networks of one shape, best first.

    Attributes:
        batch: K networks.
        errors: [K], mean square errors relative to the variance of the labels.
        scores: [K], see `kanfast.explain.score`.
    """

    batch: Batch
    errors: Tensor
    scores: Tensor

    def of_inputs(self, inputs: Sequence[int]) -> Ranking:
        """The same networks as ones of these inputs; they must not use others."""
        return Ranking(self.batch.of_inputs(inputs), self.errors, self.scores)

    def merged(self, other: Ranking, count: int) -> Ranking:
        """The best of both, each combination of functions once."""
        batch = Batch.join([self.batch, other.batch])
        errors = torch.cat([self.errors, other.errors])
        scores = torch.cat([self.scores, other.scores])
        kept: dict[tuple[int, ...], int] = {}
        for k in scores.argsort(stable=True).tolist():
            kept.setdefault(batch.key(k), k)
        rows = list(kept.values())[:count]
        return Ranking(batch.take(rows), errors[rows], scores[rows])


def search(
    starts: Batch,
    x: Tensor,
    y: Tensor,
    floor: float,
    deadline: float,
    show: Callable[[Ranking], None],
) -> Ranking:
    """The best networks from these starts on.

    A beam search: of all neighbours (`moves`) of the best networks the best are kept, until there
    is none better. Before each round, edges that are not worth their price leave the best one.
    From an exact one on, only its own neighbours are tried, for a simpler one.

    Args:
        starts: where to begin.
        x: [N, inputs], in an order without meaning. y: [N, outputs], mean 0 and variance 1.
        floor: see `kanfast.explain.score`.
        deadline: a time.monotonic() after which nothing new begins.
        show: called after each round.
    """
    found = evaluate(starts, x, y, floor, deadline)
    tried: set[tuple[int, ...]] = set()
    for _ in range(_ROUNDS):
        found = found.merged(cut(found, x, y, floor, deadline), _KEPT)
        show(found)
        beam = 1 if found.errors[0] < EXACT * floor else _beam(found.batch)
        fresh = [k for k in range(beam) if found.batch.key(k) not in tried]
        fresh = [k for k in fresh if any((t[k] != NONE).any() for t in found.batch.tables)]
        if not fresh or is_over(deadline):
            break
        tried |= {found.batch.key(k) for k in fresh}
        moved = neighbours(found.batch.take(fresh), x[:THIN], deadline)
        found = found.merged(evaluate(moved, x, y, floor, deadline), _KEPT)
    return found


def cut(found: Ranking, x: Tensor, y: Tensor, floor: float, deadline: float) -> Ranking:
    """The best network without the edges and nodes that are not worth their price.

    All that cost more than they explain go at once if the rest is better for it, else the worst.
    """
    rows, labels = x[:_CUT], y[:_CUT]
    best = ranked(found.batch.take([0]), rows, labels, floor, 20, deadline)
    while not is_over(deadline):
        groups, smaller = removals(best.batch, rows[:THIN])
        if not groups:
            break
        trials, errors = fit(smaller, rows, labels, 20, exact=1e-4 * floor, deadline=deadline)
        scores = description_length(trials, errors, rows, labels.numel(), floor)
        gains = best.scores[0] - scores
        worth = (gains > 0).nonzero().flatten().tolist()
        if not worth:
            break
        first = trials.take([int(gains.argmax())])
        together = best.batch.take([0])
        for k in worth:
            for l, i, o in groups[k]:
                together.tables[l][:, o, i] = NONE
            together.shifts = [
                now + new[k] - old[0]
                for now, new, old in zip(
                    together.shifts, smaller.shifts, best.batch.shifts, strict=True
                )
            ]
        both = ranked(Batch.join([first, together]), rows, labels, floor, 20, deadline)
        if both.scores[0] >= best.scores[0]:
            break
        best = Ranking(both.batch.take([0]), both.errors[:1], both.scores[:1])
    return ranked(best.batch, x, y, floor, 40, deadline)


def _beam(batch: Batch) -> int:
    """How many networks go on: fewer of large ones, which have many neighbours."""
    edges = sum(int((table[0] != NONE).sum()) for table in batch.tables)
    return min(len(batch), _BEAM, max(1, _BEAM_EDGES // max(edges, 1)))


def evaluate(batch: Batch, x: Tensor, y: Tensor, floor: float, deadline: float) -> Ranking:
    """The best of the batch after least squares: of all on few rows, then of the best on all."""
    for iterations, kept in ((12, 4 * _KEPT), (40, _KEPT)):
        half = part_of(deadline, 0.5)
        batch, errors = fit(batch, x[:THIN], y[:THIN], iterations, deadline=half)
        scores = description_length(batch, errors, x[:THIN], y.numel(), floor)
        order = scores.argsort(stable=True)
        batch = batch.take(order[:kept])
    return ranked(batch, x, y, floor, 60, deadline)


def ranked(
    batch: Batch, x: Tensor, y: Tensor, floor: float, iterations: int, deadline: float
) -> Ranking:
    """All networks of the batch, fitted on all rows."""
    batch, errors = fit(batch, x, y, iterations, exact=1e-4 * floor, deadline=deadline)
    scores = description_length(batch, errors, x, y.numel(), floor)
    order = scores.argsort(stable=True)
    return Ranking(batch.take(order), errors[order], scores[order])
