"""A layer from its parameters for backends that have no more than the primitives."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kanfast.engine import reference
from kanfast.engine.basis import Basis


def layer_forward(
    backend: ModuleType,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """A layer from its parameters, see `engine.layer.layer`: x [B, I] -> [B, O].

    Args:
        backend: The module with the primitives.
    """
    c = reference.pack(weight, base, scaler)
    y: Tensor = backend.forward(
        x, c, None, grid, basis=basis, deriv=0, precision=precision, out_dtype=out_dtype
    )
    return y


def layer_grad(
    backend: ModuleType,
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
        backend: The module with the primitives.
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
        c = reference.pack(weight, base, scaler)
        grads[0] = backend.input_grad(g, x, c, grid, deriv=1, out_dtype=x.dtype, **options)
    if any(needs[1:]):
        dtype = reference.wide(precision)
        dc = backend.weight_grad(g, x, None, grid, deriv=0, out_dtype=dtype, **options)
        grads[1:4] = reference.unpack(dc, weight, base, scaler, needs[1:4])
    return grads
