"""P_n: dx[b, i] = sum_j f_ij^(n)(x[b, i]) * sum_o g[b, o] c[j, i, o]."""

import torch
import triton
import triton.language as tl

from . import basis, launch, pack, runtime


@triton.jit
def _product(
    g_block, g_row, mask_b, stride_go, O, c_block, c_row, mask_c, stride_part, stride_co, O_PADDED,
    TYPE: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """[BLOCK_I, BLOCK_B]: sum_o c[i, o] g[b, o] over all outputs, for one function."""
    acc = tl.zeros([BLOCK_I, BLOCK_B], TYPE)
    o = tl.arange(0, BLOCK_O)
    w_tile = c_row + o[None, :] * stride_co
    for o0 in range(0, O_PADDED, BLOCK_O):
        g_tile = g_block + tl.cast(o0, tl.int64) * stride_go + (g_row + o[:, None] * stride_go)
        g = tl.load(g_tile, mask=mask_b & (o0 + o < O)[:, None], other=0.0)
        mask_w = mask_c & (o0 + o < O_PADDED)[None, :]
        w = runtime.load_parts(
            c_block + o0 * stride_co + w_tile, stride_part, mask_w, PRECISION, INTERPRETED
        )
        acc = runtime.dot(w, runtime.parts(g, PRECISION, INTERPRETED), acc, PRECISION)
    return acc


@triton.jit
def input_grad_kernel(
    g_ptr,  # [B, O]
    x_ptr,  # [B, I]
    c_ptr,  # [J, I, O] packed coefficients, in the operands' dtype
    grid_ptr,  # [I, G + 2k + 1], or the table of general knots
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
    SPLINES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    LAY_OUT: tl.constexpr,  # the bases like the products; products in tensor memory have no layout
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: one tile [BLOCK_I, BLOCK_B] of dx, transposed. A tile of g stays in shared
    memory while the coefficients of one basis after the other pass by; each product is weighted
    with its basis at x and added."""
    TYPE: tl.constexpr = tl.float64 if PRECISION == "float64" else tl.float32
    CONSTANT: tl.constexpr = basis.constant(UNIFORM, DEGREE, DERIV)
    first_i, first_b = tl.program_id(1) * BLOCK_I, tl.program_id(0).to(tl.int64) * BLOCK_B
    row, column = tl.arange(0, BLOCK_I)[:, None], tl.arange(0, BLOCK_B)[None, :]
    i = first_i + row
    mask_i, mask_b = i < I, column < B - first_b
    mask_x = mask_i & mask_b
    # Within a tile offsets fit in 32 bits (the launcher sees to it): fewer registers than pointers.
    g_block = g_ptr + first_b * stride_gb
    g_row = column * stride_gb
    c_block = c_ptr + first_i.to(tl.int64) * stride_ci
    c_row = row * stride_ci
    mask_c = i < I_PADDED

    x_tile = x_ptr + first_b * stride_xb + (column * stride_xb + i * stride_xi)
    x = tl.load(x_tile, mask=mask_x, other=0.0).to(TYPE)
    factor = basis.input_factor(i, mask_i, grid_ptr, TYPE, UNIFORM, G, DEGREE, DERIV) * CONSTANT
    out = x * 0.0 if KEEP_NAN else tl.zeros([BLOCK_I, BLOCK_B], TYPE)
    if ACTIVATION != "none":
        acc = _product(
            g_block, g_row, mask_b, stride_go, O,
            c_block + tl.cast(G + DEGREE, tl.int64) * stride_cj, c_row, mask_c,
            stride_part, stride_co, O_PADDED,
            TYPE, PRECISION, INTERPRETED, BLOCK_B, BLOCK_I, min(BLOCK_O, 64),
        )  # fmt: skip
        out += basis.residual(x, ACTIVATION, DERIV) / factor * acc
    if SPLINES > 0:
        for o0 in range(0, O_PADDED, BLOCK_O):
            o = tl.arange(0, BLOCK_O)
            g_tile = g_block + tl.cast(o0, tl.int64) * stride_go + (g_row + o[:, None] * stride_go)
            g = tl.load(g_tile, mask=mask_b & (o0 + o < O)[:, None], other=0.0)
            g = runtime.parts(g, PRECISION, INTERPRETED)
            w_tile = c_row + o[None, :] * stride_co
            mask_w = mask_c & (o0 + o < O_PADDED)[None, :]
            # From basis 0, in terms of o0: or Triton would hold the state of the start through all
            # of the loop.
            zero = tl.minimum(o0, 0)
            state = basis.start(x, i, mask_i, grid_ptr, zero, I, UNIFORM, G, DEGREE, DERIV)
            for j in range(SPLINES):
                w_block = c_block + tl.cast(j, tl.int64) * stride_cj + o0 * stride_co
                w = runtime.load_parts(
                    w_block + w_tile, stride_part, mask_w, PRECISION, INTERPRETED
                )
                product = runtime.dot(w, g, tl.zeros([BLOCK_I, BLOCK_B], TYPE), PRECISION)
                if LAY_OUT:
                    state = basis.laid_out_like(product, state, j < SPLINES)
                state = basis.advance(state, j, i, mask_i, grid_ptr, I, UNIFORM, G, DEGREE, DERIV)
                out += state[0] * product
    out *= factor
    tl.store(
        out_ptr + first_b * I + (column * I + i), out.to(out_ptr.dtype.element_ty), mask=mask_x
    )


def input_grad(g, x, c, grid, *, basis, deriv, precision, out_dtype):
    """[B, I] from g [B, O], x [B, I], packed coefficients c [J, I, O], grid [I, M]."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    out = torch.empty(rows, inputs, dtype=runtime.storage_dtype(out_dtype), device=x.device)
    if out.numel() == 0:
        return out.to(out_dtype)
    precision = runtime.supported_precision(precision, x.device)
    demanding = launch.demanding("input_grad", basis, deriv, False)
    tile, _ = launch.tile(
        "input_grad", precision, x.device, rows, inputs, outputs, demanding=demanding
    )
    g = runtime.narrow(g, tile["BLOCK_B"], tile["BLOCK_O"])
    x = runtime.narrow(x, tile["BLOCK_B"], inputs)
    with runtime.on_device(x):
        w = pack.operand(c, precision, contraction=2)
        programs = triton.cdiv(rows, tile["BLOCK_B"]), triton.cdiv(inputs, tile["BLOCK_I"])
        input_grad_kernel[programs](
            g, x, w.tensor, launch.knots(grid, basis, precision), out, rows, inputs, outputs,
            w.inputs, w.outputs,
            *g.stride(), *x.stride(), *w.strides,
            PRECISION=precision, LAY_OUT=launch.target_class(x.device) != "tcgen05",
            SPLINES=launch.splines(basis, deriv), **launch.structure(basis,
            deriv), **tile,
        )  # fmt: skip
    return out.to(out_dtype)
