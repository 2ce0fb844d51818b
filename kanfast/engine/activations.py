"""Residual activations and their derivatives of any order.

With s = sigmoid(x), r = sigmoid(-x) and q = s r, the slope of s is q and that of q is q (r - s), so
that every derivative of the sigmoid is a polynomial in q, times r - s for the even orders. Unlike
the polynomials in s these keep their digits where s is near 1. The derivatives of the Gaussian
density phi are (-1)^n He_n(x) phi(x). SiLU and GELU are x times sigmoid and x times the integral of
phi: (x f)^(n) = x f^(n) + n f^(n-1).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["silu", "gelu", "tanh", "sigmoid", "relu", "identity", "none"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)

Polynomial = tuple[float, ...]


@cache
def sigmoid_derivative(n: int) -> Polynomial:
    """Coefficients, lowest power first, of Q_n in the derivative of order n >= 1 of the sigmoid.

    It is Q_n(q) for odd n and Q_n(q) (r - s) for even n, with s, r and q as above.
    """
    if n == 1:
        return (0.0, 1.0)
    previous = sigmoid_derivative(n - 1)
    out = [i * a for i, a in enumerate(previous)]  # q Q'
    if n % 2 == 1:
        # (r - s)^2 = 1 - 4 q, and the slope of r - s is -2 q.
        out.append(0.0)
        for i, a in enumerate(previous):
            out[i + 1] -= (4 * i + 2) * a
    return tuple(out)


@cache
def hermite(n: int) -> Polynomial:
    """Coefficients, lowest power first, of the probabilists' Hermite polynomial He_n."""
    if n < 2:
        return ((1.0,), (0.0, 1.0))[n]
    out = [0.0, *hermite(n - 1)]
    for i, a in enumerate(hermite(n - 2)):
        out[i] -= (n - 1) * a
    return tuple(out)


@cache
def gelu_derivative(n: int) -> Polynomial:
    """Coefficients of the polynomial that times phi is the derivative of order n >= 2 of GELU."""
    out = list(hermite(n))
    for i, a in enumerate(hermite(n - 2)):
        out[i] -= a
    return tuple((-1.0) ** (n - 1) * a for a in out)


def activation(name: str, x: Tensor, deriv: int = 0) -> Tensor:
    """The derivative of order `deriv` of the residual activation `name` at x.

    Args:
        name: "silu", "gelu" (the exact one, with erf), "tanh", "sigmoid", "relu" or "identity".
        x: any shape, float32 or float64.
        deriv: order of the derivative, 0 for the function itself.

    Returns:
        A tensor like x. NaN stays NaN, also where the derivative is a constant. ReLU has the slope
        0 at 0, as in torch.

    Raises:
        ValueError: an activation that is not in the list.
    """
    if name == "silu":
        return functional.silu(x) if deriv == 0 else _silu(x, deriv)
    if name == "gelu":
        return functional.gelu(x) if deriv == 0 else _gelu(x, deriv)
    if name == "sigmoid":
        return _sigmoid(torch.sigmoid(x), torch.sigmoid(-x), deriv)
    if name == "tanh":  # 2 sigmoid(2 x) - 1
        if deriv == 0:
            return torch.tanh(x)
        return _sigmoid(torch.sigmoid(2 * x), torch.sigmoid(-2 * x), deriv) * 2.0 ** (deriv + 1)
    if name == "relu":
        return torch.relu(x) if deriv == 0 else _constant(x, (x > 0) * (deriv == 1))
    if name == "identity":
        return x.clone() if deriv == 0 else _constant(x, torch.full_like(x, deriv == 1))
    raise ValueError(f"activation must be one of {ACTIVATIONS[:-1]}, got {name!r}")


def _sigmoid(s: Tensor, r: Tensor, n: int) -> Tensor:
    """The derivative of order n of the sigmoid, where s = sigmoid(x) and r = sigmoid(-x)."""
    if n == 0:
        return s
    value = _horner(sigmoid_derivative(n), s * r)
    return value if n % 2 else value.mul_(r - s)


def _silu(x: Tensor, n: int) -> Tensor:
    s, r = torch.sigmoid(x), torch.sigmoid(-x)
    return torch.addcmul(n * _sigmoid(s, r, n - 1), x, _sigmoid(s, r, n))


def _gelu(x: Tensor, n: int) -> Tensor:
    phi = torch.exp(-0.5 * x * x).mul_(1 / math.sqrt(2 * math.pi))
    if n == 1:
        return torch.addcmul(torch.special.ndtr(x), x, phi)
    # Far out phi underflows to 0 while the polynomial overflows: their product is 0 there.
    return torch.where(phi == 0, phi, _horner(gelu_derivative(n), x) * phi)


def _horner(poly: Polynomial, x: Tensor) -> Tensor:
    out = torch.full_like(x, poly[-1])
    for a in poly[-2::-1]:
        out.mul_(x).add_(a)
    return out


def _constant(x: Tensor, value: Tensor) -> Tensor:
    """value, but NaN where x is NaN."""
    return torch.where(x.isnan(), x, value.to(x.dtype))
