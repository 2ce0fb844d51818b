"""The residual activations and their derivatives of every order (kernels/README.md, "Residual")."""

import triton
import triton.language as tl

from . import tables


@triton.jit
def _horner(x, POLY: tl.constexpr):
    """sum_n POLY[n] x^n."""
    f = x * 0.0 + POLY[len(POLY) - 1]
    for n in tl.static_range(1, len(POLY)):
        f = f * x + POLY[len(POLY) - 1 - n]
    return f


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0.0, -t, t)


@triton.jit
def _gelu(x, DERIV: tl.constexpr):
    SQRT_HALF: tl.constexpr = 0.7071067811865476
    INV_SQRT_2PI: tl.constexpr = 0.3989422804014327
    if DERIV == 0:
        return 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))
    density = INV_SQRT_2PI * tl.exp(-0.5 * x * x)
    if DERIV == 1:
        return 0.5 * (1.0 + tl.erf(x * SQRT_HALF)) + x * density
    return density * _horner(x, tables.gelu_polynomial(DERIV))


@triton.jit
def value(x, ACTIVATION: tl.constexpr, DERIV: tl.constexpr):
    """The DERIV-th derivative of the activation at x; the shape and dtype of x."""
    if ACTIVATION == "silu":  # (x s)^(n) = x s^(n) + n s^(n-1)
        s = _sigmoid(x)
        if DERIV == 0:
            return x * s
        P: tl.constexpr = tables.sigmoid_polynomial(DERIV)
        Q: tl.constexpr = tables.sigmoid_polynomial(DERIV - 1)
        return x * _horner(s, P) + DERIV * _horner(s, Q)
    elif ACTIVATION == "sigmoid":
        return _horner(_sigmoid(x), tables.sigmoid_polynomial(DERIV))
    elif ACTIVATION == "tanh":
        return _horner(_tanh(x), tables.tanh_polynomial(DERIV))
    elif ACTIVATION == "gelu":
        return _gelu(x, DERIV)
    elif ACTIVATION == "relu":
        if DERIV == 0:
            return tl.where(x < 0.0, 0.0, x)
        elif DERIV == 1:
            return tl.where(x > 0.0, 1.0, 0.0).to(x.dtype)
        return x * 0.0
    else:
        tl.static_assert(ACTIVATION == "identity")
        if DERIV == 0:
            return x
        return x * 0.0 + (1.0 if DERIV == 1 else 0.0)
