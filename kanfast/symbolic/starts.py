"""Where fits of f(alpha t + beta), t in [-1, 1], start: a coarse search for many edges at once.

All edges are binned on one grid of t, so f is evaluated once per candidate (alpha, beta) and the
correlations with every edge are matrix products.
"""

import math

import torch
from torch import Tensor

from .function import SymbolicFunction
from .samples import BINS

FARTHEST = 100.0  # a singularity or vertex more half-ranges away than this is out of sight
NEAREST = 1e-7  # how near to an open end of the domain an argument may come
SLOWEST = 0.02  # of |alpha|: a smaller part of a function is a parabola to any accuracy of interest
FASTEST = 64.0
SMOOTH = 8.0  # functions of a longer reach may oscillate
_ROWS = 2048  # candidates evaluated at a time
_TAKEN = torch.tensor(-3.0, dtype=torch.float64)


def find_starts(
    function: SymbolicFunction, bins: tuple[Tensor, Tensor], count: int
) -> tuple[Tensor, Tensor]:
    """The most promising alpha and beta, [E, count] each.

    Args:
        function: one whose search is location, rate, harmonic or affine.
        bins: `Samples.binned()`, [E, BINS] each.
        count: how many starts an edge gets, from different parts of the candidates.
    """
    if function.search == "harmonic":
        return _harmonics(bins, count)
    alpha, beta = candidates(function)
    if function.reach <= SMOOTH:  # half the bins do
        bins = (bins[0].unflatten(1, (-1, 2)).sum(2), bins[1].unflatten(1, (-1, 2)).sum(2))
    parts = [
        _correlations(function, alpha[i : i + _ROWS], beta[i : i + _ROWS], bins)
        for i in range(0, len(alpha), _ROWS)
    ]
    r2, shape = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    if function.search == "affine" and function.reach > SMOOTH:
        r2 = r2.masked_fill(alpha.abs()[:, None] > _nyquist(bins[0]), -1)
    chosen = _unlike(r2, shape, count)
    return alpha[chosen].T, beta[chosen].T


def _unlike(r2: Tensor, shape: Tensor, count: int) -> Tensor:
    """Rows of r2 [P, E]: the best, the best of those of another shape, and so on; [count, E].

    shape [P, K] are the curves of the candidates, of mean 0 and norm 1. Two whose squared
    correlation is above 0.98 would lead to the same place.
    """
    chosen = []
    for _ in range(count):
        best = r2.argmax(0)
        chosen.append(best)
        alike = (shape @ shape[best].T).square() > 0.98  # [P, E]
        r2 = r2.masked_fill(alike, -2).index_put((best, torch.arange(len(best))), _TAKEN)
    return torch.stack(chosen)


def candidates(function: SymbolicFunction) -> tuple[Tensor, Tensor]:
    """Candidates alpha, beta [P] that see every part of the function at every useful scale."""
    low, high = function.domain
    if function.search == "rate":
        rate = _geometric(SLOWEST, FASTEST, 40)
        return torch.cat([-rate.flip(0), rate]), torch.zeros(80, dtype=torch.float64)
    if function.search == "location":
        if math.isinf(low):  # anywhere: the vertex of a power, the corner of abs
            inside = torch.linspace(-2, 2, 201, dtype=torch.float64)
            outside = _geometric(2, FARTHEST, 24)[1:]
            beta = torch.cat([-outside.flip(0), inside, outside])
            return torch.ones_like(beta), beta
        gap = _gaps(function, FARTHEST)
        alpha = torch.ones_like(gap)
        return torch.cat([-alpha, alpha]), torch.cat([1 + gap, 1 + gap])
    if math.isinf(low) and math.isinf(high):
        alpha, beta = _windows(function.reach)
    elif math.isfinite(low) and math.isfinite(high):
        node = torch.linspace(-6, 6, 25, dtype=torch.float64).tanh()
        ends = torch.tensor([-1.0, 1.0], dtype=torch.float64) * (1 if function.closed else 1 - 1e-6)
        node = torch.cat([ends[:1], node, ends[1:]])
        node = (low + high) / 2 + (high - low) / 2 * node
        first, second = torch.triu_indices(len(node), len(node), 1)
        alpha, beta = (node[second] - node[first]) / 2, (node[second] + node[first]) / 2
    else:  # one end: windows [end + gap, end + gap + 2 width], or mirrored
        gap, width = torch.meshgrid(
            _gaps(function, 4 * function.reach), _geometric(SLOWEST, FASTEST, 32), indexing="ij"
        )
        alpha, beta = width.flatten(), (gap + width).flatten()
        beta = low + beta if math.isfinite(low) else high - beta
    if function.symmetric:
        return alpha, beta
    return torch.cat([-alpha, alpha]), torch.cat([beta, beta])


def _gaps(function: SymbolicFunction, farthest: float) -> Tensor:
    """Distances between the end of a one-sided domain and the nearest argument."""
    gaps = _geometric(1e-6, farthest, 72)
    return torch.cat([torch.zeros(1, dtype=torch.float64), gaps]) if function.closed else gaps


def _windows(reach: float) -> tuple[Tensor, Tensor]:
    """Windows [beta - alpha, beta + alpha] of arguments that meet [-reach, reach].

    Steps are such that no point within the reach is farther than about 0.35 from its place in the
    nearest candidate, and an eighth of the window if that is less, for extrema to fall into place.
    """
    scales = [0.15]
    while scales[-1] < max(FASTEST, reach):
        last = scales[-1]
        scales.append(last + min(last / 2, 0.7 * max(1.0, last / reach)))
    alphas, betas = [], []
    for scale in scales:
        span = scale + reach
        count = 2 * math.ceil(span / min(0.7, scale / 4)) + 1
        beta = torch.linspace(-span, span, count, dtype=torch.float64)
        alphas.append(torch.full_like(beta, scale))
        betas.append(beta)
    return torch.cat(alphas), torch.cat(betas)


def _geometric(start: float, end: float, count: int) -> Tensor:
    return torch.logspace(math.log10(start), math.log10(end), count, dtype=torch.float64)


def _nyquist(weights: Tensor) -> Tensor:
    """[E]: the frequency with four samples a period, if samples are evenly spaced."""
    return (weights > 0).sum(1) * (math.pi / 4)


def _correlations(
    function: SymbolicFunction, alpha: Tensor, beta: Tensor, bins: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Squared correlation of f(alpha t + beta) with every edge, [P, E], -1 where there is none;
    and the curves themselves at every fourth or eighth t, [P, 64], of mean 0 and norm 1."""
    count = bins[0].shape[1]
    t = torch.linspace(-1, 1, BINS, dtype=torch.float64).reshape(count, -1).mean(1)
    value = function(alpha[:, None] * t + beta[:, None])
    value = value - value.mean(1, keepdim=True)
    value = value / value.abs().amax(1, keepdim=True)
    weights, weighted = bins
    mean = value @ weights.T
    variance = value.square() @ weights.T - mean.square()
    r2 = (value @ weighted.T).square() / variance
    shape = value[:, :: count // 64].nan_to_num()
    shape = torch.nn.functional.normalize(shape - shape.mean(1, keepdim=True))
    return torch.where((variance > 1e-12) & r2.isfinite(), r2, -1), shape


def _harmonics(bins: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """alpha and beta [E, count] of sin(alpha t + beta): the highest peaks of the spectrum.

    At every frequency sine, cosine and constant are fitted by least squares.
    """
    weights, weighted = bins
    nyquist = _nyquist(weights)
    top = float(nyquist.max().clamp_min(4))
    slow = torch.tensor([0.1, 0.25], dtype=torch.float64)
    frequency = torch.cat([slow, torch.arange(0.5, top, 0.5, dtype=torch.float64)])
    t = torch.linspace(-1, 1, BINS, dtype=torch.float64)
    phase = frequency[:, None] * t
    s, c = phase.sin(), phase.cos()
    s_mean, c_mean = s @ weights.T, c @ weights.T
    ss = s.square() @ weights.T - s_mean.square()
    cc = c.square() @ weights.T - c_mean.square()
    sc = (s * c) @ weights.T - s_mean * c_mean
    sv, cv = s @ weighted.T, c @ weighted.T
    determinant = ss * cc - sc.square()
    usable = (determinant > 1e-9 * ss * cc) & (determinant > 1e-24)
    determinant = torch.where(usable, determinant, 1)
    along_s = (cc * sv - sc * cv) / determinant
    along_c = (ss * cv - sc * sv) / determinant
    r2 = along_s * sv + along_c * cv
    usable &= (frequency[:, None] <= nyquist.clamp_min(4)) & r2.isfinite()
    r2 = torch.where(usable, r2, -1)
    sides = torch.nn.functional.pad(r2, (0, 0, 1, 1), value=-2)
    peak = (r2 >= sides[:-2]) & (r2 >= sides[2:])
    chosen = torch.where(peak, r2, r2 - 4).topk(min(count, len(r2)), dim=0).indices  # [count, E]
    return frequency[chosen].T, torch.atan2(along_c, along_s).gather(0, chosen).T
