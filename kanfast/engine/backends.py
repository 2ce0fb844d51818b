"""Which implementation works on a tensor, and at which precision.

The only place that decides between Triton, the native library and plain torch, and the only one
that asks whether they can run here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kanfast.engine import _torch, checks, native

Backend = Literal["auto", "triton", "native", "reference"]
GPU_TYPES = ("cuda", "xpu")


def resolve_backend(backend: Backend, tensor: Tensor, precision: str | None = None) -> Backend:
    """Which implementation works on this tensor: "triton", "native" or "reference".

    Args:
        backend: As in `kanfast.kan_linear`.
        tensor: Where it is decides.
        precision: As in `kanfast.kan_linear`; None for float32.

    Raises:
        ValueError: An unknown backend.
        RuntimeError: "triton" or "native" where it cannot run.
    """
    return backend_on(tensor.device.type, backend, precision)


def backend_on(device: str, backend: Backend, precision: str | None) -> Backend:
    """`resolve_backend` for tensors on a type of device, such as "cpu"."""
    checks.check_backend(backend)
    if backend == "native":
        checks.check_native(device, precision, native_obstacle())
    if backend == "auto" and device not in GPU_TYPES:
        is_16_bit = precision in ("bfloat16", "float16")
        fits = device == "cpu" and not is_16_bit and native_obstacle() is None
        return "native" if fits else "reference"
    if backend in ("native", "reference"):
        return backend
    checks.check_triton(device, _triton_obstacle(device))
    return "triton"


def autocast_dtype(device: str, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype of autocast for tensors of this dtype; None where autocast is off.

    Autocast leaves float64 alone.
    """
    if dtype == torch.float64 or not checks.autocasting(device):
        return None
    return torch.get_autocast_dtype(device)


def resolve(
    device: str,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    backend: Backend,
    precision: str | None = None,
) -> tuple[Backend, str, torch.dtype]:
    """The backend, the precision of the products and the dtype of the result.

    Args:
        device: The type of device of the tensors.
        dtype: The dtype of x.
        autocast: What `autocast_dtype` says.
        backend: As in `kanfast.kan_linear`.
        precision: As in `kanfast.kan_linear`.

    Raises:
        ValueError, RuntimeError: As `resolve_backend`.
    """
    result = autocast or dtype
    if precision is None and result != torch.float32:
        precision = str(result).removeprefix("torch.")
    backend = backend_on(device, backend, precision)
    if precision is None:
        precision = float32_precision() if backend == "triton" else "ieee"
    return backend, precision, result


@_torch.constant_in_graphs
def float32_precision() -> str:
    """What torch allows of tf32; compiled code is guarded against a change of it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@_torch.constant_in_graphs
def native_obstacle() -> str | None:
    """Why the native library cannot be used, or None if it can."""
    return native.obstacle()


@_torch.constant_in_graphs
def _triton_obstacle(device: str) -> str | None:
    """Why Triton cannot run on tensors of this type of device, or None if it can."""
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
