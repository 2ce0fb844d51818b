"""The profiler that needs no GPU: what bounds each kernel, read from its machine code.

    python -m bench.codegen [--targets sm_90 ...] [--ops forward ...] [--precisions tf32 ...] [--knots uniform general]
                            [--csv PATH] [--check]

Every launcher runs on a pretended GPU (bench.aot), the tensor-core loops of its kernel are found in the
machine code, and instructions are counted by pipe. The cycles each pipe of an SM needs for one program (its loop times the trips, plus
all that stands outside) are compared with the cycles the tensor cores need for the program's multiply-adds: the
slowest resource is the bound, and tensor / bound is the fraction of the tensor rate the kernel can reach.

It is a model, not a measurement. It knows no latency, no bank conflicts, no dual-issue limits, no waves, no power limit; it supposes
that resources overlap perfectly. Where they cannot (warp-group dots with a wait after each), `lockstep` is the fraction
if nothing overlaps the instructions between a wait and the next dot: the truth lies between the two.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from pathlib import Path

import torch

from kanfast import kernels
from kanfast.basis import Basis

from . import aot, sass

OPS = ("forward", "input_grad", "weight_grad")
PRECISIONS = ("bfloat16", "float16", "tf32", "tf32x3", "ieee", "float64")
RESULTS = Path(__file__).parent / "results" / "codegen.csv"
COLUMNS = (
    "target", "op", "precision", "knots", "tile", "warps", "registers", "spills", "shared", "resident", "trips", "dots",
    "tensor", *sass.PIPES, "l2", "barriers", "bound", "fraction", "lockstep",
)  # fmt: skip


def launches(target, op, precision, basis, deriv, *, rows, inputs, outputs, scale=False):
    """The launches of one call of a launcher for a target, nothing executed."""
    wide = torch.float64 if precision == "float64" else torch.float32
    narrow = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, wide)
    x = torch.empty(rows, inputs, dtype=wide)
    c = torch.empty(basis.num_functions, inputs, outputs, dtype=wide)
    g = torch.empty(rows, outputs, dtype=narrow)
    grid = torch.empty(inputs, basis.grid_size + 2 * basis.degree + 1, dtype=wide)
    s = x if scale else None
    keywords = {"basis": basis, "deriv": deriv, "precision": precision, "out_dtype": wide}
    with aot.compile_for(target) as done:
        if op == "forward":
            kernels.forward(x, c, s, grid, **{**keywords, "out_dtype": narrow})
        elif op == "input_grad":
            kernels.input_grad(g, x, c, grid, **keywords)
        else:
            kernels.weight_grad(g, x, s, grid, **keywords)
    return done


def work(op, arguments):
    """(trips of the loop, functions, multiply-adds, bytes read) of one program."""
    a = arguments
    block_b, block_i, block_o = (a[f"BLOCK_{axis}"] for axis in "BIO")
    functions = (a["COUNT"] if op == "weight_grad" else a["CHUNKS"] * a["CHUNK"] + a["TAIL"]) + (a["ACTIVATION"] != "none")
    x_bytes = block_b * block_i * a["x_ptr"].element_size()
    if op == "weight_grad":
        trips = -(-a["ROWS"] // block_b)
        g_bytes = block_b * block_o * a["g_ptr"].element_size()
        read = trips * (x_bytes * (1 + a["HAS_SCALE"]) + g_bytes) + functions * block_i * block_o * 4
    else:
        contracted, block = (a["I"], block_i) if op == "forward" else (a["O"], block_o)
        trips = -(-contracted // block)
        copies = 2 if a["PRECISION"] == "tf32x3" and a["c_ptr"].shape[0] > 1 and a["c_ptr"].ndim == 4 else 1
        read = trips * functions * block_i * block_o * a["c_ptr"].element_size() * copies
        if op == "forward":
            read += trips * x_bytes * (1 + a["HAS_SCALE"])
        else:
            read += trips * block_b * block_o * a["g_ptr"].element_size() + 2 * x_bytes
    return trips, functions, trips * functions * block_b * block_i * block_o, read


def rate_of(precision, target):
    """(multiply-adds a cycle and SM, how often the contraction is done): of the tensor cores where there are any."""
    rates = sass.RATES[target]
    if precision in ("bfloat16", "float16"):
        return rates["16"], 1
    if precision == "tf32x3":
        return rates["tf32"], 3
    if precision == "ieee":
        return rates.get("ieee", rates["fma"]), 1
    return rates[precision], 1


def resident(kernel, target):
    """Warps an SM holds at once, by registers and shared memory."""
    warps = kernel.warps
    if target.startswith("gfx"):
        by_registers = 4 * (512 // max(kernel.registers, 1)) // warps
    else:
        by_registers = 65536 // (32 * warps * -(-max(kernel.registers, 1) // 8) * 8)
    per_sm = aot.SHARED_LIMIT[target] + 1024
    by_shared = per_sm // (kernel.shared + 1024) if kernel.shared else by_registers
    return max(0, min(by_registers, by_shared, 64 // warps)) * warps


def profile(op, launch):
    """One row of the table: what the launch's kernel is and what bounds it."""
    kernel, a = launch.kernel, launch.arguments
    code = sass.parse(kernel.machine_code, kernel.target.startswith("gfx"))
    trips, functions, multiply_adds, read = work(op, a)
    inside = [range(*span) for span in code.loops]
    outside = [pair for n, pair in enumerate(code.instructions) if not any(n in span for span in inside)]
    need = sass.cycles(outside, kernel.warps, kernel.target)
    hidden = 0
    for span in inside:
        body = code.instructions[span.start : span.stop]
        for pipe, amount in sass.cycles(body, kernel.warps, kernel.target).items():
            need[pipe] += trips * amount
        hidden += trips * sass.exposed(body) * kernel.warps / 4
    rate, repeats = rate_of(a["PRECISION"], kernel.target)
    tensor = multiply_adds * repeats / rate
    need["l2"] = read / sass.RATES[kernel.target]["l2"]
    slowest = max(need, key=lambda pipe: need[pipe])
    limit = max(need[slowest], tensor)
    barriers = sum(op.startswith(("BAR", "s_barrier")) for span in inside for op, _ in code.instructions[span.start : span.stop])
    row = {
        "target": kernel.target, "op": op, "precision": a["PRECISION"], "knots": "uniform" if a["UNIFORM"] else "general",
        "tile": "x".join(str(a[f"BLOCK_{axis}"]) for axis in "BIO"), "warps": kernel.warps, "registers": kernel.registers,
        "spills": kernel.spills, "shared": kernel.shared, "resident": resident(kernel, kernel.target), "trips": trips,
        "dots": kernel.tensor_core, "tensor": round(tensor / trips), "barriers": barriers,
        **{pipe: round(need[pipe] / trips) for pipe in (*sass.PIPES, "l2")},
        "bound": "tensor" if need[slowest] <= tensor else slowest, "fraction": round(tensor / limit, 3),
        "lockstep": round(tensor / max(limit, tensor + hidden), 3) if hidden else "",
    }  # fmt: skip
    return row


def rows_of(target, op, precision, knots, *, degree=3, deriv=None, rows=65536, width=512):
    """Rows for the main kernels of one call: G = 5, SiLU; the input gradient is the forward's, of order 1."""
    if deriv is None:
        deriv = 1 if op == "input_grad" else 0
    basis = Basis(5, degree, "silu", knots == "uniform")
    done = launches(target, op, precision, basis, deriv, rows=rows, inputs=width, outputs=width)
    return [profile(op, launch) for launch in done if launch.kernel.name == f"{op}_kernel"]


def show(row):
    widths = {"target": 7, "op": 12, "precision": 9, "knots": 8, "tile": 12, "bound": 7}
    return " ".join(f"{row[column]!s:>{widths.get(column, max(6, len(column)))}}" for column in COLUMNS)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bench.codegen", description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=tuple(aot.TARGETS), default=("sm_80", "sm_90", "sm_100", "gfx942"))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--knots", nargs="+", choices=("uniform", "general"), default=("uniform", "general"))
    parser.add_argument("--width", type=int, default=512, help="I and O of the layer")
    parser.add_argument("--csv", type=Path, default=None, help=f"write the table there (committed: {RESULTS.name})")
    options = parser.parse_args(argv)
    print("A model of one SM from counted instructions: no latency, no bank conflicts. Cycles per trip of the loop.")
    print(show({column: column for column in COLUMNS}))
    table = []
    for case in itertools.product(options.targets, options.ops, options.precisions, options.knots):
        for row in rows_of(*case, width=options.width):
            print(show(row), flush=True)
            table.append(row)
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
