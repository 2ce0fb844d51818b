"""The derivative of a layer in its knots, for knots that are parameters.

It is that of splines on any knots, so it is the same whether the knots are equally spaced or not.
Plain torch, one part of the rows at a time: what it needs grows with rows x inputs x splines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.engine.basis import Basis
from kanfast.engine.grid import b_splines

ROWS = 4096  # of a part


def gradient(
    x: Tensor,
    grid: Tensor,
    g: Tensor,
    s: Tensor | None,
    c: Tensor,
    basis: Basis,
    deriv: int,
) -> Tensor:
    """The derivative of sum g[b,o] s[b,i] c[j,i,o] f_ij^(n)(x[b,i]) in the knots.

    Args:
        x: [B, I].
        grid: [I, G + 2k + 1].
        g: [B, O].
        s: [B, I], or None for ones.
        c: [J, I, O].
        basis: The functions f.
        deriv: The order n of their derivative.

    Returns:
        [I, G + 2k + 1], in the dtype of the grid; differentiable in all the tensors.
    """
    if deriv > basis.degree or not x.numel():
        return torch.zeros_like(grid)
    dtype = torch.promote_types(x.dtype, grid.dtype)
    c = c[: basis.num_splines].to(dtype)

    def form(knots: Tensor, x: Tensor, g: Tensor, s: Tensor | None) -> Tensor:
        values = b_splines(x.to(dtype), knots.to(dtype), basis.degree, deriv)
        slopes = torch.einsum("bo,sio->bis", g.to(dtype), c)
        if s is not None:
            slopes = slopes * s[..., None]
        return (slopes * values).sum()

    parts = [
        torch.func.grad(form)(grid, x[rows], g[rows], None if s is None else s[rows])
        for rows in (slice(at, at + ROWS) for at in range(0, len(x), ROWS))
    ]
    return torch.stack(parts).sum(0)
