"""The functional layer: `kan_linear` and the packing of its coefficients."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kanfast import autograd, checks
from kanfast.basis import Basis
from kanfast.primitives import Spec

Backend = Literal["auto", "triton", "reference"]
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
        backend: "auto" takes Triton for GPU tensors and torch for all others.
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
    backend = resolve_backend(backend, x)
    out_dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        out_dtype = torch.get_autocast_dtype(x.device.type)
    if precision is None:
        precision = _precision(out_dtype, backend)
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
    c = spline_weight.permute(2, 1, 0)
    if spline_scaler is not None:
        c = c * spline_scaler.T
    if base_weight is not None:
        c = torch.cat([c, base_weight.T[None]])
    return c.contiguous()


def resolve_backend(backend: Backend, tensor: Tensor) -> Backend:
    """Which implementation works on this tensor: "triton" or "reference".

    Raises:
        ValueError: an unknown backend.
        RuntimeError: "triton" where Triton cannot run on the tensor's device.
    """
    checks.check_backend(backend)
    device = tensor.device.type
    if backend == "reference" or (backend == "auto" and device not in GPU_TYPES):
        return "reference"
    checks.check_triton(device, _triton_obstacle(device))
    return "triton"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
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


def _precision(dtype: torch.dtype, backend: Backend) -> str:
    if dtype != torch.float32:
        return str(dtype).removeprefix("torch.")
    if backend == "reference":
        return "ieee"
    precision: str = _triton_float32_precision()
    return precision


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _triton_float32_precision() -> str:
    """What torch allows of tf32; compiled code is guarded against a change of it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
