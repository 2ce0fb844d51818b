"""Constants of the closed forms, computed in Python while a kernel is compiled."""

import math
from fractions import Fraction

import triton


@triton.constexpr_function
def _coefficients(degree, deriv):
    """C(k+1, m) r_m^p / p!,  r_m = (k+1)/2 - m,  p = k - n,  for the m with r_m > 0."""
    p = degree - deriv
    return tuple(
        math.comb(degree + 1, m) * ((degree + 1) / 2 - m) ** p / math.factorial(p)
        for m in range(degree // 2 + 1)
    )


@triton.constexpr_function
def peak(degree, deriv):
    """The largest coefficient of the closed form; 1 for n = k."""
    return max(_coefficients(degree, deriv)) if deriv < degree else 1.0


@triton.constexpr_function
def heights(degree, deriv):
    """s_m = (coefficient m / the largest)^(1/p), so that s_m^p (1 - |u| / r_m)^p = (s_m - |u| s_m
    / r_m)^p."""
    top, p = peak(degree, deriv), degree - deriv
    return tuple((c / top) ** (1 / p) for c in _coefficients(degree, deriv))


@triton.constexpr_function
def slopes(degree, deriv):
    """s_m / r_m."""
    return tuple(s / ((degree + 1) / 2 - m) for m, s in enumerate(heights(degree, deriv)))


@triton.constexpr_function
def falling(degree, deriv):
    """k! / (k - n)!"""
    return float(math.perm(degree, deriv))


@triton.constexpr_function
def difference(degree, deriv):
    """(-1)^i C(n, i) for i = 0..n, times the ratio of the peaks of degree k - n and of (k, n)."""
    ratio = peak(degree - deriv, 0) / peak(degree, deriv)
    return tuple((-1) ** i * math.comb(deriv, i) * ratio for i in range(deriv + 1))


@triton.constexpr_function
def piece(degree, deriv, r):
    """The n-th derivative of the r-th of the k + 1 B-splines of a cell, on knots of unit steps.

    Lowest power first, in v = the distance from the middle of the cell. The spline starts k - r
    cells before, so with y = v + k - r + 1/2 it is
    1/k! sum_{l <= k - r} (-1)^l C(k+1, l) (y - l)^k.
    """
    poly = [Fraction(0)] * (degree + 1)
    for before in range(degree - r + 1):
        root = Fraction(2 * (degree - r - before) + 1, 2)
        weight = Fraction((-1) ** before * math.comb(degree + 1, before), math.factorial(degree))
        for n in range(degree + 1):
            poly[n] += weight * math.comb(degree, n) * root ** (degree - n)
    for _ in range(deriv):
        poly = [power * a for power, a in enumerate(poly)][1:]
    return tuple(float(a) for a in poly)


@triton.constexpr_function
def bits(n):
    """Of the binary number n."""
    return n.bit_length()


@triton.constexpr_function
def sigmoid_derivative(n):
    """Q_n, lowest power first: sigmoid^(n) = Q_n(q) for odd n, Q_n(q) (r - s) for even n >= 2.

    s = sigmoid(x), r = sigmoid(-x), q = s r; q' = q (r - s), (r - s)' = -2 q, (r - s)^2 = 1 - 4 q.
    """
    poly = (0.0, 1.0)
    for order in range(2, n + 1):
        derived = [power * a for power, a in enumerate(poly)] + [0.0]
        if order % 2 == 1:
            for power, a in enumerate(poly):
                derived[power + 1] -= (4 * power + 2) * a
        poly = tuple(derived)
    return poly


@triton.constexpr_function
def _hermite(n):
    """Probabilists' He_n, lowest power first: He_n = x He_{n-1} - (n - 1) He_{n-2}."""
    before, poly = (), (1.0,)
    for order in range(1, n + 1):
        raised = [0.0, *poly]
        for power, a in enumerate(before):
            raised[power] -= (order - 1) * a
        before, poly = poly, tuple(raised)
    return poly


@triton.constexpr_function
def gelu_derivative(n):
    """R_n with gelu^(n)(x) = R_n(x) phi(x) for n >= 2: (-1)^(n-1) (He_n - He_{n-2})."""
    poly = list(_hermite(n))
    for power, a in enumerate(_hermite(n - 2)):
        poly[power] -= a
    return tuple((-1) ** (n - 1) * a for a in poly)
