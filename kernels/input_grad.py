"""P_n: dx[b, i] = sum_j f_ij^(n)(x[b, i]) * sum_o g[b, o] c[j, i, o]."""

import torch
import triton
import triton.language as tl

from . import basis, launch, local, pack, runtime
from .local_input_grad import local_input_grad


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
    memory while the coefficients of one function after the other pass by; each product is weighted
    with its function at x and added.

    The tiles of x, of the sum and of the product fill the registers. So what is cheap to make is
    made anew where it is used, in terms of a zero of which the compiler does not know that it is
    one; else it would be held, and spilled, through all of the loop.
    """
    TYPE: tl.constexpr = tl.float64 if PRECISION == "float64" else tl.float32
    CONSTANT: tl.constexpr = basis.constant(UNIFORM, DEGREE, DERIV)
    first_i, first_b = tl.program_id(1) * BLOCK_I, tl.program_id(0).to(tl.int64) * BLOCK_B
    row, column = tl.arange(0, BLOCK_I)[:, None], tl.arange(0, BLOCK_B)[None, :]
    i, rows = first_i + row, tl.minimum(B - first_b, BLOCK_B).to(tl.int32)
    mask_i = i < I
    c_block = c_ptr + first_i.to(tl.int64) * stride_ci
    g_block = g_ptr + first_b * stride_gb

    # Within a tile offsets fit in 32 bits (the launcher sees to it): fewer registers than pointers.
    x_tile = x_ptr + first_b * stride_xb + (column * stride_xb + i * stride_xi)
    x = tl.load(x_tile, mask=mask_i & (column < rows), other=0.0).to(TYPE)
    out = tl.zeros([BLOCK_I, BLOCK_B], TYPE)
    if KEEP_NAN or not UNIFORM:  # a sweep over general knots makes NaN a number
        out = tl.where(x == x, out, x)
    state = (x, x)
    if UNIFORM or SPLINES > 0:
        state = basis.start(x, i, mask_i, grid_ptr, 0, I, UNIFORM, G, DEGREE, DERIV)
    for o0 in tl.range(0, O_PADDED, BLOCK_O, disable_licm=True):
        # Triton needs a barrier before it overwrites g. Here it does not keep all of the new tile
        # waiting in registers, as one between its loads and its stores would.
        tl.debug_barrier()
        zero = tl.minimum(o0, 0)
        o, b = tl.arange(0, BLOCK_O), column + zero
        g_tile = g_block + (b * stride_gb + (o0 + o)[:, None] * stride_go)
        g = tl.load(g_tile, mask=(b < rows) & (o0 + o < O)[:, None], other=0.0)
        g = runtime.parts(g, PRECISION, INTERPRETED)
        i = (tl.program_id(1) + zero) * BLOCK_I + row
        w_tile = (row + zero) * stride_ci + o[None, :] * stride_co
        mask_w = (i < I_PADDED) & (o0 + o < O_PADDED)[None, :]
        mask_i = i < I
        if SPLINES > 0 and not UNIFORM:
            state = basis.start(x, i, mask_i, grid_ptr, zero, I, UNIFORM, G, DEGREE, DERIV)
        if SPLINES > 0:
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
        # Not before the loop: Triton lays a product out otherwise if more products follow.
        if ACTIVATION != "none":
            zero = tl.minimum(o0 + BLOCK_O, 0)
            i = (tl.program_id(1) + zero) * BLOCK_I + row
            w_tile = (row + zero) * stride_ci + o[None, :] * stride_co
            mask_w = (i < I_PADDED) & (o0 + o < O_PADDED)[None, :]
            w_block = c_block + tl.cast(G + DEGREE, tl.int64) * stride_cj + o0 * stride_co
            w = runtime.load_parts(w_block + w_tile, stride_part, mask_w, PRECISION, INTERPRETED)
            product = runtime.dot(w, g, tl.zeros([BLOCK_I, BLOCK_B], TYPE), PRECISION)
            factor = basis.input_factor(i, i < I, grid_ptr, TYPE, UNIFORM, G, DEGREE, DERIV)
            held, origin = basis.argument(state, x, i, i < I, grid_ptr, UNIFORM, G, DEGREE, DERIV)
            f = basis.residual(runtime.after(held, product, zero) + origin, ACTIVATION, DERIV)
            out += f * product * (1.0 / (factor * CONSTANT))
    zero = tl.minimum(O_PADDED, 0)
    i, b = (tl.program_id(1) + zero) * BLOCK_I + row, column + zero
    factor = basis.input_factor(i, i < I, grid_ptr, TYPE, UNIFORM, G, DEGREE, DERIV)
    out_tile = out_ptr + first_b * I + (b * I + i)
    out = (out * (factor * CONSTANT)).to(out_ptr.dtype.element_ty)
    tl.store(out_tile, out, mask=(i < I) & (b < rows))


def input_grad(g, x, c, grid, *, basis, deriv, precision, out_dtype):
    """[B, I] from g [B, O], x [B, I], packed coefficients c [J, I, O], grid [I, M]."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    out = torch.empty(rows, inputs, dtype=runtime.storage_dtype(out_dtype), device=x.device)
    if out.numel() == 0:
        return out.to(out_dtype)
    precision = runtime.supported_precision(precision, x.device)
    if local.pays("input_grad", basis, deriv, precision, x.device):
        return local_input_grad(
            g, x, c, grid, basis=basis, deriv=deriv, precision=precision, out_dtype=out_dtype
        )
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
