"""y ~ c f(a x + b) + d with a and b in given ranges, as pykan searches them.

Only for those who want certain ranges: `fit_affine` needs none and is faster.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .fit import EdgeFits
from .function import SymbolicFunction
from .samples import check

Range = tuple[float, float]

_COARSE, _FINE, _ZOOMS = 101, 11, 10
_SEARCHED = 200  # samples; c, d and the residual are those of all samples


def fit_in_ranges(
    x: Tensor,
    y: Tensor,
    functions: Sequence[SymbolicFunction],
    a_range: Range,
    b_range: Range,
) -> EdgeFits:
    """Fits every edge with every function: the best of 101 x 101 a and b, and then finer around it.

    Args:
        x, y: [E, N], samples of the edges.
        functions: the candidates.
        a_range, b_range: lowest and highest a and b; equal for a fixed one.

    Raises:
        ValueError: a range is not (low, high) of finite numbers with low <= high; samples as in
            `fit_affine`.
    """
    for name, (low, high) in (("a_range", a_range), ("b_range", b_range)):
        if not -torch.inf < low <= high < torch.inf:
            raise ValueError(f"expected {name} of finite numbers low <= high, got {(low, high)}")
    x, y, _ = check(x, y, None)
    keep = torch.linspace(0, x.shape[1] - 1, min(_SEARCHED, x.shape[1])).round().long()
    order = x.argsort(dim=1)
    size = (len(y), len(functions))
    affine = torch.zeros(*size, 4, dtype=torch.float64)
    residual, magnitude = (
        torch.zeros(size, dtype=torch.float64),
        torch.zeros(size, dtype=torch.float64),
    )
    spread = (y - y.mean(1, keepdim=True)).abs().amax(1)
    live = (spread > 1e-14 * y.abs().amax(1)) & (x.amax(1) > x.amin(1))
    for e in range(len(y)):
        picked = order[e, keep]
        for f, function in enumerate(functions):
            a, b = _search(function, x[e, picked], y[e, picked], a_range, b_range)
            value = function(a * x[e] + b)
            c, d, rest = _linear(value[None], y[e])
            affine[e, f] = torch.stack([a, b, c[0], d[0]])
            residual[e, f] = rest[0]
            if spread[e] > 0:
                magnitude[e, f] = (c[0] * value).abs().amax() / spread[e]
    return EdgeFits(tuple(functions), affine, residual, magnitude, y.shape[1], live)


def _search(
    function: SymbolicFunction, x: Tensor, y: Tensor, a_range: Range, b_range: Range
) -> tuple[Tensor, Tensor]:
    a, b = _grid(a_range, _COARSE), _grid(b_range, _COARSE)
    for _ in range(_ZOOMS + 1):
        best, least = (0, 0), torch.inf
        for row, each in enumerate(a):
            rest = _linear(function(each * x + b[:, None]), y)[2]
            column = int(rest.argmin())
            if rest[column] < least:
                best, least = (row, column), float(rest[column])
        found = a[best[0]], b[best[1]]
        a, b = (
            _grid((float(points[max(0, at - 1)]), float(points[min(len(points) - 1, at + 1)])),
                  _FINE)
            for points, at in zip((a, b), best, strict=True)
        )  # fmt: skip
    return found


def _grid(ends: Range, count: int) -> Tensor:
    if ends[0] == ends[1]:
        return torch.tensor([ends[0]], dtype=torch.float64)
    return torch.linspace(*ends, count, dtype=torch.float64)


def _linear(value: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c, d and the share of the variance that is left, of y [N] ~ c value + d, value [n, N]."""
    mean = value.mean(1, keepdim=True)
    centred, target = value - mean, y - y.mean()
    unit = centred.abs().amax(1, keepdim=True).clamp_min(1e-300)
    scaled = centred / unit
    c = (scaled * target).mean(1) / scaled.square().mean(1).clamp_min(1e-300)
    rest = (target - c[:, None] * scaled).square().mean(1)
    variance = target.square().mean()
    rest = rest / variance if variance > 0 else torch.zeros_like(rest)
    c = c / unit[:, 0]
    return c, y.mean() - c * mean[:, 0], rest
