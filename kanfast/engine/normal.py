"""What second-order training needs of layers: living splines, slopes of edges, and J^T J.

Everything is float64 and has a leading dimension of S starts: networks of one shape, each with
knots and coefficients of its own, on rows that they share. On CPUs the native code does it, with
the k + 1 splines that live at a point; elsewhere plain torch, with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.engine import grid as grids
from kanfast.engine import native
from kanfast.engine.native import normal as compiled
from kanfast.engine.native.normal import Block, Splines


def layer(x: Tensor, knots: Tensor, c: Tensor, *, slopes: bool) -> Splines:
    """The splines of a layer.

    Args:
        x: Inputs [S, B, I].
        knots: [S, I, G+2k+1].
        c: Coefficients [S, O, I, G+k].
        slopes: Whether all of `Splines` is wanted, or y alone.
    """
    if x.is_cpu and native.available():
        return compiled.layer(x, knots, c, slopes=slopes)
    starts, rows, inputs = x.shape
    degree = knots.shape[-1] - 1 - c.shape[-1]
    columns, grid = x.transpose(0, 1).reshape(rows, -1), knots.flatten(0, 1)

    def splines(deriv: int) -> Tensor:
        values = grids.b_splines(columns, grid, degree, deriv)
        return values.view(rows, starts, inputs, -1).transpose(0, 1)

    values = splines(0)
    y = torch.einsum("sbin,soin->sbo", values, c)
    if not slopes:
        return Splines(y)
    rises = (
        torch.einsum("sbin,soin->sboi", splines(1), c)
        if degree
        else y.new_zeros(starts, rows, c.shape[1], inputs)
    )
    return Splines(y, x.new_zeros(x.shape, dtype=torch.int32), values, rises)


def gram(blocks: Sequence[Block], dense: Tensor) -> tuple[Tensor, Tensor]:
    """J^T J and J^T r of every start, summed over rows and residuals.

    Args:
        blocks: Of the layers, first to last: an edge after the other, [O, I, G+k].
        dense: The other columns of J [S, B, Q, D], and the residuals as the last one.

    Returns:
        [S, P + D - 1, P + D - 1] and [S, P + D - 1], for P splines of edges.
    """
    columns = dense.flatten(1, 2)
    corner = columns.mT @ columns
    if dense.is_cpu and native.available():
        upper, mixed = compiled.gram(blocks, dense)
        count = upper.shape[-1]
        whole = upper.new_empty(len(upper), count + corner.shape[-1], count + corner.shape[-1])
        torch.add(upper.triu(), upper.triu(1).mT, out=whole[:, :count, :count])
        whole[:, :count, count:] = mixed
        whole[:, count:, :count] = mixed.mT
        whole[:, count:, count:] = corner
    else:
        parts = [
            torch.einsum("sbin,sbqo->sbqoin", b.values, b.delta).flatten(1, 2).flatten(2)
            for b in blocks
        ]
        jacobian = torch.cat([*parts, columns], -1)
        whole = jacobian.mT @ jacobian
    return whole[:, :-1, :-1], whole[:, :-1, -1]
