"""The functional layer: `kan_linear` and the packing of its coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from kanfast.engine import autograd, checks, native, packing
from kanfast.engine.basis import Basis
from kanfast.engine.primitives import Spec

T = TypeVar("T")
Backend = Literal["auto", "triton", "native", "reference"]
GPU_TYPES = ("cuda", "xpu")


def kan_linear(
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int = 0,
    input_scale: Tensor | None = None,
    backend: Backend = "auto",
    precision: str | None = None,
) -> Tensor:
    """Sum over inputs i and functions j of c[j, i, o] f_ij^(n)(x[..., i]): a layer of a KAN.

    Differentiable to any order, in both modes, with respect to x, c and input_scale.

    Args:
        x: [..., I], float64, float32, bfloat16 or float16.
        c: [J, I, O], packed coefficients (see `pack_coefficients`), of the dtype of x; under
            autocast float32 and 16-bit dtypes mix, as in torch.nn.functional.linear.
        grid: [I, G + 2k + 1], float32 or float64, extended knots in ascending order.
        basis: the functions f: B-splines and residual activation.
        deriv: order n of the derivative of the functions, 0 for the layer itself.
        input_scale: [..., I] factors of each input's functions, of the dtype of x; None for ones.
        backend: "triton", "native" (compiled code for CPUs; float32 and float64 arithmetic) or
            "reference" (plain torch, any device), or "auto": Triton for GPU tensors; for CPU
            tensors native, but plain torch for 16-bit arithmetic and where the native library was
            not built (see `kanfast.native.available`); plain torch for all others.
        precision: arithmetic of the products, accumulated in float32 (float64): "float64" | "ieee"
            | "tf32x3" | "tf32" | "bfloat16" | "float16". None follows the dtype of x, autocast and,
            for float32, torch.get_float32_matmul_precision(). Basis values are float32 (float64)
            throughout.

    Returns:
        [..., O], of the dtype of x, or of autocast's.

    Raises:
        TypeError, ValueError: arguments that do not fit together.
        RuntimeError: a backend that cannot run here.
    """
    checks.check_kan_linear(x, c, grid, basis, deriv, input_scale, precision)
    out_dtype = x.dtype
    if checks.autocasting(x.device.type) and x.dtype != torch.float64:
        out_dtype = torch.get_autocast_dtype(x.device.type)
    if precision is None and out_dtype != torch.float32:
        precision = str(out_dtype).removeprefix("torch.")
    backend = resolve_backend(backend, x, precision)
    if precision is None:
        precision = _triton_float32_precision() if backend == "triton" else "ieee"
    rows = _as_matrix(x)
    s = None if input_scale is None else _as_matrix(input_scale)
    y = autograd.forward(rows, c, s, grid, Spec(basis, deriv, precision, backend), out_dtype)
    return y.reshape(*x.shape[:-1], c.shape[2])


def pack_coefficients(
    spline_weight: Tensor,
    base_weight: Tensor | None = None,
    spline_scaler: Tensor | None = None,
) -> Tensor:
    """Coefficients in the layout of `kan_linear`; differentiable.

    Args:
        spline_weight: [O, I, G + k].
        base_weight: [O, I], weights of the residual activation, or None if there is none.
        spline_scaler: [O, I], factors of each edge's spline, or None.

    Returns:
        [J, I, O], contiguous.
    """
    checks.check_pack(spline_weight, base_weight, spline_scaler)
    return packing.pack(spline_weight, base_weight, spline_scaler)


def resolve_backend(backend: Backend, tensor: Tensor, precision: str | None = None) -> Backend:
    """Which implementation works on this tensor: "triton", "native" or "reference".

    Args:
        backend: as in `kan_linear`.
        tensor: where it is decides.
        precision: as in `kan_linear`; None for float32.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: "triton" or "native" where it cannot run.
    """
    checks.check_backend(backend)
    device = tensor.device.type
    if backend == "native":
        checks.check_native(device, precision, native_obstacle())
    if backend == "auto" and device not in GPU_TYPES:
        narrow = precision in ("bfloat16", "float16")
        fits = device == "cpu" and not narrow and native_obstacle() is None
        return "native" if fits else "reference"
    if backend in ("native", "reference"):
        return backend
    checks.check_triton(device, _triton_obstacle(device))
    return "triton"


def _constant_in_graphs(function: Callable[..., T]) -> Callable[..., T]:
    """Mark a function that torch.compile calls while tracing instead of looking into it.

    This is torch.compiler.assume_constant_result without its import of torch._dynamo, which would
    double the time that `import kanfast` takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant_in_graphs
def native_obstacle() -> str | None:
    """Why the native library cannot be used, or None if it can."""
    return native.obstacle()


@_constant_in_graphs
def _triton_obstacle(device: str) -> str | None:
    """Why Triton cannot run on tensors of this device type, or None if it can."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if triton.knobs.runtime.interpret:
        return None
    try:
        active = triton.runtime.driver.active.get_active_torch_device().type
    except RuntimeError as error:
        return f"Triton finds no GPU ({error})"
    return None if active == device else f"Triton's active device is {active}"


def _as_matrix(x: Tensor) -> Tensor:
    """[..., I] as [B, I]."""
    return x.flatten(0, -2) if x.dim() > 1 else x[None]


@_constant_in_graphs
def _triton_float32_precision() -> str:
    """What torch allows of tf32; compiled code is guarded against a change of it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
