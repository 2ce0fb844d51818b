"""From the best symbolic network to the report: constants, formulas, accuracies, alternatives."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.explain.constants import simplified
from kanfast.explain.marquardt import fit
from kanfast.explain.moves import substitutes
from kanfast.explain.names import Names
from kanfast.explain.problem import Problem
from kanfast.explain.report import Accuracy, Alternative, Explanation
from kanfast.explain.score import free_parameters
from kanfast.explain.search import EXACT, THIN, Ranking, ranked
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

_MOST_DIGITS = 6
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
    problem: Problem,
    names: Names,
    digits: int | None,
    begin: float,
) -> Explanation[AnyNetwork]:
    """The report on the best formula of all attempts."""
    attempt = min(attempts, key=lambda a: a.ranking.scores[0].item())
    ranking = attempt.ranking
    simple = _simple(ranking.batch.take([0]), problem, names)
    formula = names.formula(simple)
    digits = _digits(formula, dataset, names) if digits is None else digits
    rounded = formula.rounded(digits)
    numeric = attempt.network.to(model.kan_layers[0].spline_weight.dtype)
    numeric.samples = dataset["train_input"].detach()
    with torch.no_grad():
        predicted = names.labels(numeric(dataset["test_input"]))
    x, y = dataset["test_input"], names.labels(dataset["test_label"])
    return Explanation(
        formula=formula,
        rounded=rounded,
        digits=digits,
        exact=bool(ranking.errors[0] < EXACT * problem.floor),
        numeric_accuracy=_accuracy(predicted, y),
        formula_accuracy=_accuracy(names.evaluate(formula, x), y),
        rounded_accuracy=_accuracy(names.evaluate(rounded, x), y),
        edges=_edge_reports(tidied(ranking.batch.take([0]))[0], problem, names),
        alternatives=_alternatives(attempts, problem, names),
        numeric=numeric,
        symbolic=_as_model(
            in_units(simple, inverse(names.chosen), inverse(names.outputs)), numeric
        ),
        samples=dataset["train_input"].detach(),
        seconds=time.monotonic() - begin,
    )


def _as_written(one: Batch, problem: Problem, names: Names) -> Batch:
    """A network of the search in the units of the formula."""
    mean, std = names.outputs
    return in_units(one, names.chosen, (problem.mean * std + mean, problem.std * std))


def _simple(one: Batch, problem: Problem, names: Names) -> Batch:
    """The network in the formula's units, in standard form and with simple constants."""
    network, fixed = tidied(_as_written(one, problem, names))
    (x_mean, x_std), (y_mean, y_std) = names.chosen, names.outputs
    x, y = problem.x * x_std + x_mean, problem.labels * y_std + y_mean
    return simplified(network, fixed, x, y, problem.std * y_std, problem.floor)


def _accuracy(predicted: Tensor, y: Tensor) -> Accuracy:
    error = (predicted - y).square()
    spread = (y - y.mean(0)).square().sum(0)
    r2 = 1 - (error.sum(0) / spread).mean().item()  # nan if a label does not vary in these rows
    return Accuracy(error.mean().sqrt().item(), r2)


def _digits(formula: Formula, dataset: Dataset, names: Names) -> int:
    """The fewest decimals, 2 to 6, with which rounding hardly adds to the training error."""
    x, y = dataset["train_input"], names.labels(dataset["train_label"])
    deviation = y.std(0, correction=0)

    def error(written: Formula) -> float:
        return ((names.evaluate(written, x) - y) / deviation).square().mean().sqrt().item()

    allowed = 1.1 * error(formula) + _SHARE
    for digits in range(2, _MOST_DIGITS):
        if error(formula.rounded(digits)) <= allowed:
            return digits
    return _MOST_DIGITS


def _as_model(simple: Batch, like: AnyNetwork) -> AnyNetwork:
    """The network as a KAN with symbolic edges."""
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
    return model


def _library_of(functions: Sequence[SymbolicFunction]) -> Library | None:
    """A library that has the functions; None if the default one has them all."""
    default = default_library()
    if all(default.get(function.name) is function for function in functions):
        return None
    return Library([*functions, default["0"]])


def _alternatives(
    attempts: Sequence[Attempt[AnyNetwork]], problem: Problem, names: Names
) -> tuple[Alternative, ...]:
    """The best formulas of all sizes; of those with the same values, the best."""
    found: list[Alternative] = []
    values: list[Tensor] = []
    entries = [
        (attempt.ranking.scores[k].item(), attempt.ranking, k)
        for attempt in attempts
        for k in range(len(attempt.ranking.batch))
    ]
    for score, ranking, k in sorted(entries, key=lambda entry: entry[0]):
        one = ranking.batch.take([k])
        value = one.nodes(problem.x)[-1][0]
        if any(((value - other).abs() < _SAME).all() for other in values):
            continue
        values.append(value)
        network, _ = tidied(_as_written(one, problem, names))
        found.append(
            Alternative(
                names.formula(network),
                score,
                ranking.errors[k].item() ** 0.5,
                int(free_parameters(network)[0]),
            )
        )
        if len(found) == _ALTERNATIVES:
            break
    return tuple(found)


def _edge_reports(one: Batch, problem: Problem, names: Names) -> tuple[EdgeReport, ...]:
    """For each edge, how good the formula is with other functions on it."""
    reports = []
    x, y = problem.x[:_ROWS], problem.y[:_ROWS]
    for edge, others in substitutes(one, x[:THIN]):
        l, i, o = edge
        others, _ = fit(others, x[:THIN], y[:THIN], 30)
        ranking = ranked(others, x, y, problem.floor, 20)
        chosen: list[Candidate] = []
        rest: list[Candidate] = []
        for k in range(len(ranking.batch)):
            network = _as_written(ranking.batch.take([k]), problem, names)
            function = network.functions[int(network.tables[l][0, o, i])]
            a, b, c = network.edges[l][0, o, i].tolist()
            r2, score = 1 - ranking.errors[k].item(), ranking.scores[k].item()
            own = network.tables[l][0, o, i] == one.tables[l][0, o, i]
            (chosen if own else rest).append(Candidate(function, (a, b, c, 0.0), r2, score))
        margin = rest[0].score - chosen[0].score if rest else math.inf
        candidates = (*chosen, *rest[: _CANDIDATES - 1])
        reports.append(EdgeReport(f"edge {edge}", candidates, margin, True))
    return tuple(reports)
