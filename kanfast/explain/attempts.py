"""The search of `explain`: formulas read off ever larger networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from kanfast.explain import networks
from kanfast.explain.batch import Batch
from kanfast.explain.budget import Budget, is_over, part_of
from kanfast.explain.finish import Attempt
from kanfast.explain.lines import line
from kanfast.explain.problem import (
    ROWS,
    Problem,
)
from kanfast.explain.score import EXACT
from kanfast.explain.search import Ranking, ranked, search
from kanfast.explain.start import guesses
from kanfast.interpret.dataset import Dataset
from kanfast.nn.network import AnyNetwork
from kanfast.symbolic.function import SymbolicFunction

Show = Callable[[str | None], None]

_GUESS_ROWS = 256
_FAR_WORSE = 100.0  # in mean square error
_GUESSES = 0.3  # of the time that is left, for starts of a search
_READ = 3  # networks of a size that formulas are read off
_AS_GOOD = 1.1  # as the best network, in mean square error without what parameters save
_PASSES = 3
_TEST_ROWS = 256  # at which `fit` looks after each step


def some_rows(dataset: Dataset, seed: int) -> Dataset:
    """What networks are trained on: at most 4096 rows, drawn at random."""
    some = {}
    for split, most in (("train", ROWS), ("test", _TEST_ROWS)):
        count = len(dataset[f"{split}_input"])
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(count, generator=generator)[:most].sort().values
        for part in ("input", "label"):
            values = dataset[f"{split}_{part}"]
            some[f"{split}_{part}"] = values[rows.to(values.device)]
    return some


def simplest(
    functions: tuple[SymbolicFunction, ...], width: Sequence[int], problem: Problem, budget: Budget
) -> list[Ranking]:
    """What any formula has to be better than: the mean of the labels and, of one output, a line."""
    smallest = [width[0], *[1] * (len(width) - 2), width[-1]]
    simple = [Batch.empty(functions, smallest, 1)]
    if smallest[-1] == 1 and any(function.name == "x" for function in functions):
        simple.append(line(functions, smallest, problem.x, problem.y))
    return [
        ranked(batch, problem.x, problem.y, problem.floor, 20, budget.search) for batch in simple
    ]


def find_formulas(
    model: AnyNetwork,
    sparse: AnyNetwork,
    simple: Batch,
    dataset: Dataset,
    problem: Problem,
    functions: tuple[SymbolicFunction, ...],
    steps: int,
    restarts: int,
    seed: int,
    budget: Budget,
    show: Show,
) -> list[Attempt[AnyNetwork]]:
    """The best formulas of each size of network, until one is good enough or the time is over."""
    show("training without a penalty")
    whole = [networks.trained(m.copy(), dataset, steps, budget.first) for m in (model, sparse)]
    reference, noise = min(n.error for n in whole), min(n.noise for n in whole)
    widest = max(model.width[1:-1], default=1)
    expected = min(max(sparse.width[1:-1], default=1) + 1, widest)
    attempts: list[Attempt[AnyNetwork]] = []
    for index in range(_PASSES):
        largest = widest if index else expected
        for size in range(1, largest + 1):
            show(f"networks with {size} hidden node{'s' * (size > 1)}, pass {index + 1}")
            start = seed + 1_000_003 * index + 1_009 * size
            ready = budget.networks
            trained = networks.of_size(model, sparse, size, dataset, steps, restarts, start, ready)
            best = trained[0].error
            may_wait = index == 0 and size < largest and not is_over(budget.search)
            if may_wait and best > _FAR_WORSE * reference:
                continue
            near = [n for n in trained[:_READ] if n.error <= _FAR_WORSE * best]
            fine = [networks.finer(network, dataset, steps, ready) for network in near]
            fine.sort(key=lambda network: network.error)
            noise = min(noise, *(network.noise for network in fine))
            rows = problem.features[:_GUESS_ROWS]
            guessed = part_of(budget.search, _GUESSES)
            starts = [simple, guesses(fine[0].model, rows, functions, guessed)]
            for network in fine[1:]:
                if not is_over(guessed):
                    starts.append(guesses(network.model, rows, functions, guessed))
            ranking = search(
                Batch.join(starts), problem.x, problem.y, problem.floor, budget.search,
                _reporter(show, size),
            )  # fmt: skip
            attempts.append(Attempt(ranking, fine[0].model))
            if _is_good(ranking, problem, noise) or is_over(budget.search):
                return attempts
    return attempts


def _is_good(ranking: Ranking, problem: Problem, noise: float) -> bool:
    """The best formula is exact, or as good as networks allow."""
    relative = noise / problem.spread.square().mean().item()
    as_good = math.isfinite(noise) and ranking.errors[0].item() <= _AS_GOOD * relative
    return as_good or is_exact(ranking, problem)


def is_exact(ranking: Ranking, problem: Problem) -> bool:
    """The best formula leaves nothing but rounding errors."""
    return ranking.errors[0].item() < EXACT * problem.floor


def _reporter(show: Show, size: int) -> Callable[[Ranking], None]:
    def report(ranking: Ranking) -> None:
        error = ranking.errors[0].item() ** 0.5
        nodes = f"{size} hidden node{'s' * (size > 1)}"
        show(f"formulas with {nodes}: error {error:.1e} of the deviation")

    return report
