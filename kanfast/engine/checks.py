"""Every error of the functional ops: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kanfast.engine import _torch
from kanfast.engine.basis import Basis

BACKENDS = ("auto", "triton", "native", "reference")
PRECISIONS = ("float64", "ieee", "tf32x3", "tf32", "bfloat16", "float16")
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_kan_linear(
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    basis: Basis,
    deriv: int,
    input_scale: Tensor | None,
    precision: str | None,
) -> None:
    """Raise TypeError or ValueError unless these are arguments of `kanfast.kan_linear`."""
    if not isinstance(basis, Basis):
        raise TypeError(f"basis must be a kanfast.Basis, got {type(basis).__name__}")
    if not isinstance(deriv, int) or isinstance(deriv, bool):
        raise TypeError(f"deriv must be an int, got {deriv!r}")
    if deriv < 0:
        raise ValueError(f"deriv must be 0 or more, got {deriv}")
    tensors = {"x": x, "c": c, "grid": grid}
    if input_scale is not None:
        tensors["input_scale"] = input_scale
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, x)
    _check_shapes(x, c, grid, basis, input_scale)
    _check_dtypes(x, c, grid, input_scale)
    _check_precision(precision, x.dtype)


def check_layer(
    features: int | None,
    dtype: torch.dtype,
    device: torch.device,
    facts: Sequence[tuple[torch.Size, torch.dtype, torch.device] | None],
    basis: Basis,
    autocast: bool,
) -> None:
    """Raise TypeError or ValueError unless these are arguments of `engine.layer.layer`.

    Args:
        features: The size of the last dimension of x, or None if x is a scalar.
        dtype: That of x.
        device: That of x.
        facts: Shape, dtype and device of weight, base, scaler and grid; None for those that are
            not there.
        basis: The functions.
        autocast: Whether dtypes may mix.
    """
    weight, base, _, grid = facts
    if weight is None or grid is None or len(weight[0]) != 3:
        raise ValueError(
            "spline_weight must be [out_features, in_features, grid_size + spline_order], got "
            f"{None if weight is None else list(weight[0])}: make a new layer, or set it again"
        )
    outputs, inputs, _ = weight[0]
    if features != inputs:
        count = "a scalar" if features is None else features
        raise ValueError(
            f"x must have {inputs} features in its last dimension, as the layer has {inputs} "
            f"inputs, got {count}: give x as [rows, {inputs}]"
        )
    if (base is None) != (basis.activation == "none"):
        raise ValueError(
            "base_activation and base_weight must be both there or both None, got "
            f"{basis.activation} and {None if base is None else list(base[0])}: set both"
        )
    if dtype not in FLOATING:
        raise TypeError(
            f"x must be float64, float32, bfloat16 or float16, got {dtype}: convert it with "
            ".float()"
        )
    sizes = (
        ("spline_weight", [outputs, inputs, basis.num_splines]),
        ("base_weight", [outputs, inputs]),
        ("spline_scaler", [outputs, inputs]),
        ("grid", [inputs, basis.num_knots]),
    )
    for (name, size), fact in zip(sizes, facts, strict=True):
        if fact is None:
            continue
        shape, own_dtype, own_device = fact
        if list(shape) != size:
            raise ValueError(f"{name} must be {size}, got {list(shape)}: set it again")
        if own_device != device:
            raise ValueError(
                f"x must be on the device of the layer, got x on {device} and {name} on "
                f"{own_device}: move one with .to()"
            )
        if name == "grid":
            if own_dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"grid must be float32 or float64, got {own_dtype}: 16 bits are too few for "
                    "knots; keep the grid in float32"
                )
        elif autocast and (dtype == torch.float64) != (own_dtype == torch.float64):
            raise TypeError(
                f"x and {name} must be both float64 or neither, as autocast leaves float64 alone, "
                f"got {dtype} and {own_dtype}: convert one of them"
            )
        elif not autocast and own_dtype != dtype:
            raise TypeError(
                f"x must have the dtype of {name}, {own_dtype}, got {dtype}: convert x with "
                f".to({own_dtype}) or the layer with .to({dtype})"
            )


def check_is_tensor(x: object) -> None:
    """Raise TypeError for the x of a layer that is no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x must be a torch.Tensor, got {type(x).__name__}: make one with torch.as_tensor(x), "
            "in the dtype of the layer"
        )


def check_index(what: str, index: int, count: int) -> None:
    """Raise IndexError unless the index is one of 0 to count - 1."""
    if not 0 <= index < count:
        raise IndexError(f"{what} must be 0 to {count - 1}, got {index}")


def check_backend(backend: str) -> None:
    """Raise ValueError for an unknown backend."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")


def check_triton(device: str, obstacle: str | None) -> None:
    """Raise RuntimeError if there is an obstacle to running Triton on tensors of this device."""
    if obstacle is not None:
        raise RuntimeError(
            f"Triton must be able to run on the device of the tensor, {device}, but {obstacle}: "
            'use backend="reference"'
        )


def check_native(device: str, precision: str | None, obstacle: str | None) -> None:
    """Raise RuntimeError unless the native library runs on this device at this precision."""
    if device != "cpu":
        raise RuntimeError(
            f'backend "native" must get CPU tensors, got {device}: use backend="auto"'
        )
    if precision in ("bfloat16", "float16"):
        raise RuntimeError(
            'backend "native" must compute in float32 or float64, got the precision '
            f'{precision!r}: use backend="auto", or precision="ieee"'
        )
    if obstacle is not None:
        raise RuntimeError(
            f'backend "native" must be built, but {obstacle}: install kanfast again '
            'where GCC or Clang with OpenMP is, or use backend="auto"'
        )


def check_no_tangents(tensors: tuple[Tensor | None, ...]) -> None:
    """Raise RuntimeError if an op would drop tangents, and so return a derivative of zero."""
    if _torch.has_tangent(*tensors):
        raise RuntimeError(
            "forward-mode differentiation must go through kan_linear or a module, got "
            "tensors with tangents in a bare op, as exported programs have it: call the model "
            "itself, or differentiate in reverse mode"
        )


def check_pack(
    spline_weight: Tensor, base_weight: Tensor | None, spline_scaler: Tensor | None
) -> None:
    """Raise TypeError or ValueError unless these are arguments of `kanfast.pack_coefficients`."""
    _check_tensor("spline_weight", spline_weight, spline_weight)
    if spline_weight.dim() != 3:
        raise ValueError(
            "spline_weight must have shape [out_features, in_features, "
            f"grid_size + degree], got {list(spline_weight.shape)}"
        )
    for name, tensor in (("base_weight", base_weight), ("spline_scaler", spline_scaler)):
        if tensor is None:
            continue
        _check_tensor(name, tensor, spline_weight)
        if tensor.shape != spline_weight.shape[:2]:
            raise ValueError(
                f"{name} must have shape {list(spline_weight.shape[:2])}, [out_features, "
                f"in_features] of spline_weight, got {list(tensor.shape)}"
            )
        if tensor.dtype != spline_weight.dtype:
            raise TypeError(
                f"{name} must have the dtype of spline_weight, {spline_weight.dtype}, "
                f"got {tensor.dtype}: convert one of them"
            )


def _check_tensor(name: str, tensor: object, like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{name} must be float64, float32, bfloat16 or float16, got {tensor.dtype}: "
            "convert it with .float()"
        )
    if tensor.device != like.device:
        raise ValueError(
            f"all tensors must be on one device, got {name} on {tensor.device} and "
            f"another on {like.device}: move one with .to()"
        )


def _check_shapes(
    x: Tensor, c: Tensor, grid: Tensor, basis: Basis, input_scale: Tensor | None
) -> None:
    if c.dim() != 3 or c.shape[0] != basis.num_functions:
        raise ValueError(
            f"c must have shape [{basis.num_functions}, in_features, out_features], the "
            f"first being the number of functions of {basis}, got {list(c.shape)}: "
            "make it with kanfast.pack_coefficients"
        )
    if x.dim() < 1 or x.shape[-1] != c.shape[1]:
        raise ValueError(
            f"x must have {c.shape[1]} features in its last dimension, as many as c has inputs, "
            f"got shape {list(x.shape)}: give x as [rows, {c.shape[1]}]"
        )
    if grid.shape != (c.shape[1], basis.num_knots):
        raise ValueError(
            f"grid must have shape [{c.shape[1]}, {basis.num_knots}] = [in_features, "
            f"grid_size + 2 * degree + 1], got {list(grid.shape)}"
        )
    if input_scale is not None and input_scale.shape != x.shape:
        raise ValueError(
            f"input_scale must have the shape of x, {list(x.shape)}, got "
            f"{list(input_scale.shape)}: expand it"
        )


def autocasting(device: str) -> bool:
    """Whether autocast is on for this device type; types without autocast (meta) raise in torch."""
    # The compiler of torch 2.10 cannot trace is_autocast_available.
    available = device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)
    return available and torch.is_autocast_enabled(device)


def _check_dtypes(x: Tensor, c: Tensor, grid: Tensor, input_scale: Tensor | None) -> None:
    if grid.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"grid must be float32 or float64, got {grid.dtype}: 16 bits are too few for "
            "knots; keep the grid in float32"
        )
    if input_scale is not None and input_scale.dtype != x.dtype:
        raise TypeError(
            f"input_scale must have the dtype of x, {x.dtype}, got {input_scale.dtype}: "
            "convert one of them"
        )
    autocast = autocasting(x.device.type)
    if autocast and (x.dtype == torch.float64) != (c.dtype == torch.float64):
        raise TypeError(
            "x and c must be both float64 or neither, as autocast leaves float64 alone, "
            f"got {x.dtype} and {c.dtype}: convert one of them"
        )
    if not autocast and x.dtype != c.dtype:
        raise TypeError(
            f"x and c must have the same dtype, got {x.dtype} and {c.dtype}: "
            "convert one of them, or use torch.autocast"
        )


def _check_precision(precision: str | None, dtype: torch.dtype) -> None:
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be None or one of {PRECISIONS}, got {precision!r}")
    if (precision == "float64") != (dtype == torch.float64):
        raise ValueError(
            'precision "float64" must be given for float64 tensors and only for them, got '
            f"{precision!r} for {dtype}: convert the tensors or leave precision=None"
        )
