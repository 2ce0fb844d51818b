"""F_n: y[b, o] = sum_i sum_j s[b, i] c[j, i, o] f_ij^(n)(x[b, i])."""

import torch
import triton
import triton.language as tl

from . import basis, launch, local, pack, runtime
from .local_forward import local_forward


@triton.jit
def _chunk(
    acc, x, scale, i, mask_i, grid_ptr, c_ptr, stride_part, stride_cj, j0, I, mask_c,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr, COUNT:
    tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, HAS_SCALE: tl.constexpr, KEEP_NAN:
    tl.constexpr,
):  # fmt: skip
    """acc += sum of the COUNT bases from j0 of this block of inputs; c_ptr: [BLOCK_I, BLOCK_O] at
    j = 0."""
    i, mask_i = i[None, :], mask_i[None, :]
    if UNIFORM and DERIV > 0:
        scale *= basis.input_factor(i, mask_i, grid_ptr, x.dtype, UNIFORM, G, DEGREE, DERIV)
    state = basis.start(x, i, mask_i, grid_ptr, j0, I, UNIFORM, G, DEGREE, DERIV)
    for step in tl.static_range(COUNT):
        state = basis.advance(state, j0 + step, i, mask_i, grid_ptr, I, UNIFORM, G, DEGREE, DERIV)
        f = state[0]
        if HAS_SCALE or (UNIFORM and DERIV > 0):
            f = f * scale
        if KEEP_NAN and step == 0:
            f += x * 0.0
        f = runtime.parts(
            f, PRECISION, INTERPRETED, FINITE=not HAS_SCALE and not (KEEP_NAN and step == 0)
        )
        w = runtime.load_parts(
            c_ptr + tl.cast(j0 + step, tl.int64) * stride_cj,
            stride_part,
            mask_c,
            PRECISION,
            INTERPRETED,
        )
        acc = runtime.dot(f, w, acc, PRECISION)
    return acc


@triton.jit
def _rolled(
    acc, x, scale, i, mask_i, grid_ptr, c_ptr, stride_part, stride_cj, I, mask_c,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
    SPLINES: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr, HAS_SCALE: tl.constexpr, KEEP_NAN: tl.constexpr,
):  # fmt: skip
    """acc += the sum of all functions of this block of inputs, in a loop with a single product.

    Triton 3.8 gives every product of an unrolled chain an accumulator of its own in tensor memory,
    which holds two of the size that is worth while.
    """
    i, mask_i = i[None, :], mask_i[None, :]
    residual = x
    if ACTIVATION != "none":
        CONSTANT: tl.constexpr = basis.constant(UNIFORM, DEGREE, DERIV)
        residual = basis.residual(x, ACTIVATION, DERIV) * (1.0 / CONSTANT)
    factor = basis.input_factor(i, mask_i, grid_ptr, x.dtype, UNIFORM, G, DEGREE, DERIV)
    state = basis.start(x, i, mask_i, grid_ptr, 0, I, UNIFORM, G, DEGREE, DERIV)
    for j in range(SPLINES + (ACTIVATION != "none")):
        state = basis.advance(
            state, tl.minimum(j, SPLINES - 1), i, mask_i, grid_ptr, I, UNIFORM, G, DEGREE, DERIV
        )
        f = tl.where(j < SPLINES, state[0] * factor, residual)
        if KEEP_NAN:
            f += x * 0.0
        if HAS_SCALE:
            f = f * scale
        f = runtime.parts(f, PRECISION, INTERPRETED)
        w = runtime.load_parts(
            c_ptr + tl.cast(j, tl.int64) * stride_cj, stride_part, mask_c, PRECISION, INTERPRETED
        )
        acc = runtime.dot(f, w, acc, PRECISION)
    return acc


@triton.jit
def forward_kernel(
    x_ptr,  # [B, I]
    c_ptr,  # [J, I, O] packed coefficients, in the operands' dtype and layout
    s_ptr,  # [B, I] or unused
    grid_ptr,  # [I, G + 2k + 1]
    y_ptr,  # [B, O]
    B,
    I,
    O,
    I_PADDED,
    O_PADDED,
    stride_xb,
    stride_xi,
    stride_sb,
    stride_si,
    stride_part,
    stride_cj,
    stride_ci,
    stride_co,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    KEEP_NAN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROLLED: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    TAIL: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """One program: one tile [BLOCK_B, BLOCK_O] of y. It loops over blocks of inputs, makes the
    bases of the block in registers one after the other, and adds each one's product with its
    coefficients."""
    TYPE: tl.constexpr = tl.float64 if PRECISION == "float64" else tl.float32
    CONSTANT: tl.constexpr = basis.constant(UNIFORM, DEGREE, DERIV)
    first_b = tl.program_id(0).to(tl.int64) * BLOCK_B
    row = tl.arange(0, BLOCK_B)[:, None]
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    mask_b, mask_o = row < tl.minimum(B - first_b, BLOCK_B).to(tl.int32), o < O_PADDED
    # Within a block of rows offsets fit in 32 bits (the launcher sees to it): pointers would spill.
    x_block, s_block = x_ptr + first_b * stride_xb, s_ptr + first_b * stride_sb
    c_col = c_ptr + o.to(tl.int64)[None, :] * stride_co

    acc = tl.zeros([BLOCK_B, BLOCK_O], TYPE)
    for i0 in range(0, I, BLOCK_I):
        i = i0 + tl.arange(0, BLOCK_I)
        mask_i = i < I
        mask_x = mask_b & mask_i[None, :]
        mask_c = (i < I_PADDED)[:, None] & mask_o[None, :]
        x_tile = x_block + (row * stride_xb + i[None, :] * stride_xi)
        x = tl.load(x_tile, mask=mask_x, other=0.0).to(TYPE)
        scale = tl.full([1, 1], 1.0, TYPE)
        if HAS_SCALE:
            s_tile = s_block + (row * stride_sb + i[None, :] * stride_si)
            scale = tl.load(s_tile, mask=mask_x, other=0.0).to(TYPE)
        c_tile = c_col + i.to(tl.int64)[:, None] * stride_ci
        if ROLLED:
            acc = _rolled(
                acc, x, scale, i, mask_i, grid_ptr, c_tile, stride_part, stride_cj, I, mask_c,
                UNIFORM, G, DEGREE, DERIV, TAIL, ACTIVATION, PRECISION, INTERPRETED, HAS_SCALE,
                KEEP_NAN,
            )  # fmt: skip
        for chunk in range(CHUNKS):
            acc = _chunk(
                acc, x, scale, i, mask_i, grid_ptr, c_tile, stride_part, stride_cj, chunk * CHUNK,
                I, mask_c,
                UNIFORM, G, DEGREE, DERIV, CHUNK, PRECISION, INTERPRETED, HAS_SCALE, False,
            )  # fmt: skip
        if TAIL > 0 and not ROLLED:
            acc = _chunk(
                acc, x, scale, i, mask_i, grid_ptr, c_tile, stride_part, stride_cj, CHUNKS * CHUNK,
                I, mask_c,
                UNIFORM, G, DEGREE, DERIV, TAIL, PRECISION, INTERPRETED, HAS_SCALE, KEEP_NAN,
            )  # fmt: skip
        if ACTIVATION != "none" and not ROLLED:
            f = basis.residual(x, ACTIVATION, DERIV) * (1.0 / CONSTANT)
            if HAS_SCALE:
                f = f * scale
            f = runtime.parts(f, PRECISION, INTERPRETED)
            w = runtime.load_parts(
                c_tile + tl.cast(G + DEGREE, tl.int64) * stride_cj,
                stride_part,
                mask_c,
                PRECISION,
                INTERPRETED,
            )
            acc = runtime.dot(f, w, acc, PRECISION)

    acc *= CONSTANT
    y = y_ptr + first_b * O + (row * O + o[None, :])
    tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=mask_b & (o < O)[None, :])


def forward(x, c, s, grid, *, basis, deriv, precision, out_dtype):
    """y [B, O] from x [B, I], packed coefficients c [J, I, O], input scale s [B, I] or None, grid
    [I, M]."""
    (rows, inputs), outputs = x.shape, c.shape[2]
    y = torch.empty(rows, outputs, dtype=runtime.storage_dtype(out_dtype), device=x.device)
    if y.numel() == 0:
        return y.to(out_dtype)
    precision = runtime.supported_precision(precision, x.device)
    if local.pays("forward", basis, deriv, precision, x.device):
        return local_forward(
            x, c, s, grid, basis=basis, deriv=deriv, precision=precision, out_dtype=out_dtype
        )
    demanding = launch.demanding("forward", basis, deriv, s is not None)
    tile, limit = launch.tile(
        "forward", precision, x.device, rows, inputs, outputs, demanding=demanding
    )
    count, chunk, tail = launch.chunks(launch.splines(basis, deriv), limit, at_least=3)
    x = runtime.narrow(x, tile["BLOCK_B"], inputs)
    scale = x if s is None else runtime.narrow(s, tile["BLOCK_B"], inputs)
    with runtime.on_device(x):
        w = pack.operand(c, precision, contraction=1)
        forward_kernel[(triton.cdiv(rows, tile["BLOCK_B"]), triton.cdiv(outputs, tile["BLOCK_O"]))](
            x, w.tensor, scale, launch.knots(grid, basis, precision), y, rows, inputs, outputs,
            w.inputs, w.outputs,
            x.stride(0), x.stride(1), scale.stride(0), scale.stride(1), *w.strides,
            HAS_SCALE=s is not None, PRECISION=precision,
            ROLLED=limit == 0 and tail > 0, CHUNKS=count, CHUNK=chunk, TAIL=tail,
            **launch.structure(basis, deriv), **tile,
        )  # fmt: skip
    return y.to(out_dtype)
