"""The activations of the edges of an input, phi[b, o] = sum_j c[j, i, o] f_ij(x[b, i]).

They stay in registers. Rows run down a tile and outputs along it; a basis is a column, made once
for all outputs.
"""

import triton
import triton.language as tl

from . import basis


@triton.jit
def _chunk(
    acc, x, i, mask_i, grid_ptr, c_ptr, stride_cj, j0, I, mask_o,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr, COUNT:
    tl.constexpr,
):  # fmt: skip
    """acc += the COUNT splines from j0 on times their coefficients."""
    state = basis.start(x, i, mask_i, grid_ptr, j0, I, UNIFORM, G, DEGREE, DERIV)
    for step in tl.static_range(COUNT):
        state = basis.advance(state, j0 + step, i, mask_i, grid_ptr, I, UNIFORM, G, DEGREE, DERIV)
        w = tl.load(
            c_ptr + tl.cast(j0 + step, tl.int64) * stride_cj, mask=mask_o, other=0.0
        )  # [1, BLOCK_O]
        acc += state[0] * w
    return acc


@triton.jit
def load(
    x_ptr, given_ptr, b, valid, stride_xb, stride_gb,
    TYPE: tl.constexpr, HAS_GIVEN: tl.constexpr,
):  # fmt: skip
    """x and `given` (x again if there is none) of rows b: [BLOCK_B, 1] of TYPE, zeros where they
    are not valid. The pointers are those of the input's columns."""
    x = tl.load(x_ptr + b * stride_xb, mask=valid, other=0.0).to(TYPE)
    given = x
    if HAS_GIVEN:
        given = tl.load(given_ptr + b * stride_gb, mask=valid, other=0.0).to(TYPE)
    return x, given


@triton.jit
def combine(
    x, given, i, mask_i, grid_ptr, c_ptr, stride_cj, I, mask_o,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
    ACTIVATION: tl.constexpr, HAS_GIVEN: tl.constexpr, KEEP_NAN: tl.constexpr,
    CHUNKS: tl.constexpr, CHUNK: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """phi or, with DERIV = 1, its slope in x: [BLOCK_B, BLOCK_O].

    x: [BLOCK_B, 1]; given: values of a residual function that the basis does not know, likewise,
    used if HAS_GIVEN; i, mask_i: [1, 1]; c_ptr: [1, BLOCK_O] at j = 0.
    """
    acc = tl.zeros([BLOCK_B, BLOCK_O], x.dtype)
    for chunk in range(CHUNKS):
        acc = _chunk(
            acc, x, i, mask_i, grid_ptr, c_ptr, stride_cj, chunk * CHUNK, I, mask_o,
            UNIFORM, G, DEGREE, DERIV, CHUNK,
        )  # fmt: skip
    if TAIL > 0:
        acc = _chunk(
            acc, x, i, mask_i, grid_ptr, c_ptr, stride_cj, CHUNKS * CHUNK, I, mask_o,
            UNIFORM, G, DEGREE, DERIV, TAIL,
        )  # fmt: skip
    acc *= basis.constant(UNIFORM, DEGREE, DERIV)
    if DERIV > 0:
        acc *= basis.input_factor(i, mask_i, grid_ptr, x.dtype, UNIFORM, G, DEGREE, DERIV)
    last = c_ptr + tl.cast(G + DEGREE, tl.int64) * stride_cj
    if ACTIVATION != "none":
        acc += basis.residual(x, ACTIVATION, DERIV) * tl.load(last, mask=mask_o, other=0.0)
    if HAS_GIVEN and DERIV == 0:
        acc += given * tl.load(last, mask=mask_o, other=0.0)
    if KEEP_NAN:
        acc += x * 0.0
    return acc


@triton.jit
def pull_back(
    phi, b, weights_ptr, rows_ptr, plane, mask_o,
    EXTREMES: tl.constexpr,
):  # fmt: skip
    """The gradient in phi of the statistics' weighted sum.

    b: rows [BLOCK_B, 1]; weights_ptr: [1, BLOCK_O] into planes of mean, constant, sign, deviation,
    low, high (`statistics_grad.weights`); rows_ptr: into those of the lowest's and highest's rows.
    """
    mean = tl.load(weights_ptr, mask=mask_o, other=0.0)
    constant = tl.load(weights_ptr + plane, mask=mask_o, other=0.0)
    sign = tl.load(weights_ptr + 2 * plane, mask=mask_o, other=0.0)
    deviation = tl.load(weights_ptr + 3 * plane, mask=mask_o, other=0.0)
    g = constant + deviation * (phi - mean)
    g += tl.where(phi > 0.0, sign, tl.where(phi < 0.0, -sign, 0.0))
    if EXTREMES:
        for end in tl.static_range(2):
            row = tl.load(rows_ptr + end * plane, mask=mask_o, other=-1)
            weight = tl.load(weights_ptr + (4 + end) * plane, mask=mask_o, other=0.0)
            g += tl.where(b == row, weight, 0.0)
    return g
