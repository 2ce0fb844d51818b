"""Gradients of the edges' statistics in x and c, whose activations are made again."""

import torch
import triton
import triton.language as tl

from . import basis as functions
from . import edges, launch, runtime
from .weight_grad import reduce_kernel


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
    c_row = c_ptr + wide_i * stride_ci + o.to(tl.int64) * stride_co

    low = tl.zeros([BLOCK_B, BLOCK_O], TYPE) + float("inf")
    high = low
    low_block = tl.zeros([BLOCK_B, BLOCK_O], tl.int32)  # which of the program's blocks of rows
    high_block = low_block
    for b0 in range(begin, end, BLOCK_B):
        b = b0 + row
        valid = b < end
        x = tl.load(x_ptr + b * stride_xb + wide_i * stride_xi, mask=valid, other=0.0).to(TYPE)
        given = x
        if HAS_GIVEN:
            given = tl.load(given_ptr + b * stride_gb + wide_i * stride_gi, mask=valid, other=0.0)
            given = given.to(TYPE)
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


@triton.jit
def input_kernel(
    x_ptr,  # [B, I]
    given_ptr,  # [B, I] or unused
    c_ptr,  # [J, I, O]
    grid_ptr,  # [I, G + 2k + 1], or the table of general knots
    weights_ptr,  # [6, I, O]
    rows_ptr,  # [2, I, O] or unused
    dx_ptr,  # [B, I] or unused
    d_given_ptr,  # [B, I] or unused
    B,
    I,
    O,
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
    EXTREMES: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_GIVEN: tl.constexpr,
    TYPE: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    TAIL: tl.constexpr,
    SLOPE_CHUNKS: tl.constexpr,
    SLOPE_CHUNK: tl.constexpr,
    SLOPE_TAIL: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: BLOCK_B rows of one input, over all outputs."""
    i = tl.full([1, 1], tl.program_id(0), tl.int32)
    b = tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]
    mask_i, valid = i < I, b < B
    wide_i = i.to(tl.int64)
    plane = tl.cast(I, tl.int64) * O
    x = tl.load(x_ptr + b * stride_xb + wide_i * stride_xi, mask=valid, other=0.0).to(TYPE)
    given = x
    if HAS_GIVEN:
        given = tl.load(given_ptr + b * stride_gb + wide_i * stride_gi, mask=valid, other=0.0)
        given = given.to(TYPE)
    dx = tl.zeros([BLOCK_B, BLOCK_O], TYPE)
    d_given = dx
    for o0 in range(0, O, BLOCK_O):
        o = o0 + tl.arange(0, BLOCK_O)[None, :]
        mask_o = o < O
        c_row = c_ptr + wide_i * stride_ci + o.to(tl.int64) * stride_co
        phi = edges.combine(
            x, given, i, mask_i, grid_ptr, c_row, stride_cj, I, mask_o,
            UNIFORM, G, DEGREE, 0, ACTIVATION, HAS_GIVEN, KEEP_NAN, CHUNKS, CHUNK, TAIL,
            BLOCK_B, BLOCK_O,
        )  # fmt: skip
        at = wide_i * O + o
        g = edges.pull_back(phi, b, weights_ptr + at, rows_ptr + at, plane, mask_o, EXTREMES)
        if WANTS_X:
            dx += g * edges.combine(
                x, given, i, mask_i, grid_ptr, c_row, stride_cj, I, mask_o,
                UNIFORM, G, DEGREE, 1, ACTIVATION, False, False,
                SLOPE_CHUNKS, SLOPE_CHUNK, SLOPE_TAIL, BLOCK_B, BLOCK_O,
            )  # fmt: skip
        if WANTS_GIVEN:
            last = c_row + tl.cast(G + DEGREE, tl.int64) * stride_cj
            d_given += g * tl.load(last, mask=mask_o, other=0.0)
    out = b * I + wide_i
    if WANTS_X:
        tl.store(dx_ptr + out, tl.sum(dx, axis=1)[:, None], mask=valid)
    if WANTS_GIVEN:
        tl.store(d_given_ptr + out, tl.sum(d_given, axis=1)[:, None], mask=valid)


@triton.jit
def coefficient_kernel(
    x_ptr,  # [B, I]
    given_ptr,  # [B, I] or unused
    c_ptr,  # [J, I, O]
    grid_ptr,  # [I, G + 2k + 1], or the table of general knots
    weights_ptr,  # [6, I, O]
    rows_ptr,  # [2, I, O] or unused
    out_ptr,  # [SPLIT, J, I, O] partial sums
    B,
    I,
    O,
    J,
    ROWS,
    J_BEGIN,
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
    EXTREMES: tl.constexpr,
    TYPE: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    TAIL: tl.constexpr,
    COUNT: tl.constexpr,  # splines whose gradients the program sums
    RESIDUAL: tl.constexpr,  # and whether that of the residual function, too
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: the gradients of COUNT functions' coefficients, from one input to BLOCK_O
    outputs, over ROWS of the batch. Each place of the tile sums its own rows."""
    tiles_o = tl.cdiv(O, BLOCK_O)
    i = tl.full([1, 1], tl.program_id(0) // tiles_o, tl.int32)
    o = tl.program_id(0) % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    j0 = J_BEGIN + tl.program_id(1) * COUNT
    split = tl.program_id(2).to(tl.int64)
    mask_i, mask_o = i < I, o < O
    begin = split * ROWS
    end = tl.minimum(begin + ROWS, B)
    wide_i, row = i.to(tl.int64), tl.arange(0, BLOCK_B)[:, None]
    plane = tl.cast(I, tl.int64) * O
    at = wide_i * O + o
    c_row = c_ptr + wide_i * stride_ci + o.to(tl.int64) * stride_co

    accs = ()
    for _ in tl.static_range(COUNT + RESIDUAL):
        accs = accs + (tl.zeros([BLOCK_B, BLOCK_O], TYPE),)
    for b0 in range(begin, end, BLOCK_B):
        b = b0 + row
        valid = b < end
        x = tl.load(x_ptr + b * stride_xb + wide_i * stride_xi, mask=valid, other=0.0).to(TYPE)
        given = x
        if HAS_GIVEN:
            given = tl.load(given_ptr + b * stride_gb + wide_i * stride_gi, mask=valid, other=0.0)
            given = given.to(TYPE)
        phi = edges.combine(
            x, given, i, mask_i, grid_ptr, c_row, stride_cj, I, mask_o,
            UNIFORM, G, DEGREE, 0, ACTIVATION, HAS_GIVEN, KEEP_NAN, CHUNKS, CHUNK, TAIL,
            BLOCK_B, BLOCK_O,
        )  # fmt: skip
        g = edges.pull_back(phi, b, weights_ptr + at, rows_ptr + at, plane, mask_o, EXTREMES)
        g = tl.where(valid, g, 0.0)
        new = ()
        if COUNT > 0:
            state = functions.start(x, i, mask_i, grid_ptr, j0, I, UNIFORM, G, DEGREE, 0)
            for step in tl.static_range(COUNT):
                state = functions.advance(
                    state, j0 + step, i, mask_i, grid_ptr, I, UNIFORM, G, DEGREE, 0
                )
                new = new + (accs[step] + state[0] * g,)
        if RESIDUAL:
            f = given
            if not HAS_GIVEN:
                f = functions.residual(x, ACTIVATION, 0)
            new = new + (accs[COUNT] + f * g,)
        accs = new

    CONSTANT: tl.constexpr = functions.constant(UNIFORM, DEGREE, 0)
    out = out_ptr + split * J * plane + at
    for step in tl.static_range(COUNT + RESIDUAL):
        j = J - 1 if step == COUNT else j0 + step
        acc = tl.sum(accs[step], axis=0)[None, :]
        acc = acc if step == COUNT else acc * CONSTANT
        tl.store(out + tl.cast(j, tl.int64) * plane, acc, mask=mask_o)


def weights(statistics, gradients, rows):
    """[6, I, O]: what gives an activation its gradient, constant + sign sgn(phi) + deviation (phi -
    mean), and the gradients of the lowest and the highest one."""
    mean, _, std, _, _ = statistics
    g_mean, g_abs, g_std, g_low, g_high = (
        torch.zeros_like(mean) if g is None else g for g in gradients
    )
    deviation = torch.where(std > 0, g_std / std, std * 0) / max(1, rows - 1)
    planes = (mean, g_mean / rows, g_abs / rows, deviation, g_low, g_high)
    return torch.stack([plane.T for plane in planes])


def edge_statistics_grad(x, c, residual, grid, statistics, gradients, needs, *, basis):
    """Gradients in x, c and residual, those that are needed; see kanfast.chunked."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    dx, dc, d_residual = (
        torch.empty(shape, dtype=x.dtype, device=x.device) if need else None
        for shape, need in zip((x.shape, c.shape, x.shape), needs, strict=True)
    )
    if not inputs * outputs:
        return tuple(None if t is None else t.zero_() for t in (dx, dc, d_residual))
    given = x if residual is None else residual
    strides = (*x.stride(), *given.stride(), *c.stride())
    extremes = any(g is not None for g in gradients[3:])
    flags = {"HAS_GIVEN": residual is not None}
    with runtime.on_device(x):
        knots = launch.edge_knots(grid, basis, x.dtype)
        found = (x, given, c, knots, weights(statistics, gradients, rows))
        first = _extreme_rows(found[:4], strides, rows, basis, flags) if extremes else found[4]
        flags["EXTREMES"] = extremes
        if dx is not None or d_residual is not None:
            tile, structure, limit = launch.edges("input", basis, x.dtype, rows, outputs)
            slopes = launch.chunks(launch.splines(basis, 1), limit)
            input_kernel[(inputs, triton.cdiv(rows, tile["BLOCK_B"]))](
                *found, first, x if dx is None else dx, x if d_residual is None else d_residual,
                rows, inputs, outputs, *strides,
                WANTS_X=dx is not None, WANTS_GIVEN=d_residual is not None,
                SLOPE_CHUNKS=slopes[0], SLOPE_CHUNK=slopes[1], SLOPE_TAIL=slopes[2],
                **flags, **structure, **tile,
            )  # fmt: skip
        if dc is not None:
            _coefficients(found, first, strides, dc, rows, basis, flags)
    return dx, dc, d_residual


def _extreme_rows(tensors, strides, rows, basis, flags):
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


def _coefficients(tensors, first, strides, dc, rows, basis, flags):
    """Writes dc [J, I, O]."""
    x, _, c, _, _ = tensors
    functions_, inputs, outputs = c.shape
    tile, structure, limit = launch.edges("coefficient", basis, x.dtype, rows, outputs)
    residual = functions_ > basis.num_splines
    chunks, chunk, tail = launch.chunks(basis.num_splines + residual, limit)
    tiles = inputs * triton.cdiv(outputs, tile["BLOCK_O"])
    split, part = launch.split_batch(rows, tiles * (chunks + 1), tile["BLOCK_B"])
    partial = dc
    if split > 1:
        partial = torch.empty(split, *dc.shape, dtype=dc.dtype, device=dc.device)

    def run(programs, begin, count, residual):
        coefficient_kernel[(tiles, programs, split)](
            *tensors, first, partial, rows, inputs, outputs, functions_, part, begin, *strides,
            COUNT=count, RESIDUAL=residual, **flags, **structure, **tile,
        )  # fmt: skip

    if chunks:
        run(chunks, 0, chunk, False)
    run(1, chunks * chunk, tail - residual, residual)
    if split > 1:
        reduce_kernel[(triton.cdiv(dc.numel(), 1024),)](
            partial, dc, dc.numel(), split, BLOCK=1024, **runtime.OPTIONS
        )
