"""The residual activations and their derivatives of every order (kernels/README.md, "Residual")."""

import triton
import triton.language as tl

from . import tables


@triton.jit
def _horner(x, POLY: tl.constexpr):
    """sum_n POLY[n] x^n."""
    f = x * POLY[len(POLY) - 1]
    for n in tl.static_range(1, len(POLY)):
        if POLY[len(POLY) - 1 - n] != 0.0:
            f += POLY[len(POLY) - 1 - n]
        if n < len(POLY) - 1:
            f *= x
    return f


@triton.jit
def _negative(x):
    """Whether the sign bit is set.

    Comparisons of widened 16-bit floats are narrowed by the compiler to packed 16-bit ones, which
    not all tools that check compiled code know; those of integers are not.
    """
    return x.to(tl.int64 if x.dtype == tl.float64 else tl.int32, bitcast=True) < 0


@triton.jit
def _sigmoid(x, DERIV: tl.constexpr):
    """Polynomials in q = s r, r = sigmoid(-x), keep their digits where s is near 1.

    Of the two the larger is 1 / (1 + e) with e = exp(-|x|), the other e times that: one exponential
    and one division, and nothing overflows.
    """
    e = tl.exp(-tl.abs(x))
    larger = 1.0 / (1.0 + e)
    if DERIV == 0:
        return tl.where(_negative(x), e * larger, larger)
    f = _horner(e * larger * larger, tables.sigmoid_derivative(DERIV))
    if DERIV % 2 == 1:
        return f
    difference = (1.0 - e) * larger  # |r - s|
    return f * tl.where(_negative(x), difference, -difference)


@triton.jit
def _tanh(x, DERIV: tl.constexpr):
    if DERIV > 0:  # tanh(x) = 2 sigmoid(2x) - 1
        return _sigmoid(2.0 * x, DERIV) * 2.0 ** (DERIV + 1)
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(_negative(x), -t, t)


@triton.jit
def _gelu(x, DERIV: tl.constexpr):
    SQRT_HALF: tl.constexpr = 0.7071067811865476
    INV_SQRT_2PI: tl.constexpr = 0.3989422804014327
    if DERIV == 0:
        return 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))
    density = INV_SQRT_2PI * tl.exp(-0.5 * x * x)
    if DERIV == 1:
        return 0.5 * (1.0 + tl.erf(x * SQRT_HALF)) + x * density
    # Far out the density underflows to 0 and the polynomial overflows: their product is 0 there.
    near = tl.minimum(tl.maximum(x, -1.0e3), 1.0e3)
    return density * _horner(near, tables.gelu_derivative(DERIV))


@triton.jit
def value(x, ACTIVATION: tl.constexpr, DERIV: tl.constexpr):
    """The DERIV-th derivative of the activation at x; the shape and dtype of x."""
    if ACTIVATION == "silu":  # (x s)^(n) = x s^(n) + n s^(n-1)
        if DERIV == 0:
            return x / (1.0 + tl.exp(-x))
        return x * _sigmoid(x, DERIV) + DERIV * _sigmoid(x, DERIV - 1)
    elif ACTIVATION == "sigmoid":
        return _sigmoid(x, DERIV)
    elif ACTIVATION == "tanh":
        return _tanh(x, DERIV)
    elif ACTIVATION == "gelu":
        return _gelu(x, DERIV)
    elif ACTIVATION == "relu":
        if DERIV == 0:
            return tl.where(_negative(x), 0.0, x)
        elif DERIV == 1:
            return tl.where(x > 0.0, 1.0, 0.0).to(x.dtype)
        return x * 0.0
    else:
        tl.static_assert(ACTIVATION == "identity")
        if DERIV == 0:
            return x
        return x * 0.0 + (1.0 if DERIV == 1 else 0.0)
