"""Which function an edge is: accuracy against simplicity, in bits.

The default rule is a description length. A spline edge that was trained on data is the true
function plus a smooth error of unknown size, so how many samples there are says nothing about how
small a difference matters; the price of a function is fixed instead. With e = 1 - r2, corrected for
the number of fitted parameters,

    score = log2(e + noise) + log2(1 + e / 0.003) + 3/4 complexity + 2 parameters
            + 1/2 max(0, log2(magnitude) - 4)

and the lowest score wins. One bit buys a halving of the residual (up to two where the fit is bad,
r2 < 0.997). A parameter has to earn its place by a factor of 4: so x^2, three parameters, is
preferred over cos, four, if both fit about equally. The last term charges functions used as a line
or a parabola (cos of a tiny frequency, a pole far away), where c f(a x + b) and d nearly cancel:
`magnitude` is max |c f| / max |y - mean y|. "0" is left to edges that are constant.

pykan's rule is kept as rule="pykan": weight_simple * complexity + (1 - weight_simple) *
log2(1 + 1e-5 - r2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .fit import EdgeFits
from .function import SymbolicFunction

Rule = Literal["length", "pykan"]

_POOR = 0.003
_PER_COMPLEXITY = 0.75
_PER_PARAMETER = 2.0
_PER_CANCELLED_BIT = 0.5
_FREE_CANCELLED_BITS = 4.0
_PRETTY = 0.01  # at most: decides between sin and cos, which fit equally, by the smaller phase
_UNCERTAIN_BITS = 2.0
_UNCERTAIN_RESIDUAL = 0.01


@dataclass(frozen=True)
class Candidate:
    """A function fitted to an edge: y ~ c f(a x + b) + d."""

    function: SymbolicFunction
    params: tuple[float, float, float, float]  # a, b, c, d
    r2: float
    score: float

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.name

    @property
    def complexity(self) -> float:
        """The complexity of the function."""
        return self.function.complexity


@dataclass(frozen=True)
class EdgeReport:
    """The candidates of an edge, best first. `print` it for a table.

    Attributes:
        edge: what the edge is called.
        candidates: at least one.
        margin: how much worse the score of the second best is, among functions that are not merely
            another name of the best (sin and cos, sqrt and x^0.5); infinite without such a one.
        live: False for an edge that is constant.
    """

    edge: str
    candidates: tuple[Candidate, ...]
    margin: float
    live: bool

    @property
    def best(self) -> Candidate:
        """The candidate with the lowest score."""
        return self.candidates[0]

    @property
    def uncertain(self) -> bool:
        """The best fits badly (r2 < 0.99) or another is within 2 of its score."""
        poor = self.live and 1 - self.best.r2 > _UNCERTAIN_RESIDUAL
        return poor or (self.live and self.margin < _UNCERTAIN_BITS)

    def __str__(self) -> str:
        note = "" if self.live else " (constant)"
        note = " (uncertain)" if self.uncertain else note
        head = f"{'function':<10} {'score':>9} {'1 - r2':>9} {'complexity':>11}   c f(a x + b) + d"
        lines = [f"{self.edge}{note}", head]
        for candidate in self.candidates:
            values = ", ".join(
                f"{name}={value:.4g}" for name, value in zip("abcd", candidate.params, strict=True)
            )
            lines.append(
                f"{candidate.name:<10} {candidate.score:>9.2f} {1 - candidate.r2:>9.1e} "
                f"{candidate.complexity:>11g}   {values}"
            )
        return "\n".join(lines)


def scores(
    fits: EdgeFits, *, rule: Rule = "length", weight_simple: float = 0.8, noise: float = 1e-9
) -> Tensor:
    """Scores of all candidates, [E, F], lower is better; inf for "0" on an edge that is live.

    Sums of them over the edges of a model compare whole models.

    Args:
        fits: of the edges.
        rule: "length" (see the module) or "pykan".
        weight_simple: of pykan's rule, in [0, 1].
        noise: residuals below this are all the same; set it to the relative mean square error of
            the edges where that is known (1e-6 for splines that are off by a thousandth).

    Raises:
        ValueError: an unknown rule, weight_simple outside [0, 1], or noise not above 0.
    """
    complexity = torch.tensor([f.complexity for f in fits.functions], dtype=torch.float64)
    if rule == "pykan":
        if not 0 <= weight_simple <= 1:
            raise ValueError(f"expected weight_simple in [0, 1], got {weight_simple}")
        accuracy = torch.log2(fits.residual.clamp_min(0) + 1e-5)
        score = weight_simple * complexity + (1 - weight_simple) * accuracy
    elif rule == "length":
        if not noise > 0:
            raise ValueError(f"expected noise > 0, got {noise}")
        parameters = torch.tensor([f.parameters for f in fits.functions], dtype=torch.float64)
        freedom = fits.samples - parameters
        error = fits.residual * (fits.samples - 1) / freedom.clamp_min(1)
        error = torch.where(freedom > 0, error.clamp(0, 1), 1)
        cancelled = fits.magnitude.clamp_min(1).log2() - _FREE_CANCELLED_BITS
        score = (
            torch.log2(error + noise)
            + torch.log2(1 + error / _POOR)
            + _PER_COMPLEXITY * complexity
            + _PER_PARAMETER * parameters
            + _PER_CANCELLED_BIT * cancelled.clamp_min(0)
        )
    else:
        raise ValueError(f'expected rule "length" or "pykan", got {rule!r}')
    shift = fits.affine[..., 1].abs()
    score = score + _PRETTY * shift / (1 + shift)
    constant = torch.tensor([f.search == "constant" for f in fits.functions])
    dead = ~fits.live[:, None]
    score = torch.where(constant & ~dead, torch.inf, score)
    # a constant is what a constant edge is, whatever else reproduces it with c = 0
    return torch.where(dead, complexity, score)


def suggest(
    fits: EdgeFits,
    *,
    topk: int = 5,
    rule: Rule = "length",
    weight_simple: float = 0.8,
    noise: float = 1e-9,
    edges: Sequence[str] | None = None,
) -> list[EdgeReport]:
    """A report per edge: the topk candidates with the lowest scores.

    Args:
        fits, rule, weight_simple, noise: see `scores`.
        topk: how many candidates a report has at most.
        edges: what the edges are called, "edge 0", "edge 1", ... by default.

    Raises:
        ValueError: topk < 1, the number of names is not that of the edges, or as `scores`.
    """
    if topk < 1:
        raise ValueError(f"expected topk >= 1, got {topk}")
    names = [f"edge {e}" for e in range(len(fits))] if edges is None else list(edges)
    if len(names) != len(fits):
        raise ValueError(f"expected {len(fits)} names of edges, got {len(names)}")
    table = scores(fits, rule=rule, weight_simple=weight_simple, noise=noise)
    ranking = table.argsort(dim=1, stable=True)
    reports = []
    for e, name in enumerate(names):
        order = [int(f) for f in ranking[e]]
        family = [_family(fits.functions[f]) for f in order]
        other = next((f for f, kin in zip(order, family, strict=True) if kin != family[0]), None)
        margin = torch.inf if other is None else float(table[e, other] - table[e, order[0]])
        reports.append(
            EdgeReport(
                name,
                tuple(_candidate(fits, e, f, float(table[e, f])) for f in order[:topk]),
                margin,
                bool(fits.live[e]),
            )
        )
    return reports


def _family(function: SymbolicFunction) -> SymbolicFunction:
    return function if function.twin is None else function.twin.base


def _candidate(fits: EdgeFits, edge: int, column: int, score: float) -> Candidate:
    a, b, c, d = fits.affine[edge, column].tolist()
    r2 = float(fits.r2[edge, column])
    return Candidate(fits.functions[column], (a, b, c, d), r2, score)
