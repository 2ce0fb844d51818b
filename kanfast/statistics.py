"""What each edge of a layer does over a batch: mean, mean size, spread and range of phi(x).

The function of edge (o, i) at row b is phi[b, o, i] = sum_j c[j, i, o] f_ij(x[b, i]). These are the
activations that the KAN paper regularises (Liu et al., 2024, eqs. 2.17-2.20) and pykan scores edges
by. B x O x I of them are many, so they are made in chunks that stay in a CPU's cache, reduced, and
made again in the backward pass: what is kept is [O, I].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kanfast.basis import Basis, Evaluator, evaluator

# Activations of one chunk, for each thread, and the least number of rows that is worth a product.
CHUNK_ELEMENTS = 128 * 1024
MIN_ROWS = 64


class EdgeStatistics(NamedTuple):
    """Statistics of phi[b, o, i] over b = 0 .. B - 1; all [O, I]."""

    mean: Tensor
    mean_abs: Tensor
    """The L1 norm of the KAN paper, eq. 2.17."""
    std: Tensor
    """With divisor B - 1, and 0 for a batch of one row."""
    min: Tensor
    max: Tensor


def edge_statistics(
    x: Tensor, c: Tensor, grid: Tensor, *, basis: Basis, residual: Tensor | None = None
) -> EdgeStatistics:
    """Exact statistics of every edge over a batch, differentiable once in x, c and residual.

    |phi| has gradient 0 where phi is zero, and std where all phi of an edge are equal. Of equal
    extremes the first row has the gradient.

    Args:
        x: [..., I], float64, float32 or 16-bit; at least one row.
        c: [J, I, O], packed coefficients as in `kan_linear`; with `residual` [J + 1, I, O].
        grid: [I, G + 2k + 1].
        basis: the functions; its activation must be "none" with `residual`.
        residual: values [..., I] of a residual function that the basis does not know; its
            coefficients are the last ones of c.

    Returns:
        Five tensors [O, I], float64 for float64 x and float32 otherwise. NaN in x[b, i] makes the
        statistics of the edges (:, i) NaN, and no others.

    Raises:
        ValueError: No rows, or shapes that do not fit.
    """
    inputs = x.shape[-1]
    functions = basis.num_functions + (residual is not None)
    if c.shape[:2] != (functions, inputs) or grid.shape != (inputs, basis.num_knots):
        raise ValueError(
            f"c and grid are expected to be [{functions}, {inputs}, out_features] and "
            f"[{inputs}, {basis.num_knots}] for x {list(x.shape)}, got {list(c.shape)} and "
            f"{list(grid.shape)}"
        )
    if residual is not None and (residual.shape != x.shape or basis.activation != "none"):
        raise ValueError(
            'residual is expected to have the shape of x and a basis with activation "none", got '
            f"{list(residual.shape)} for {list(x.shape)} and {basis.activation!r}"
        )
    if x.numel() == 0:
        raise ValueError(f"statistics need at least one row, got x of shape {list(x.shape)}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = x.reshape(-1, inputs).to(dtype)
    values = None if residual is None else residual.reshape(-1, inputs).to(dtype)
    with torch.autocast(x.device.type, enabled=False):  # sums over a batch need their digits
        return EdgeStatistics(*_EdgeStatistics.apply(rows, c.to(dtype), values, grid, basis))


class _EdgeStatistics(torch.autograd.Function):
    """Results as in `EdgeStatistics`; saves the arguments and [O, I] tensors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, c: Tensor, residual: Tensor | None, grid: Tensor, basis: Basis
    ) -> tuple[Tensor, ...]:
        shape = (x.shape[1], c.shape[2])
        mean, mean_abs, spread = (x.new_zeros(shape) for _ in range(3))
        low, high = x.new_full(shape, torch.inf), x.new_full(shape, -torch.inf)
        for i, b, phi in _activations(x, c, residual, grid, basis):
            count = phi.shape[1]
            mean_abs[i] += phi.abs().sum(1)
            torch.minimum(low[i], phi.amin(1), out=low[i])
            torch.maximum(high[i], phi.amax(1), out=high[i])
            # Sums of squares about the chunk's own mean, joined as Chan, Golub and LeVeque do.
            chunk_mean = phi.mean(1)
            shift = chunk_mean - mean[i]
            spread[i] += phi.sub_(chunk_mean[:, None]).square_().sum(1)
            spread[i] += shift.square() * (b.start * count / (b.start + count))
            mean[i] += shift * (count / (b.start + count))
        mean_abs /= len(x)
        std = (spread / max(1, len(x) - 1)).sqrt_()
        ctx.basis = basis
        ctx.save_for_backward(x, c, residual, grid, mean, std)
        ctx.set_materialize_grads(False)
        return tuple(t.T.contiguous() for t in (mean, mean_abs, std, low, high))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return *_gradients(ctx, *(None if g is None else g.T for g in grads)), None, None


def _gradients(
    ctx: Any,
    g_mean: Tensor | None,
    g_abs: Tensor | None,
    g_std: Tensor | None,
    g_min: Tensor | None,
    g_max: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients in x, c and residual from those in the statistics, [I, O]."""
    x, c, residual, grid, mean, std = ctx.saved_tensors
    wants_x, wants_c, wants_residual = ctx.needs_input_grad[:3]
    weight_mean = None if g_mean is None else g_mean / len(x)
    weight_abs = None if g_abs is None else g_abs / len(x)
    if g_std is not None:
        g_std = torch.where(std > 0, g_std / std, std * 0) / max(1, len(x) - 1)
    extremes = [
        (_extreme_rows(x, c, residual, grid, ctx.basis, largest=largest), weight)
        for weight, largest in ((g_min, False), (g_max, True))
        if weight is not None
    ]
    grad_x = torch.zeros_like(x) if wants_x else None
    grad_c = torch.zeros_like(c) if wants_c else None
    grad_residual = torch.zeros_like(residual) if wants_residual else None
    for i in _blocks(x, c):
        functions = evaluator(grid[i], ctx.basis, 0, x.dtype)
        slopes = evaluator(grid[i], ctx.basis, 1, x.dtype) if wants_x else None
        for b in _chunks(x, c):
            f = _features(functions, x, residual, c, b, i)
            # g: the gradient with respect to phi, [I, rows, O]
            g = x.new_zeros(f.shape[2], f.shape[0], c.shape[2])
            if weight_mean is not None:
                g += weight_mean[i, None]
            if weight_abs is not None or g_std is not None:
                phi = _phi(f, c[:, i])
                if weight_abs is not None:
                    g.addcmul_(phi.sign(), weight_abs[i, None])
                if g_std is not None:
                    g.addcmul_(phi.sub_(mean[i, None]), g_std[i, None])
            for row, weight in extremes:
                _add_at(g, row[i] - b.start, weight[i])
            if grad_c is not None:
                grad_c[:, i] += torch.bmm(f.permute(2, 1, 0), g).transpose(0, 1)
            if not (wants_x or wants_residual):
                continue
            pulled = torch.bmm(g, c[:, i].permute(1, 2, 0)).permute(1, 2, 0)  # [rows, J, I]
            if grad_residual is not None:
                grad_residual[b, i] = pulled[:, -1]
            if grad_x is not None and slopes is not None:
                known = ctx.basis.num_functions
                slopes(x[b, i], f[:, :known])
                grad_x[b, i] = (pulled[:, :known] * f[:, :known]).sum(1)
    return grad_x, grad_c, grad_residual


def _activations(
    x: Tensor, c: Tensor, residual: Tensor | None, grid: Tensor, basis: Basis
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Slices of inputs and rows, and their activations [I, rows, O]; rows of an input in order."""
    for i in _blocks(x, c):
        functions = evaluator(grid[i], basis, 0, x.dtype)
        for b in _chunks(x, c):
            yield i, b, _phi(_features(functions, x, residual, c, b, i), c[:, i])


def _extreme_rows(
    x: Tensor, c: Tensor, residual: Tensor | None, grid: Tensor, basis: Basis, *, largest: bool
) -> Tensor:
    """The first row of every edge's largest (smallest) activation, [I, O].

    Looked for only when a gradient needs it: an extreme with its place takes ten times as long as
    one without.
    """
    best = x.new_full((x.shape[1], c.shape[2]), -torch.inf)
    row = torch.zeros(best.shape, dtype=torch.int64, device=x.device)
    for i, b, phi in _activations(x, c, residual, grid, basis):
        found = (phi if largest else phi.neg_()).max(1)
        better = found.values > best[i]
        best[i] = torch.where(better, found.values, best[i])
        row[i] = torch.where(better, found.indices + b.start, row[i])
    return row


def _blocks(x: Tensor, c: Tensor) -> Iterator[slice]:
    """Slices of inputs, so many that MIN_ROWS rows of them are one chunk."""
    step = max(1, _elements() // (MIN_ROWS * max(c.shape[0], c.shape[2])))
    return (slice(i, min(i + step, x.shape[1])) for i in range(0, x.shape[1], step))


def _chunks(x: Tensor, c: Tensor) -> Iterator[slice]:
    """Slices of rows."""
    step = max(MIN_ROWS, _elements() // (max(1, x.shape[1]) * max(c.shape[0], c.shape[2])))
    return (slice(b, min(b + step, len(x))) for b in range(0, len(x), step))


def _elements() -> int:
    return CHUNK_ELEMENTS * torch.get_num_threads()


def _features(
    functions: Evaluator, x: Tensor, residual: Tensor | None, c: Tensor, b: slice, i: slice
) -> Tensor:
    """Values of all functions on a chunk: [rows, J, I]."""
    f = x.new_empty(b.stop - b.start, c.shape[0], i.stop - i.start)
    if residual is None:
        functions(x[b, i], f)
    else:
        functions(x[b, i], f[:, :-1])
        f[:, -1] = residual[b, i]
    return f


def _phi(f: Tensor, c: Tensor) -> Tensor:
    """Activations [I, rows, O] from functions [rows, J, I] and coefficients [J, I, O]."""
    return torch.bmm(f.permute(2, 0, 1), c.transpose(0, 1))


def _add_at(g: Tensor, row: Tensor, weight: Tensor) -> None:
    """g[i, row[i, o], o] += weight[i, o] wherever that row is in g."""
    inside = (row >= 0) & (row < g.shape[1])
    index = torch.where(inside, row, 0)[:, None]
    g.scatter_add_(1, index, torch.where(inside, weight, 0)[:, None])
