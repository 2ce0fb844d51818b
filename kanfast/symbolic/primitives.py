"""Real functions continued safely past their singularities, in plain torch.

Every function here takes the argument and a `limit` and returns finite values with finite first and
second derivatives for every finite argument whose powers the dtype can hold (in float16, first
derivatives only). Where the mathematical function is regular it is
evaluated as it stands; near a singularity it is continued as follows.

- Poles (1/x^n, 1/sqrt(x), tan): where the value would exceed `limit` in magnitude, it stays at
  +-limit on its side of the pole, and the derivative is 0. Zero itself counts as the right side.
- Ends of the domain (log, arcsin, arccos, arctanh, roots): arguments beyond the domain are
  evaluated at its nearest point, with derivative 0. Where the derivative is infinite at the end the
  domain is shrunk by 1/limit (log) or by a few units of rounding (arcsin, arccos, arctanh); the
  square root is instead replaced by the chord through (0, 0) below the resolution of the dtype.
- Overflow (exp): the argument is held where the result would pass the square root of the largest
  number of the dtype.

NaN stays NaN. A smaller `limit` makes training past a singularity gentler and the function less
exact beside it.
"""

# ruff: noqa: D102, D103 (the functions are what their names say)

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LIMITS = {torch.float64: 1e20, torch.float32: 1e10, torch.bfloat16: 1e10, torch.float16: 1e2}


def default_limit(dtype: torch.dtype) -> float:
    """Largest magnitude a pole may reach in `dtype`: its derivatives still fit into the dtype."""
    if dtype not in _LIMITS:
        raise TypeError(
            f"expected a floating dtype out of {', '.join(map(str, _LIMITS))}, got {dtype}"
        )
    return _LIMITS[dtype]


def zero(x: Tensor, limit: float) -> Tensor:
    return x * 0


@dataclass(frozen=True)
class Power:
    """x^n for a positive integer n."""

    exponent: int

    def __call__(self, x: Tensor, limit: float) -> Tensor:
        return integer_power(x, self.exponent)


@dataclass(frozen=True)
class Reciprocal:
    """1/x^n for a positive integer n."""

    exponent: int

    def __call__(self, x: Tensor, limit: float) -> Tensor:
        radius = limit ** (-1 / self.exponent)
        edge = torch.where(x < 0, -radius, radius).to(x.dtype)
        regular = ~(x.abs() < radius)  # NaN is regular: it stays what it is
        return 1 / integer_power(torch.where(regular, x, edge), self.exponent)


def integer_power(x: Tensor, exponent: int) -> Tensor:
    """x^exponent by repeated multiplication: faster than `pow`, exact for negative x."""
    if exponent == 1:
        return x
    half = integer_power(x * x, exponent // 2)
    return half * x if exponent % 2 else half


def sqrt(x: Tensor, limit: float) -> Tensor:
    radius = max(limit**-2, torch.finfo(x.dtype).eps)
    chord = x.clamp_min(0) * radius**-0.5
    return torch.where(x < radius, chord, x.clamp_min(radius).sqrt())


def power_three_halves(x: Tensor, limit: float) -> Tensor:
    return x * sqrt(x, limit)


def reciprocal_sqrt(x: Tensor, limit: float) -> Tensor:
    return x.clamp_min(limit**-2).rsqrt()


def exp(x: Tensor, limit: float) -> Tensor:
    return x.clamp_max(0.5 * math.log(torch.finfo(x.dtype).max)).exp()


def log(x: Tensor, limit: float) -> Tensor:
    return x.clamp_min(1 / limit).log()


def absolute(x: Tensor, limit: float) -> Tensor:
    return x.abs()


def sign(x: Tensor, limit: float) -> Tensor:
    return torch.where(x.isnan(), x, x.sign())


def sin(x: Tensor, limit: float) -> Tensor:
    return x.sin()


def cos(x: Tensor, limit: float) -> Tensor:
    return x.cos()


def tan(x: Tensor, limit: float) -> Tensor:
    radius = _shrink(x, limit)
    sine, cosine = x.sin(), x.cos()
    regular = ~(cosine.abs() < radius)
    edge = torch.where((sine < 0) == (cosine < 0), 1 / radius, -1 / radius).to(x.dtype)
    return torch.where(regular, torch.where(regular, x, 0).tan(), edge)


def tanh(x: Tensor, limit: float) -> Tensor:
    return x.tanh()


def arcsin(x: Tensor, limit: float) -> Tensor:
    return _inside_unit_interval(x, limit).arcsin()


def arccos(x: Tensor, limit: float) -> Tensor:
    return _inside_unit_interval(x, limit).arccos()


def arctan(x: Tensor, limit: float) -> Tensor:
    return x.arctan()


def arctanh(x: Tensor, limit: float) -> Tensor:
    return _inside_unit_interval(x, limit).arctanh()


def gaussian(x: Tensor, limit: float) -> Tensor:
    return (-x * x).exp()


def _shrink(x: Tensor, limit: float) -> float:
    return max(1 / limit, 4 * torch.finfo(x.dtype).eps)


def _inside_unit_interval(x: Tensor, limit: float) -> Tensor:
    end = 1 - _shrink(x, limit)
    return x.clamp(-end, end)
