"""Statistics of every edge in plain torch, a chunk of rows and inputs at a time.

The launchers of the other backends, `engine.native.statistics` and `kanfast.kernels`, have the
same names and signatures. The activations of a chunk stay in a CPU's cache and are made again in
the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kanfast.engine.basis import Basis, Evaluator, evaluator

# Activations of one chunk, for each thread, and the least number of rows that is worth a product.
CHUNK_ELEMENTS = 128 * 1024
MIN_ROWS = 64


def edge_statistics(
    x: Tensor, c: Tensor, residual: Tensor | None, grid: Tensor, *, basis: Basis
) -> tuple[Tensor, ...]:
    """Mean, mean |phi|, deviation, min and max of every edge, all [O, I], of the dtype of x.

    Args:
        x: [B, I], float64 or float32.
        c: [J, I, O], of the dtype of x.
        residual: [B, I], of the dtype of x, values whose coefficients are the last ones of c; or
            None.
        grid: [I, G + 2k + 1], float64 or float32.
        basis: the functions; its activation is "none" with `residual`.
    """
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
    return tuple(t.T.contiguous() for t in (mean, mean_abs, std, low, high))


def edge_statistics_grad(
    x: Tensor,
    c: Tensor,
    residual: Tensor | None,
    grid: Tensor,
    statistics: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
    *,
    basis: Basis,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients in x, c and residual, those that are needed, each of the shape of its tensor.

    Args:
        x, c, residual, grid, basis: as in `edge_statistics`.
        statistics: its results.
        gradients: those in the results, [O, I] or None.
        needs: whether the gradients in x, c and residual are wanted.
    """
    mean, _, std, _, _ = (t.T for t in statistics)
    g_mean, g_abs, g_std, g_min, g_max = (None if g is None else g.T for g in gradients)
    wants_x, wants_c, wants_residual = needs
    weight_mean = None if g_mean is None else g_mean / len(x)
    weight_abs = None if g_abs is None else g_abs / len(x)
    if g_std is not None:
        g_std = torch.where(std > 0, g_std / std, std * 0) / max(1, len(x) - 1)
    extremes = [
        (_extreme_rows(x, c, residual, grid, basis, largest=largest), weight)
        for weight, largest in ((g_min, False), (g_max, True))
        if weight is not None
    ]
    grad_x = torch.zeros_like(x) if wants_x else None
    grad_c = torch.zeros_like(c) if wants_c else None
    grad_residual = torch.zeros_like(x) if wants_residual else None
    for i in _blocks(x, c):
        functions = evaluator(grid[i], basis, 0, x.dtype)
        slopes = evaluator(grid[i], basis, 1, x.dtype) if wants_x else None
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
                known = basis.num_functions
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
