"""What a launcher asks of the machine: is Triton interpreting, which target, which dtypes."""

import contextlib

import torch
import triton
import triton.language as tl

# Compiler options of every launch: multiply and add in one instruction. Triton 3.10 will default
# to two.
OPTIONS = {"enable_fp_fusion": True}

COMPUTE_DTYPES = {
    "float64": torch.float64,
    "ieee": torch.float32,
    "tf32x3": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels (TRITON_INTERPRET=1 when triton was
    imported)."""
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
    """Dtype a kernel writes: the interpreter truncates float32 to bfloat16, so there torch
    rounds."""
    return torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype


def narrow(tensor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The tensor, contiguous if offsets within a tile [rows, columns] of it would not fit in 32
    bits."""
    reach = rows * tensor.stride(0) + columns * tensor.stride(1)
    return tensor if reach < 2**31 else tensor.contiguous()


@triton.jit
def after(tile, other, zero):
    """tile, to be used once other is there: or the assembler computes what depends on it early and
    runs out of registers. zero: an integer 0 that no compiler knows to be one."""
    INT: tl.constexpr = tl.int64 if tile.dtype == tl.float64 else tl.int32
    nothing = other.to(INT, bitcast=True) & zero.to(INT)
    return (tile.to(INT, bitcast=True) | nothing).to(tile.dtype, bitcast=True)


@triton.jit
def round_to_tf32(a, TRUNCATE: tl.constexpr, FINITE: tl.constexpr):
    """Nearest tf32; infinities and NaN stay unless all are FINITE. Tensor cores truncate by
    themselves."""
    bits = a.to(tl.int32, bitcast=True) + 0x1000
    if TRUNCATE:
        bits &= -0x2000
    nearest = bits.to(tl.float32, bitcast=True)
    return nearest if FINITE else tl.where(tl.abs(a) < float("inf"), nearest, a)


@triton.jit
def split_tf32(a, FINITE: tl.constexpr):
    """(high, low) with high + low = a to 23 bits; an infinity has no low part, a NaN is one of
    both."""
    high = round_to_tf32(a, True, True)
    low = a - high
    return high, (low if FINITE else tl.where(tl.abs(a) == float("inf"), 0.0, low))


@triton.jit
def parts(a, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, FINITE: tl.constexpr = False):
    """A tile as operand of a dot: one tile rounded to the operands' dtype, or the two of a split
    tf32.

    The interpreter's bfloat16 arithmetic is wrong, so there 16-bit operands are widened instead:
    the rounding to 16 bits is checked on compiled kernels only.
    """
    if PRECISION == "float64":
        return (a.to(tl.float64),)
    elif PRECISION == "bfloat16":
        return (a.to(tl.float32 if INTERPRETED else tl.bfloat16),)
    elif PRECISION == "float16":
        return (a.to(tl.float32 if INTERPRETED else tl.float16),)
    elif PRECISION == "tf32":
        return (round_to_tf32(a.to(tl.float32), INTERPRETED, FINITE),)
    elif PRECISION == "tf32x3":
        return split_tf32(a.to(tl.float32), FINITE)
    else:
        return (a.to(tl.float32),)


@triton.jit
def load_parts(ptr, stride_part, mask, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """The same of packed coefficients, which are operands already: pack.py rounded or split
    them."""
    w = tl.load(ptr, mask=mask, other=0.0)
    if PRECISION == "tf32x3":
        return w, tl.load(ptr + stride_part.to(tl.uint32).to(tl.int64), mask=mask, other=0.0)
    elif INTERPRETED and (PRECISION == "bfloat16" or PRECISION == "float16"):
        return (w.to(tl.float32),)
    else:
        return (w,)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b of operands in parts; of a split product all but low times low."""
    if PRECISION == "float64":
        return tl.dot(a[0], b[0], acc, out_dtype=tl.float64)
    elif PRECISION == "tf32x3":
        acc = tl.dot(a[1], b[0], acc, input_precision="tf32")
        acc = tl.dot(a[0], b[1], acc, input_precision="tf32")
        return tl.dot(a[0], b[0], acc, input_precision="tf32")
    elif PRECISION == "tf32" or PRECISION == "ieee":
        return tl.dot(a[0], b[0], acc, input_precision=PRECISION)
    else:
        return tl.dot(a[0], b[0], acc)
