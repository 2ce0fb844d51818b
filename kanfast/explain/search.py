"""The search for the best symbolic network: guesses, fits of whole networks, moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.explain.marquardt import fit
from kanfast.explain.moves import neighbours
from kanfast.explain.score import description_length

THIN = 200  # rows for sorting out
EXACT = 10.0  # times the floor: errors below it are rounding
_KEPT = 8
_BEAM, _BEAM_EDGES = 4, 48
_ROUNDS = 8


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
    is none better. From an exact one on, only its own neighbours are tried, for a simpler one.

    Args:
        starts: where to begin.
        x: [N, inputs], in an order without meaning. y: [N, outputs], mean 0 and variance 1.
        floor: see `kanfast.explain.score`.
        deadline: a time.monotonic() after which no new round begins.
        show: called after each round.
    """
    found = evaluate(starts, x, y, floor)
    tried: set[tuple[int, ...]] = set()
    for _ in range(_ROUNDS):
        show(found)
        beam = 1 if found.errors[0] < EXACT * floor else _beam(found.batch)
        fresh = [k for k in range(beam) if found.batch.key(k) not in tried]
        fresh = [k for k in fresh if any((t[k] != NONE).any() for t in found.batch.tables)]
        if not fresh or time.monotonic() > deadline:
            break
        tried |= {found.batch.key(k) for k in fresh}
        moved = neighbours(found.batch.take(fresh), x[:THIN])
        found = found.merged(evaluate(moved, x, y, floor), _KEPT)
    return found


def _beam(batch: Batch) -> int:
    """How many networks go on: fewer of large ones, which have many neighbours."""
    edges = sum(int((table[0] != NONE).sum()) for table in batch.tables)
    return min(len(batch), _BEAM, max(1, _BEAM_EDGES // max(edges, 1)))


def evaluate(batch: Batch, x: Tensor, y: Tensor, floor: float) -> Ranking:
    """The best of the batch after least squares: of all on few rows, then of the best on all."""
    for iterations, kept in ((12, 4 * _KEPT), (40, _KEPT)):
        batch, errors = fit(batch, x[:THIN], y[:THIN], iterations)
        scores = description_length(batch, errors, x[:THIN], y.numel(), floor)
        order = scores.argsort(stable=True)
        batch = batch.take(order[:kept])
    return ranked(batch, x, y, floor, 60)


def ranked(batch: Batch, x: Tensor, y: Tensor, floor: float, iterations: int) -> Ranking:
    """All networks of the batch, fitted on all rows."""
    batch, errors = fit(batch, x, y, iterations, exact=1e-4 * floor)
    scores = description_length(batch, errors, x[:THIN], y.numel(), floor)
    order = scores.argsort(stable=True)
    return Ranking(batch.take(order), errors[order], scores[order])
