"""The three primitives as opaque torch.library ops: what tracers see, and which code runs.

The backend is an argument of the op, resolved before it is called, so that tensors of any device
can go through either implementation. Gradients are not registered here: see `engine.autograd`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import cast

import torch
from torch import _C, Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn import Parameter

from kanfast.engine import checks, native, reference, transforms
from kanfast.engine.activations import Activation
from kanfast.engine.basis import Basis


@dataclass(frozen=True)
class Spec:
    """What of a primitive is not a tensor: the functions, the derivative order, how to compute."""

    basis: Basis
    deriv: int
    precision: str
    backend: str  # "triton", "native" or "reference"

    def differentiated(self) -> Spec:
        """The same with the next derivative of the functions."""
        return Spec(self.basis, self.deriv + 1, self.precision, self.backend)


def forward(
    x: Tensor, c: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """F_n [B, O], see `kanfast.engine.reference.forward`."""
    if unobserved(x, c, s, grid):
        return _run("forward", (x, c, s, grid), *_of(spec), out_dtype)
    return cast(Tensor, forward_op(x, c, s, grid, *_scalars(spec), out_dtype))


def input_grad(
    g: Tensor, x: Tensor, c: Tensor, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """P_n [B, I], see `kanfast.engine.reference.input_grad`."""
    if unobserved(g, x, c, grid):
        return _run("input_grad", (g, x, c, grid), *_of(spec), out_dtype)
    return cast(Tensor, input_grad_op(g, x, c, grid, *_scalars(spec), out_dtype))


def weight_grad(
    g: Tensor, x: Tensor, s: Tensor | None, grid: Tensor, spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """W_n [J, I, O], see `kanfast.engine.reference.weight_grad`."""
    if unobserved(g, x, s, grid):
        return _run("weight_grad", (g, x, s, grid), *_of(spec), out_dtype)
    return cast(Tensor, weight_grad_op(g, x, s, grid, *_scalars(spec), out_dtype))


def unobserved(*tensors: Tensor | None) -> bool:
    """Whether nothing would see the op: no tracer, no transform, no mode, no subclass of Tensor.

    Then the implementation is called directly, as torch takes longer to dispatch an op written in
    Python than a small layer to run.
    """
    if torch.compiler.is_compiling() or is_observed():
        return False
    for t in tensors:  # noqa: SIM110 (a generator takes longer)
        if t is not None and not is_plain(t):
            return False
    return True


def is_observed() -> bool:
    """Whether a tracer of eager mode, a transform or a mode would see an op."""
    return (
        _C._are_functorch_transforms_active()
        or _C._len_torch_dispatch_stack() > 0
        or _C._len_torch_function_stack() > 0
        or _C._get_tracing_state() is not None
    )


def is_plain(t: Tensor) -> bool:
    """Whether a tensor is just that, and no subclass."""
    # torch.autograd.grad(is_grads_batched=True) batches without a transform.
    kind = type(t)
    return kind is Parameter or (kind is Tensor and not is_legacy_batchedtensor(t))


def _of(spec: Spec) -> tuple[str, Basis, int, str]:
    return spec.backend, spec.basis, spec.deriv, spec.precision


def _scalars(spec: Spec) -> tuple[int, int, str, bool, int, str, str]:
    b = spec.basis
    return (
        b.grid_size,
        b.degree,
        b.activation,
        b.uniform,
        spec.deriv,
        spec.precision,
        spec.backend,
    )


def _run(
    primitive: str,
    tensors: tuple[Tensor | None, ...],
    backend: str,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    checks.check_no_tangents(tensors)
    device = cast(Tensor, tensors[0]).device.type
    call: Callable[..., Tensor] = getattr(_module(backend), primitive)
    keywords = {"basis": basis, "deriv": deriv, "precision": precision, "out_dtype": out_dtype}
    if not checks.autocasting(device):
        return call(*tensors, **keywords)
    with torch.autocast(device, enabled=False):  # the precision is decided already
        return call(*tensors, **keywords)


def _module(backend: str) -> ModuleType:
    """The implementation by this name, with the three primitives."""
    if backend == "triton":  # imported when it is needed: kanfast works where it is not installed
        return importlib.import_module("kanfast.kernels")
    return native if backend == "native" else reference


@torch.library.custom_op("kanfast::forward", mutates_args=())
def forward_op(
    x: Tensor,
    c: Tensor,
    s: Tensor | None,
    grid: Tensor,
    grid_size: int,
    degree: int,
    activation: str,
    uniform: bool,
    deriv: int,
    precision: str,
    backend: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """F_n by the named backend."""
    basis = Basis(grid_size, degree, cast(Activation, activation), uniform)
    return _run("forward", (x, c, s, grid), backend, basis, deriv, precision, out_dtype)


@forward_op.register_fake
def _(x, c, s, grid, g, k, activation, uniform, deriv, precision, backend, out_dtype):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], c.shape[2]), dtype=out_dtype)


@torch.library.custom_op("kanfast::input_grad", mutates_args=())
def input_grad_op(
    g: Tensor,
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    grid_size: int,
    degree: int,
    activation: str,
    uniform: bool,
    deriv: int,
    precision: str,
    backend: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """P_n by the named backend."""
    basis = Basis(grid_size, degree, cast(Activation, activation), uniform)
    return _run("input_grad", (g, x, c, grid), backend, basis, deriv, precision, out_dtype)


@input_grad_op.register_fake
def _(g, x, c, grid, gs, k, activation, uniform, deriv, precision, backend, out_dtype):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape, dtype=out_dtype)


@torch.library.custom_op("kanfast::weight_grad", mutates_args=())
def weight_grad_op(
    g: Tensor,
    x: Tensor,
    s: Tensor | None,
    grid: Tensor,
    grid_size: int,
    degree: int,
    activation: str,
    uniform: bool,
    deriv: int,
    precision: str,
    backend: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """W_n by the named backend."""
    basis = Basis(grid_size, degree, cast(Activation, activation), uniform)
    return _run("weight_grad", (g, x, s, grid), backend, basis, deriv, precision, out_dtype)


@weight_grad_op.register_fake
def _(g, x, s, grid, grid_size, degree, activation, uniform, deriv, precision, backend, out_dtype):  # type: ignore[no-untyped-def]
    functions = grid_size + degree + (activation != "none")
    return x.new_empty((functions, x.shape[1], g.shape[1]), dtype=out_dtype)


forward_op.register_vmap(partial(transforms.forward, forward_op))
input_grad_op.register_vmap(partial(transforms.input_grad, input_grad_op))
weight_grad_op.register_vmap(partial(transforms.weight_grad, weight_grad_op))
