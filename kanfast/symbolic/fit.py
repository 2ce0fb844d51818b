"""y ~ c f(a x + b) + d for many edges and many functions f at once.

Per function: a coarse search on a common grid (`starts`), Levenberg-Marquardt from a few of its
best candidates on a thinned sample, and from the winner on the full one (`refine`). Polynomials up
to degree 2 and steps are solved exactly. The result is brought to a canonical form, and c and d are
those of linear least squares on all samples.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .function import SymbolicFunction
from .library import Library, default_library
from .refine import refine
from .samples import Samples, check, normalise
from .starts import FARTHEST, SMOOTH, find_starts

_STARTS = {"location": 4, "rate": 3, "harmonic": 4, "affine": 7}
_STARTS_OSCILLATING = 16
_THIN = 200
_ELEMENTS = 2**18  # numbers in the largest tensors of a refinement
_EDGES = 256  # fitted at a time
_ROUNDING = 1e-10  # b and d below this share of their scale are 0


@dataclass(frozen=True)
class EdgeFits:
    """Fits of E edges with F functions; float64 on the CPU.

    Attributes:
        functions: the F candidates.
        affine: [E, F, 4], the a, b, c, d of c f(a x + b) + d.
        residual: [E, F], 1 - r2: the part of the variance of y that is left. 0 for an edge whose y
            is constant, 1 for one that varies although its x does not.
        magnitude: [E, F], max |c f| / max |y - mean(y)|: far above 1 where c f and d nearly cancel.
        samples: the number N of samples of an edge.
        live: [E], False where y or x is constant.
    """

    functions: tuple[SymbolicFunction, ...]
    affine: Tensor
    residual: Tensor
    magnitude: Tensor
    samples: int
    live: Tensor

    @property
    def r2(self) -> Tensor:
        """[E, F]: the coefficient of determination."""
        return 1 - self.residual

    def __len__(self) -> int:
        return len(self.affine)

    def index(self, name: str) -> int:
        """The column of the function of this name; ValueError if it is not among them."""
        names = [function.name for function in self.functions]
        if name not in names:
            raise ValueError(f"expected one of the fitted functions {names}, got {name!r}")
        return names.index(name)


def fit_affine(
    x: Tensor,
    y: Tensor,
    functions: Sequence[str | SymbolicFunction] | None = None,
    *,
    weights: Tensor | None = None,
    library: Library | None = None,
    max_samples: int = 4096,
    deadline: float = math.inf,
) -> EdgeFits:
    """Fits every edge with every function: y ~ c f(a x + b) + d by least squares.

    No range for a or b has to be given. Arguments a x + b stay inside the domain of f on all
    samples (on one side of a pole). Canonical form: f homogeneous or log, |a| = 1 (a power of ten
    if the samples span less than about 0.006 or more than 600); exp, b = 0 (unless that would
    overflow); f even or odd, a > 0; sin, cos and tan, |b| <= pi/2.

    Args:
        x: [N] or [E, N], the inputs; any floating dtype and device.
        y: [E, N], the outputs of the edges.
        functions: names or functions; the whole library by default.
        weights: [N] or [E, N], >= 0, of the samples in the sum of squares.
        library: where names are looked up, the default library by default.
        max_samples: a and b are refined on at most so many samples of an edge, evenly chosen in the
            order of x; c, d and the residual are always those of all samples.
        deadline: a time.monotonic() after which no further function is tried; those that were not
            are the mean, with a residual of 1.

    Raises:
        TypeError: x, y or weights are no floating tensors; functions holds something else.
        ValueError: shapes, sample values or max_samples are not as above.
        KeyError: an unknown name.
    """
    if max_samples < 2:
        raise ValueError(f"expected max_samples >= 2, got {max_samples}")
    chosen = (default_library() if library is None else library).select(functions)
    x, y, weights = check(x, y, weights)
    size = max(1, min(_EDGES, 2**21 // y.shape[1]))
    parts = [
        _fit_chunk(
            (x[i : i + size], y[i : i + size], weights[i : i + size]), chosen, max_samples, deadline
        )
        for i in range(0, max(1, len(y)), size)
    ]
    affine, residual, magnitude, live = (
        torch.cat(list(column)) for column in zip(*parts, strict=True)
    )
    return EdgeFits(chosen, affine, residual, magnitude, y.shape[1], live)


def _fit_chunk(
    data: tuple[Tensor, Tensor, Tensor],
    functions: tuple[SymbolicFunction, ...],
    max_samples: int,
    deadline: float,
) -> tuple[Tensor, ...]:
    samples = normalise(*data)
    affine = torch.zeros(len(data[0]), len(functions), 4, dtype=torch.float64)
    affine[..., 0] = 1
    affine[..., 3] = samples.mean[:, None]
    residual = torch.where(samples.spread > 0, 1.0, 0.0).to(torch.float64)
    residual = residual[:, None].repeat(1, len(functions))
    magnitude = torch.zeros_like(residual)
    live = samples.live
    rows = live.nonzero().squeeze(1)
    if len(rows):
        samples = samples.take(rows)
        bins, searched = samples.binned(), {}
        for column, function in enumerate(functions):
            if time.monotonic() > deadline:
                break
            base, shift = function, 0.0
            if function.twin is not None:
                base, shift = function.twin.base, function.twin.shift
            if base not in searched:
                searched[base] = _search(base, samples, bins, max_samples)
            alpha, beta = searched[base]
            fitted = _finish(function, alpha, beta - shift, samples)
            affine[rows, column], residual[rows, column], magnitude[rows, column] = fitted
    return affine, residual, magnitude, live


def _search(
    function: SymbolicFunction, samples: Samples, bins: tuple[Tensor, Tensor], max_samples: int
) -> tuple[Tensor, Tensor]:
    """The best alpha and beta [E] of c f(alpha t + beta) + d."""
    ones = torch.ones_like(samples.center)
    if function.search in ("constant", "linear"):
        return ones, torch.zeros_like(ones)
    if function.search == "quadratic":
        return ones, _vertex(samples)
    if function.search == "step":
        return ones, _jump(samples)
    oscillates = function.search == "affine" and function.reach > SMOOTH
    count = _STARTS_OSCILLATING if oscillates else _STARTS[function.search]
    alpha, beta = find_starts(function, bins, count)
    edges, count = alpha.shape
    owner = torch.arange(edges).repeat_interleave(count)
    alpha, beta, residual = _refine_in_chunks(
        function, alpha.flatten(), beta.flatten(), samples.thinned(_THIN), owner, 25
    )
    best = residual.reshape(edges, count).argmin(1) + torch.arange(edges) * count
    alpha, beta, _ = _refine_in_chunks(
        function, alpha[best], beta[best], samples.thinned(max_samples), owner[best], 60
    )
    return alpha, beta


def _refine_in_chunks(
    function: SymbolicFunction,
    alpha: Tensor,
    beta: Tensor,
    samples: tuple[Tensor, Tensor, Tensor],
    owner: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    size = max(1, _ELEMENTS // samples[0].shape[1])
    parts = []
    for i in range(0, len(alpha), size):
        rows = owner[i : i + size]
        mine = (samples[0][rows], samples[1][rows], samples[2][rows])
        parts.append(refine(function, alpha[i : i + size], beta[i : i + size], mine, iterations))
    alpha, beta, residual = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    return alpha, beta, residual


def _vertex(samples: Samples) -> Tensor:
    """beta of the parabola c (t + beta)^2 + d of least squares, at most FARTHEST."""
    t, v, weights = samples.t, samples.v, samples.weights

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum(1, keepdim=True)

    first = t - mean(t)
    spread = mean(first.square()).clamp_min(1e-300)
    lean = mean(first * t.square()) / spread
    second = t.square() - mean(t.square()) - lean * first
    curvature = mean(second * v) / mean(second.square()).clamp_min(1e-300)
    # v ~ slope * first + curvature * second, in powers of t:
    slope = mean(first * v) / spread - curvature * lean
    straight = curvature.abs() * (2 * FARTHEST) <= slope.abs()
    sign = torch.where((slope < 0) == (curvature < 0), 1.0, -1.0)
    safe = torch.where(straight, 1, curvature)
    return torch.where(straight, sign * FARTHEST, slope / (2 * safe)).squeeze(1)


def _jump(samples: Samples) -> Tensor:
    """beta of the step sign(t + beta) of least squares: between two samples, or at one of them."""
    t, v, weights = samples.t, samples.v, samples.weights
    left = weights.cumsum(1)[:, :-1]
    balance = (weights * v).cumsum(1)[:, :-1]  # the mean of v is 0: the rest is -balance
    gain = balance.square() / (left * (1 - left)).clamp_min(1e-300)
    gain = gain.masked_fill(t[:, 1:] <= t[:, :-1], -1)
    at = gain.argmax(1, keepdim=True)
    before, after = t.gather(1, at), t.gather(1, at + 1)
    places = torch.cat([(before + after) / 2, before, after], 1)  # [E, 3]
    residual = torch.stack([
        _project(torch.sign(t - places[:, k : k + 1]), v, weights)[2] for k in range(3)
    ], 1)  # fmt: skip
    return -places.gather(1, residual.argmin(1, keepdim=True)).squeeze(1)


def _project(value: Tensor, v: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c and d of least squares v ~ c value + d, and the mean square that is left; [E] each.

    v has weighted mean 0.
    """
    mean = (weights * value).sum(1, keepdim=True)
    centered = value - mean
    unit = centered.abs().amax(1, keepdim=True)
    flat = unit.squeeze(1) <= 1e-15 * value.abs().amax(1)
    scaled = centered / torch.where(flat[:, None], 1, unit)
    variance = (weights * scaled.square()).sum(1).clamp_min(1e-300)
    c = torch.where(flat, 0, (weights * scaled * v).sum(1) / variance)
    residual = (weights * (v - c[:, None] * scaled).square()).sum(1)
    c = torch.where(flat, 0, c / unit.squeeze(1))
    return c, -c * mean.squeeze(1), residual


def _finish(
    function: SymbolicFunction, alpha: Tensor, beta: Tensor, samples: Samples
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c, d [E, 4] in the units of x and y, the residual [E] and the magnitude [E]."""
    a, b = _canonical(function, alpha, beta, samples)
    reach = a.abs() * samples.x.abs().amax(1)
    b = torch.where(b.abs() <= _ROUNDING * reach, 0, b)
    value = function(a[:, None] * samples.x + b[:, None])
    c, d, residual = _project(value, samples.v, samples.weights)
    size = c.abs() * value.abs().amax(1) / samples.v.abs().amax(1)
    c, d = c * samples.scale, d * samples.scale + samples.mean
    d = torch.where(d.abs() <= _ROUNDING * samples.scale, 0, d)
    return torch.stack([a, b, c, d], 1), residual, size


def _canonical(
    function: SymbolicFunction, alpha: Tensor, beta: Tensor, samples: Samples
) -> tuple[Tensor, Tensor]:
    """a and b with alpha t + beta = a x + b, up to what the linear parameters make up for."""
    search = function.search
    if search in ("constant", "linear"):
        return torch.ones_like(alpha), torch.zeros_like(beta)
    center, half = samples.center, samples.half
    a, b = alpha / half, beta - alpha * (center / half)
    if search in ("quadratic", "location", "step"):
        decade = half.log10().round()
        unit = torch.where(decade.abs() > 2, 10**-decade, 1)
        a, b = a.sign() * unit, unit * (half * beta / alpha.abs() - alpha.sign() * center)
    if search == "rate":
        overflows = alpha.abs() * (1 + center.abs() / half) > 50
        return a, torch.where(overflows, -alpha * (center / half), 0)
    if function.symmetric:
        sign = torch.where(a < 0, -1.0, 1.0).to(a.dtype)
        a, b = sign * a, sign * b
    if function.period is not None:
        # phases within rounding of the end of the interval are taken to its upper end
        turns = torch.ceil((b - function.period / 2) / function.period - 1e-6)
        b = b - function.period * turns
    return a, b
