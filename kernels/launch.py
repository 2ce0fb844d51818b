"""Launch parameters: one literal table keyed by operation and precision, and the structure of the unrolled loops."""

import triton

from . import runtime
from .basis import general

# (BLOCK_B, BLOCK_I, BLOCK_O, num_warps, num_stages)
TILES = {
    ("forward", "float64"): (64, 16, 64, 4, 1),
    ("forward", "ieee"): (64, 16, 64, 4, 2),
    ("forward", "tf32x3"): (64, 16, 64, 4, 2),
    ("forward", "tf32"): (128, 16, 128, 8, 2),
    ("forward", "bfloat16"): (128, 16, 256, 8, 2),
    ("forward", "float16"): (128, 16, 256, 8, 2),
    ("input_grad", "float64"): (32, 16, 16, 4, 1),
    ("input_grad", "ieee"): (64, 32, 16, 4, 2),
    ("input_grad", "tf32x3"): (64, 32, 16, 4, 2),
    ("input_grad", "tf32"): (128, 32, 32, 8, 2),
    ("input_grad", "bfloat16"): (128, 32, 64, 8, 2),
    ("input_grad", "float16"): (128, 32, 64, 8, 2),
    ("weight_grad", "float64"): (16, 16, 32, 4, 1),
    ("weight_grad", "ieee"): (16, 32, 64, 4, 2),
    ("weight_grad", "tf32x3"): (16, 32, 64, 4, 2),
    ("weight_grad", "tf32"): (32, 32, 64, 4, 2),
    ("weight_grad", "bfloat16"): (32, 32, 64, 4, 2),
    ("weight_grad", "float16"): (32, 32, 64, 4, 2),
}

# Programs the weight gradient's split of the batch aims at. A constant, not the device's number of
# multiprocessors: the order of summation, and so every bit of the result, is the same on every GPU.
SPLIT_TARGET = 512


def tile(op, precision, device, rows, inputs, outputs):
    """Keyword arguments of a launch; blocks no wider than the next power of two of the shape."""
    block_b, block_i, block_o, warps, stages = TILES[op, precision]

    def fit(block, size):
        return min(block, max(16, triton.next_power_of_2(size)))

    return {
        "BLOCK_B": fit(block_b, rows),
        "BLOCK_I": fit(block_i, inputs),
        "BLOCK_O": fit(block_o, outputs),
        "num_warps": warps,
        "num_stages": stages,
        "INTERPRETED": runtime.interpreting(),
        **runtime.OPTIONS,
    }


def chunks(splines, limit):
    """(CHUNKS, CHUNK, TAIL): CHUNKS loops over CHUNK unrolled bases, then TAIL, none more than limit.

    Nothing is padded: CHUNKS * CHUNK + TAIL = splines.
    """
    count = -(-splines // limit)
    if count <= 1:
        return 0, 0, splines
    chunk = -(-splines // count)
    return count - 1, chunk, splines - (count - 1) * chunk


def structure(basis, deriv, *, limit):
    """The constexprs that describe the basis and its unrolling. Splines vanish for deriv > degree."""
    splines = basis.num_splines if deriv <= basis.degree else 0
    count, chunk, tail = chunks(splines, limit)
    nan_safe = {"none": False, "identity": deriv == 0, "relu": deriv == 0}
    return {
        "UNIFORM": basis.uniform,
        "G": basis.grid_size,
        "DEGREE": basis.degree,
        "DERIV": deriv,
        "ACTIVATION": basis.activation,
        "KEEP_NAN": not nan_safe.get(basis.activation, True),
        "CHUNKS": count,
        "CHUNK": chunk,
        "TAIL": tail,
    }


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
