"""The search of `explain`: formulas read off ever larger networks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from kanfast.explain import networks
from kanfast.explain.batch import Batch
from kanfast.explain.finish import Attempt
from kanfast.explain.problem import Problem
from kanfast.explain.search import EXACT, Ranking, search
from kanfast.explain.start import guesses
from kanfast.interpret.dataset import Dataset
from kanfast.nn.network import AnyNetwork
from kanfast.symbolic.function import SymbolicFunction

Show = Callable[[str | None], None]

_GUESS_ROWS = 256
_FAR_WORSE = 100.0  # in mean square error
_READ = 3  # networks of a size that formulas are read off
_AS_GOOD = 1.1  # as the best network, in mean square error without what parameters save
_PASSES = 3


def find_formulas(
    model: AnyNetwork,
    dataset: Dataset,
    problem: Problem,
    functions: tuple[SymbolicFunction, ...],
    steps: int,
    lamb: float,
    restarts: int,
    seed: int,
    deadline: float,
    show: Show,
) -> list[Attempt[AnyNetwork]]:
    """The best formulas of each size of network, until one is good enough or the time is over."""
    show("training with a penalty")
    sparse = networks.sparsified(model, dataset, steps, lamb)
    show("training without a penalty")
    whole = [networks.trained(m.copy(), dataset, steps) for m in (model, sparse)]
    reference, noise = min(n.error for n in whole), min(n.noise for n in whole)
    widest = max(model.width[1:-1], default=1)
    expected = min(max(sparse.width[1:-1], default=1) + 1, widest)
    attempts: list[Attempt[AnyNetwork]] = []
    for index in range(_PASSES):
        largest = widest if index else expected
        for size in range(1, largest + 1):
            show(f"networks with {size} hidden node{'s' * (size > 1)}, pass {index + 1}")
            start = seed + 1_000_003 * index + 1_009 * size
            trained = networks.of_size(model, sparse, size, dataset, steps, restarts, start)
            best = trained[0].error
            if index == 0 and size < largest and best > _FAR_WORSE * reference:
                continue
            near = [n for n in trained[:_READ] if n.error <= _FAR_WORSE * best]
            fine = [networks.finer(network, dataset, steps) for network in near]
            fine.sort(key=lambda network: network.error)
            noise = min(noise, *(network.noise for network in fine))
            rows = problem.features[:_GUESS_ROWS]
            starts = Batch.join([guesses(network.model, rows, functions) for network in fine])
            ranking = search(
                starts, problem.x, problem.y, problem.floor, deadline, _reporter(show, size)
            )
            attempts.append(Attempt(ranking, fine[0].model))
            if _is_good(ranking, problem, noise) or time.monotonic() > deadline:
                return attempts
    return attempts


def _is_good(ranking: Ranking, problem: Problem, noise: float) -> bool:
    """The best formula is exact, or as good as networks allow."""
    error = ranking.errors[0].item()
    relative = noise / problem.std.square().mean().item()
    as_good = math.isfinite(noise) and error <= _AS_GOOD * relative
    return as_good or error < EXACT * problem.floor


def _reporter(show: Show, size: int) -> Callable[[Ranking], None]:
    def report(ranking: Ranking) -> None:
        error = ranking.errors[0].item() ** 0.5
        nodes = f"{size} hidden node{'s' * (size > 1)}"
        show(f"formulas with {nodes}: error {error:.1e} of the deviation")

    return report
