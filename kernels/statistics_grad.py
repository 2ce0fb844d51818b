"""Gradients of the edges' statistics in x and c, whose activations are made again."""

import torch
import triton
import triton.language as tl

from . import basis as functions
from . import edges, launch, runtime, sums
from .extremes import extreme_rows


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
    x_col, given_col = x_ptr + wide_i * stride_xi, given_ptr + wide_i * stride_gi
    plane = tl.cast(I, tl.int64) * O
    x, given = edges.load(x_col, given_col, b, valid, stride_xb, stride_gb, TYPE, HAS_GIVEN)
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
    x_col, given_col = x_ptr + wide_i * stride_xi, given_ptr + wide_i * stride_gi
    plane = tl.cast(I, tl.int64) * O
    at = wide_i * O + o
    c_row = c_ptr + wide_i * stride_ci + o.to(tl.int64) * stride_co

    accs = ()
    for _ in tl.static_range(COUNT + RESIDUAL):
        accs = accs + (tl.zeros([BLOCK_B, BLOCK_O], TYPE),)
    for b0 in range(begin, end, BLOCK_B):
        b = b0 + row
        valid = b < end
        x, given = edges.load(x_col, given_col, b, valid, stride_xb, stride_gb, TYPE, HAS_GIVEN)
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
    """Gradients in x, c and residual, those that are needed; see kanfast.engine.chunked."""
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
        first = extreme_rows(found[:4], strides, rows, basis, flags) if extremes else found[4]
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


def _coefficients(tensors, first, strides, dc, rows, basis, flags):
    """Writes dc [J, I, O]."""
    x, _, c, _, _ = tensors
    functions_, inputs, outputs = c.shape
    tile, structure, limit = launch.edges("coefficient", basis, x.dtype, rows, outputs)
    residual = functions_ > basis.num_splines
    chunks, chunk, tail = launch.chunks(basis.num_splines + residual, limit)
    tiles = inputs * triton.cdiv(outputs, tile["BLOCK_O"])
    split, part = launch.split_batch(rows, tiles * (chunks + 1), tile["BLOCK_B"])
    with sums.over(dc, split, dc.dtype) as partial:

        def run(programs, begin, count, residual):
            coefficient_kernel[(tiles, programs, split)](
                *tensors, first, partial, rows, inputs, outputs, functions_, part, begin, *strides,
                COUNT=count, RESIDUAL=residual, **flags, **structure, **tile,
            )  # fmt: skip

        if chunks:
            run(chunks, 0, chunk, False)
        run(1, chunks * chunk, tail - residual, residual)
