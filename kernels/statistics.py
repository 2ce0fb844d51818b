"""Mean, mean |phi|, deviation, minimum and maximum of every edge, summed in a fixed order."""

import torch
import triton
import triton.language as tl

from . import edges, launch, runtime


@triton.jit
def _update(
    state, share, valid, b, x_ptr, given_ptr, stride_xb, stride_gb, i, mask_i, grid_ptr, c_ptr,
    stride_cj, I, mask_o,
    MASKED: tl.constexpr, TYPE: tl.constexpr,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_GIVEN: tl.constexpr, KEEP_NAN: tl.constexpr,
    CHUNKS: tl.constexpr, CHUNK: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """The statistics of each place of a tile with one more block of rows, a share of
    those so far."""
    mean, size, spread, low, high = state
    x, given = edges.load(x_ptr, given_ptr, b, valid, stride_xb, stride_gb, TYPE, HAS_GIVEN)
    phi = edges.combine(
        x, given, i, mask_i, grid_ptr, c_ptr, stride_cj, I, mask_o,
        UNIFORM, G, DEGREE, 0, ACTIVATION, HAS_GIVEN, KEEP_NAN, CHUNKS, CHUNK, TAIL,
        BLOCK_B, BLOCK_O,
    )  # fmt: skip
    delta = phi - mean
    lower, higher, large = phi, phi, tl.abs(phi)
    if MASKED:
        delta = tl.where(valid, delta, 0.0)
        large = tl.where(valid, large, 0.0)
        lower = tl.where(valid, phi, float("inf"))
        higher = tl.where(valid, phi, float("-inf"))
    mean += delta * share
    spread += delta * (phi - mean)  # Welford
    return mean, size + large, spread, tl.minimum(low, lower), tl.maximum(high, higher)


@triton.jit
def statistics_kernel(
    x_ptr,  # [B, I]
    given_ptr,  # [B, I] or unused
    c_ptr,  # [J, I, O]
    grid_ptr,  # [I, G + 2k + 1], or the table of general knots
    out_ptr,  # [SPLIT, 5, I, O]: mean, sum of |phi|, sum of squares about the mean, min, max
    B,
    I,
    O,
    ROWS,  # of the batch, for one program: a multiple of BLOCK_B
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
    """One program: the edges from one input to BLOCK_O outputs, over ROWS of the batch. Each place
    of the tile has statistics of its own, of every BLOCK_B-th row, and they are joined at the
    end."""
    tiles_o = tl.cdiv(O, BLOCK_O)
    i = tl.full([1, 1], tl.program_id(0) // tiles_o, tl.int32)
    o = tl.program_id(0) % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    split = tl.program_id(1).to(tl.int64)
    mask_i, mask_o = i < I, o < O
    begin = split * ROWS
    end = tl.minimum(begin + ROWS, B)
    whole = begin + (end - begin) // BLOCK_B * BLOCK_B
    wide_i, row = i.to(tl.int64), tl.arange(0, BLOCK_B)[:, None]
    x_col, given_col = x_ptr + wide_i * stride_xi, given_ptr + wide_i * stride_gi
    c_row = c_ptr + wide_i * stride_ci + o.to(tl.int64) * stride_co

    zero = tl.zeros([BLOCK_B, BLOCK_O], TYPE)
    mean, size, spread, low, high = zero, zero, zero, zero + float("inf"), zero - float("inf")
    for b0 in range(begin, whole, BLOCK_B):
        share = 1.0 / ((b0 - begin) // BLOCK_B + 1).to(TYPE)
        mean, size, spread, low, high = _update(
            (mean, size, spread, low, high), share, row < BLOCK_B, b0 + row,
            x_col, given_col, stride_xb, stride_gb, i, mask_i, grid_ptr, c_row, stride_cj, I,
            mask_o,
            False, TYPE, UNIFORM, G, DEGREE, ACTIVATION, HAS_GIVEN, KEEP_NAN, CHUNKS, CHUNK, TAIL,
            BLOCK_B, BLOCK_O,
        )  # fmt: skip
    if whole < end:
        share = 1.0 / ((whole - begin) // BLOCK_B + 1).to(TYPE)
        mean, size, spread, low, high = _update(
            (mean, size, spread, low, high), share, row < end - whole, whole + row,
            x_col, given_col, stride_xb, stride_gb, i, mask_i, grid_ptr, c_row, stride_cj, I,
            mask_o,
            True, TYPE, UNIFORM, G, DEGREE, ACTIVATION, HAS_GIVEN, KEEP_NAN, CHUNKS, CHUNK, TAIL,
            BLOCK_B, BLOCK_O,
        )  # fmt: skip

    rows = ((whole - begin) // BLOCK_B + (row < end - whole).to(tl.int64)).to(TYPE)  # of a place
    # A fused multiply-add, as a product could be fused with the addition of another thread's part:
    # then the threads that share a sum would differ in its last bit.
    joined = tl.sum(tl.fma(mean, rows, zero), axis=0)[None, :] / (end - begin).to(TYPE)
    shift = mean - joined
    plane = tl.cast(I, tl.int64) * O
    out = out_ptr + split * 5 * plane + wide_i * O + o
    tl.store(out, joined, mask=mask_o)
    tl.store(out + plane, tl.sum(size, axis=0)[None, :], mask=mask_o)
    tl.store(out + 2 * plane, tl.sum(spread + rows * (shift * shift), axis=0)[None, :], mask=mask_o)
    tl.store(out + 3 * plane, tl.min(low, axis=0)[None, :], mask=mask_o)
    tl.store(out + 4 * plane, tl.max(high, axis=0)[None, :], mask=mask_o)


@triton.jit
def join_kernel(
    partial_ptr,  # [SPLIT, 5, I, O]
    mean_ptr,  # [O, I], as the others
    mean_abs_ptr,
    std_ptr,
    low_ptr,
    high_ptr,
    B,
    I,
    O,
    ROWS,
    SPLIT,
    BLOCK: tl.constexpr,
):
    """Joins the parts of the batch, one after the other, as Chan, Golub and LeVeque do (1983, eq.
    2.1)."""
    plane = tl.cast(I, tl.int64) * O
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < plane
    part = partial_ptr + n
    mean = tl.load(part, mask=mask, other=0.0)
    size = tl.load(part + plane, mask=mask, other=0.0)
    spread = tl.load(part + 2 * plane, mask=mask, other=0.0)
    low = tl.load(part + 3 * plane, mask=mask, other=0.0)
    high = tl.load(part + 4 * plane, mask=mask, other=0.0)
    for s in range(1, SPLIT):
        before = tl.cast(s, tl.int64) * ROWS
        count = tl.minimum(before + ROWS, B) - before
        part = partial_ptr + tl.cast(s, tl.int64) * 5 * plane + n
        share = count.to(mean.dtype) / (before + count).to(mean.dtype)
        shift = tl.load(part, mask=mask, other=0.0) - mean
        mean += shift * share
        size += tl.load(part + plane, mask=mask, other=0.0)
        spread += tl.load(part + 2 * plane, mask=mask, other=0.0)
        spread += shift * shift * (before.to(mean.dtype) * share)
        low = tl.minimum(low, tl.load(part + 3 * plane, mask=mask, other=0.0))
        high = tl.maximum(high, tl.load(part + 4 * plane, mask=mask, other=0.0))
    lacking = size != size  # minima and maxima pass over NaN, sums of sizes keep it
    low, high = tl.where(lacking, size, low), tl.where(lacking, size, high)
    rows = tl.cast(B, tl.int64)
    variance = spread / tl.maximum(rows - 1, 1).to(mean.dtype)
    std = tl.sqrt(variance) if mean.dtype == tl.float64 else tl.sqrt_rn(variance)
    out = n % O * I + n // O
    tl.store(mean_ptr + out, mean, mask=mask)
    tl.store(mean_abs_ptr + out, size / rows.to(mean.dtype), mask=mask)
    tl.store(std_ptr + out, std, mask=mask)
    tl.store(low_ptr + out, low, mask=mask)
    tl.store(high_ptr + out, high, mask=mask)


def edge_statistics(x, c, residual, grid, *, basis):
    """Five tensors [O, I] from x [B, I], c [J, I, O], residual [B, I] or None, grid [I, M].

    See kanfast.engine.chunked, whose plain torch has the same signature. Bit-for-bit reproducible.
    """
    (rows, inputs), outputs = x.shape, c.shape[2]
    out = [torch.empty(outputs, inputs, dtype=x.dtype, device=x.device) for _ in range(5)]
    if not inputs * outputs:
        return tuple(out)
    tile, structure, _ = launch.edges("statistics", basis, x.dtype, rows, outputs)
    given = x if residual is None else residual
    tiles = inputs * triton.cdiv(outputs, tile["BLOCK_O"])
    split, part = launch.split_batch(rows, tiles, tile["BLOCK_B"])
    partial = torch.empty(split, 5, inputs, outputs, dtype=x.dtype, device=x.device)
    with runtime.on_device(x):
        statistics_kernel[(tiles, split)](
            x, given, c, launch.edge_knots(grid, basis, x.dtype), partial,
            rows, inputs, outputs, part,
            *x.stride(), *given.stride(), *c.stride(),
            HAS_GIVEN=residual is not None, **structure, **tile,
        )  # fmt: skip
        join_kernel[(triton.cdiv(inputs * outputs, 256),)](
            partial, *out, rows, inputs, outputs, part, split, BLOCK=256, **runtime.OPTIONS
        )
    return tuple(out)
