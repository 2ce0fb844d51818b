"""F_n with local support: y[b, o] = sum_i s[b, i] sum_r c[q - k + r, i, o] f_{q-k+r}^(n)(x[b, i])
with q = q(b, i) the cell of x[b, i], and the residual function."""

import torch
import triton
import triton.language as tl

from . import basis as functions
from . import local, runtime
from .basis import local as cells


@triton.jit
def local_forward_kernel(
    x_ptr,  # [I, B]
    c_ptr,  # [tiles of outputs, I, ROWS, BLOCK_O]: local.pack
    s_ptr,  # [I, B] or unused
    grid_ptr,  # [I, G + 2k + 1]
    y_ptr,  # [B, O]
    B,
    I,
    O,
    ROWS,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: one tile [BLOCK_B, BLOCK_O] of y. It goes through the inputs and adds, row by
    row, the k + 1 splines of the row's cell times their coefficients."""
    first_b, tile_o = tl.program_id(0).to(tl.int64) * BLOCK_B, tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_O)
    mask_b = row < tl.minimum(B - first_b, BLOCK_B).to(tl.int32)
    acc = tl.zeros([BLOCK_B, BLOCK_O], TYPE)
    for i in range(I):
        i = tl.cast(i, tl.int32)
        at = i.to(tl.int64) * B + first_b
        x = tl.load(x_ptr + at + row, mask=mask_b, other=0.0).to(TYPE)
        q, f = cells.evaluate(x, i, i < I, grid_ptr, UNIFORM, G, DEGREE, DERIV)
        scale = x
        if HAS_SCALE:
            scale = tl.load(s_ptr + at + row, mask=mask_b, other=0.0).to(TYPE)
        slab = c_ptr + (tile_o * I + i) * ROWS * BLOCK_O
        tile = slab + ((q + cells.MARGIN) * BLOCK_O)[:, None] + column[None, :]
        for r in tl.static_range(DEGREE + 1):
            value = f[r]
            if KEEP_NAN and r == 0:
                value = tl.where(x == x, value, x)
            if HAS_SCALE:
                value = value * scale
            acc += value[:, None] * tl.load(tile + r * BLOCK_O).to(TYPE)
        if ACTIVATION != "none":
            value = functions.residual(x, ACTIVATION, DERIV)
            if HAS_SCALE:
                value = value * scale
            w = tl.load(slab + (ROWS - 1) * BLOCK_O + column).to(TYPE)
            acc += value[:, None] * w[None, :]
    b, o = first_b + row, tile_o * BLOCK_O + column
    y = y_ptr + b[:, None] * O + o[None, :]
    tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=mask_b[:, None] & (o < O)[None, :])


def local_forward(x, c, s, grid, *, basis, deriv, precision, out_dtype):
    """y [B, O]; the arguments are those of `forward`. Products are of float32 (float64) values with
    coefficients of the operands' dtype; tf32 is not rounded to."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    y = torch.empty(rows, outputs, dtype=runtime.storage_dtype(out_dtype), device=x.device)
    tile = local.tile("forward", basis, precision, x.device, rows, outputs)
    with runtime.on_device(x):
        w = local.pack(c, basis, precision, tile["BLOCK_O"])
        x = local.transposed(x)
        local_forward_kernel[(triton.cdiv(rows, tile["BLOCK_B"]), w.tensor.shape[0])](
            x, w.tensor, x if s is None else local.transposed(s), local.knots(grid, precision), y,
            rows, inputs, outputs, w.rows,
            HAS_SCALE=s is not None, **local.structure(basis, deriv, precision), **tile,
        )  # fmt: skip
    return y.to(out_dtype)
