"""The functional layer: `kan_linear` and the packing of its coefficients."""

from __future__ import annotations

from torch import Tensor

from kanfast.engine import autograd, backends, checks, packing
from kanfast.engine.backends import Backend
from kanfast.engine.basis import Basis
from kanfast.engine.primitives import Spec


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

    Example:
        >>> layer = kanfast.KANLinear(3, 4, enable_standalone_scale_spline=False)
        >>> c = kanfast.pack_coefficients(layer.spline_weight, layer.base_weight)
        >>> basis = kanfast.Basis(layer.grid_size, layer.spline_order)
        >>> x = torch.rand(10, 3)
        >>> y = kanfast.kan_linear(x, c, layer.grid, basis=basis)
        >>> torch.allclose(y, layer(x), atol=1e-6)
        True
        >>> kanfast.kan_linear(x, c, layer.grid, basis=basis, deriv=1).shape  # of the slopes
        torch.Size([10, 4])
    """
    checks.check_kan_linear(x, c, grid, basis, deriv, input_scale, precision)
    device = x.device.type
    autocast = backends.autocast_dtype(device, x.dtype)
    backend, precision, out_dtype = backends.resolve(device, x.dtype, autocast, backend, precision)
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


def _as_matrix(x: Tensor) -> Tensor:
    """[..., I] as [B, I]."""
    return x.flatten(0, -2) if x.dim() > 1 else x[None]
