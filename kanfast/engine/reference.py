"""The three primitives, and a layer made of them, in plain torch, as the kernels have them.

The names and signatures are those of the Triton launchers and of the native code.

Everything is one trilinear form, the sum of g[b, o] s[b, i] c[j, i, o] f_ij(x[b, i])
with derivatives f of order n, and its partial derivatives with respect to g, s and c. Packed as
[J, I, O] the coefficients are a matrix [J * I, O], so each primitive is a matrix product with the
basis values of a chunk of rows, [rows, J * I]. Chunks are sized to stay in a CPU's cache: no tensor
grows with B * I * J or B * O * I. Chunks are worked through in a fixed order, so results are
reproducible bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kanfast.engine.basis import Basis, Evaluator, evaluator

# Basis values of one chunk, for each thread: in float32 half of a second-level cache of 1 MiB.
CHUNK_ELEMENTS = 128 * 1024
# Matrix products starve on fewer rows, so layers of many inputs take larger chunks.
MIN_ROWS = 32

OPERAND_DTYPES = {
    "float64": torch.float64,
    "ieee": torch.float32,
    "tf32x3": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def forward(
    x: Tensor,
    c: Tensor,
    s: Tensor | None,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """F_n: y[b, o] = sum over i, j of s[b, i] c[j, i, o] f_ij^(n)(x[b, i]).

    Args:
        x: [B, I], any floating dtype and strides.
        c: [J, I, O], packed coefficients.
        s: [B, I] or None for ones.
        grid: [I, G + 2k + 1], float32 or float64.
        basis: the family of functions.
        deriv: order n of the derivative.
        precision: a key of `OPERAND_DTYPES`. Basis values are float64 for "float64" and float32
            otherwise; operands of the product are rounded to the precision's dtype, and summed in
            float32 (float64). "tf32" and "tf32x3" are computed as "ieee".
        out_dtype: dtype of the result.

    Returns:
        [B, O].
    """
    c = _operand(c, precision).reshape(c.shape[0] * c.shape[1], c.shape[2])
    y = x.new_empty((x.shape[0], c.shape[1]), dtype=c.dtype)
    functions = evaluator(grid, basis, deriv, c.dtype)
    for rows, f in _chunks(x, basis, c.dtype):
        _left_operand(functions, x[rows], None if s is None else s[rows], f, precision)
        torch.mm(f.flatten(1), c, out=y[rows])
    return y.to(out_dtype)


def input_grad(
    g: Tensor,
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """P_n: v[b, i] = sum over o, j of g[b, o] c[j, i, o] f_ij^(n)(x[b, i]).

    Args:
        g: [B, O]. The other arguments are those of `forward`.

    Returns:
        [B, I].
    """
    c = _operand(c, precision).reshape(c.shape[0] * c.shape[1], c.shape[2])
    v = x.new_empty(x.shape, dtype=c.dtype)
    functions = evaluator(grid, basis, deriv, c.dtype)
    for rows, f in _chunks(x, basis, c.dtype):
        functions(x[rows].to(c.dtype), f)
        products = _operand(g[rows], precision) @ c.T
        torch.sum(products.view(f.shape).mul_(f), dim=1, out=v[rows])
    return v.to(out_dtype)


def weight_grad(
    g: Tensor,
    x: Tensor,
    s: Tensor | None,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """W_n: w[j, i, o] = sum over b of g[b, o] s[b, i] f_ij^(n)(x[b, i]).

    Args:
        g: [B, O]. The other arguments are those of `forward`.

    Returns:
        [J, I, O].
    """
    dtype = wide(precision)
    w = x.new_zeros((basis.num_functions * x.shape[1], g.shape[1]), dtype=dtype)
    functions = evaluator(grid, basis, deriv, dtype)
    for rows, f in _chunks(x, basis, dtype):
        _left_operand(functions, x[rows], None if s is None else s[rows], f, precision)
        w.addmm_(f.flatten(1).T, _operand(g[rows], precision))
    return w.view(basis.num_functions, x.shape[1], g.shape[1]).to(out_dtype)


def layer_forward(
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """A layer from its parameters, see `engine.layer.layer`: x [B, I] -> [B, O]."""
    c = pack(weight, base, scaler)
    return forward(x, c, None, grid, basis=basis, deriv=0, precision=precision, out_dtype=out_dtype)


def layer_grad(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    needs: Sequence[bool],
    basis: Basis,
    precision: str,
) -> list[Tensor | None]:
    """Gradients of `layer_forward` in x, weight, base and scaler, those that are needed.

    Args:
        g: [B, O], the gradient of the layer's outputs. The other tensors are those of
            `layer_forward`.
        needs: Whether the gradient of each of them is needed; that of the grid is not.
        basis, precision: As in `forward`.

    Returns:
        One for each tensor, in its shape and dtype; None where it is not needed.
    """
    grads: list[Tensor | None] = [None] * 5
    options: dict[str, Any] = {"basis": basis, "precision": precision}
    if needs[0]:
        c = pack(weight, base, scaler)
        grads[0] = input_grad(g, x, c, grid, deriv=1, out_dtype=x.dtype, **options)
    if any(needs[1:]):
        dtype = wide(precision)
        dc = weight_grad(g, x, None, grid, deriv=0, out_dtype=dtype, **options)
        grads[1:4] = unpack(dc, weight, base, scaler, needs[1:4])
    return grads


def pack(weight: Tensor, base: Tensor | None, scaler: Tensor | None) -> Tensor:
    """Coefficients [J, I, O] of parameters [O, I, G + k], [O, I] and [O, I]; contiguous."""
    c = weight.permute(2, 1, 0)
    if scaler is not None:
        c = c * scaler.T
    if base is not None:
        c = torch.cat([c, base.T[None]])
    return c.contiguous()


def unpack(
    dc: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of weight, base and scaler, those that are needed, from that of `pack`'s result."""
    d_scaled = dc[: weight.shape[2]].permute(2, 1, 0)
    d_weight = d_scaled if scaler is None else d_scaled * scaler.unsqueeze(-1)
    grads: list[Tensor | None] = [d_weight.to(weight.dtype).contiguous()] if needs[0] else [None]
    grads.append(dc[-1].T.to(base.dtype).contiguous() if base is not None and needs[1] else None)
    d_scaler = None if scaler is None or not needs[2] else (d_scaled * weight).sum(-1)
    grads.append(None if d_scaler is None or scaler is None else d_scaler.to(scaler.dtype))
    return grads


def _chunks(x: Tensor, basis: Basis, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows, each with a buffer [rows, J, I] for its basis values."""
    functions, inputs = basis.num_functions, x.shape[1]
    rows = max(MIN_ROWS, CHUNK_ELEMENTS * torch.get_num_threads() // max(1, functions * inputs))
    buffer = x.new_empty((min(rows, x.shape[0]), functions, inputs), dtype=dtype)
    for start in range(0, x.shape[0], rows):
        stop = min(start + rows, x.shape[0])
        yield slice(start, stop), buffer[: stop - start]


def _left_operand(
    functions: Evaluator, x: Tensor, s: Tensor | None, out: Tensor, precision: str
) -> None:
    """The left operand of F and W, s f^(n)(x), into out."""
    functions(x.to(out.dtype), out)
    if s is not None:
        out.mul_(s[:, None])
    if OPERAND_DTYPES[precision] != out.dtype:
        out.copy_(out.to(OPERAND_DTYPES[precision]))


def _operand(t: Tensor, precision: str) -> Tensor:
    """t rounded to the precision's dtype and widened again to that of the accumulator."""
    return t.to(OPERAND_DTYPES[precision]).to(wide(precision))


def wide(precision: str) -> torch.dtype:
    """The dtype of basis values and of sums."""
    return torch.float64 if precision == "float64" else torch.float32
