"""Levenberg-Marquardt on S networks at once, each with a damping of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.engine.normal import gram
from kanfast.interpret.newton.networks import Networks
from kanfast.interpret.newton.penalty import Penalty

_ELEMENTS = 2**24  # numbers in the largest tensor of a pass
_TRIALS = 5  # damped steps that an iteration tries
_LOWEST, _HIGHEST = 1e-15, 1e10  # damping, in units of the mean diagonal


@dataclass(frozen=True)
class Problem:
    """Rows to fit, in float64.

    Attributes:
        x: Inputs [B, I] of the first layer.
        y: Labels [B, Q].
        unit: Of errors.
        weight: [B], mean 1, or None.
    """

    x: Tensor
    y: Tensor
    unit: float
    weight: Tensor | None = None

    def rows(self, index: Tensor) -> Problem:
        """The problem of some rows."""
        weight = None if self.weight is None else self.weight[index]
        return Problem(self.x[index], self.y[index], self.unit, weight)

    def chunks(self, starts: int, width: int) -> Iterator[Problem]:
        """Parts of the rows for which `width` numbers a row and start fit into memory."""
        size = max(1, _ELEMENTS // max(1, starts * width))
        for at in range(0, len(self.x), size):
            yield self.rows(torch.arange(at, min(at + size, len(self.x)), device=self.x.device))

    def residuals(self, output: Tensor) -> Tensor:
        """Errors [S, B, Q] in the unit, times the roots of the weights."""
        error = (output - self.y) / self.unit
        return error if self.weight is None else error * self.weight.sqrt()[:, None]

    def error(self, networks: Networks) -> Tensor:
        """Mean square errors [S] in the unit; not finite where an output is not."""
        total = torch.zeros(len(networks), dtype=torch.float64, device=self.x.device)
        width = sum(layer.out_features * 4 for layer in networks.plan.layers)
        for part in self.chunks(len(networks), width):
            total += part.residuals(networks.forward(part.x)).square().sum((1, 2))
        return total / self.y.numel()


def equations(networks: Networks, problem: Problem) -> tuple[Tensor, Tensor]:
    """J^T J [S, P, P] and J^T r [S, P], means over all residuals."""
    plan, starts = networks.plan, len(networks)
    width = plan.dense_width(problem.y.shape[1], cpu=problem.x.is_cpu)
    whole: Tensor | None = None
    slope: Tensor | None = None
    for part in problem.chunks(starts, width):
        made = networks.linearize(part.x)
        rest = part.residuals(made.y).unsqueeze(-1)
        root = None if part.weight is None else part.weight.sqrt()[:, None, None]
        scale = 1 / problem.unit if root is None else root / problem.unit
        blocks = [block._replace(delta=block.delta * scale) for block in made.blocks]
        h, g = gram(blocks, torch.cat([made.dense * scale, rest], -1))
        whole, slope = (h, g) if whole is None or slope is None else (whole + h, slope + g)
    if whole is None or slope is None:
        raise ValueError("rows are expected, got none")
    return whole / problem.y.numel(), slope / problem.y.numel()


def iterate(
    networks: Networks,
    problem: Callable[[int], Problem],
    steps: int,
    penalty: Penalty,
    damping: float = 1e-2,
) -> Iterator[tuple[Networks, Tensor]]:
    """Networks and their objectives [S] after each step, at most `steps` times.

    Args:
        networks: Where to begin.
        problem: The rows of a step, by its number.
        steps: At most.
        penalty: Added to the mean square error.
        damping: At first.
    """
    lam = torch.full((len(networks),), damping, dtype=torch.float64, device=networks.theta.device)
    last: Problem | None = None
    cost = lam
    for index in range(steps):
        now = problem(index)
        if now is not last:
            cost, last = now.error(networks) + penalty.value(networks), now
        networks, cost, lam = _step(networks, now, cost, lam, penalty)
        yield networks, cost


def _step(
    networks: Networks, problem: Problem, cost: Tensor, lam: Tensor, penalty: Penalty
) -> tuple[Networks, Tensor, Tensor]:
    """The networks one step on, where a step lowers their objectives."""
    plan = networks.plan
    h, g = equations(networks, problem)
    penalty.add(networks, h, g)
    h, g = plan.restrict(h, g)
    scale = plan.scales(h)
    unit = h / (scale.unsqueeze(1) * scale.unsqueeze(2))
    slope = g / scale
    theta, best = networks.theta.clone(), cost.clone()
    todo = torch.arange(len(networks), device=cost.device)
    for _ in range(_TRIALS):
        damped = unit[todo]
        damped.diagonal(dim1=1, dim2=2).add_(lam[todo, None])
        factor, failed = torch.linalg.cholesky_ex(damped)
        step = torch.cholesky_solve(slope[todo].unsqueeze(-1), factor).squeeze(-1) / scale[todo]
        moved = networks.theta[todo] - plan.expand(step)
        trial = networks.take(todo).at(moved)
        found = problem.error(trial) + penalty.take(todo).value(trial)
        better = (found < cost[todo]) & (failed == 0)
        won = todo[better]
        theta[won], best[won] = moved[better], found[better]
        lam[won] = (lam[won] / 5).clamp_min(_LOWEST)
        todo = todo[~better]
        lam[todo] = (lam[todo] * 4).clamp_max(_HIGHEST)
        if not len(todo):
            break
    return networks.at(theta), best, lam
