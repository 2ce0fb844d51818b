"""What a launcher asks of the machine: is Triton interpreting, which target, which dtypes."""

import contextlib

import torch
import triton
import triton.language as tl

COMPUTE_DTYPES = {
    "float64": torch.float64,
    "ieee": torch.float32,
    "tf32x3": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels (TRITON_INTERPRET=1 when triton was imported)."""
    return not isinstance(round_to_tf32, triton.runtime.JITFunction)


def capability(device: torch.device) -> tuple[str, int]:
    """("cuda", 90), ("hip", 942), ("cpu", 0) ...: what the launch table is keyed by."""
    if interpreting():
        return "interpreter", 0
    target = triton.runtime.driver.active.get_current_target()
    digits = "".join(ch for ch in str(target.arch) if ch.isdigit())
    return target.backend, int(digits or 0)


def supported_precision(precision: str, device: torch.device) -> str:
    """AMD GPUs multiply float32 at full rate and have no split tf32: there "tf32x3" is "ieee"."""
    return "ieee" if precision == "tf32x3" and capability(device)[0] == "hip" else precision


def on_device(tensor: torch.Tensor):
    """Make the tensor's GPU the current one for a launch; nothing to do for other devices."""
    if tensor.device.type == "cpu":
        return contextlib.nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)


def basis_dtype(precision: str) -> torch.dtype:
    """Dtype of x, knots, basis values and accumulators."""
    return torch.float64 if precision == "float64" else torch.float32


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype a kernel writes: the interpreter truncates float32 to bfloat16, so there torch rounds."""
    return torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype


@triton.jit
def round_to_tf32(a, TRUNCATE: tl.constexpr):
    """Nearest tf32; infinities and NaN stay. The tensor core truncates by itself, the interpreter does not."""
    bits = a.to(tl.int32, bitcast=True) + 0x1000
    if TRUNCATE:
        bits &= -0x2000
    return tl.where(tl.abs(a) < float("inf"), bits.to(tl.float32, bitcast=True), a)


@triton.jit
def operand(a, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """A tile as operand of a dot: rounded to the operands' dtype.

    The interpreter's bfloat16 arithmetic is wrong, so there 16-bit operands are widened instead: the
    rounding to 16 bits is checked on compiled kernels only.
    """
    if PRECISION == "float64":
        return a.to(tl.float64)
    elif PRECISION == "bfloat16":
        return a.to(tl.float32 if INTERPRETED else tl.bfloat16)
    elif PRECISION == "float16":
        return a.to(tl.float32 if INTERPRETED else tl.float16)
    elif PRECISION == "tf32":
        return round_to_tf32(a.to(tl.float32), INTERPRETED)
    else:
        return a.to(tl.float32)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """acc + a @ b. a is rounded here; b is an operand already (packed weights, or `operand(...)`)."""
    a = operand(a, PRECISION, INTERPRETED)
    if PRECISION == "float64":
        return tl.dot(a, b, acc, out_dtype=tl.float64)
    elif PRECISION == "bfloat16" or PRECISION == "float16":
        return tl.dot(a, b.to(tl.float32) if INTERPRETED else b, acc)
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)
