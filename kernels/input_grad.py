"""P_n: dx[b, i] = sum_j f_ij^(n)(x[b, i]) * sum_o g[b, o] c[j, i, o]."""

import torch
import triton
import triton.language as tl

from . import basis, launch, pack, runtime


@triton.jit
def _chunk(
    splines, rest, x, i, mask_i, grid_ptr, g_row, c_col, mask_b, mask_c,
    stride_go, stride_part, stride_cj, stride_co, I, O, O_PADDED, j0,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr, COUNT: tl.constexpr,
    ACTIVATION: tl.constexpr, KEEP_NAN: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """(splines, rest) += sums over COUNT bases from j0 and the residual: their accumulators share each tile of g."""
    RESIDUAL: tl.constexpr = ACTIVATION != "none"
    accs = ()
    for _ in tl.static_range(COUNT + RESIDUAL):
        accs = accs + (tl.zeros([BLOCK_B, BLOCK_I], x.dtype),)
    for o0 in range(0, O_PADDED, BLOCK_O):
        o = o0 + tl.arange(0, BLOCK_O)
        g = tl.load(g_row + o[None, :] * stride_go, mask=mask_b[:, None] & (o < O)[None, :], other=0.0)
        g = runtime.parts(g, PRECISION, INTERPRETED)
        c_tile = c_col + o.to(tl.int64)[:, None] * stride_co
        mask_w = (o < O_PADDED)[:, None] & mask_c
        new = ()
        for step in tl.static_range(COUNT + RESIDUAL):
            j = G + DEGREE if step == COUNT else j0 + step
            w = runtime.load_parts(
                c_tile + tl.cast(j, tl.int64) * stride_cj, stride_part, mask_w, PRECISION, INTERPRETED
            )
            new = new + (runtime.dot(g, w, accs[step], PRECISION),)
        accs = new
    column, valid = i[None, :], mask_i[None, :]
    if COUNT > 0:
        state = basis.start(x, column, valid, grid_ptr, j0, I, UNIFORM, G, DEGREE, DERIV)
        for step in tl.static_range(COUNT):
            state = basis.advance(state, step, column, valid, grid_ptr, j0, I, UNIFORM, DEGREE, DERIV)
            splines += state[0] * accs[step]
            if KEEP_NAN and step == 0:
                rest += x * 0.0 * accs[step]
    if RESIDUAL:
        rest += basis.residual(x, ACTIVATION, DERIV) * accs[COUNT]
    return splines, rest


@triton.jit
def input_grad_kernel(
    g_ptr,  # [B, O]
    x_ptr,  # [B, I]
    c_ptr,  # [J, I, O] packed coefficients, in the operands' dtype
    grid_ptr,  # [I, G + 2k + 1]
    out_ptr,  # [B, I]
    B,
    I,
    O,
    I_PADDED,
    O_PADDED,
    stride_gb,
    stride_go,
    stride_xb,
    stride_xi,
    stride_part,
    stride_cj,
    stride_ci,
    stride_co,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
    ACTIVATION: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    TAIL: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: one tile [BLOCK_B, BLOCK_I] of dx. It contracts g with the coefficients of several bases
    at once over blocks of outputs, then weights each sum with its basis at x."""
    TYPE: tl.constexpr = tl.float64 if PRECISION == "float64" else tl.float32
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    mask_b, mask_i = b < B, i < I
    mask_x = mask_b[:, None] & mask_i[None, :]
    x = tl.load(x_ptr + b[:, None] * stride_xb + i[None, :] * stride_xi, mask=mask_x, other=0.0).to(TYPE)
    g_row = g_ptr + b[:, None] * stride_gb
    c_col = c_ptr + i.to(tl.int64)[None, :] * stride_ci
    mask_c = (i < I_PADDED)[None, :]

    splines = tl.zeros([BLOCK_B, BLOCK_I], TYPE)
    rest = tl.zeros([BLOCK_B, BLOCK_I], TYPE)
    for chunk in range(CHUNKS):
        splines, rest = _chunk(
            splines, rest, x, i, mask_i, grid_ptr, g_row, c_col, mask_b, mask_c,
            stride_go, stride_part, stride_cj, stride_co, I, O, O_PADDED, chunk * CHUNK,
            UNIFORM, G, DEGREE, DERIV, CHUNK, "none", False, PRECISION, INTERPRETED, BLOCK_B, BLOCK_I, BLOCK_O,
        )  # fmt: skip
    splines, rest = _chunk(
        splines, rest, x, i, mask_i, grid_ptr, g_row, c_col, mask_b, mask_c,
        stride_go, stride_part, stride_cj, stride_co, I, O, O_PADDED, CHUNKS * CHUNK,
        UNIFORM, G, DEGREE, DERIV, TAIL, ACTIVATION, KEEP_NAN, PRECISION, INTERPRETED, BLOCK_B, BLOCK_I, BLOCK_O,
    )  # fmt: skip
    factor = basis.input_factor(i[None, :], mask_i[None, :], grid_ptr, TYPE, UNIFORM, G, DEGREE, DERIV)
    CONSTANT: tl.constexpr = basis.constant(UNIFORM, DEGREE, DERIV)
    out = splines * (factor * CONSTANT) + rest
    tl.store(out_ptr + b[:, None] * I + i[None, :], out.to(out_ptr.dtype.element_ty), mask=mask_x)


def input_grad(g, x, c, grid, *, basis, deriv, precision, out_dtype):
    """[B, I] from g [B, O], x [B, I], packed coefficients c [J, I, O], grid [I, M]."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    out = torch.empty(rows, inputs, dtype=runtime.storage_dtype(out_dtype), device=x.device)
    if out.numel() == 0:
        return out.to(out_dtype)
    precision = runtime.supported_precision(precision, x.device)
    tile = launch.tile("input_grad", precision, x.device, rows, inputs, outputs)
    with runtime.on_device(x):
        w = pack.operand(c, precision, contraction=2)
        input_grad_kernel[(triton.cdiv(rows, tile["BLOCK_B"]), triton.cdiv(inputs, tile["BLOCK_I"]))](
            g, x, w.tensor, launch.knots(grid, basis, precision), out, rows, inputs, outputs, w.inputs, w.outputs,
            *g.stride(), *x.stride(), *w.strides,
            PRECISION=precision, **launch.structure(basis, deriv, limit=8), **tile,
        )  # fmt: skip
    return out.to(out_dtype)
