"""`fit` by Levenberg-Marquardt: starts, grids, and when to stop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset
from kanfast.interpret.descent import Settings, check_shapes, stopped
from kanfast.interpret.history import History, Stage, name_of
from kanfast.interpret.newton.grids import follow, resized
from kanfast.interpret.newton.marquardt import Problem, iterate
from kanfast.interpret.newton.networks import Networks
from kanfast.interpret.newton.penalty import Penalty
from kanfast.interpret.newton.plan import Plan
from kanfast.interpret.newton.starts import fresh, joined
from kanfast.interpret.progress import progress
from kanfast.nn.network import AnyNetwork, Network

_ROUND = 10  # steps after which the hopeless half of the starts is dropped, and grids follow
_SURVIVORS = 2  # starts that finer grids are tried with
_HELD_OUT, _FEWEST = 8, 40  # one in so many rows is held out, if there are at least so many
_ROUGHNESS = (1e-17, 1e-15)  # strengths of the penalty that finer grids are tried with
_GAIN = 0.95  # of the held-out error, below which a finer grid is better
_PATIENCE = 2  # grids that are no better, after which there are no more
_CONVERGED = 1e-4  # relative change of the objective in a round
_RESTARTS = 8  # of a network that fits no better than a constant


@dataclass(frozen=True)
class Search:
    """Arguments of `fit` that only this training has.

    Attributes:
        restarts: Starts; None for 8 of a network that fits no better than a constant, else 1.
        grids: Numbers of intervals, or None for those that the layers have.
        sample_weight: [rows] or None.
        keep_all: Whether no start is dropped.
    """

    restarts: int | None = None
    grids: tuple[int, ...] | None = None
    sample_weight: Tensor | None = None
    keep_all: bool = False


def train(network: Network, dataset: Dataset, settings: Settings, search: Search) -> History:
    """Trains a network in place; see `fit`."""
    return _Training(network, dataset, settings, search).run()


def train_all(
    network: AnyNetwork, dataset: Dataset, settings: Settings, search: Search
) -> tuple[list[AnyNetwork], History]:
    """Trained copies of a network, one for each start that was not dropped, the best one first."""
    own = network.copy()
    training = _Training(own, dataset, settings, search)
    history = training.run()
    networks = []
    for start in range(len(training.best)):
        training.best.write(start)
        networks.append(own.copy())
    return networks, history


class _Training:
    def __init__(
        self, network: Network, dataset: Dataset, settings: Settings, search: Search
    ) -> None:
        self.network, self.settings, self.search = network, settings, search
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.rows = _problem(network, dataset, "train", search.sample_weight)
        self.test = _problem(network, dataset, "test", None, self.rows.unit)
        self.fitted, self.held_out = self.rows, self.rows
        if search.grids is not None and len(self.rows.x) >= _FEWEST:
            order = torch.randperm(len(self.rows.x), generator=self.generator)
            order = order.to(self.rows.x.device)
            count = len(order) // _HELD_OUT
            self.held_out, self.fitted = (
                self.rows.rows(order[:count]),
                self.rows.rows(order[count:]),
            )
        names = ["train_loss", "test_loss", "reg", *map(name_of, settings.metrics)]
        self.history = History(names)
        self.best = Networks.of(Plan(network, moves_grids=settings.update_grid))

    @torch.no_grad()
    def run(self) -> History:
        """Trains, and writes the best network whatever happens."""
        total = self.settings.steps if self.search.grids is None else None
        with progress(total, quiet=self.settings.log == 0) as self.show:
            try:
                self._run()
            finally:
                if self.history["train_loss"]:
                    self.best.write(0)
        return self.history

    def _run(self) -> None:
        own = self.best
        trained = bool(self.rows.error(own)[0] < 1)
        sizes = self.search.grids
        if sizes is not None:
            if trained:
                size = max(layer.grid_size for layer in own.plan.layers)
                sizes = (size, *(g for g in sizes if g > size))
            own = resized(own, sizes[0])
        restarts = self.search.restarts or (1 if trained else _RESTARTS)
        networks = own
        if restarts > 1:
            networks = joined(own, fresh(own, restarts - 1, self.fitted, self.generator))
        survivors = len(networks) if self.search.keep_all else _SURVIVORS if sizes else 1
        networks = self._starts(networks, survivors)
        if sizes is None or not self.history["train_loss"]:
            return
        strength = networks.theta.new_zeros(len(networks))
        errors = self._errors(networks)
        self._tell(sizes[0], errors.min(), "the first grid")
        coarse, failures = networks, 0
        for size in sizes[1:]:
            if coarse.plan.count(size) > self.fitted.y.numel():
                self._tell(size, errors.new_tensor(math.nan), "more parameters than labels")
                break
            finer, strengths = self._finer(coarse, size)
            found = self._errors(finer)
            better = bool(found.min() < _GAIN * errors.min())
            reason = "better on held-out rows" if better else "no better on held-out rows"
            self._tell(size, found.min(), reason)
            order = found.argsort()[:_SURVIVORS]
            coarse, failures = finer.take(order), failures + 1
            if better:
                networks, errors, strength, failures = coarse, found[order], strengths[order], 0
            elif failures == _PATIENCE:
                break
        order = errors.argsort()
        self.best = networks.take(order)
        self._polish(self.best, strength[order])

    def _errors(self, networks: Networks) -> Tensor:
        """Errors [S] on held-out rows, in units of the labels' deviation."""
        return self.held_out.error(networks).nan_to_num(math.inf, math.inf).sqrt()

    def _starts(self, networks: Networks, survivors: int) -> Networks:
        """The best of several starts, on the grid that they have."""
        last = math.inf
        losses = networks.theta.new_full((len(networks),), math.inf)
        alive = torch.arange(len(networks), device=losses.device)
        done = 0
        lowest, kept = math.inf, networks
        while done < self.settings.steps:
            count = min(_ROUND, self.settings.steps - done)
            if self.settings.update_grid and self._follows():
                errors = self.fitted.error(networks).nan_to_num(math.inf, math.inf)
                if errors.min() < lowest:
                    lowest, kept = float(errors.min()), networks.take(errors.argmin()[None])
                networks = follow(networks, self.fitted.x)
            networks, costs = self._steps(networks, count, Penalty.none(networks))
            done += count
            costs = costs.nan_to_num(math.inf, math.inf)
            losses[alive] = costs.sqrt() * self.rows.unit
            order = costs.argsort()
            few = len(networks) <= survivors
            converged = few and not costs.min() < (1 - _CONVERGED) * last
            if not few:
                order = order[: max(survivors, (len(networks) + 1) // 2)]
            last = float(costs.min())
            networks, alive = networks.take(order), alive[order]
            self.best = networks
            if converged or not math.isfinite(last):
                break
        if (
            lowest < last and not self.search.keep_all
        ):  # where grids moved last something was lost, and not won back
            networks, costs = self._steps(kept, 1, Penalty.none(kept))
            losses[losses.argmin()] = costs[0].sqrt() * self.rows.unit
        self.history.starts = losses.tolist()
        return networks

    def _finer(self, networks: Networks, size: int) -> tuple[Networks, Tensor]:
        """The networks on a finer grid, trained with several penalties; these [S]."""
        networks = resized(networks, size)
        networks, _ = self._steps(networks, 5, self._penalty(networks, _ROUGHNESS[:1]))
        networks = follow(networks, self.fitted.x)
        networks, costs = self._steps(networks, 5, self._penalty(networks, _ROUGHNESS[:1]))
        networks = follow(networks, self.fitted.x)
        copies = torch.arange(len(networks)).repeat_interleave(len(_ROUGHNESS))
        networks = networks.take(copies.to(costs.device))
        penalty = self._penalty(networks, _ROUGHNESS)
        networks, _ = self._steps(networks, 15, penalty)
        return networks, penalty.strength

    def _penalty(self, networks: Networks, strengths: Sequence[float]) -> Penalty:
        strength = networks.theta.new_tensor(strengths).repeat(len(networks) // len(strengths))
        return Penalty.of(networks, self.fitted.x, strength)

    def _polish(self, networks: Networks, strength: Tensor) -> None:
        """The last steps, on all rows."""
        networks = follow(networks, self.rows.x)
        penalty = Penalty.of(networks, self.rows.x, strength)
        self.fitted = self.rows
        networks, _ = self._steps(networks, 10, penalty)
        self.best = networks

    def _follows(self) -> bool:
        """Whether grids may still move."""
        step = len(self.history["train_loss"])
        start, stop = self.settings.grid_update_steps
        return start <= step < stop

    def _steps(self, networks: Networks, count: int, penalty: Penalty) -> tuple[Networks, Tensor]:
        """Some steps of all networks, told to the history; they, and their objectives [S]."""
        costs = networks.theta.new_full((len(networks),), math.inf)
        for state in iterate(networks, self._batch, count, penalty):
            networks, costs = state
            first = int(costs.nan_to_num(math.inf, math.inf).argmin())
            chosen = networks.take(torch.tensor([first], device=costs.device))
            train = float(self.fitted.error(chosen)[0])
            test = float(self.test.error(chosen)[0])
            if not (math.isfinite(train) and math.isfinite(test)):
                message = stopped(len(self.history["train_loss"]), train, 0.0, test)
                warnings.warn(message, RuntimeWarning, stacklevel=6)
                break
            order = costs.nan_to_num(math.inf, math.inf).argsort()
            self.best = networks.take(order)
            unit = self.rows.unit
            train, test = train**0.5 * unit, test**0.5 * unit
            metrics = self.settings.metrics
            if metrics:
                self.best.write(0)
            self.history.append([train, test, 0.0, *(float(f()) for f in metrics)])
            log, index = self.settings.log, len(self.history["train_loss"]) - 1
            line = f"train_loss: {train:.2e} | test_loss: {test:.2e} | reg: {0.0:.2e}"
            self.show(line if log and index % log == 0 else None)
        return networks, costs

    def _batch(self, step: int) -> Problem:
        """The rows of a step."""
        batch = self.settings.batch
        if batch == -1 or batch >= len(self.fitted.x):
            return self.fitted
        index = torch.randperm(len(self.fitted.x), generator=self.generator)[:batch]
        return self.fitted.rows(index.to(self.fitted.x.device))

    def _tell(self, grid_size: int, error: Tensor, reason: str) -> None:
        self.history.stages.append(Stage(grid_size, float(error) * self.rows.unit, reason))


def _problem(
    network: Network,
    dataset: Dataset,
    split: str,
    weight: Tensor | None,
    unit: float | None = None,
) -> Problem:
    x, y = dataset[f"{split}_input"].detach(), dataset[f"{split}_label"].detach()
    check_shapes(y.new_empty(len(x), network.width[-1]), y)
    x, y = network.select_inputs(x).double(), y.double()
    if unit is None:
        deviation = float((y - y.mean(0)).square().mean().sqrt())
        size = float(y.abs().max())
        unit = deviation if 0 < deviation < math.inf else size if 0 < size < math.inf else 1.0
    if weight is not None:
        weight = weight.to(y) / weight.double().mean().to(y)
    return Problem(x, y, unit, weight)
