"""Levenberg-Marquardt on all parameters of many symbolic networks at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kanfast.explain.batch import Batch
from kanfast.explain.budget import is_over

_ELEMENTS = 2**22  # numbers in the largest tensor


def fit(
    batch: Batch,
    x: Tensor,
    y: Tensor,
    iterations: int,
    *,
    exact: float = 1e-28,
    frozen: Tensor | None = None,
    scale: Tensor | None = None,
    deadline: float = math.inf,
) -> tuple[Batch, Tensor]:
    """Least squares from the present parameters: the networks and their mean squares [K].

    Args:
        batch: K networks.
        x: [N, inputs]. y: [N, outputs].
        iterations: at most so many steps are tried.
        exact: mean squares below it are rounding, and the search ends.
        frozen: [P], parameters to leave as they are.
        scale: [outputs], the units of errors; 1 by default.
        deadline: a time.monotonic() after which nothing new begins; networks that were not begun
            by then, apart from the first ones, are as they were, with infinite errors.
    """
    free = batch.free()
    units = torch.ones(y.shape[1], dtype=y.dtype) if scale is None else scale
    if frozen is not None:
        free = free & ~frozen
    size = max(1, _ELEMENTS // (free.shape[1] * max(y.numel(), free.shape[1])))
    problem = _Problem(x, y.T / units[:, None], units)
    parts = []
    for i in range(0, len(batch), size):
        part = batch.take(range(i, min(i + size, len(batch))))
        if i and is_over(deadline):
            parts.append((part, torch.full((len(part),), math.inf, dtype=y.dtype)))
        else:
            parts.append(_fit(part, problem, free[i : i + size], iterations, exact, deadline))
    return Batch.join([part for part, _ in parts]), torch.cat([losses for _, losses in parts])


class _Problem(NamedTuple):
    x: Tensor  # [N, inputs]
    target: Tensor  # [Q, N], in the units
    units: Tensor  # [Q]


def _fit(
    batch: Batch,
    problem: _Problem,
    free: Tensor,
    iterations: int,
    exact: float,
    deadline: float,
) -> tuple[Batch, Tensor]:
    best = batch.parameters()
    live = free.any(0).nonzero().squeeze(1)  # of the parameters, those that some network has
    free = free[:, live]
    loss, normal, descent = _equations(batch, problem, free, live)
    losses = loss.clone()
    rows = torch.arange(len(batch))  # the networks still under way
    values, here = best.clone(), batch
    damping, slow = torch.full_like(loss, 1e-2), torch.zeros_like(loss)
    for _ in range(iterations):
        if is_over(deadline):
            break
        trial = values.index_add(1, live, _step(normal, descent, damping))
        found, its_normal, its_descent = _equations(
            here.with_parameters(trial), problem, free, live
        )
        better = found < loss
        slow = torch.where(better & (found < loss * (1 - 1e-6)), 0, slow + better)
        values = torch.where(better[:, None], trial, values)
        normal = torch.where(better[:, None, None], its_normal, normal)
        descent = torch.where(better[:, None], its_descent, descent)
        loss = torch.where(better, found, loss)
        damping = torch.where(better, (damping * 0.2).clamp_min(1e-13), damping * 5)
        best[rows], losses[rows] = values, loss
        going = ((damping < 1e8) & (loss > exact) & (slow < 8)).nonzero().squeeze(1)
        if not len(going):
            break
        if len(going) < len(rows):
            rows, values, loss, damping = rows[going], values[going], loss[going], damping[going]
            normal, descent, free, slow = normal[going], descent[going], free[going], slow[going]
            here = here.take(going)
    return batch.with_parameters(best), losses


def _equations(
    batch: Batch, problem: _Problem, free: Tensor, live: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean square error [K], J J^T / N [K, L, L] and J e / N [K, L] of the L live parameters.

    An infinite error is inf.
    """
    output, jacobian = batch.jacobian(problem.x)
    units = problem.units[:, None]
    error = (problem.target - output / units).flatten(1)
    loss = error.square().mean(1)
    columns = (jacobian[:, live] / units).flatten(2) * free[..., None]
    normal = columns @ columns.mT / error.shape[1]
    descent = (columns @ error[..., None])[..., 0] / error.shape[1]
    usable = loss.isfinite() & normal.isfinite().all(2).all(1) & descent.isfinite().all(1)
    return (
        torch.where(usable, loss, math.inf),
        torch.where(usable[:, None, None], normal, 0),
        torch.where(usable[:, None], descent, 0),
    )


def _step(normal: Tensor, descent: Tensor, damping: Tensor) -> Tensor:
    """The damped Gauss-Newton step [K, P], in units of the columns' lengths."""
    diagonal = normal.diagonal(dim1=1, dim2=2)
    live = diagonal > 0
    scale = torch.where(live, diagonal, 1).sqrt()
    unit = normal / (scale[:, :, None] * scale[:, None, :])
    unit = unit + torch.diag_embed(damping[:, None] + (~live).to(unit.dtype))
    step, failed = torch.linalg.solve_ex(unit, (descent / scale)[..., None])
    step = torch.where(live & (failed == 0)[:, None], step[..., 0] / scale, 0)
    return torch.where(step.isfinite(), step, 0)
