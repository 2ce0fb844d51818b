"""Launch parameters: the entry of the table that a call takes, the structure of unrolled loops."""

import torch
import triton
import triton.language as tl

from . import runtime
from .basis import general
from .tiles import EDGE_TILES, TILES

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
    precision = "bfloat16" if precision == "float16" else precision
    name = entry_name(op, precision, device, inputs, outputs, demanding)
    taken, found = entry(TILES[target_class(device)], op, precision, name)
    block_b, block_i, block_o, warps, stages, limit = taken
    # Or the assembler sometimes settles for 128 registers, and spills what does not fit there. It
    # can be the other way round, with it 255 registers and spills, without it 100 and none: in
    # float64, but in its high calls, and in float32 for a single edge.
    enough = precision == "float64" and found not in ("high", "highest")
    enough |= precision == "ieee" and inputs == outputs == 1
    registers = {}
    if runtime.capability(device)[0] == "cuda" and name != "common" and not enough:
        registers = {"maxnreg": 255}

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


def entry(table, op, precision, name):
    """(entry of that name or of the next one that the table has, its name)."""
    slow = precision in ("ieee", "float64")
    below = {"general": "demanding", "highest": "high", "several": "high" if slow else "common"}
    while name != "common" and (op, precision, name) not in table:
        name = below.get(name, "common")
    return table[(op, precision) if name == "common" else (op, precision, name)], name


def entry_name(op, precision, device, inputs, outputs, demanding):
    """Which of the entries a call takes: that of `demanding`, or "narrow", or a higher one. The
    "highest" are those of high calls of small or odd sizes."""
    if max(inputs, outputs) <= NARROW:
        low = ("common", "varied", "several" if op == "forward" else "demanding")
        alone = inputs == outputs == 1  # laid out along the rows, which spills
        return "narrow" if demanding in low and not alone else "highest"
    rank = {"demanding": 1, "general": 1, "high": 2, "highest": 3}.get(demanding, 0)
    if inputs % 16 or outputs % 16:
        rank = 3 if rank else 1  # each element has an address and a mask of its own
    backend, capability = runtime.capability(device)
    if rank == 0 and target_class(device) == "mma" and backend == "cuda" and capability > 80:
        rank = 1  # the assembler needs more registers for these than for sm_80
        if demanding == "common":
            return "general"
    if (demanding, rank) in (("general", 1), ("several", 0), ("varied", 0)):
        return demanding
    if demanding == "several" and precision in ("ieee", "float64"):
        return "high"
    return ("common", "demanding", "high", "highest")[rank]


def demanding(op, basis, deriv, scaled):
    """How many registers a call needs: "common", which are training's three on a uniform grid
    ("several", if the forward pass has more splines than are unrolled at once; "varied", if it is
    not of cubic splines with SiLU and three cells or more), "demanding", on a "general" grid, or
    "high", or the "highest".

    High are the degrees for which the closed form has many terms, or the sweep over general knots,
    which carries a tile for each degree, many tiles; and several general splines. The input
    gradient fills the registers as it is: its common calls are those of SiLU and degree 2 or 3. On
    general knots all but the common calls are high, except of the weight gradient. The highest are
    forward passes of the last derivative, whose closed form is differences, and of second
    derivatives where general knots have many tiles; and input gradients of high degrees.
    """
    unusual = scaled or deriv != (op == "input_grad")
    if op == "input_grad":
        unusual |= basis.activation != "silu" or basis.degree not in (2, 3)
    several = op == "forward" and basis.num_splines > 8
    many = basis.degree > (5 if basis.uniform else 3)
    last = deriv >= max(basis.degree, 1) or (deriv > 1 and many and not basis.uniform)
    if (op == "forward" and last) or (op == "input_grad" and many):
        return "highest"
    if basis.uniform:
        cubic = basis.degree == 3 and basis.activation == "silu" and basis.grid_size >= 3
        usual = "several" if several else "common" if cubic else "varied"
        high = many or (op == "forward" and basis.degree == 0)
        return "high" if high else "demanding" if unusual else usual
    high = many or several or (op != "weight_grad" and unusual)
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
