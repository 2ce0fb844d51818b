"""Levenberg-Marquardt on alpha and beta of v ~ c f(alpha t + beta) + d, many problems at once.

c and d are eliminated (variable projection, Golub and Pereyra 1973, with Kaufman's approximation of
the Jacobian), so at most two parameters are searched and the normal equations are 2 x 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .function import SymbolicFunction
from .starts import FARTHEST, NEAREST, SLOWEST

_EXACT = 1e-28  # of the variance: below it the residual is rounding


@dataclass
class _Point:
    """Parameters of n problems, the residual there, and the normal equations of the next step."""

    alpha: Tensor
    beta: Tensor
    residual: Tensor  # weighted mean square of v - c f - d
    normal: Tensor  # [n, 3]: the entries aa, ab, bb
    descent: Tensor  # [n, 2]

    def tensors(self) -> tuple[Tensor, ...]:
        return self.alpha, self.beta, self.residual, self.normal, self.descent

    def take(self, rows: Tensor) -> "_Point":
        return _Point(*(tensor[rows] for tensor in self.tensors()))

    def replaced(self, where: Tensor, other: "_Point") -> "_Point":
        return _Point(*(
            torch.where(where if old.ndim == 1 else where[:, None], new, old)
            for old, new in zip(self.tensors(), other.tensors(), strict=True)
        ))  # fmt: skip


def refine(
    function: SymbolicFunction,
    alpha: Tensor,
    beta: Tensor,
    samples: tuple[Tensor, Tensor, Tensor],
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Improves alpha and beta [n]; returns them and the relative residual (1 - r2) [n].

    Args:
        function: one whose search is location, rate, harmonic or affine.
        alpha, beta: where to start, with arguments inside the function's domain.
        samples: t, v, weights, [n, N] each; v has mean 0 and variance 1, the weights sum to 1.
        iterations: at most so many steps are tried.
    """
    point = _evaluate(function, alpha, beta, samples)
    damping = torch.full_like(alpha, 1e-3)
    best = _Point(*(tensor.clone() for tensor in point.tensors()))
    rows = torch.arange(len(alpha))  # the problems still under way
    for _ in range(iterations):
        trial = _evaluate(function, *_step(function, point, damping), samples)
        better = trial.residual < point.residual
        stalled = trial.residual > point.residual * (1 - 1e-10)
        point = point.replaced(better, trial)
        done = (stalled & better & (damping < 1)) | (damping > 1e10) | (point.residual < _EXACT)
        damping = torch.where(better, (damping * 0.1).clamp_min(1e-12), damping * 10)
        for whole, part in zip(best.tensors(), point.tensors(), strict=True):
            whole[rows] = part
        if done.all():
            break
        if done.sum() * 2 > len(done):
            going = (~done).nonzero().squeeze(1)
            rows, damping, point = rows[going], damping[going], point.take(going)
            samples = (samples[0][going], samples[1][going], samples[2][going])
    return best.alpha, best.beta, best.residual


def _evaluate(
    function: SymbolicFunction,
    alpha: Tensor,
    beta: Tensor,
    samples: tuple[Tensor, Tensor, Tensor],
) -> _Point:
    t, v, weights = samples
    value, slope = function.value_and_derivative(alpha[:, None] * t + beta[:, None])
    value = value - _dot(weights, value)[:, None]
    weighted = weights * value
    variance = _dot(weighted, value)
    usable = variance > 0
    c = _dot(weighted, v) / torch.where(usable, variance, 1)
    error = v - c[:, None] * value
    residual = _dot(weights * error, error)
    residual = torch.where(usable & residual.isfinite(), residual, math.inf)
    # columns of the Jacobian, and their inner products once constants and f are projected out
    columns = torch.stack([slope * t, slope], 1) * c[:, None, None]
    columns = columns - (columns @ weights[:, :, None])
    columns = (
        columns
        - (columns @ weighted[:, :, None])
        * (value / torch.where(usable, variance, 1)[:, None])[:, None, :]
    )
    gram = (columns * weights[:, None]) @ torch.cat([columns, error[:, None]], 1).mT  # [n, 2, 3]
    normal = torch.stack([gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]], 1)
    return _Point(alpha, beta, residual, normal, gram[:, :, 2])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None, :] @ b[:, :, None])[:, 0, 0]


def _step(function: SymbolicFunction, point: _Point, damping: Tensor) -> tuple[Tensor, Tensor]:
    """The next alpha and beta: the damped Gauss-Newton step, kept inside the domain."""
    aa, ab, bb = point.normal.unbind(1)
    scale_a = aa.clamp_min(1e-300).sqrt()
    scale_b = bb.clamp_min(1e-300).sqrt()
    g_a, g_b = point.descent[:, 0] / scale_a, point.descent[:, 1] / scale_b
    diagonal = 1 + damping
    coupling = (ab / (scale_a * scale_b)).clamp(-1, 1)
    if function.search in ("location", "rate"):
        coupling = torch.zeros_like(coupling)
    determinant = diagonal.square() - coupling.square()
    step_a = (diagonal * g_a - coupling * g_b) / determinant / scale_a
    step_b = (diagonal * g_b - coupling * g_a) / determinant / scale_b
    step_a, step_b = torch.nan_to_num(step_a), torch.nan_to_num(step_b)
    if function.search == "location":
        return point.alpha, _slide(function, point, step_b)
    if function.search == "rate":
        return _no_slower(point.alpha + step_a, point.alpha), point.beta
    alpha = _no_slower(point.alpha + step_a, point.alpha)
    return _fit_in(function, point, alpha, point.beta + step_b)


def _no_slower(alpha: Tensor, before: Tensor) -> Tensor:
    sign = torch.where(before < 0, -1.0, 1.0).to(alpha.dtype)
    return sign * (sign * alpha).clamp_min(SLOWEST)


def _slide(function: SymbolicFunction, point: _Point, step: Tensor) -> Tensor:
    """beta + step with |alpha| fixed: at most 98% of the way to the ends of the domain."""
    low, high = _ends(function)
    low, high = max(low, -FARTHEST), min(high, FARTHEST)
    width = point.alpha.abs()
    below = (point.beta - width - low).clamp_min(0)
    above = (high - point.beta - width).clamp_min(0)
    return point.beta + torch.minimum(torch.maximum(step, -0.98 * below), 0.98 * above)


def _fit_in(
    function: SymbolicFunction, point: _Point, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """alpha and beta with the images of t = -1 and 1 pulled back into the domain, one by one.

    On the whole line the images of all t together are kept within reach of the function's features:
    farther out tanh is a constant to all digits but the last few, which must not be fitted with.
    """
    low, high = _ends(function)
    if math.isinf(low) and math.isinf(high):
        farthest = alpha.abs() + function.reach
        return alpha, torch.minimum(torch.maximum(beta, -farthest), farthest)

    def pull(end: Tensor, before: Tensor) -> Tensor:
        # an end that a rounding error put outside may stay where it is
        floor = before - 0.98 * (before - low).clamp_min(0)
        ceiling = before + 0.98 * (high - before).clamp_min(0)
        return torch.minimum(torch.maximum(end, floor), ceiling)

    first = pull(beta - alpha, point.beta - point.alpha)
    second = pull(beta + alpha, point.beta + point.alpha)
    return (second - first) / 2, (second + first) / 2


def _ends(function: SymbolicFunction) -> tuple[float, float]:
    low, high = function.domain
    return (low, high) if function.closed else (low + NEAREST, high - NEAREST)
