"""Launch parameters: one literal table, and the structure of the unrolled loops.

The table's entries were chosen with `python -m bench.codegen` (TUNING.md). None spills registers,
exceeds the shared or tensor memory of a target of its class, or misses its tensor cores in
training's calls and in the worst of each class of calls, which are compiled for every target in
tests/test_compile.py: degree 7 on both kinds of knots, derivatives, input scales, fine grids and
narrow layers. `python -m bench.codegen --check --wide` goes through all that matter.
"""

import torch
import triton
import triton.language as tl

from . import runtime
from .basis import general

# TILES[class][operation, precision] = (BLOCK_B, BLOCK_I, BLOCK_O, num_warps, num_stages, bases
# unrolled at once; 0 for none, a loop with a single product). Calls that need more registers than
# the common ones have entries of their own, and so have narrow layers: see `tile`.
TILES = {
    "mma": {
        ("forward", "float64"): (64, 16, 64, 4, 1, 8),
        ("forward", "float64", "demanding"): (64, 16, 64, 8, 1, 0),
        ("forward", "float64", "high"): (64, 16, 64, 8, 1, 0),
        ("forward", "float64", "narrow"): (64, 16, 16, 4, 1, 0),
        ("forward", "ieee"): (64, 16, 64, 8, 2, 8),
        ("forward", "ieee", "demanding"): (64, 16, 64, 8, 2, 0),
        ("forward", "ieee", "high"): (64, 16, 64, 8, 2, 0),
        ("forward", "ieee", "narrow"): (128, 16, 16, 8, 2, 4),
        ("forward", "tf32x3"): (128, 16, 64, 8, 2, 8),
        ("forward", "tf32x3", "demanding"): (64, 16, 32, 4, 2, 8),
        ("forward", "tf32x3", "high"): (64, 16, 32, 4, 2, 0),
        ("forward", "tf32x3", "narrow"): (128, 16, 16, 8, 2, 8),
        ("forward", "tf32"): (128, 16, 64, 4, 2, 8),
        ("forward", "tf32", "demanding"): (128, 16, 64, 8, 2, 8),
        ("forward", "tf32", "high"): (64, 16, 64, 4, 2, 0),
        ("forward", "tf32", "narrow"): (128, 16, 16, 8, 2, 8),
        ("forward", "bfloat16"): (128, 16, 128, 4, 2, 8),
        ("forward", "bfloat16", "demanding"): (128, 16, 128, 8, 2, 8),
        ("forward", "bfloat16", "high"): (128, 16, 128, 8, 2, 0),
        ("forward", "bfloat16", "narrow"): (128, 16, 16, 4, 2, 8),
        ("input_grad", "float64"): (32, 32, 32, 4, 1, 8),
        ("input_grad", "float64", "demanding"): (32, 32, 32, 8, 1, 8),
        ("input_grad", "float64", "high"): (32, 32, 32, 8, 1, 8),
        ("input_grad", "float64", "narrow"): (32, 16, 16, 2, 1, 8),
        ("input_grad", "ieee"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "ieee", "high"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "ieee", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32x3"): (128, 32, 32, 8, 2, 8),
        ("input_grad", "tf32x3", "demanding"): (64, 32, 32, 4, 2, 8),
        ("input_grad", "tf32x3", "high"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "tf32x3", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32"): (128, 64, 64, 8, 2, 8),
        ("input_grad", "tf32", "demanding"): (64, 64, 64, 8, 2, 8),
        ("input_grad", "tf32", "high"): (64, 32, 64, 8, 2, 8),
        ("input_grad", "tf32", "narrow"): (64, 16, 16, 1, 2, 8),
        ("input_grad", "bfloat16"): (128, 64, 128, 8, 2, 8),
        ("input_grad", "bfloat16", "demanding"): (64, 64, 128, 8, 2, 8),
        ("input_grad", "bfloat16", "high"): (64, 64, 64, 8, 2, 8),
        ("input_grad", "bfloat16", "narrow"): (64, 16, 16, 1, 2, 8),
        ("weight_grad", "float64"): (16, 32, 32, 4, 1, 3),
        ("weight_grad", "float64", "demanding"): (16, 32, 32, 4, 1, 2),
        ("weight_grad", "float64", "high"): (16, 16, 64, 8, 1, 2),
        ("weight_grad", "float64", "narrow"): (16, 16, 16, 2, 1, 5),
        ("weight_grad", "ieee"): (16, 64, 64, 8, 2, 3),
        ("weight_grad", "ieee", "high"): (16, 64, 64, 8, 2, 1),
        ("weight_grad", "ieee", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "tf32x3"): (16, 64, 128, 8, 2, 2),
        ("weight_grad", "tf32x3", "high"): (16, 32, 256, 8, 2, 1),
        ("weight_grad", "tf32x3", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "tf32"): (16, 64, 256, 8, 2, 2),
        ("weight_grad", "tf32", "demanding"): (16, 64, 128, 8, 2, 3),
        ("weight_grad", "tf32", "high"): (16, 32, 256, 8, 2, 2),
        ("weight_grad", "tf32", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "bfloat16"): (16, 64, 256, 8, 3, 2),
        ("weight_grad", "bfloat16", "high"): (16, 32, 256, 8, 2, 3),
        ("weight_grad", "bfloat16", "narrow"): (32, 16, 16, 2, 2, 9),
    },
    "wgmma": {
        ("forward", "float64"): (64, 16, 64, 4, 1, 8),
        ("forward", "float64", "demanding"): (64, 16, 64, 8, 1, 0),
        ("forward", "float64", "high"): (64, 16, 64, 8, 1, 0),
        ("forward", "float64", "narrow"): (64, 16, 16, 4, 1, 0),
        ("forward", "ieee"): (128, 16, 64, 8, 2, 8),
        ("forward", "ieee", "high"): (128, 16, 64, 8, 2, 0),
        ("forward", "ieee", "narrow"): (128, 16, 16, 8, 2, 4),
        ("forward", "tf32x3"): (128, 16, 64, 4, 2, 8),
        ("forward", "tf32x3", "demanding"): (128, 16, 64, 8, 2, 8),
        ("forward", "tf32x3", "high"): (128, 16, 64, 8, 2, 0),
        ("forward", "tf32x3", "narrow"): (128, 16, 16, 4, 2, 8),
        ("forward", "tf32"): (256, 16, 128, 8, 2, 8),
        ("forward", "tf32", "demanding"): (128, 16, 128, 8, 2, 8),
        ("forward", "tf32", "high"): (64, 16, 128, 8, 2, 0),
        ("forward", "tf32", "narrow"): (128, 16, 16, 4, 2, 8),
        ("forward", "bfloat16"): (128, 16, 256, 8, 2, 8),
        ("forward", "bfloat16", "high"): (64, 16, 256, 8, 2, 0),
        ("forward", "bfloat16", "narrow"): (128, 16, 16, 4, 2, 8),
        ("input_grad", "float64"): (32, 32, 32, 4, 1, 8),
        ("input_grad", "float64", "high"): (32, 32, 32, 8, 1, 8),
        ("input_grad", "float64", "narrow"): (32, 16, 16, 2, 1, 8),
        ("input_grad", "ieee"): (64, 32, 32, 4, 2, 8),
        ("input_grad", "ieee", "demanding"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "ieee", "high"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "ieee", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32x3"): (64, 128, 32, 8, 2, 8),
        ("input_grad", "tf32x3", "demanding"): (64, 128, 16, 8, 2, 8),
        ("input_grad", "tf32x3", "high"): (32, 64, 32, 8, 2, 8),
        ("input_grad", "tf32x3", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32"): (256, 64, 128, 8, 2, 8),
        ("input_grad", "tf32", "demanding"): (128, 64, 128, 8, 2, 8),
        ("input_grad", "tf32", "high"): (64, 64, 128, 8, 2, 8),
        ("input_grad", "tf32", "narrow"): (64, 16, 16, 1, 2, 8),
        ("input_grad", "bfloat16"): (256, 64, 256, 8, 2, 8),
        ("input_grad", "bfloat16", "demanding"): (128, 64, 256, 8, 2, 8),
        ("input_grad", "bfloat16", "high"): (64, 64, 256, 8, 2, 8),
        ("input_grad", "bfloat16", "narrow"): (64, 16, 16, 1, 2, 8),
        ("weight_grad", "float64"): (16, 32, 32, 4, 1, 3),
        ("weight_grad", "float64", "demanding"): (16, 32, 32, 4, 1, 2),
        ("weight_grad", "float64", "high"): (16, 16, 64, 8, 1, 2),
        ("weight_grad", "float64", "narrow"): (16, 16, 16, 2, 1, 5),
        ("weight_grad", "ieee"): (16, 64, 64, 8, 2, 3),
        ("weight_grad", "ieee", "high"): (16, 64, 64, 8, 2, 1),
        ("weight_grad", "ieee", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "tf32x3"): (16, 128, 128, 8, 2, 2),
        ("weight_grad", "tf32x3", "demanding"): (16, 64, 64, 4, 2, 2),
        ("weight_grad", "tf32x3", "high"): (16, 32, 256, 8, 2, 1),
        ("weight_grad", "tf32x3", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "tf32"): (16, 64, 256, 8, 2, 3),
        ("weight_grad", "tf32", "demanding"): (16, 64, 256, 8, 2, 2),
        ("weight_grad", "tf32", "high"): (16, 32, 256, 8, 2, 2),
        ("weight_grad", "tf32", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "bfloat16"): (16, 64, 256, 8, 2, 3),
        ("weight_grad", "bfloat16", "demanding"): (16, 64, 256, 8, 2, 2),
        ("weight_grad", "bfloat16", "high"): (16, 32, 256, 8, 2, 3),
        ("weight_grad", "bfloat16", "narrow"): (32, 16, 16, 2, 2, 9),
    },
    "tcgen05": {
        ("forward", "float64"): (64, 16, 64, 4, 1, 8),
        ("forward", "float64", "demanding"): (64, 16, 64, 8, 1, 0),
        ("forward", "float64", "high"): (64, 16, 64, 8, 1, 0),
        ("forward", "float64", "narrow"): (64, 16, 16, 4, 1, 0),
        ("forward", "ieee"): (64, 16, 64, 8, 2, 8),
        ("forward", "ieee", "demanding"): (128, 16, 64, 8, 2, 0),
        ("forward", "ieee", "high"): (128, 16, 64, 8, 2, 0),
        ("forward", "ieee", "narrow"): (128, 16, 16, 8, 2, 4),
        ("forward", "tf32x3"): (128, 16, 64, 8, 2, 0),
        ("forward", "tf32x3", "high"): (128, 16, 64, 8, 2, 0),
        ("forward", "tf32x3", "narrow"): (128, 16, 16, 8, 2, 8),
        ("forward", "tf32"): (128, 32, 128, 8, 2, 0),
        ("forward", "tf32", "demanding"): (128, 16, 128, 8, 2, 0),
        ("forward", "tf32", "high"): (64, 16, 128, 8, 2, 0),
        ("forward", "tf32", "narrow"): (128, 16, 16, 8, 2, 8),
        ("forward", "bfloat16"): (128, 32, 256, 8, 2, 0),
        ("forward", "bfloat16", "demanding"): (128, 16, 256, 8, 2, 0),
        ("forward", "bfloat16", "high"): (64, 16, 256, 8, 2, 0),
        ("forward", "bfloat16", "narrow"): (128, 16, 16, 8, 2, 8),
        ("input_grad", "float64"): (32, 32, 32, 8, 1, 8),
        ("input_grad", "float64", "high"): (32, 32, 32, 8, 1, 8),
        ("input_grad", "float64", "narrow"): (32, 16, 16, 2, 1, 8),
        ("input_grad", "ieee"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "ieee", "high"): (64, 32, 32, 8, 2, 8),
        ("input_grad", "ieee", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32x3"): (64, 64, 32, 8, 2, 8),
        ("input_grad", "tf32x3", "demanding"): (32, 64, 16, 8, 2, 8),
        ("input_grad", "tf32x3", "high"): (32, 64, 16, 8, 2, 8),
        ("input_grad", "tf32x3", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32"): (64, 64, 64, 8, 2, 8),
        ("input_grad", "tf32", "demanding"): (32, 64, 32, 4, 2, 8),
        ("input_grad", "tf32", "high"): (32, 64, 64, 8, 2, 8),
        ("input_grad", "tf32", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "bfloat16"): (64, 64, 128, 8, 2, 8),
        ("input_grad", "bfloat16", "high"): (32, 64, 128, 8, 2, 8),
        ("input_grad", "bfloat16", "narrow"): (64, 16, 16, 2, 2, 8),
        ("weight_grad", "float64"): (16, 32, 32, 4, 1, 3),
        ("weight_grad", "float64", "demanding"): (16, 32, 32, 4, 1, 2),
        ("weight_grad", "float64", "high"): (16, 16, 64, 8, 1, 2),
        ("weight_grad", "float64", "narrow"): (16, 16, 16, 2, 1, 5),
        ("weight_grad", "ieee"): (16, 64, 64, 8, 2, 3),
        ("weight_grad", "ieee", "high"): (16, 32, 64, 8, 2, 1),
        ("weight_grad", "ieee", "narrow"): (32, 16, 16, 4, 2, 9),
        ("weight_grad", "tf32x3"): (16, 128, 128, 8, 2, 1),
        ("weight_grad", "tf32x3", "high"): (16, 64, 128, 8, 2, 1),
        ("weight_grad", "tf32x3", "narrow"): (32, 16, 16, 4, 2, 9),
        ("weight_grad", "tf32"): (16, 128, 128, 8, 2, 3),
        ("weight_grad", "tf32", "demanding"): (16, 128, 128, 8, 2, 2),
        ("weight_grad", "tf32", "high"): (16, 64, 128, 8, 2, 2),
        ("weight_grad", "tf32", "narrow"): (32, 16, 16, 4, 2, 9),
        ("weight_grad", "bfloat16"): (16, 128, 128, 8, 2, 3),
        ("weight_grad", "bfloat16", "high"): (16, 64, 128, 8, 2, 2),
        ("weight_grad", "bfloat16", "narrow"): (32, 16, 16, 4, 2, 9),
    },
    "mfma": {
        ("forward", "float64"): (64, 16, 32, 4, 1, 8),
        ("forward", "float64", "high"): (64, 16, 32, 4, 1, 0),
        ("forward", "float64", "narrow"): (64, 16, 16, 4, 1, 0),
        ("forward", "ieee"): (64, 16, 64, 4, 1, 8),
        ("forward", "ieee", "high"): (64, 16, 64, 4, 1, 0),
        ("forward", "ieee", "narrow"): (128, 16, 16, 8, 2, 4),
        ("forward", "tf32"): (128, 16, 64, 4, 1, 8),
        ("forward", "tf32", "high"): (128, 16, 64, 4, 1, 0),
        ("forward", "tf32", "narrow"): (128, 16, 16, 4, 2, 8),
        ("forward", "bfloat16"): (128, 16, 128, 4, 2, 8),
        ("forward", "bfloat16", "demanding"): (64, 16, 64, 4, 2, 8),
        ("forward", "bfloat16", "high"): (128, 16, 128, 4, 2, 0),
        ("forward", "bfloat16", "narrow"): (128, 16, 16, 4, 2, 8),
        ("input_grad", "float64"): (32, 32, 32, 4, 1, 8),
        ("input_grad", "float64", "high"): (32, 32, 32, 4, 1, 8),
        ("input_grad", "float64", "narrow"): (32, 16, 16, 2, 1, 8),
        ("input_grad", "ieee"): (64, 64, 32, 4, 1, 8),
        ("input_grad", "ieee", "high"): (64, 64, 32, 4, 1, 8),
        ("input_grad", "ieee", "narrow"): (64, 16, 16, 2, 2, 8),
        ("input_grad", "tf32"): (64, 64, 64, 4, 1, 8),
        ("input_grad", "tf32", "high"): (64, 64, 64, 4, 1, 8),
        ("input_grad", "tf32", "narrow"): (64, 16, 16, 1, 2, 8),
        ("input_grad", "bfloat16"): (64, 64, 64, 4, 2, 8),
        ("input_grad", "bfloat16", "high"): (64, 64, 64, 4, 2, 8),
        ("input_grad", "bfloat16", "narrow"): (64, 16, 16, 1, 2, 8),
        ("weight_grad", "float64"): (16, 32, 32, 4, 1, 3),
        ("weight_grad", "float64", "high"): (16, 32, 32, 4, 1, 3),
        ("weight_grad", "float64", "narrow"): (16, 16, 16, 2, 1, 5),
        ("weight_grad", "ieee"): (16, 64, 64, 4, 1, 3),
        ("weight_grad", "ieee", "high"): (16, 64, 64, 4, 1, 3),
        ("weight_grad", "ieee", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "tf32"): (16, 64, 128, 8, 1, 3),
        ("weight_grad", "tf32", "demanding"): (16, 64, 64, 4, 1, 3),
        ("weight_grad", "tf32", "high"): (16, 64, 64, 4, 1, 3),
        ("weight_grad", "tf32", "narrow"): (32, 16, 16, 2, 2, 9),
        ("weight_grad", "bfloat16"): (16, 64, 128, 8, 2, 3),
        ("weight_grad", "bfloat16", "high"): (16, 32, 64, 4, 2, 3),
        ("weight_grad", "bfloat16", "narrow"): (32, 16, 16, 2, 2, 9),
    },
}

# Triton 3.9 spills where 3.8 does not (TUNING.md).
FROM_3_9 = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)
if FROM_3_9:
    TILES["wgmma"] |= {
        ("input_grad", "tf32x3", "demanding"): (64, 64, 32, 8, 2, 8),
        ("input_grad", "tf32", "demanding"): (64, 64, 64, 8, 2, 8),
        ("input_grad", "bfloat16", "demanding"): (64, 64, 128, 8, 2, 8),
    }

# Layers with no more inputs, and no more outputs, are narrow.
NARROW = 16

# Programs the weight gradient's split of the batch aims at. A constant, not the device's number of
# multiprocessors: the order of summation, and so every bit of the result, is the same on every GPU.
SPLIT_TARGET = 512


def target_class(device):
    """Which part of the table is for the device: by the matrix instructions it has, and its shared
    memory."""
    backend, capability = runtime.capability(device)
    if backend == "hip":
        return "mfma"
    if backend != "cuda":
        return "mma"
    if capability // 10 == 9:
        return "wgmma"
    if capability // 10 in (10, 11):
        return "tcgen05"
    return "mma"


def tile(op, precision, device, rows, inputs, outputs, *, demanding):
    """(keyword arguments of a launch, functions unrolled); blocks no wider than the next power of
    two of the shape. `demanding` is what the function of that name says."""
    group, (backend, capability) = target_class(device), runtime.capability(device)
    table = TILES[group]
    precision = "bfloat16" if precision == "float16" else precision
    small = max(inputs, outputs) <= NARROW
    narrow = ("common", "several") if op == "forward" else ("common", "demanding")
    if small and demanding in narrow:
        demanding = "narrow"
    elif demanding == "general":
        demanding = "high" if small else "demanding"
    elif demanding == "several" and precision in ("ieee", "float64"):
        demanding = "high"
    elif demanding in ("common", "several"):
        # From sm_86 on the assembler needs more registers for these than for sm_80.
        newer = group == "mma" and backend == "cuda" and capability > 80
        demanding = "demanding" if newer else "common"
    entry = table.get((op, precision, demanding), table[op, precision])
    block_b, block_i, block_o, warps, stages, limit = entry
    # Or the assembler sometimes settles for 128 registers, and spills what does not fit there.
    registers = {"maxnreg": 255} if backend == "cuda" and demanding != "common" else {}

    def fit(block, size):
        return min(block, max(16, triton.next_power_of_2(size)))

    return {
        "BLOCK_B": fit(block_b, rows),
        "BLOCK_I": fit(block_i, inputs),
        "BLOCK_O": fit(block_o, outputs),
        "num_warps": warps,
        "num_stages": stages,
        "INTERPRETED": runtime.interpreting(),
        **registers,
        **runtime.OPTIONS,
    }, limit


def demanding(op, basis, deriv, scaled):
    """How many registers a call needs: "common", which are training's three on a uniform grid
    ("several", if the forward pass has more splines than are unrolled at once), "demanding", on a
    "general" grid, or "high".

    High are the degrees for which the closed form has many terms, or the sweep over general knots,
    which carries a tile for each degree, many tiles; and several general splines. The input
    gradient fills the registers as it is: its common calls are those of SiLU and degree 2 or 3,
    and on general knots all the others are high.
    """
    unusual = scaled or deriv != (op == "input_grad")
    if op == "input_grad":
        unusual |= basis.activation != "silu" or basis.degree not in (2, 3)
    several = op == "forward" and basis.num_splines > 8
    if basis.uniform:
        usual = "several" if several else "common"
        return "high" if basis.degree > 5 else "demanding" if unusual else usual
    high = basis.degree > 3 or several or (op == "input_grad" and unusual)
    return "high" if high else "general"


def chunks(functions, limit, *, at_least=2):
    """(CHUNKS, CHUNK, TAIL): CHUNKS loops over CHUNK unrolled functions, then TAIL, none more than
    limit.

    Nothing is padded: CHUNKS * CHUNK + TAIL = functions. Limit 0, for a loop with a single
    product, leaves all of them to the tail. at_least: so many parts if there are several, 3 where
    the chunks are a loop: the compiler dissolves one of a single trip, and all is unrolled.
    """
    if limit == 0:
        return 0, 0, functions
    count = -(-functions // limit)
    if count <= 1:
        return 0, 0, functions
    count = max(count, at_least)
    chunk = -(-functions // count)
    return count - 1, chunk, functions - (count - 1) * chunk


def structure(basis, deriv):
    """The constexprs that describe the basis. Splines vanish for deriv > degree."""
    nan_safe = {"none": False, "identity": deriv == 0, "relu": deriv == 0}
    return {
        "UNIFORM": basis.uniform,
        "G": basis.grid_size,
        "DEGREE": basis.degree,
        "DERIV": deriv,
        "ACTIVATION": basis.activation,
        "KEEP_NAN": not nan_safe.get(basis.activation, True),
    }


def splines(basis, deriv):
    """How many splines there are to sum over."""
    return basis.num_splines if deriv <= basis.degree else 0


def knots(grid, basis, precision):
    """What the kernels read of the grid: [I, M] itself, or the table of general knots."""
    if basis.uniform:
        return grid.contiguous()
    return general.make_table(grid, basis, runtime.basis_dtype(precision), runtime.OPTIONS)


def split_batch(rows, tiles, block_b):
    """(parts, rows of a part) of the weight gradient's sum over the batch: by the shapes alone."""
    parts = max(1, min(SPLIT_TARGET // max(tiles, 1), -(-rows // 256)))
    part = -(-max(rows, 1) // parts)
    part = -(-part // block_b) * block_b
    return max(1, -(-rows // part)), part


# EDGE_TILES[operation, dtype] = (places of a tile, BLOCK_O at most, num_warps, functions unrolled
# at once): the statistics of edges, which need no tensor cores (TUNING.md, "Edge statistics").
# "demanding" is for degrees above 3, general knots in several chunks, and narrow layers, where a
# thread makes the bases of many rows.
EDGE_TILES = {
    ("statistics", torch.float32): (512, 256, 1, 8),
    ("statistics", torch.float32, "general"): (256, 256, 1, 8),
    ("statistics", torch.float32, "demanding"): (128, 128, 1, 4),
    ("statistics", torch.float64): (128, 128, 1, 8),
    ("statistics", torch.float64, "demanding"): (32, 32, 1, 2),
    ("extremes", torch.float32): (512, 256, 1, 8),
    ("extremes", torch.float32, "general"): (256, 256, 1, 8),
    ("extremes", torch.float32, "demanding"): (128, 128, 1, 4),
    ("extremes", torch.float64): (128, 128, 1, 8),
    ("extremes", torch.float64, "demanding"): (32, 32, 1, 2),
    ("input", torch.float32): (512, 256, 1, 8),
    ("input", torch.float32, "general"): (256, 256, 1, 8),
    ("input", torch.float32, "demanding"): (128, 128, 1, 4),
    ("input", torch.float64): (128, 128, 1, 8),
    ("input", torch.float64, "demanding"): (32, 32, 1, 2),
    ("coefficient", torch.float32): (256, 256, 1, 5),
    ("coefficient", torch.float32, "general"): (128, 128, 1, 5),
    ("coefficient", torch.float32, "demanding"): (64, 64, 1, 3),
    ("coefficient", torch.float64): (64, 64, 1, 4),
    ("coefficient", torch.float64, "demanding"): (32, 32, 1, 2),
}

if FROM_3_9:
    EDGE_TILES["input", torch.float32] = (256, 128, 1, 8)


def edges(op, basis, dtype, rows, outputs):
    """(tile and compiler options, constexprs of the basis, functions unrolled) of a kernel of edge
    statistics: as many rows as the outputs leave places for, and as there are."""
    table = EDGE_TILES[op, dtype]
    several = not basis.uniform and basis.num_splines > 8
    if basis.degree > 3 or several or outputs <= 32:
        table = EDGE_TILES[op, dtype, "demanding"]
    elif not basis.uniform:
        table = EDGE_TILES.get((op, dtype, "general"), table)
    places, block_o, warps, limit = table
    block_o = min(block_o, triton.next_power_of_2(outputs))
    count, chunk, tail = chunks(basis.num_splines, limit)
    described = structure(basis, 0)
    del described["DERIV"]
    return (
        {
            "BLOCK_B": min(places // block_o, triton.next_power_of_2(rows)),
            "BLOCK_O": block_o,
            "num_warps": warps,
            **runtime.OPTIONS,
        },
        {
            **described,
            "TYPE": tl.float64 if dtype == torch.float64 else tl.float32,
            "CHUNKS": count,
            "CHUNK": chunk,
            "TAIL": tail,
        },
        limit,
    )


def edge_knots(grid, basis, dtype):
    """`knots` for tensors of this dtype."""
    return knots(grid, basis, "float64" if dtype == torch.float64 else "ieee")
