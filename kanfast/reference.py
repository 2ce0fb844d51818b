"""The three primitives in plain torch, with the names and signatures of the Triton launchers.

Everything is one trilinear form, sum over b, o, i, j of g[b, o] s[b, i] c[j, i, o] f_ij^(n)(x[b, i]),
and its partial derivatives with respect to g, s and c. Packed as [J, I, O] the coefficients are a
matrix [J * I, O], so each primitive is a matrix product with the basis values of a chunk of rows,
[rows, J * I]. Chunks are sized to stay in a CPU's cache: no tensor grows with B * I * J or B * O * I.
Chunks are worked through in a fixed order, so results are reproducible bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kanfast.basis import Basis, evaluate

# Elements of the basis values of one chunk: half of a common 1 MiB second-level cache in float32.
CHUNK_ELEMENTS = 128 * 1024

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
    c = _operand(c, precision).reshape(-1, c.shape[2])
    y = x.new_empty((x.shape[0], c.shape[1]), dtype=c.dtype)
    for rows in _chunks(x, basis):
        f = _functions(x[rows], s, rows, grid, basis, deriv, precision)
        torch.mm(f, c, out=y[rows])
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
    functions, inputs, outputs = c.shape
    c = _operand(c, precision).reshape(-1, outputs)
    v = x.new_empty(x.shape, dtype=c.dtype)
    for rows in _chunks(x, basis):
        products = _operand(g[rows], precision) @ c.T
        f = evaluate(x[rows].to(c.dtype), grid, basis, deriv)
        torch.sum(products.view(-1, functions, inputs).mul_(f), dim=1, out=v[rows])
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
    inputs, outputs = x.shape[1], g.shape[1]
    dtype = torch.float64 if precision == "float64" else torch.float32
    w = x.new_zeros((basis.num_functions * inputs, outputs), dtype=dtype)
    for rows in _chunks(x, basis):
        f = _functions(x[rows], s, rows, grid, basis, deriv, precision)
        w.addmm_(f.T, _operand(g[rows], precision))
    return w.view(basis.num_functions, inputs, outputs).to(out_dtype)


def _chunks(x: Tensor, basis: Basis) -> Iterator[slice]:
    """Slices of rows whose basis values number about CHUNK_ELEMENTS."""
    rows = max(1, CHUNK_ELEMENTS // max(1, x.shape[1] * basis.num_functions))
    for start in range(0, x.shape[0], rows):
        yield slice(start, start + rows)


def _functions(
    x: Tensor,
    s: Tensor | None,
    rows: slice,
    grid: Tensor,
    basis: Basis,
    deriv: int,
    precision: str,
) -> Tensor:
    """The left operand of F and W for these rows: s f^(n)(x) as [rows, J * I]."""
    wide = torch.float64 if precision == "float64" else torch.float32
    f = evaluate(x.to(wide), grid, basis, deriv)
    if s is not None:
        f.mul_(s[rows].to(wide)[:, None])
    return _operand(f, precision).flatten(1)


def _operand(t: Tensor, precision: str) -> Tensor:
    """t rounded to the precision's dtype and widened again to that of the accumulator."""
    dtype = OPERAND_DTYPES[precision]
    return t.to(dtype).to(torch.float64 if precision == "float64" else torch.float32)
