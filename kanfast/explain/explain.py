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
4. Formulas are compared by their description length (`score`). The search ends when one is exact up
   to rounding, or as good as the best network is but for its number of parameters (as with noise),
   or the time is over.
5. Constants become simple numbers where the data allow it (`tidy`, `constants`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sympy

from kanfast.explain import networks
from kanfast.explain.batch import Batch
from kanfast.explain.finish import Attempt, finish
from kanfast.explain.names import Names
from kanfast.explain.problem import Problem, distinct, problem_of
from kanfast.explain.report import Explanation
from kanfast.explain.search import EXACT, Ranking, search
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
_READ = 3  # networks of a size that formulas are read off
_AS_GOOD = 1.1  # as the best network, in mean square error without what parameters save
_PASSES = 3


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
    _check(steps=steps, restarts=restarts, lamb=lamb, seconds=seconds, digits=digits or 0)
    names = Names(model, var, normalizer, output_normalizer)
    functions = distinct(lib)
    problem = problem_of(dataset, model.input_id, seed)
    wide = {key: value.detach().double() for key, value in dataset.items()}
    with progress(None, quiet=log == 0) as show:
        attempts = _attempts(
            model.copy().double(), wide, problem, functions, steps, lamb, restarts, seed,
            begin + seconds, show,
        )  # fmt: skip
        show("constants")
        return finish(attempts, model, dataset, problem, names, digits, begin)


def _attempts(
    model: KAN,
    dataset: Dataset,
    problem: Problem,
    functions: tuple[SymbolicFunction, ...],
    steps: int,
    lamb: float,
    restarts: int,
    seed: int,
    deadline: float,
    show: Show,
) -> list[Attempt]:
    """The best formulas of each size of network, until one is good enough or the time is over."""
    show("training with a penalty")
    sparse = networks.sparsified(model, dataset, steps, lamb)
    show("training without a penalty")
    whole = [networks.trained(m.copy(), dataset, steps) for m in (model, sparse)]
    reference, noise = min(n.error for n in whole), min(n.noise for n in whole)
    widest = max(model.width[1:-1], default=1)
    expected = min(max(sparse.width[1:-1], default=1) + 1, widest)
    attempts: list[Attempt] = []
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


def _check(*, steps: int, restarts: int, lamb: float, seconds: float, digits: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for name, value in (("restarts", restarts), ("lamb", lamb), ("digits", digits)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
