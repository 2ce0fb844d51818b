"""Large grids: the local kernels beside the dense ones, by the model of bench.codegen.

    python -m bench.grids [--targets sm_90 ..] [--ops forward ..] [--precisions tf32 ..]
    [--knots uniform ..] [--grid-sizes 253 ..] [--csv PATH]
    python -m bench.grids --check [--json] ..

For each call: cycles of an SM for 1024 values (row, input, output) of the dense kernel and of the
local one, and what bounds them; a ratio above 1 says that the local kernel is the faster one. The
last column is the number of splines G + k from which on it is faster by MARGIN, if the dense
kernel's cycles grow with the number of functions and the local one's stay: kernels/local.py has
it from G = 253, the worse of both kinds of knots.

A model of counted instructions, not a measurement. About the gathers it supposes: a program's reads
of coefficients come from the first-level cache at 128 bytes a cycle, but for the first touch of
each row of a slab by the program, which comes from L2; values of x are spread evenly over the
cells; and nothing waits. What slabs exceed of half of the SM's cache is read from L2 every time.
Of the weight gradient, that every row of g that a program looks at comes from L2.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
from collections import Counter
from pathlib import Path

from kanfast.kernels import local

from kanfast.engine.basis import Basis

from . import aot, codegen, sass

OPS = ("forward", "input_grad", "weight_grad")
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
ROWS, INPUTS, OUTPUTS = 65536, 512, 512
AXES = {"forward": "BO", "input_grad": "BO", "weight_grad": "BJO"}
# How much faster the model has to see the local kernel before the table takes it.
MARGIN = 1.5
# Bytes of first-level cache and shared memory of an SM: CUDA programming guide, "Technical
# Specifications"; CDNA3 whitepaper.
L1 = {
    "sm_80": 192 << 10,
    "sm_86": 128 << 10,
    "sm_89": 128 << 10,
    "sm_90": 256 << 10,
    "sm_100": 256 << 10,
    "gfx942": 32 << 10,  # and 64 bytes a cycle
}
COLUMNS = (
    "target", "op", "precision", "knots", "grid_size", "tile", "registers", "spills",
    "dense", "dense_bound", "local", "local_bound", "ratio", "from",
)  # fmt: skip


def launches(
    target, op, precision, basis, *, forced, deriv=0, scale=False, shape=(ROWS, INPUTS, OUTPUTS)
):
    """The launches of one call with local kernels, or with dense ones."""
    rows, inputs, outputs = shape
    with local.forced(forced):
        return codegen.launches(
            target, op, precision, basis, deriv + (op == "input_grad"),
            rows=rows, inputs=inputs, outputs=outputs, scale=scale,
        )  # fmt: skip


def touched(splines: int, degree: int, rows: int) -> float:
    """Coefficients' rows of a slab that as many rows of the batch read, spread evenly."""
    return splines * (1 - (1 - min(1.0, (degree + 1) / splines)) ** rows)


def profile(launch) -> Counter[str]:
    """Cycles by resource of one program of a local kernel."""
    kernel, a = launch.kernel, launch.arguments
    forward = kernel.name == "local_forward_kernel"
    code = sass.parse(kernel.machine_code, kernel.target.startswith("gfx"))
    tiles = 1 if forward else -(-a["O"] // a["BLOCK_O"])
    trips = a["I"] if forward else min(a["SPAN"], a["I"]) * tiles
    times = [1] * len(code.instructions)
    for first, end in code.outer:
        times[first:end] = [tiles] * (end - first)
    # Where the compiler's loop is not recognised, all of the code is taken for it.
    spans = code.loops or [(0, len(code.instructions))]
    first, end = max(spans, key=lambda span: span[1] - span[0])
    times[first:end] = [trips] * (end - first)
    need: Counter[str] = Counter()
    for often in set(times):
        body = [pair for pair, n in zip(code.instructions, times, strict=True) if n == often]
        for pipe, amount in sass.cycles(body, kernel.warps, kernel.target).items():
            need[pipe] += often * amount
    splines, size = a["G"] + a["DEGREE"], a["c_ptr"].element_size()
    line = a["BLOCK_O"] * size
    read = (a["DEGREE"] + 1) * a["BLOCK_B"] * line
    first_reads = touched(splines, a["DEGREE"], a["BLOCK_B"]) * line
    missed = max(0.0, 1 - L1[kernel.target] / 2 / (splines * line))
    x_bytes = a["BLOCK_B"] * a["x_ptr"].element_size()
    if not forward:
        x_bytes *= 1 + 2 * a["out_ptr"].element_size() / a["x_ptr"].element_size()
    from_l2 = trips * (first_reads + missed * max(0.0, read - first_reads) + x_bytes)
    need["l2"] = from_l2 / sass.RATES[kernel.target]["l2"]
    if kernel.target.startswith("gfx"):  # whose loads bench.sass does not count
        need["lsu"] += trips * read / 64
    share = codegen.moved(launch) / math.prod(launch.programs)
    need["memory"] = share / sass.RATES[kernel.target]["memory"]
    return need


def profile_weights(launch) -> Counter[str]:
    """The same of the local weight gradient, whose loop runs over the rows of a program's bins."""
    kernel, a = launch.kernel, launch.arguments
    code = sass.parse(kernel.machine_code, kernel.target.startswith("gfx"))
    blocks = -(-a["J"] // a["BLOCK_J"])
    rows = a["B"] * (1 + (a["DEGREE"] + 2) / a["BLOCK_J"]) / blocks / launch.programs[2]
    trips = rows / a["BLOCK_B"] + 1 / 2  # and half a tile is empty at the end of a bin
    first, end = max(code.loops, key=lambda span: span[1] - span[0])
    need: Counter[str] = Counter()
    for often, body in (
        (trips, code.instructions[first:end]),
        (1, code.instructions[:first] + code.instructions[end:]),
    ):
        for pipe, amount in sass.cycles(body, kernel.warps, kernel.target).items():
            need[pipe] += often * amount
    rate, repeats = codegen.rate_of(a["PRECISION"], kernel.target)
    need["tensor"] = trips * a["BLOCK_B"] * a["BLOCK_J"] * a["BLOCK_O"] * repeats / rate
    read = a["BLOCK_B"] * (a["BLOCK_O"] * a["g_ptr"].element_size() + a["x_ptr"].element_size() + 4)
    written = a["BLOCK_J"] * a["BLOCK_O"] * a["out_ptr"].element_size()
    need["l2"] = (trips * read + written) / sass.RATES[kernel.target]["l2"]
    share = codegen.moved(launch) / math.prod(launch.programs)
    need["memory"] = share / sass.RATES[kernel.target]["memory"]
    return need


def profile_once(launch) -> Counter[str]:
    """The same of a kernel without a loop."""
    kernel = launch.kernel
    code = sass.parse(kernel.machine_code, kernel.target.startswith("gfx"))
    need = sass.cycles(code.instructions, kernel.warps, kernel.target)
    share = codegen.moved(launch) / math.prod(launch.programs)
    need["memory"] = share / sass.RATES[kernel.target]["memory"]
    return need


def cost(op, done, shape=(ROWS, INPUTS, OUTPUTS)):
    """(cycles of an SM for 1024 values, what bounds the main kernel, the main launch)."""
    total, bound, main = 0.0, "", None
    # x and, of the input gradient, the result are transposed: read and written once more.
    transposed = {"forward": 1, "input_grad": 2, "weight_grad": 1}[op]
    for launch in done:
        programs, name = math.prod(launch.programs), launch.kernel.name
        rates = sass.RATES[launch.kernel.target]
        if name in ("count_kernel", "order_kernel"):
            total += programs * max(profile_once(launch).values())
            continue
        if name not in (f"{op}_kernel", f"local_{op}_kernel"):
            total += codegen.moved(launch) / rates["memory"]
            continue
        if name == "local_weight_grad_kernel":
            need = profile_weights(launch)
        elif name == f"local_{op}_kernel":
            need = profile(launch)
        else:
            need = codegen.profile(op, launch)[0]
        slowest = max(codegen.RESOURCES, key=lambda resource: need[resource])
        total += programs * need[slowest]
        if name.startswith("local"):
            moved = 2 * transposed * shape[0] * shape[1] * launch.arguments["x_ptr"].element_size()
            total += moved / rates["memory"]
        if main is None or name.startswith("local"):
            main, bound = launch, slowest
    return 1024 * total / math.prod(shape), bound, main


def row_of(target, op, precision, knots, grid_size):
    """One line of the table: k = 3, SiLU; the input gradient is the forward's, of order 1."""
    basis = Basis(grid_size, 3, "silu", knots == "uniform")
    dense, dense_bound, _ = cost(op, launches(target, op, precision, basis, forced=False))
    ours, bound, main = cost(op, launches(target, op, precision, basis, forced=True))
    return {
        "target": target, "op": op, "precision": precision, "knots": knots, "grid_size": grid_size,
        "tile": "x".join(str(main.arguments[f"BLOCK_{axis}"]) for axis in AXES[op]),
        "registers": main.kernel.registers, "spills": main.kernel.spills,
        "dense": round(dense, 1), "dense_bound": dense_bound,
        "local": round(ours, 1), "local_bound": bound, "ratio": round(dense / ours, 2),
        "from": math.ceil(MARGIN * basis.num_functions * ours / dense),
    }  # fmt: skip


def structures(op):
    """(degree, derivative, scale, shape) to check; the weight gradient's worst is far from the
    main."""
    yield 3, 0, False, (ROWS, INPUTS, OUTPUTS)
    if op == "weight_grad":
        yield 7, 2, True, (100, 40, 500)


def check(cases, as_json):
    """Lists the local kernels that spill, do not fit, or miss 128-bit loads: 1 if there are any."""
    bad = 0
    for target, op, precision, knots, size in cases:
        for degree, deriv, scale, shape in structures(op):
            basis = Basis(size, degree, "silu", knots == "uniform")
            done = launches(
                target, op, precision, basis, forced=True, deriv=deriv, scale=scale, shape=shape
            )
            for kernel in (launch.kernel for launch in done):
                if kernel.name not in (f"local_{op}_kernel", "count_kernel", "order_kernel"):
                    continue
                found = [f"spills {kernel.spills} bytes a thread"] * (kernel.spills > 0)
                found += [kernel.overflow] * bool(kernel.overflow)
                narrow = kernel.name.startswith("local") and not kernel.wide_loads and deriv == 0
                found += ["no 128-bit loads"] * narrow
                bad += bool(found)
                name = f"{target} {kernel.name} {precision} {knots} G={size} k={degree} {shape}"
                if as_json:
                    print(json.dumps({"name": name, "problems": found}), flush=True)
                elif found:
                    print(f"{name}: {'; '.join(found)}", flush=True)
    print(f"{bad} kernels do not fit", file=sys.stderr)
    return int(bad > 0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.grids", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--targets", nargs="+", choices=tuple(aot.TARGETS), default=TARGETS)
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    precisions = ("bfloat16", "tf32", "tf32x3", "ieee", "float64")
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=precisions)
    parser.add_argument("--knots", nargs="+", choices=codegen.KNOTS, default=codegen.KNOTS)
    parser.add_argument("--grid-sizes", nargs="+", type=int, default=(253,))
    parser.add_argument("--csv", type=Path, help="write the table there")
    parser.add_argument(
        "--check", action="store_true", help="list the local kernels that do not fit instead"
    )
    parser.add_argument("--json", action="store_true", help="--check prints a line for each")
    options = parser.parse_args(arguments)
    cases = [
        case
        for case in itertools.product(
            options.targets, options.ops, options.precisions, options.knots, options.grid_sizes
        )
        if not (case[0].startswith("gfx") and case[2] == "tf32x3")  # there it is "ieee"
    ]
    if options.check:
        return check(cases, options.json)
    print("A model of one SM from counted instructions: no latency, no conflicts. Cycles an SM")
    print("needs for 1024 values (row, input, output).")
    print(*COLUMNS)
    table = []
    for case in cases:
        table.append(row_of(*case))
        print(*table[-1].values(), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
