"""From the best symbolic network to the report: constants, formulas, accuracies, alternatives."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.explain.constants import simplified
from kanfast.explain.marquardt import fit
from kanfast.explain.moves import substitutes
from kanfast.explain.problem import Problem
from kanfast.explain.report import Accuracy, Alternative, Explanation
from kanfast.explain.score import free_parameters
from kanfast.explain.search import THIN, Ranking, ranked
from kanfast.explain.tidy import tidied
from kanfast.interpret.dataset import Dataset
from kanfast.nn import symbolic as symbols
from kanfast.symbolic.expressions import snap
from kanfast.symbolic.formula import Formula, SymbolicLayer, compose
from kanfast.symbolic.function import SymbolicFunction
from kanfast.symbolic.library import Library, default_library
from kanfast.symbolic.select import Candidate, EdgeReport

if TYPE_CHECKING:
    from kanfast.nn.kan import KAN

_SNAP = 1e-11  # what constants of a formula are off by that are simple numbers
_MOST_DIGITS = 6
_SHARE = 0.01  # of the labels' deviation, that rounding may add to the error
_ALTERNATIVES = 6
_CANDIDATES = 5
_ROWS = 1000  # of the edges' reports


@dataclass(frozen=True)
class Attempt:
    """The best formulas of one size, and the most accurate network they were read off."""

    ranking: Ranking
    network: KAN


class Names:
    """How formulas are written: their variables, and what the network was fed with.

    Raises:
        ValueError: as `kanfast.symbolic.compose`.
    """

    def __init__(
        self,
        model: KAN,
        var: Sequence[str | sympy.Symbol] | None,
        normalizer: Any,
        output_normalizer: Any,
    ) -> None:
        mask = model.input_mask
        self.features = model.width[0] if mask is None else len(mask)
        self.inputs = model.input_id.tolist()
        self.var = var
        self.moments = _moments(normalizer), _moments(output_normalizer)
        self.compose([SymbolicLayer(self.features, model.width[-1], {})])

    def formula(self, batch: Batch, k: int = 0) -> Formula:
        """Network k, with simple numbers exact."""
        first, *others = batch.layers(k)
        edges = {(o, self.inputs[i]): edge for (o, i), edge in first.edges.items()}
        first = SymbolicLayer(self.features, first.subnodes, edges, subnode_bias=first.subnode_bias)
        found = self.compose([first, *others])
        outputs = tuple(snap(output, _SNAP) for output in found.outputs)
        return Formula(outputs, found.inputs, found.functions)

    def compose(self, layers: Sequence[SymbolicLayer]) -> Formula:
        """The formula of layers from all features."""
        normalizer, output_normalizer = (
            None if moments is None else (moments[0].tolist(), moments[1].tolist())
            for moments in self.moments
        )
        return compose(layers, self.var, normalizer=normalizer, output_normalizer=output_normalizer)


def finish(
    attempts: Sequence[Attempt],
    model: KAN,
    dataset: Dataset,
    problem: Problem,
    names: Names,
    digits: int | None,
    begin: float,
) -> Explanation:
    """The report on the best formula of all attempts."""
    attempt = min(attempts, key=lambda a: a.ranking.scores[0].item())
    ranking = attempt.ranking
    taken, fixed = tidied(_in_units(ranking.batch.take([0]), problem))
    simple = simplified(taken, fixed, problem.x, problem.labels, problem.std, problem.floor)
    formula = names.formula(simple)
    numeric = attempt.network.to(model.kan_layers[0].spline_weight.dtype)
    numeric.samples = dataset["train_input"].detach()
    symbolic = _as_model(simple, numeric)
    rows = _Rows(dataset, names)
    digits = rows.digits(formula) if digits is None else digits
    rounded = formula.rounded(digits)
    with torch.no_grad():
        predicted = numeric(dataset["test_input"])
    return Explanation(
        formula=formula,
        rounded=rounded,
        digits=digits,
        exact=bool(ranking.errors[0] < 10 * problem.floor),
        numeric_accuracy=rows.accuracy(predicted.cpu().double()),
        formula_accuracy=rows.accuracy_of(formula),
        rounded_accuracy=rows.accuracy_of(rounded),
        edges=_edge_reports(tidied(ranking.batch.take([0]))[0], problem),
        alternatives=_alternatives(attempts, problem, names),
        numeric=numeric,
        symbolic=symbolic,
        samples=dataset["train_input"].detach(),
        seconds=time.monotonic() - begin,
    )


def _in_units(batch: Batch, problem: Problem) -> Batch:
    """The networks for labels as they were."""
    edges, shifts = batch.edges[-1].clone(), batch.shifts[-1] * problem.std + problem.mean
    edges[..., 2] *= problem.std[:, None]
    return Batch(
        batch.functions, batch.tables, [*batch.edges[:-1], edges], [*batch.shifts[:-1], shifts]
    )


class _Rows:
    """Rows a formula is tried on: in the dataset's units, whatever the formula's are."""

    def __init__(self, dataset: Dataset, names: Names) -> None:
        self.normalizer, self.output = names.moments

        def rows(split: str) -> tuple[Tensor, Tensor]:
            x, y = (dataset[f"{split}_{part}"].detach().cpu() for part in ("input", "label"))
            return x.double(), y.double()

        self.test, self.train = rows("test"), rows("train")

    def _values(self, formula: Formula, x: Tensor) -> Tensor:
        if self.normalizer is not None:
            mean, std = self.normalizer
            x = x * std + mean
        values = formula(x)
        if self.output is not None:
            mean, std = self.output
            values = (values - mean) / std
        return values

    def accuracy_of(self, formula: Formula) -> Accuracy:
        return self.accuracy(self._values(formula, self.test[0]))

    def accuracy(self, predicted: Tensor) -> Accuracy:
        y = self.test[1]
        error = (predicted - y).square()
        spread = (y - y.mean(0)).square().sum().item()
        r2 = 1 - error.sum().item() / spread if spread > 0 else math.nan
        return Accuracy(error.mean().sqrt().item(), r2)

    def digits(self, formula: Formula) -> int:
        """The fewest decimals, 2 to 6, with which rounding hardly adds to the training error."""
        x, y = self.train

        def error(written: Formula) -> float:
            return (self._values(written, x) - y).square().mean().sqrt().item()

        allowed = 1.1 * error(formula) + _SHARE * (y - y.mean(0)).square().mean().sqrt().item()
        for digits in range(2, _MOST_DIGITS):
            if error(formula.rounded(digits)) <= allowed:
                return digits
        return _MOST_DIGITS


def _as_model(simple: Batch, like: KAN) -> KAN:
    """The network as a KAN with symbolic edges."""
    hidden = [list(range(count)) for count in simple.width[1:-1]]
    model = like.prune_node(active_neurons_id=hidden)
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
    attempts: Sequence[Attempt], problem: Problem, names: Names
) -> tuple[Alternative, ...]:
    """The best formulas of all sizes, those that are the same formula once."""
    found: dict[str, Alternative] = {}
    for ranking in (attempt.ranking for attempt in attempts):
        for k in range(min(_ALTERNATIVES, len(ranking.batch))):
            network, _ = tidied(_in_units(ranking.batch.take([k]), problem))
            formula = names.formula(network)
            alternative = Alternative(
                formula,
                ranking.scores[k].item(),
                ranking.errors[k].item() ** 0.5,
                int(free_parameters(network)[0]),
            )
            text = str(formula.rounded(2))
            if text not in found or alternative.score < found[text].score:
                found[text] = alternative
    ordered = sorted(found.values(), key=lambda alternative: alternative.score)
    return tuple(ordered[:_ALTERNATIVES])


def _edge_reports(one: Batch, problem: Problem) -> tuple[EdgeReport, ...]:
    """For each edge, how good the formula is with other functions on it."""
    reports = []
    x, y = problem.x[:_ROWS], problem.y[:_ROWS]
    for (l, o, i), others in substitutes(one, x[:THIN]):
        others, _ = fit(others, x[:THIN], y[:THIN], 30)
        ranking = ranked(others, x, y, problem.floor, 20)
        network = _in_units(ranking.batch, problem)
        candidates = [
            Candidate(
                one.functions[int(network.tables[l][k, o, i])],
                (*network.edges[l][k, o, i].tolist(), 0.0),
                1 - ranking.errors[k].item(),
                ranking.scores[k].item(),
            )
            for k in range(len(network))
        ]
        chosen = one.functions[int(one.tables[l][0, o, i])]
        own = [c for c in candidates if c.function is chosen]
        candidates = own + [c for c in candidates if c.function is not chosen]
        margin = candidates[1].score - candidates[0].score if len(candidates) > 1 else math.inf
        name = f"edge ({l}, {i}, {o})"
        reports.append(EdgeReport(name, tuple(candidates[:_CANDIDATES]), margin, True))
    return tuple(reports)


def _moments(given: Any) -> tuple[Tensor, Tensor] | None:
    if given is None:
        return None
    mean, std = (torch.as_tensor(values).detach().cpu().double().flatten() for values in given)
    return mean, std
