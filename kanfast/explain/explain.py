"""`KAN.explain`: from data to a formula.

1. A copy of the model is trained with a penalty and loses its dead nodes. The model and what is
   left of it are trained without a penalty: that tells what accuracy may be hoped for.
2. For 1, 2, ... nodes in every hidden layer, networks of that size are trained: the most important
   nodes of the sparse one, and new starts. Sizes that are far worse than hoped for are put off. The
   best get a finer grid (`networks`).
3. The curves of these networks are matched with functions, edge by edge; the most likely
   combinations become networks of functions, whose parameters are all fitted to the data together.
   From the best of them a beam search goes on: other functions on an edge or on a group of edges,
   edges and nodes taken away (`start`, `moves`, `search`).
4. Formulas are compared by their description length (`score`), with the mean of the labels among
   them. The search ends when one is exact up to rounding, or as good as the best network is but for
   its number of parameters (as with noise), or the time is over.
5. Constants become simple numbers where the data allow it (`tidy`, `constants`), and terms that do
   nothing leave the formula as it is written (`shorten`).

Columns of unusual size are trained on in other units (`scaling`); formulas are in the data's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch

from kanfast.explain import networks
from kanfast.explain.batch import Batch
from kanfast.explain.budget import Budget, is_over, part_of
from kanfast.explain.finish import Attempt, finish
from kanfast.explain.lines import line
from kanfast.explain.names import Names
from kanfast.explain.problem import (
    ROWS,
    Problem,
    check_values,
    distinct,
    problem_of,
    rounding_floor,
)
from kanfast.explain.report import Explanation
from kanfast.explain.scaling import Scaling, composed
from kanfast.explain.score import EXACT
from kanfast.explain.search import Ranking, ranked, search
from kanfast.explain.start import guesses
from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.progress import progress
from kanfast.interpret.symbolic import Functions, live_edges
from kanfast.symbolic.function import SymbolicFunction

if TYPE_CHECKING:
    from kanfast.nn.kan import KAN

Show = Callable[[str | None], None]

_GUESS_ROWS = 256
_FAR_WORSE = 100.0  # in mean square error
_GUESSES = 0.3  # of the time that is left, for starts of a search
_READ = 3  # networks of a size that formulas are read off
_AS_GOOD = 1.1  # as the best network, in mean square error without what parameters save
_PASSES = 3
_TEST_ROWS = 256  # at which `fit` looks after each step


def explain(
    model: KAN,
    dataset: Dataset,
    steps: int,
    lamb: float,
    restarts: int,
    lib: Functions,
    var: Sequence[str | sympy.Symbol] | None,
    normalizer: Any,
    output_normalizer: Any,
    digits: int | None,
    seconds: float,
    seed: int,
    log: int,
) -> Explanation:
    """The body of `KAN.explain`."""
    begin = time.monotonic()
    dataset = check_dataset(dataset)
    if live_edges(model, symbolic=True):
        raise ValueError(
            "expected a model whose edges are all splines, got one with symbolic edges; "
            "call unfix_symbolic_all() first"
        )
    if len(model.nodes):
        raise ValueError(
            "expected a model whose nodes are sums over edges, got one with multiplication nodes "
            "or affine maps of nodes; give a KAN without them: products are found as differences "
            "of squares or by logarithms"
        )
    _check(steps=steps, restarts=restarts, lamb=lamb, seconds=seconds, digits=digits)
    check_values(dataset)
    names = Names(model, var, normalizer, output_normalizer, dataset["train_input"])
    functions = distinct(lib)
    budget = Budget.of(begin, seconds)
    scaling = Scaling.of(dataset)
    wide = scaling.scaled(dataset)
    units = composed(scaling.inputs, names.features), composed(scaling.outputs, names.outputs)
    few = _some_rows(wide, seed)
    with progress(None, quiet=log == 0) as show:
        floor = rounding_floor(dataset)
        problem = problem_of(wide, model.input_id, units, floor, seed)
        simple = _simplest(functions, model.width, problem, budget)
        whole = model.copy().double()
        show("training with a penalty")
        sparse = networks.sparsified(whole, few, steps, lamb, budget.first)
        inputs = networks.important_inputs(sparse, simple[-1].batch.used_inputs)
        if len(inputs) < sparse.width[0]:
            whole, sparse = (m.prune_input(active_inputs=inputs) for m in (whole, sparse))
            problem = problem_of(wide, whole.input_id, units, floor, seed)
            simple = [ranking.of_inputs(inputs) for ranking in simple]
        attempts = [Attempt(ranking, sparse) for ranking in simple]
        if not _is_exact(simple[-1], problem):
            attempts += _attempts(
                whole, sparse, simple[-1].batch, few, problem, functions, steps, restarts, seed,
                budget, show,
            )  # fmt: skip
        show("constants")
        like = whole.to(model.kan_layers[0].grid.dtype)
        return finish(attempts, like, dataset, scaling, problem, names, digits, budget)


def _some_rows(dataset: Dataset, seed: int) -> Dataset:
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


def _simplest(
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


def _attempts(
    model: KAN,
    sparse: KAN,
    simple: Batch,
    dataset: Dataset,
    problem: Problem,
    functions: tuple[SymbolicFunction, ...],
    steps: int,
    restarts: int,
    seed: int,
    budget: Budget,
    show: Show,
) -> list[Attempt]:
    """The best formulas of each size of network, until one is good enough or the time is over."""
    show("training without a penalty")
    whole = [networks.trained(m.copy(), dataset, steps, budget.first) for m in (model, sparse)]
    reference, noise = min(n.error for n in whole), min(n.noise for n in whole)
    widest = max(model.width[1:-1], default=1)
    expected = min(max(sparse.width[1:-1], default=1) + 1, widest)
    attempts: list[Attempt] = []
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
    return as_good or _is_exact(ranking, problem)


def _is_exact(ranking: Ranking, problem: Problem) -> bool:
    """The best formula leaves nothing but rounding errors."""
    return ranking.errors[0].item() < EXACT * problem.floor


def _reporter(show: Show, size: int) -> Callable[[Ranking], None]:
    def report(ranking: Ranking) -> None:
        error = ranking.errors[0].item() ** 0.5
        nodes = f"{size} hidden node{'s' * (size > 1)}"
        show(f"formulas with {nodes}: error {error:.1e} of the deviation")

    return report


def _check(*, steps: int, restarts: int, lamb: float, seconds: float, digits: int | None) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for name, value in (("restarts", restarts), ("lamb", lamb)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if digits is not None and digits < 1:
        raise ValueError(f"digits must be at least 1, got {digits}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
