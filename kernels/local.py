"""Local support: what the kernels share that read k + 1 coefficients for a value and no more.

README.md, "Local support", says what they do, TUNING.md, "Large grids, built", where they pay.
"""

import contextlib
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import coefficients, launch, runtime
from .basis import local as cells
from .tiles import FROM_3_9

# FROM[class][operation][precision]: the number of splines G + k from which on the local kernel is
# taken. From there the model of `python -m bench.grids` sees it 1.5 times faster; 32 at least.
# TUNING.md, "Large grids, built". "mma" is sm_80's.
FROM: dict[str, dict[str, dict[str, int]]] = {
    "mma": {
        "forward": {"bfloat16": 176, "tf32": 88, "tf32x3": 44, "ieee": 32, "float64": 51},
        "input_grad": {"bfloat16": 181, "tf32": 171, "tf32x3": 60, "ieee": 32, "float64": 65},
        "weight_grad": {"bfloat16": 251, "tf32": 157, "tf32x3": 98, "ieee": 40, "float64": 87},
    },
    "wgmma": {
        "forward": {"bfloat16": 320, "tf32": 252, "tf32x3": 71, "ieee": 32, "float64": 81},
        "input_grad": {"bfloat16": 406, "tf32": 378, "tf32x3": 127, "ieee": 32, "float64": 113},
        "weight_grad": {"bfloat16": 281, "tf32": 288, "tf32x3": 142, "ieee": 65, "float64": 122},
    },
    "tcgen05": {
        "forward": {"bfloat16": 279, "tf32": 224, "tf32x3": 65, "ieee": 32, "float64": 50},
        "input_grad": {"bfloat16": 211, "tf32": 158, "tf32x3": 62, "ieee": 32, "float64": 71},
        "weight_grad": {"bfloat16": 217, "tf32": 261, "tf32x3": 161, "ieee": 58, "float64": 88},
    },
    "mfma": {
        "forward": {"bfloat16": 126, "tf32": 209, "ieee": 60, "float64": 107},
        "input_grad": {"bfloat16": 195, "tf32": 198, "ieee": 64, "float64": 124},
        "weight_grad": {"bfloat16": 130, "tf32": 157, "ieee": 119, "float64": 152},
    },
}

# Values (row, input, output) below which the dense weight gradient, one or two launches, is over
# before the ten of the local one are under way. An estimate: 4 us a launch.
SMALL = 2**23

_forced: bool | None = None

# TILES[operation, precision] = (BLOCK_B, num_warps), with the class where it differs. A thread has
# a row or more: of fewer rows Triton makes the bases several times.
TILES = {
    ("forward", "float64"): (256, 8),
    ("forward", "float64", "mfma"): (256, 4),
    ("forward", "ieee"): (512, 8),
    ("forward", "bfloat16"): (256, 8),
    ("forward", "bfloat16", "mfma"): (256, 4),
    ("input_grad", "float64"): (64, 2),
    ("input_grad", "float64", "mfma"): (128, 2),
    ("input_grad", "ieee"): (256, 8),
    ("input_grad", "ieee", "wgmma"): (128, 4),
    ("input_grad", "ieee", "mfma"): (256, 4),
    ("input_grad", "bfloat16"): (256, 8),
    ("input_grad", "bfloat16", "mfma"): (128, 2),
}
if FROM_3_9:
    TILES["input_grad", "float64", "mma"] = (128, 4)
    TILES["input_grad", "ieee", "tcgen05"] = (128, 4)
# WEIGHT_TILES[precision] = (BLOCK_B, BLOCK_J, BLOCK_O, num_warps, num_stages), with the class where
# it differs. BLOCK_J is at least k + 3: the rows are read (BLOCK_J + k + 2) / BLOCK_J times.
WEIGHT_TILES = {
    "float64": (16, 16, 64, 4, 2),
    "ieee": (16, 16, 128, 4, 3),
    "tf32": (16, 32, 128, 4, 3),
    "tf32x3": (16, 32, 128, 4, 3),
    ("tf32", "mfma"): (32, 32, 256, 8, 3),
    "bfloat16": (32, 32, 128, 4, 3),
    ("bfloat16", "mfma"): (32, 16, 256, 4, 3),
}
# A block of outputs is as wide as a line of the first-level cache: narrower ones waste its
# bandwidth, wider ones leave fewer rows to a program, whose rows are what share coefficients.
LINE = 128


class Slabs(NamedTuple):
    """Coefficients as the local kernels read them, [tiles of outputs, I, ROWS, BLOCK_O].

    The rows are k + MARGIN of zeros, the splines, k + MARGIN of zeros, the residual function: every
    cell has its k + 1 rows one after the other, and those of no spline are zero.
    """

    tensor: torch.Tensor
    rows: int


@triton.jit
def pack_kernel(
    splines_ptr, base_ptr, scaler_ptr,  # `coefficients.load`
    w_ptr,  # [tiles of outputs, I, ROWS, BLOCK_O]
    I, O, ROWS,
    stride_j, stride_i, stride_o, base_i, base_o, scaler_i, scaler_o, GIVEN,
    HAS_BASE: tl.constexpr, HAS_SCALER: tl.constexpr,
    SPLINES: tl.constexpr, PAD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R rows of one input's slab. GIVEN: functions in splines_ptr."""
    i, tile = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    column = tl.arange(0, BLOCK_O)[None, :]
    o = tile * BLOCK_O + column
    j = tl.where(row < 2 * PAD + SPLINES, row - PAD, SPLINES).to(tl.int64)
    known = (row >= PAD) & ((row < PAD + SPLINES) | (row >= 2 * PAD + SPLINES))
    w = coefficients.load(
        splines_ptr, base_ptr, scaler_ptr,
        stride_j, stride_i, stride_o, base_i, base_o, scaler_i, scaler_o,
        j, i, o, known & (row < ROWS) & (o < O), GIVEN, HAS_BASE, HAS_SCALER,
    )  # fmt: skip
    target = w_ptr + (tile * I + i) * ROWS * BLOCK_O + row * BLOCK_O + column
    tl.store(target, w.to(w_ptr.dtype.element_ty), mask=row < ROWS)


def pack(c, basis, precision, block_o):
    """c [J, I, O], a tensor or `Coefficients`, in the operands' dtype as slabs: one pass."""
    dtype = runtime.COMPUTE_DTYPES[precision]
    functions, inputs, outputs = c.shape
    given = coefficients.of(c)
    pad = basis.degree + cells.MARGIN.value
    rows = functions + 2 * pad
    if runtime.interpreting() and dtype != given.splines.dtype:
        given = coefficients.rounded(given, dtype)
    shape = triton.cdiv(outputs, block_o), inputs, rows, block_o
    w = given.splines.new_empty(shape, dtype=dtype)
    if w.numel():
        splines, base, scaler, *strides = given.arguments()
        pack_kernel[(inputs, triton.cdiv(rows, 32), w.shape[0])](
            splines, base, scaler, w, inputs, outputs, rows, *strides, len(splines),
            SPLINES=basis.num_splines, PAD=pad, BLOCK_R=32, BLOCK_O=block_o,
            **given.structure(), **runtime.OPTIONS,
        )  # fmt: skip
    return Slabs(w, rows)


def pays(op, basis, deriv, precision, device):
    """Whether the local kernel is the faster one, by the model."""
    if deriv > basis.degree:
        return False  # no spline is left
    if _forced is not None:
        return _forced
    table = FROM.get(launch.target_class(device), {}).get(op, {})
    precision = "bfloat16" if precision == "float16" else precision
    return basis.num_splines >= table.get(precision, basis.num_splines + 1)


def pays_to_sort(basis, precision, x, outputs):
    """The same of the weight gradient, for x [B, I]."""
    if not len(x) or len(x) >= 2**31:
        return False
    if _forced is None and x.numel() * outputs < SMALL:
        return False
    return pays("weight_grad", basis, 0, precision, x.device)


@contextlib.contextmanager
def forced(choice):
    """For tests and the profiler: local kernels, or with False dense ones, whatever the table
    says."""
    global _forced
    before, _forced = _forced, choice
    try:
        yield
    finally:
        _forced = before


def tile(op, basis, precision, device, rows, outputs):
    """Keyword arguments of a launch. No block is larger than the shape needs."""
    operand = runtime.COMPUTE_DTYPES[precision]
    key = op, {8: "float64", 4: "ieee", 2: "bfloat16"}[operand.itemsize]
    block_b, warps = TILES.get((*key, launch.target_class(device)), TILES[key])
    block_b = min(block_b, max(16, triton.next_power_of_2(rows)))
    return {
        "BLOCK_B": block_b,
        "BLOCK_O": min(LINE // operand.itemsize, max(16, triton.next_power_of_2(outputs))),
        "num_warps": max(1, min(warps, block_b // 32)),
        "num_stages": 1,
        **runtime.OPTIONS,
    }


def weight_tile(basis, precision, device, rows, outputs):
    """The same of the weight gradient."""
    key = {8: "float64", 4: precision, 2: "bfloat16"}[runtime.COMPUTE_DTYPES[precision].itemsize]
    entry = WEIGHT_TILES.get((key, launch.target_class(device)), WEIGHT_TILES[key])
    block_b, block_j, block_o, warps, stages = entry
    many = runtime.capability(device)[0] == "cuda" and (basis.degree > 3 or not basis.uniform)
    return {
        "BLOCK_B": min(block_b, max(16, triton.next_power_of_2(rows))),
        "BLOCK_J": block_j,
        "BLOCK_O": min(block_o, max(16, triton.next_power_of_2(outputs))),
        "num_warps": warps,
        "num_stages": stages,
        "INTERPRETED": runtime.interpreting(),
        **({"maxnreg": 255} if many else {}),
        **runtime.OPTIONS,
    }


def structure(basis, deriv, precision):
    """The constexprs that describe the basis and its dtype."""
    double = runtime.basis_dtype(precision) == torch.float64
    return {**launch.structure(basis, deriv), "TYPE": tl.float64 if double else tl.float32}


def transposed(t):
    """[B, I] with the rows side by side, as the kernels go through one input after the other."""
    return t.t().contiguous()


def knots(grid, precision):
    """The grid [I, M] in the dtype of x."""
    return grid.to(runtime.basis_dtype(precision)).contiguous()
