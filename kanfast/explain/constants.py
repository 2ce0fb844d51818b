"""Simple constants of a formula: integers, fractions, fractions of pi, few digits."""

from __future__ import annotations

import math

from torch import Tensor

from kanfast.explain.batch import Batch
from kanfast.explain.budget import is_over
from kanfast.explain.marquardt import fit

_DENOMINATORS = (1, 2, 3, 4, 5, 6, 8, 10)
_OF_PI = (1, 2, 3, 4, 6)
_NEAR = 0.05
_ITERATIONS = 25


def simplified(
    one: Batch,
    fixed: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    floor: float,
    deadline: float = math.inf,
) -> tuple[Batch, Tensor]:
    """The network (a batch of 1) with simple constants wherever the data allow it.

    One parameter after another is set to a simple number near it and all others are fitted again.
    It stays there if the accuracy, n/2 log2(error + floor), gets worse by less than is saved: the
    1/2 log2(n) bits of a free parameter (see `kanfast.explain.score`) but for the log2(r) bits that
    single out the r-th simplest number near the value.

    Args:
        one: the network, in standard form, fitted.
        fixed: [P], parameters that are not to be touched (`kanfast.explain.tidy`).
        x: [N, inputs]. y: [N, outputs].
        scale: [outputs], the standard deviations of y.
        floor: see `kanfast.explain.score`.
        deadline: a time.monotonic() after which nothing more is tried.

    Returns:
        The network, and the parameters [P] that are simple, or were fixed before.
    """
    count = y.numel()
    frozen = fixed.clone()

    def bits(error: Tensor) -> float:
        return count / 2 * math.log2(error.item() + floor)

    def refit(network: Batch) -> tuple[Batch, float]:
        found, error = fit(
            network, x, y, _ITERATIONS, exact=1e-4 * floor, frozen=frozen, scale=scale
        )
        return found, bits(error)

    best, reached = refit(one)
    free = best.free()[0] & ~fixed
    kinds = _kinds(best)
    for p in _by_nearness(best, free):
        if is_over(deadline):
            break
        start = best.parameters()[0, p].item()
        numbers = _simple_numbers(start, nonzero=kinds[p] in "ac")
        for rank, number in enumerate(numbers, 1):
            saved = math.log2(count) / 2 - math.log2(rank)
            values = best.parameters()
            values[0, p] = number
            frozen[p] = True
            trial, its_bits = refit(best.with_parameters(values))
            if its_bits < reached + saved:
                best, reached = trial, its_bits
                break
            frozen[p] = False
    return best, frozen


def _kinds(batch: Batch) -> str:
    """Which of a, b, c, d each of the P parameters is."""
    return "".join(
        "abc" * (edges[0].numel() // 3) + "d" * shifts[0].numel()
        for edges, shifts in zip(batch.edges, batch.shifts, strict=True)
    )


def _by_nearness(batch: Batch, free: Tensor) -> list[int]:
    """The free parameters, those that are nearly simple first."""
    values = batch.parameters()[0]
    distance = {
        p: min(abs(values[p].item() - n) for n in _all_near(values[p].item())[:2])
        for p in free.nonzero().flatten().tolist()
    }
    return sorted(distance, key=lambda p: distance[p])


def _simple_numbers(value: float, *, nonzero: bool) -> list[float]:
    near = _NEAR * max(abs(value), 0.2)
    return [
        number
        for number in dict.fromkeys(_all_near(value))
        if abs(number - value) <= near and (number != 0 or not nonzero)
    ]


def _all_near(value: float) -> list[float]:
    """Simple numbers next to a value, the simplest first."""
    fractions = [round(value * q) / q for q in _DENOMINATORS]
    of_pi = [round(value * q / math.pi) * math.pi / q for q in _OF_PI]
    few_digits = [float(f"{value:.1e}"), float(f"{value:.2e}")]
    return [fractions[0], of_pi[0], *fractions[1:4], *of_pi[1:], *fractions[4:], *few_digits]
