"""Residual activations and their derivatives of any order, as polynomials that the kernels share.

The derivatives of sigmoid and tanh are polynomials in themselves, sigmoid^(n) = P_n(sigmoid) and
tanh^(n) = Q_n(tanh), and those of the Gaussian density are Hermite polynomials times itself. SiLU
and GELU are x times such a function, for which Leibniz' rule leaves two terms:
(x q)^(n) = x q^(n) + n q^(n-1).
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


def _derivative(poly: Polynomial) -> Polynomial:
    return tuple(i * a for i, a in enumerate(poly))[1:] or (0.0,)


def _product(p: Polynomial, q: Polynomial) -> Polynomial:
    out = [0.0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] += a * b
    return tuple(out)


@cache
def sigmoid_derivative(n: int) -> Polynomial:
    """Coefficients, lowest power first, of P_n with sigmoid^(n)(x) = P_n(sigmoid(x))."""
    if n == 0:
        return (0.0, 1.0)
    return _product(_derivative(sigmoid_derivative(n - 1)), (0.0, 1.0, -1.0))


@cache
def tanh_derivative(n: int) -> Polynomial:
    """Coefficients, lowest power first, of Q_n with tanh^(n)(x) = Q_n(tanh(x))."""
    if n == 0:
        return (0.0, 1.0)
    return _product(_derivative(tanh_derivative(n - 1)), (1.0, 0.0, -1.0))


@cache
def hermite(n: int) -> Polynomial:
    """Coefficients, lowest power first, of the probabilists' Hermite polynomial He_n.

    With phi the standard normal density, phi^(n)(x) = (-1)^n He_n(x) phi(x).
    """
    if n == 0:
        return (1.0,)
    shifted = (0.0, *hermite(n - 1))
    slope = _derivative(hermite(n - 1))
    return tuple(a - (slope[i] if i < len(slope) else 0.0) for i, a in enumerate(shifted))


def horner(poly: Polynomial, x: Tensor) -> Tensor:
    """The polynomial with these coefficients (lowest power first) at x, by Horner's rule."""
    out = torch.full_like(x, poly[-1])
    for a in poly[-2::-1]:
        out = out.mul_(x).add_(a)
    return out


def _sigmoid(x: Tensor, n: int) -> Tensor:
    return horner(sigmoid_derivative(n), torch.sigmoid(x))


def _normal_cdf(x: Tensor, n: int) -> Tensor:
    if n == 0:
        cdf: Tensor = torch.special.ndtr(x)
        return cdf
    density = torch.exp(-0.5 * x * x).mul_((-1.0) ** (n - 1) / math.sqrt(2 * math.pi))
    # Far out the density underflows to 0 while He_n overflows: their product is 0 there.
    return torch.where(density == 0, density, horner(hermite(n - 1), x) * density)


def activation(name: str, x: Tensor, deriv: int = 0) -> Tensor:
    """The derivative of order `deriv` of the residual activation `name` at x.

    Args:
        name: one of "silu", "gelu" (the exact, erf one), "tanh", "sigmoid", "relu", "identity".
        x: any shape, float32 or float64.
        deriv: order of the derivative, 0 for the function itself.

    Returns:
        A tensor like x. NaN stays NaN, also where the derivative is a constant. ReLU has the slope
        0 at 0, as in torch.
    """
    if name == "silu":
        if deriv == 0:
            return functional.silu(x)
        return torch.addcmul(deriv * _sigmoid(x, deriv - 1), x, _sigmoid(x, deriv))
    if name == "gelu":
        if deriv == 0:
            return functional.gelu(x)
        return torch.addcmul(deriv * _normal_cdf(x, deriv - 1), x, _normal_cdf(x, deriv))
    if name == "tanh":
        return horner(tanh_derivative(deriv), torch.tanh(x))
    if name == "sigmoid":
        return _sigmoid(x, deriv)
    if name not in ("relu", "identity"):
        raise ValueError(f"activation is expected to be one of {ACTIVATIONS[:-1]}, got {name!r}")
    if deriv == 0:
        return torch.relu(x) if name == "relu" else x.clone()
    if deriv > 1:
        constant = torch.zeros_like(x)
    elif name == "relu":
        constant = (x > 0).to(x.dtype)
    else:
        constant = torch.ones_like(x)
    return torch.where(x.isnan(), x, constant)
