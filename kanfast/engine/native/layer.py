"""A layer from its parameters, and its gradients, in one native call each."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.engine import native
from kanfast.engine.activations import activation
from kanfast.engine.basis import Basis

CALL = struct.Struct("23q")  # struct LayerCall in layer.h


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
    """See `engine.reference.layer_forward`."""
    y = x.new_empty(x.shape[0], weight.shape[0])
    _run(basis, x, (weight, base, scaler, grid), y, None, (None, None, None, None))
    return y


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
    """See `engine.reference.layer_grad`."""
    x = native._matrix(x, x.dtype)
    parameters = (weight, base, scaler)
    grads = [torch.empty_like(x) if needs[0] else None]
    for t, need in zip(parameters, needs[1:4], strict=True):
        # empty_like would keep strides of a parameter that is not contiguous.
        grads.append(t.new_empty(t.shape) if t is not None and need else None)
    _run(basis, x, (*parameters, grid), None, g, grads)
    return [*grads, None]


def _run(
    basis: Basis,
    x: Tensor,
    tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor],
    y: Tensor | None,
    g: Tensor | None,
    grads: Sequence[Tensor | None],
) -> None:
    """Writes y, or if it is None the gradients that are there."""
    rows, inputs = x.shape
    outputs, dtype = tensors[0].shape[0], x.dtype
    if not (rows and inputs and outputs):
        for t in (y, *grads):
            if t is not None:
                t.zero_()
        return
    x = native._matrix(x, dtype)
    weight, base, scaler, grid = [
        t if t is None or (t.is_contiguous() and not t.is_neg()) else native._plain(t, t.dtype)
        for t in tensors
    ]
    kind, residual, slope = native.SILU, None, None
    if basis.activation == "none":
        kind = native.NO_ACTIVATION
    elif basis.activation != "silu":
        kind, residual = native.GIVEN, activation(basis.activation, x, 0).contiguous()
        if grads[0] is not None:
            slope = activation(basis.activation, x, 1).contiguous()
    if g is not None:
        narrow = native._is_narrow(dtype, outputs, basis.degree, basis.grid_size)
        g = native._matrix(g, dtype) if narrow else native._plain(g, dtype)
    addresses = []
    for t in (x, weight, base, scaler, grid, residual, slope, y, g, *grads):
        address = 0 if t is None else t.data_ptr()
        if not address and t is not None:
            raise native.freed_memory(f"a tensor of shape {list(t.shape)}")
        addresses.append(address)
    call = CALL.pack(
        rows,
        inputs,
        outputs,
        basis.grid_size,
        kind,
        torch.get_num_threads(),
        tensors[3].dtype == torch.float64,
        not x.is_contiguous(),
        g is not None and not g.is_contiguous(),
        *addresses[:7],
        0 if g is None else native._silu_address(1),
        *addresses[7:],
    )
    if native._library().kanfast_layer(dtype == torch.float64, basis.degree, call):
        raise MemoryError(
            f"kanfast.native needs buffers for {inputs} inputs and {outputs} outputs, got no "
            'memory for them: use backend="reference", which needs less'
        )
