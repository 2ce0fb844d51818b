"""The one pass over the weights before a launch: operand dtype, layout and padding."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import coefficients, runtime


class Operand(NamedTuple):
    """Packed coefficients as a kernel reads them: [J, inputs, outputs], zero beyond the true I and
    O.

    Split in two parts for "tf32x3"; the strides are those of (part, j, i, o).
    """

    tensor: torch.Tensor
    strides: tuple[int, int, int, int]
    inputs: int
    outputs: int


@triton.jit
def pack_kernel(
    splines_ptr, base_ptr, scaler_ptr,  # `coefficients.load`
    w_ptr,  # [parts, J, I, O_PADDED], or [parts, J, O, I_PADDED] when TRANSPOSE
    I, O, SPLINES,
    stride_j, stride_i, stride_o, base_i, base_o, scaler_i, scaler_o,
    I_PADDED, O_PADDED, stride_part,
    HAS_BASE: tl.constexpr, HAS_SCALER: tl.constexpr,
    PRECISION: tl.constexpr, TRANSPOSE: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: one tile [BLOCK_I, BLOCK_O] of one basis function."""
    j = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)[:, None]
    o = tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    w = coefficients.load(
        splines_ptr, base_ptr, scaler_ptr,
        stride_j, stride_i, stride_o, base_i, base_o, scaler_i, scaler_o,
        j, i, o, (i < I) & (o < O), SPLINES, HAS_BASE, HAS_SCALER,
    )  # fmt: skip
    if TRANSPOSE:
        target = w_ptr + (j * O_PADDED + o) * I_PADDED + i
    else:
        target = w_ptr + (j * I_PADDED + i) * O_PADDED + o
    mask = (i < I_PADDED) & (o < O_PADDED)
    if PRECISION == "tf32x3":
        high, low = runtime.split_tf32(w.to(tl.float32), False)
        tl.store(target, high, mask=mask)
        tl.store(target + stride_part, runtime.round_to_tf32(low, True, False), mask=mask)
    else:
        if PRECISION == "tf32":
            w = runtime.round_to_tf32(w.to(tl.float32), True, False)
        tl.store(target, w.to(w_ptr.dtype.element_ty), mask=mask)


def operand(c, precision, *, contraction):
    """c [J, I, O] as the right operand of a product over axis 1 (inputs) or 2 (outputs).

    c: a tensor or `Coefficients`.

    16-bit tensor-core operands may be major in either axis, 32-bit ones only in the contracted
    one: then the pack transposes, which costs less than a transposing copy in every tile. The
    contiguous axis is padded to a multiple of 16 elements, for 128-bit loads and asynchronous
    copies.
    """
    dtype = runtime.COMPUTE_DTYPES[precision]
    functions, inputs, outputs = c.shape
    transpose = contraction == 1 and dtype == torch.float32
    padded = -(-(inputs if transpose else outputs) // 16) * 16
    rows, columns = (padded, outputs) if transpose else (inputs, padded)
    given, dtypes = coefficients.of(c), ("tf32", "tf32x3")
    plain, parameters = given.splines, given.base is not None or given.scaler is not None
    if not parameters and precision not in dtypes and plain.dtype == dtype:
        if not transpose and padded == outputs and plain.is_contiguous():
            return Operand(plain, (0, *plain.stride()), inputs, outputs)
    if runtime.interpreting() and dtype != plain.dtype:
        given = coefficients.rounded(given, dtype)
    parts = 2 if precision == "tf32x3" else 1
    w = plain.new_empty(parts, functions, outputs if transpose else inputs, padded, dtype=dtype)
    grid = (triton.cdiv(rows, 32), triton.cdiv(columns, 64), functions)
    part, j, first, last = w.stride()
    if w.numel():
        splines, base, scaler, *strides = given.arguments()
        pack_kernel[grid](
            splines, base, scaler, w, inputs, outputs, len(splines), *strides, rows, columns, part,
            PRECISION=precision, TRANSPOSE=transpose, BLOCK_I=32, BLOCK_O=64,
            **given.structure(), **runtime.OPTIONS,
        )  # fmt: skip
    return Operand(
        w, (part, j, last, first) if transpose else (part, j, first, last), rows, columns
    )
