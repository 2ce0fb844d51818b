"""P_n with local support: dx[b, i] = sum_r f_{q-k+r}^(n)(x[b, i]) sum_o g[b, o] c[q - k + r, i, o]
with q = q(b, i) the cell of x[b, i], and the residual function."""

import torch
import triton
import triton.language as tl

from . import basis as functions
from . import local, runtime
from .basis import local as cells

# Inputs of a program: enough for the tiles of g to be read seldom, few enough for many programs.
SPAN = 64


@triton.jit
def local_input_grad_kernel(
    g_ptr,  # [B, O]
    x_ptr,  # [I, B]
    c_ptr,  # [tiles of outputs, I, ROWS, BLOCK_O]: local.pack
    grid_ptr,  # [I, G + 2k + 1]
    out_ptr,  # [I, B], zeros
    B,
    I,
    O,
    ROWS,
    stride_gb,
    stride_go,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
    ACTIVATION: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    TYPE: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: BLOCK_B rows and SPAN inputs of dx. A tile of g stays in registers while the
    inputs pass by: each one's slope, row by row from the k + 1 splines of the row's cell, is
    multiplied with it, summed over the tile's outputs and added to what other tiles gave."""
    first_b, first_i = tl.program_id(0).to(tl.int64) * BLOCK_B, tl.program_id(1) * SPAN
    row, column = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_O)
    mask_b = row < tl.minimum(B - first_b, BLOCK_B).to(tl.int32)
    for tile_o in tl.range(0, tl.cdiv(O, BLOCK_O), disable_licm=True):
        # Within a tile offsets fit in 32 bits (the launcher sees to it): pointers would spill.
        o = tile_o * BLOCK_O
        g_tile = g_ptr + first_b * stride_gb + tl.cast(o, tl.int64) * stride_go
        g_tile += row[:, None] * stride_gb + column[None, :] * stride_go
        mask_g = mask_b[:, None] & (column < O - o)[None, :]
        g = tl.load(g_tile, mask=mask_g, other=0.0).to(TYPE)
        for i in range(first_i, tl.minimum(first_i + SPAN, I)):
            i = tl.cast(i, tl.int32)
            at = i.to(tl.int64) * B + first_b
            x = tl.load(x_ptr + at + row, mask=mask_b, other=0.0).to(TYPE)
            q, f = cells.evaluate(x, i, i < I, grid_ptr, UNIFORM, G, DEGREE, DERIV)
            slab = c_ptr + (tl.cast(tile_o, tl.int64) * I + i) * ROWS * BLOCK_O
            tile = slab + ((q + cells.MARGIN) * BLOCK_O)[:, None] + column[None, :]
            slope = tl.zeros([BLOCK_B, BLOCK_O], TYPE)
            for r in tl.static_range(DEGREE + 1):
                value = f[r]
                if KEEP_NAN and r == 0:
                    value = tl.where(x == x, value, x)
                slope += value[:, None] * tl.load(tile + r * BLOCK_O).to(TYPE)
            if ACTIVATION != "none":
                value = functions.residual(x, ACTIVATION, DERIV)
                w = tl.load(slab + (ROWS - 1) * BLOCK_O + column).to(TYPE)
                slope += value[:, None] * w[None, :]
            out = out_ptr + at + row
            total = tl.load(out, mask=mask_b, other=0.0) + tl.sum(slope * g, axis=1)
            tl.store(out, total, mask=mask_b)
        tl.debug_barrier()  # the sums are written before anybody reads them again


def local_input_grad(g, x, c, grid, *, basis, deriv, precision, out_dtype):
    """[B, I]; the arguments are those of `input_grad`, the numbers as in `local_forward`."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    out = torch.zeros(inputs, rows, dtype=runtime.basis_dtype(precision), device=x.device)
    tile = local.tile("input_grad", basis, precision, x.device, rows, outputs)
    g = runtime.narrow(g, tile["BLOCK_B"], tile["BLOCK_O"])
    with runtime.on_device(x):
        w = local.pack(c, basis, precision, tile["BLOCK_O"])
        programs = triton.cdiv(rows, tile["BLOCK_B"]), triton.cdiv(inputs, SPAN)
        local_input_grad_kernel[programs](
            g, local.transposed(x), w.tensor, local.knots(grid, precision), out,
            rows, inputs, outputs, w.rows, *g.stride(),
            SPAN=SPAN, **local.structure(basis, deriv, precision), **tile,
        )  # fmt: skip
    return out.t().to(out_dtype, memory_format=torch.contiguous_format)
