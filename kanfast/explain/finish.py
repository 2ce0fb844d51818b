"""From the best symbolic network to the report: constants, formulas, accuracies, alternatives."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.explain.budget import Budget, is_over, part_of
from kanfast.explain.constants import simplified
from kanfast.explain.marquardt import fit
from kanfast.explain.moves import substitutes
from kanfast.explain.names import Names
from kanfast.explain.problem import Problem
from kanfast.explain.report import Accuracy, Alternative, Explanation
from kanfast.explain.scaling import Scaling
from kanfast.explain.score import EXACT, free_parameters
from kanfast.explain.search import THIN, Ranking, ranked
from kanfast.explain.shorten import relative_error, shortened
from kanfast.explain.tidy import tidied
from kanfast.explain.units import in_units, inverse
from kanfast.interpret.dataset import Dataset
from kanfast.interpret.pruning import prune_node
from kanfast.nn import symbols
from kanfast.nn.network import AnyNetwork
from kanfast.symbolic.formula import Formula
from kanfast.symbolic.function import SymbolicFunction
from kanfast.symbolic.library import Library, default_library
from kanfast.symbolic.select import Candidate, EdgeReport

_MOST_DIGITS = 15  # significant ones, of a double
_EXACT_DIGITS = 10  # that are written for a formula to be exact as it is written
_AS_SCORED = 2.0  # times the error that a formula was chosen by, that it may have as it is written
_NUMBERS = 2**22  # in the largest tensor
_SHARE = 1e-3  # of the labels' deviation, that rounding may add to the error
_ALTERNATIVES = 6
_SAME = 1e-6  # formulas that differ by less of the labels' deviation are the same
_CANDIDATES = 5
_ROWS = 1000  # of the edges' reports


@dataclass(frozen=True)
class Attempt(Generic[AnyNetwork]):
    """The best formulas of one size, and the most accurate network they were read off."""

    ranking: Ranking
    network: AnyNetwork


def finish(
    attempts: Sequence[Attempt[AnyNetwork]],
    model: AnyNetwork,
    dataset: Dataset,
    scaling: Scaling,
    problem: Problem,
    names: Names,
    digits: int | None,
    budget: Budget,
) -> Explanation[AnyNetwork]:
    """The report on the best formula of all attempts.

    Args:
        attempts: from the search; the mean of the labels is among them.
        model: as wide as any of them, with their inputs, in the user's dtype.
        dataset: the user's.
        scaling: the units that networks are trained in.
        problem, names: the rows and how formulas are written.
        digits: of the constants, or None.
        budget: the time there is.
    """
    rows = _Written(names, dataset, problem.floor)
    attempt, one, simple, formula = _chosen(attempts, problem, names, rows, budget)
    formula = rows.shortened(formula, budget.finish)
    rounded, digits = _rounded(formula, digits, rows)
    grid = model.kan_layers[0].grid
    numeric = attempt.network.to(grid.dtype)
    scaled = scaling.scaled(dataset)
    numeric.samples = scaled["train_input"].to(grid)
    with torch.no_grad():
        given = numeric(scaled["test_input"].to(grid)).cpu().double()
    shift, factor = problem.labels
    x, y = dataset["test_input"], names.labels(dataset["test_label"])
    mean, std = names.features
    chosen = mean[problem.columns], std[problem.columns]
    symbolic = in_units(simple, inverse(chosen), inverse(names.outputs))
    return Explanation(
        formula=formula,
        rounded=rounded,
        digits=digits,
        exact=rows.error(rounded) < EXACT * problem.floor,
        exact_formula=rows.error(formula) < EXACT * problem.floor,
        numeric_accuracy=_accuracy(given * factor + shift, y),
        formula_accuracy=_accuracy(names.evaluate(formula, x), y),
        rounded_accuracy=_accuracy(names.evaluate(rounded, x), y),
        edges=_edge_reports(tidied(one)[0], problem, budget),
        alternatives=_alternatives(attempts, one, problem, names, budget),
        numeric=numeric,
        symbolic=_as_model(symbolic, model, dataset),
        scaling=scaling,
        samples=dataset["train_input"].detach(),
        seconds=time.monotonic() - budget.begin,
    )


class _Written:
    """The training rows in the formula's units, which judge formulas as they are written."""

    def __init__(self, names: Names, dataset: Dataset, floor: float) -> None:
        self.x, self.y = (
            names.in_units(dataset["train_input"]),
            names.labels(dataset["train_label"]),
        )
        spread = self.y.std(0, correction=0)
        self._spread = torch.where(spread > 0, spread, 1)
        self.floor = floor

    def error(self, formula: Formula) -> float:
        """The mean square error relative to the variance; infinite if a value is none."""
        return relative_error(formula, self.x, self.y, self._spread)

    def shortened(self, formula: Formula, deadline: float) -> Formula:
        """See `kanfast.explain.shorten`."""
        return shortened(formula, self.x, self.y, self._spread, self.floor, deadline)

    def is_as_scored(self, formula: Formula, error: float) -> bool:
        """Whether a formula that was chosen by an error has it as it is written, up to rounding."""
        return self.error(formula) <= _AS_SCORED * error + EXACT * self.floor


def _chosen(
    attempts: Sequence[Attempt[AnyNetwork]],
    problem: Problem,
    names: Names,
    rows: _Written,
    budget: Budget,
) -> tuple[Attempt[AnyNetwork], Batch, Batch, Formula]:
    """The best formula that is as good, as it is written, as the score says.

    Returns:
        Where it was found, its network in the search, and in its own units, and the formula.
    """
    for _, attempt, k in _in_order(attempts):
        one = attempt.ranking.batch.take([k])
        plain, _ = tidied(_as_written(one, problem))
        for network in (_simple(one, problem, rows, budget.finish), plain):
            formula = names.formula(network, problem.columns)
            if rows.is_as_scored(formula, attempt.ranking.errors[k].item()):
                return attempt, one, network, formula
    raise RuntimeError("not even the mean of the labels is as good as scored: please report it")


def _in_order(
    attempts: Sequence[Attempt[AnyNetwork]],
) -> Iterator[tuple[float, Attempt[AnyNetwork], int]]:
    """All formulas down to the mean of the labels, which is the first attempt's: best first."""
    least = attempts[0].ranking.scores[0].item()
    entries = [
        (score, number, k)
        for number, attempt in enumerate(attempts)
        for k, score in enumerate(attempt.ranking.scores.tolist())
        if score < least or (number, k) == (0, 0)
    ]
    for score, number, k in sorted(entries):
        yield score, attempts[number], k


def _as_written(one: Batch, problem: Problem) -> Batch:
    """A network of the search in the units of the formula."""
    return in_units(one, problem.inputs, problem.outputs)


def _simple(one: Batch, problem: Problem, rows: _Written, deadline: float) -> Batch:
    """The network in the formula's units, in standard form and with simple constants."""
    network, fixed = tidied(_as_written(one, problem))
    x, y = problem.written
    if len(rows.x) > len(x):  # than those of the search: all of them have their say
        every = -(-len(rows.x) * network.parameters().shape[1] // _NUMBERS)
        x, y = rows.x[::every, problem.columns], rows.y[::every]
    return simplified(network, fixed, x, y, problem.outputs[1], problem.floor, deadline)[0]


def _accuracy(predicted: Tensor, y: Tensor) -> Accuracy:
    error = (predicted - y).square()
    spread = (y - y.mean(0)).square().sum(0)
    r2 = 1 - (error.sum(0) / spread).mean().item()  # nan if a label does not vary in these rows
    return Accuracy(error.mean().sqrt().item(), r2)


def _rounded(formula: Formula, digits: int | None, rows: _Written) -> tuple[Formula, int]:
    """The formula as it is written, and its number of significant digits.

    Without a number the fewest, from 2 on, with which an exact formula is exact, if they are no
    more than 10; else those with which rounding hardly adds to the training error.
    """
    if digits is not None:
        return formula.significant(digits), digits
    error, exact = rows.error(formula), EXACT * rows.floor
    limits = [(_EXACT_DIGITS, exact)] if error < exact else []
    limits.append((_MOST_DIGITS, (1.1 * math.sqrt(error) + _SHARE) ** 2))
    for most, allowed in limits:
        for count in range(2, most + 1):
            written = formula.significant(count)
            if rows.error(written) <= allowed:
                return written, count
    return formula.significant(_MOST_DIGITS), _MOST_DIGITS


def _as_model(simple: Batch, like: AnyNetwork, dataset: Dataset) -> AnyNetwork:
    """The network, in the units of a dataset, as a KAN with symbolic edges."""
    hidden = [list(range(count)) for count in simple.width[1:-1]]
    model = prune_node(like, active_neurons_id=hidden)
    library = _library_of(simple.functions)
    zero = default_library()["0"]
    for l, layer in enumerate(model.kan_layers):
        table, edges, shifts = simple.tables[l][0], simple.edges[l][0], simple.shifts[l][0].clone()
        layer.set_mask(torch.zeros(table.shape, dtype=torch.bool))
        for o, i in (table != NONE).nonzero().tolist():
            params = torch.cat([edges[o, i], shifts[o, None]])  # the first edge takes the shift
            symbols.fix(layer, o, i, simple.functions[int(table[o, i])], params, library)
            shifts[o] = 0
        for o in shifts.nonzero().flatten().tolist():
            symbols.fix(layer, o, 0, zero, [1.0, 0.0, 1.0, shifts[o].item()], library)
    model.samples = dataset["train_input"].detach()
    return model


def _library_of(functions: Sequence[SymbolicFunction]) -> Library | None:
    """A library that has the functions; None if the default one has them all."""
    default = default_library()
    if all(default.get(function.name) is function for function in functions):
        return None
    return Library([*functions, default["0"]])


def _alternatives(
    attempts: Sequence[Attempt[AnyNetwork]],
    chosen: Batch,
    problem: Problem,
    names: Names,
    budget: Budget,
) -> tuple[Alternative, ...]:
    """The chosen formula and the best others of all sizes; of those with equal values, the best."""
    found: list[Alternative] = []
    values: list[Tensor] = []
    for score, attempt, k in _in_order(attempts):
        one = attempt.ranking.batch.take([k])
        value = one.nodes(problem.x)[-1][0]
        is_chosen = one.key(0) == chosen.key(0) and one.width == chosen.width
        if not (found or is_chosen):
            continue
        if any(((value - other).abs() < _SAME).all() for other in values):
            continue
        values.append(value)
        network, _ = tidied(_as_written(one, problem))
        found.append(
            Alternative(
                names.formula(network, problem.columns),
                score,
                attempt.ranking.errors[k].item() ** 0.5,
                int(free_parameters(network)[0]),
            )
        )
        if len(found) == _ALTERNATIVES or is_over(budget.end):
            break
    return tuple(found)


def _edge_reports(one: Batch, problem: Problem, budget: Budget) -> tuple[EdgeReport, ...]:
    """For each edge, how good the formula is with other functions on it, while there is time."""
    reports = []
    x, y = problem.x[:_ROWS], problem.y[:_ROWS]
    deadline = budget.finish
    for edge, others in substitutes(one, x[:THIN], part_of(deadline, 0.5)):
        l, i, o = edge
        if is_over(deadline):
            break
        others, _ = fit(others, x[:THIN], y[:THIN], 30, deadline=deadline)
        ranking = ranked(others, x, y, problem.floor, 20, deadline)
        chosen: list[Candidate] = []
        rest: list[Candidate] = []
        for k in range(len(ranking.batch)):
            network = _as_written(ranking.batch.take([k]), problem)
            function = network.functions[int(network.tables[l][0, o, i])]
            a, b, c = network.edges[l][0, o, i].tolist()
            r2, score = 1 - ranking.errors[k].item(), ranking.scores[k].item()
            own = network.tables[l][0, o, i] == one.tables[l][0, o, i]
            (chosen if own else rest).append(Candidate(function, (a, b, c, 0.0), r2, score))
        margin = rest[0].score - chosen[0].score if rest else math.inf
        candidates = (*chosen, *rest[: _CANDIDATES - 1])
        reports.append(EdgeReport(f"edge {edge}", candidates, margin, True))
    return tuple(reports)
