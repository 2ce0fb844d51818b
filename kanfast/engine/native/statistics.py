"""Statistics of every edge on CPUs in C++, with the names and signatures of `engine.chunked`."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.engine import native
from kanfast.engine.activations import activation
from kanfast.engine.basis import Basis

CALL = struct.Struct("26q")  # struct EdgeCall in statistics.h
NONE = (None,) * 5


def edge_statistics(
    x: Tensor, c: Tensor, residual: Tensor | None, grid: Tensor, *, basis: Basis
) -> tuple[Tensor, ...]:
    """See `kanfast.engine.chunked.edge_statistics`."""
    edges = (c.shape[2], x.shape[1])
    out = [x.new_empty(edges) for _ in range(5)]
    _run(False, x, c, residual, grid, basis, out, NONE, (None, None, None))
    return tuple(out)


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
    """See `kanfast.engine.chunked.edge_statistics_grad`."""
    dx = x.new_empty(x.shape) if needs[0] else None
    dc = x.new_empty(c.shape) if needs[1] else None
    d_residual = x.new_empty(x.shape) if needs[2] else None
    _run(True, x, c, residual, grid, basis, statistics, gradients, (dx, dc, d_residual))
    return dx, dc, d_residual


def _run(
    backward: bool,
    x: Tensor,
    c: Tensor,
    residual: Tensor | None,
    grid: Tensor,
    basis: Basis,
    statistics: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    results: Sequence[Tensor | None],
) -> None:
    (rows, inputs), outputs, dtype = x.shape, c.shape[2], x.dtype
    if not c.numel():
        for t in results:
            if t is not None:
                t.zero_()
        return
    kind, slope, powers = native.NO_ACTIVATION, None, None
    if residual is not None:
        kind = native.GIVEN
    elif basis.activation == "silu":
        kind, powers = native.SILU, native._silu_powers(1)
    elif basis.activation != "none":
        kind, residual = native.GIVEN, activation(basis.activation, x, 0)
        slope = activation(basis.activation, x, 1) if results[0] is not None else None
    # Held until the call returns.
    given = [
        None if t is None else native._plain(t, t.dtype)
        for t in (x, c, grid, residual, slope, *statistics, *gradients)
    ]
    addresses = [*map(native._address, given)]
    work = rows * inputs * (16 + outputs * x.element_size() * (basis.degree + 12) // 64)
    call = CALL.pack(
        rows,
        inputs,
        outputs,
        basis.grid_size,
        kind,
        torch.get_num_threads() if work > native.SERIAL_WORK else 1,
        grid.dtype == torch.float64,
        *addresses[:5],
        0 if powers is None else ctypes.addressof(powers),
        *addresses[5:],
        *(0 if t is None else t.data_ptr() for t in results),
    )
    run = native._library().kanfast_statistics
    if run(backward, dtype == torch.float64, basis.degree, call):
        raise MemoryError(
            f"kanfast.native needs buffers for {inputs} inputs and {outputs} outputs, got no "
            'memory for them: use backend="reference", which needs less'
        )
