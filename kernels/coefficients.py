"""The coefficients of a layer where they lie: packed, or as the parameters of a module."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import runtime


class Coefficients(NamedTuple):
    """Coefficients c [J, I, O] of splines, and last of the residual activation, not copied yet.

    c[j, i, o] is splines[j, i, o] scaler[i, o] for j < S, and base[i, o] for j = S. Strides are
    any; base and scaler may be None.
    """

    splines: torch.Tensor  # [S, I, O]
    base: torch.Tensor | None  # [I, O]
    scaler: torch.Tensor | None  # [I, O]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(J, I, O)."""
        splines, inputs, outputs = self.splines.shape
        return splines + (self.base is not None), inputs, outputs

    def arguments(self) -> tuple:
        """The tensors and their strides for `load`; tensors that are not there are never read."""
        splines = self.splines
        base = splines[0] if self.base is None else self.base
        scaler = splines[0] if self.scaler is None else self.scaler
        return splines, base, scaler, *splines.stride(), *base.stride(), *scaler.stride()

    def structure(self) -> dict[str, bool]:
        """The constexprs of `load`."""
        return {"HAS_BASE": self.base is not None, "HAS_SCALER": self.scaler is not None}


def of_parameters(
    weight: torch.Tensor, base: torch.Tensor | None, scaler: torch.Tensor | None
) -> Coefficients:
    """Those of a module's parameters, weight [O, I, G + k], base and scaler [O, I]."""
    transposed = [None if t is None else t.t() for t in (base, scaler)]
    return Coefficients(weight.permute(2, 1, 0), *transposed)


def of(c: torch.Tensor | Coefficients) -> Coefficients:
    """Those of a packed tensor [J, I, O], or what they are already."""
    return Coefficients(c, None, None) if isinstance(c, torch.Tensor) else c


def rounded(c: Coefficients, dtype: torch.dtype) -> Coefficients:
    """The same in a dtype: the interpreter truncates float32 to bfloat16, torch rounds."""
    splines = c.splines if c.scaler is None else c.splines * c.scaler
    base = None if c.base is None else c.base.to(dtype)
    return Coefficients(splines.to(dtype), base, None)


@triton.jit
def load(
    splines_ptr, base_ptr, scaler_ptr,
    stride_j, stride_i, stride_o, base_i, base_o, scaler_i, scaler_o,
    j, i, o, mask, SPLINES, HAS_BASE: tl.constexpr, HAS_SCALER: tl.constexpr,
):  # fmt: skip
    """c[j, i, o] and 0 where the mask is False; j, i, o: int64 that broadcast together."""
    spline = mask & (j < SPLINES)
    w = tl.load(splines_ptr + (j * stride_j + i * stride_i + o * stride_o), mask=spline, other=0.0)
    if w.dtype != tl.float64:
        w = w.to(tl.float32)
    if HAS_SCALER:
        scaler = tl.load(scaler_ptr + (i * scaler_i + o * scaler_o), mask=spline, other=0.0)
        w = w * scaler.to(w.dtype)
    if HAS_BASE:
        base = tl.load(base_ptr + (i * base_i + o * base_o), mask=mask & (j >= SPLINES), other=0.0)
        w = w + base.to(w.dtype)
    return w


@triton.jit
def unpack_kernel(
    dc_ptr,  # [J, I, O]
    weight_ptr,  # [O, I, S]
    scaler_ptr,  # [O, I]
    d_weight_ptr, d_base_ptr, d_scaler_ptr,  # [O, I, S], [O, I], [O, I]; contiguous
    I, O, SPLINES,
    stride_o, stride_i, stride_j, scaler_o, scaler_i,
    HAS_SCALER: tl.constexpr, TO_WEIGHT: tl.constexpr, TO_BASE: tl.constexpr,
    TO_SCALER: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of the parameters of BLOCK_O x BLOCK_I edges from those of c."""
    i = tl.program_id(0).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)[:, None]
    o = tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    mask = (i < I) & (o < O)
    source, target = dc_ptr + (i * O + o), o * I + i
    if HAS_SCALER:
        scaler = tl.load(scaler_ptr + (o * scaler_o + i * scaler_i), mask=mask, other=0.0)
    TYPE: tl.constexpr = dc_ptr.dtype.element_ty
    total = tl.zeros([BLOCK_I, BLOCK_O], TYPE)
    for j in range(SPLINES):
        dc = tl.load(source + tl.cast(j, tl.int64) * I * O, mask=mask, other=0.0)
        if TO_SCALER:
            weight_tile = weight_ptr + (o * stride_o + i * stride_i + j * stride_j)
            total += dc * tl.load(weight_tile, mask=mask, other=0.0).to(TYPE)
        if TO_WEIGHT:
            d = dc * scaler.to(TYPE) if HAS_SCALER else dc
            d = d.to(d_weight_ptr.dtype.element_ty)
            tl.store(d_weight_ptr + (target * SPLINES + j), d, mask=mask)
    if TO_BASE:
        dc = tl.load(source + tl.cast(SPLINES, tl.int64) * I * O, mask=mask, other=0.0)
        tl.store(d_base_ptr + target, dc.to(d_base_ptr.dtype.element_ty), mask=mask)
    if TO_SCALER:
        tl.store(d_scaler_ptr + target, total.to(d_scaler_ptr.dtype.element_ty), mask=mask)


def unpack(dc, weight, base, scaler, needs):
    """Gradients of weight, base and scaler, where needed, from that of c, [J, I, O]: one pass.

    dc is float32 or float64, contiguous.
    """
    outputs, inputs, splines = weight.shape
    grads = [
        torch.empty(t.shape, dtype=runtime.storage_dtype(t.dtype), device=t.device)
        if need and t is not None
        else None
        for t, need in zip((weight, base, scaler), needs, strict=True)
    ]
    given = scaler if scaler is not None else weight[:, :, 0]
    if weight.numel() and any(t is not None for t in grads):
        with runtime.on_device(dc):
            unpack_kernel[(triton.cdiv(inputs, 32), triton.cdiv(outputs, 32))](
                dc, weight, given, *(dc if t is None else t for t in grads),
                inputs, outputs, splines, *weight.stride(), *given.stride(),
                HAS_SCALER=scaler is not None, TO_WEIGHT=grads[0] is not None,
                TO_BASE=grads[1] is not None, TO_SCALER=grads[2] is not None,
                BLOCK_I=32, BLOCK_O=32, **runtime.OPTIONS,
            )  # fmt: skip
    return [
        None if d is None else d.to(t.dtype)
        for d, t in zip(grads, (weight, base, scaler), strict=True)
    ]
