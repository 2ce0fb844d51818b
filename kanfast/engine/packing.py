"""Packing of coefficients: in plain torch, and on CPUs in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from kanfast.engine import _torch, native, reference


def pack(weight: Tensor, base: Tensor | None, scaler: Tensor | None) -> Tensor:
    """[O, I, G + k], [O, I], [O, I] -> [J, I, O], contiguous."""
    if not _native(weight, base, scaler):
        return reference.pack(weight, base, scaler)
    if not (torch.is_grad_enabled() and any_differentiable(weight, base, scaler)):
        return native.pack(weight, base, scaler)
    c: Tensor = Pack.apply(weight, base, scaler)
    return c


def any_differentiable(*tensors: Tensor | None) -> bool:
    """Whether one of them may get a gradient."""
    for t in tensors:  # noqa: SIM110 (a generator takes longer)
        if t is not None and t.requires_grad and not t.is_inference():
            return True
    return False


def _native(*tensors: Tensor | None) -> bool:
    weight = tensors[0]
    return (
        weight is not None
        and weight.device.type == "cpu"
        and not _torch.is_observed(*tensors)
        and not _torch.is_forward_mode()
        and weight.dtype in (torch.float32, torch.float64)
        and native.available()
    )


class Pack(Function):
    """The packing for eager mode; gradients of gradients are those of plain torch."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, base: Tensor | None, scaler: Tensor | None) -> Tensor:
        """Its arguments are those of `pack`."""
        ctx.save_for_backward(weight, scaler)
        return native.pack(weight, base, scaler)

    @staticmethod
    def backward(ctx: Any, dc: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weight, base and scaler."""
        weight, scaler = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if not torch.is_grad_enabled() and _native(weight, scaler, dc):
            return native.unpack(dc, weight, scaler, needs)
        wanted = [t for t, need in ((weight, needs[0]), (scaler, needs[2])) if need]
        with torch.enable_grad():
            c = reference.pack(weight, None, scaler)
        again = torch.is_grad_enabled()
        found = torch.autograd.grad(c, wanted, dc[: len(c)], create_graph=again) if wanted else ()
        gradients = iter(found)
        d_weight = next(gradients) if needs[0] else None
        return d_weight, dc[-1].T if needs[1] else None, next(gradients, None)
