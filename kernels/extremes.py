"""The first rows of the lowest and the highest activation of every edge."""

import torch
import triton
import triton.language as tl

from . import edges, launch


@triton.jit
def extremes_kernel(
    x_ptr,  # [B, I]
    given_ptr,  # [B, I] or unused
    c_ptr,  # [J, I, O]
    grid_ptr,  # [I, G + 2k + 1], or the table of general knots
    value_ptr,  # [SPLIT, 2, I, O]: the lowest phi, and minus the highest
    row_ptr,  # likewise, their first rows
    B,
    I,
    O,
    ROWS,
    stride_xb,
    stride_xi,
    stride_gb,
    stride_gi,
    stride_cj,
    stride_ci,
    stride_co,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_GIVEN: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    TYPE: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    TAIL: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: the edges from one input to BLOCK_O outputs, over ROWS of the batch."""
    tiles_o = tl.cdiv(O, BLOCK_O)
    i = tl.full([1, 1], tl.program_id(0) // tiles_o, tl.int32)
    o = tl.program_id(0) % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    split = tl.program_id(1).to(tl.int64)
    mask_i, mask_o = i < I, o < O
    begin = split * ROWS
    end = tl.minimum(begin + ROWS, B)
    wide_i, row = i.to(tl.int64), tl.arange(0, BLOCK_B)[:, None]
    x_col, given_col = x_ptr + wide_i * stride_xi, given_ptr + wide_i * stride_gi
    c_row = c_ptr + wide_i * stride_ci + o.to(tl.int64) * stride_co

    low = tl.zeros([BLOCK_B, BLOCK_O], TYPE) + float("inf")
    high = low
    low_block = tl.zeros([BLOCK_B, BLOCK_O], tl.int32)  # which of the program's blocks of rows
    high_block = low_block
    for b0 in range(begin, end, BLOCK_B):
        b = b0 + row
        valid = b < end
        x, given = edges.load(x_col, given_col, b, valid, stride_xb, stride_gb, TYPE, HAS_GIVEN)
        phi = edges.combine(
            x, given, i, mask_i, grid_ptr, c_row, stride_cj, I, mask_o,
            UNIFORM, G, DEGREE, 0, ACTIVATION, HAS_GIVEN, KEEP_NAN, CHUNKS, CHUNK, TAIL,
            BLOCK_B, BLOCK_O,
        )  # fmt: skip
        block = ((b0 - begin) // BLOCK_B).to(tl.int32)
        phi = tl.where(valid, phi, float("nan"))
        lower, higher = phi < low, -phi < high
        low, low_block = tl.where(lower, phi, low), tl.where(lower, block, low_block)
        high, high_block = tl.where(higher, -phi, high), tl.where(higher, block, high_block)

    plane = tl.cast(I, tl.int64) * O
    out = split * 2 * plane + wide_i * O + o
    for which in tl.static_range(2):
        value, found = (low, low_block) if which == 0 else (high, high_block)
        best = tl.min(value, axis=0)[None, :]
        place = begin + found.to(tl.int64) * BLOCK_B + row
        first = tl.min(tl.where(value == best, place, tl.cast(B, tl.int64)), axis=0)[None, :]
        tl.store(value_ptr + out + which * plane, best, mask=mask_o)
        tl.store(row_ptr + out + which * plane, first, mask=mask_o)


def extreme_rows(tensors, strides, rows, basis, flags):
    """[2, I, O], int64: the first rows of the lowest and the highest activation."""
    x, _, c, _ = tensors
    (_, inputs, outputs), dtype = c.shape, x.dtype
    tile, structure, _ = launch.edges("extremes", basis, dtype, rows, outputs)
    tiles = inputs * triton.cdiv(outputs, tile["BLOCK_O"])
    split, part = launch.split_batch(rows, tiles, tile["BLOCK_B"])
    value = torch.empty(split, 2, inputs, outputs, dtype=dtype, device=x.device)
    row = torch.empty(split, 2, inputs, outputs, dtype=torch.int64, device=x.device)
    extremes_kernel[(tiles, split)](
        *tensors, value, row, rows, inputs, outputs, part, *strides, **flags, **structure, **tile
    )
    return torch.where(value == value.amin(0), row, rows).amin(0)
