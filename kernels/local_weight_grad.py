"""W_n with local support: dc[j, i, o] = sum_b g[b, o] s[b, i] f_j^(n)(x[b, i]), for a block of
functions over the rows alone that are near them (`bins.py`)."""

import triton
import triton.language as tl

from . import bins, launch, local, runtime, sums
from .basis import local as cells


@triton.jit
def local_weight_grad_kernel(
    g_ptr,  # [B, O]
    x_ptr,  # [I, B] in the order of row_ptr
    row_ptr,  # [I, B]
    s_ptr,  # [I, B] or unused, in the batch's order
    end_ptr,  # [I, BINS + 1]: where the bins of row_ptr end
    grid_ptr,  # [I, G + 2k + 1]
    out_ptr,  # [SPLIT, J, I, O] partial sums
    B,
    I,
    O,
    J,
    BINS,
    stride_gb,
    stride_go,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: the tile [BLOCK_J, BLOCK_O] of functions and outputs of one input, over a part
    of the rows that these functions look at.

    Rows come in the batch's order within a bin, so programs that run side by side read the same
    part of g.
    """
    TYPE: tl.constexpr = tl.float64 if PRECISION == "float64" else tl.float32
    blocks = tl.cdiv(J, BLOCK_J)
    i, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    split, mask_o = tl.program_id(2), o < O
    ends = end_ptr + i.to(tl.int64) * (BINS + 1) + 2 * block
    begin, end = tl.load(ends), tl.load(ends + 3)
    part = tl.cdiv(tl.cdiv(end - begin, tl.num_programs(2)), BLOCK_B) * BLOCK_B
    begin += split * part
    end = tl.minimum(end, begin + part)
    j = block * BLOCK_J + tl.arange(0, BLOCK_J)
    own = i.to(tl.int64) * B
    acc = tl.zeros([BLOCK_J, BLOCK_O], TYPE)
    for place in range(begin, end, BLOCK_B):
        at = place + tl.arange(0, BLOCK_B)
        mask_b = at < end
        row = tl.load(row_ptr + own + at, mask=mask_b, other=0)
        x = tl.load(x_ptr + own + at, mask=mask_b, other=0.0).to(TYPE)
        g = tl.load(
            g_ptr + row.to(tl.int64)[:, None] * stride_gb + o[None, :] * stride_go,
            mask=mask_b[:, None] & mask_o[None, :],
            other=0.0,
        )
        q, values = cells.evaluate(x, i, i < I, grid_ptr, UNIFORM, G, DEGREE, DERIV)
        nth = j[:, None] - (q - DEGREE)[None, :]
        f = tl.zeros([BLOCK_J, BLOCK_B], TYPE)
        for r in tl.static_range(DEGREE + 1):
            f = tl.where(nth == r, values[r][None, :], f)
        if KEEP_NAN:
            f = tl.where((x == x)[None, :], f, x[None, :])
        if HAS_SCALE:
            f = f * tl.load(s_ptr + own + row, mask=mask_b, other=0.0).to(TYPE)[None, :]
        finite: tl.constexpr = not HAS_SCALE and not KEEP_NAN
        f = runtime.parts(f, PRECISION, INTERPRETED, FINITE=finite)
        acc = runtime.dot(f, runtime.parts(g, PRECISION, INTERPRETED), acc, PRECISION)
    out = out_ptr + split.to(tl.int64) * J * I * O + i.to(tl.int64) * O
    out += j.to(tl.int64)[:, None] * I * O + o[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=(j < J)[:, None] & mask_o[None, :])


def local_weight_grad(g, x, s, grid, out, *, basis, deriv, precision):
    """Writes the splines' gradient, out [J, I, O]; the arguments are those of `weight_grad`."""
    (rows, inputs), (functions, _, outputs) = x.shape, out.shape
    tile = local.weight_tile(basis, precision, x.device, rows, outputs)
    block_j, block_b = tile["BLOCK_J"], tile["BLOCK_B"]
    blocks = bins.number_of(basis, block_j)
    tiles = inputs * blocks * triton.cdiv(outputs, tile["BLOCK_O"])
    split, _ = launch.split_batch(rows, tiles, block_b)
    dtype, shape = runtime.basis_dtype(precision), launch.structure(basis, deriv)
    del shape["ACTIVATION"]
    with runtime.on_device(x), sums.over(out, split, dtype) as partial:
        knots = local.knots(grid, precision)
        order = bins.sort(local.transposed(x), knots, basis, dtype, block_j)
        local_weight_grad_kernel[(inputs * blocks, triton.cdiv(outputs, tile["BLOCK_O"]), split)](
            g, order.x, order.rows, order.x if s is None else local.transposed(s), order.ends,
            knots, partial, rows, inputs, outputs, functions, 2 * blocks + 2, *g.stride(),
            HAS_SCALE=s is not None, PRECISION=precision, **shape, **tile,
        )  # fmt: skip
