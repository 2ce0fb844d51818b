"""The profiler that needs no GPU: what bounds each kernel, read from its machine code.

    python -m bench.codegen [--targets sm_90 ..] [--ops forward ..] [--precisions tf32 ..] [--knots
    uniform ..] [--csv PATH] python -m bench.codegen --check [--wide | --sample] [--json] ..

Every launcher runs on a pretended GPU (bench.aot), the tensor-core loops of its kernels are found
in the machine code, and instructions are counted by pipe. The cycles each pipe of an SM needs for
one program (its loops times their trips, plus all that stands outside) are compared with the
cycles the tensor cores need for the program's multiply-adds: the slowest resource is the bound,
and tensor / bound is the fraction of the tensor rate the kernel can reach. Of several launches of
one call the sum counts; the cycles printed are those of a trip of the first one's loop.

It is a model, not a measurement. It knows no latency, no bank conflicts, no waves, no power limit,
and supposes that resources overlap perfectly. Where warp-group dots each have a wait after them,
`lockstep` is the fraction if nothing overlapped the instructions between a wait and the next dot:
the truth lies between the two.

--check compiles what the launch table can pick and lists what spills, does not fit, or misses its
tensor cores or 128-bit loads; with --wide over degrees, derivatives, activations, scales, grid
sizes and small shapes, with --sample the worst of them.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections import Counter
from pathlib import Path

import torch
from kanfast.kernels import local

from kanfast import kernels
from kanfast.engine.basis import Basis

from . import aot, sass

OPS = ("forward", "input_grad", "weight_grad")
PRECISIONS = ("bfloat16", "float16", "tf32", "tf32x3", "ieee", "float64")
KNOTS = ("uniform", "general")
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "gfx942")
RESULTS = Path("bench/results/codegen.csv")
RESOURCES = ("tensor", *sass.PIPES, "l2", "memory")
COLUMNS = (
    "target", "op", "precision", "knots", "tile", "warps", "registers", "spills", "shared",
    "resident", "trips", "dots",
    *RESOURCES, "barriers", "bound", "fraction", "lockstep",
)  # fmt: skip


def launches(
    target, op, precision, basis, deriv, *, rows=65536, inputs=512, outputs=512, scale=False
):
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


def work(op, a):
    """(trips of the innermost loop, of the one around it, multiply-adds, bytes read) of a program,
    from its arguments."""
    block_b, block_i, block_o = (a[f"BLOCK_{axis}"] for axis in "BIO")
    residual = a["ACTIVATION"] != "none"
    x_bytes = block_b * block_i * a["x_ptr"].element_size()
    tile = block_b * block_i * block_o
    if op == "weight_grad":
        functions, trips = a["COUNT"] + residual, -(-a["ROWS"] // block_b)
        g_bytes = block_b * block_o * a["g_ptr"].element_size()
        written = functions * block_i * block_o * a["out_ptr"].element_size()
        return (
            trips,
            1,
            trips * functions * tile,
            trips * (x_bytes * (1 + a["HAS_SCALE"]) + g_bytes) + written,
        )
    parts = 2 if a["PRECISION"] == "tf32x3" else 1
    w_bytes = block_i * block_o * a["c_ptr"].element_size() * parts
    if op == "forward":
        functions, blocks = a["CHUNKS"] * a["CHUNK"] + a["TAIL"] + residual, -(-a["I"] // block_i)
        return (
            blocks * (functions if a["ROLLED"] else max(a["CHUNKS"], 1)),
            blocks,
            blocks * functions * tile,
            blocks * (functions * w_bytes + x_bytes * (1 + a["HAS_SCALE"])),
        )
    blocks = -(-a["O"] // block_o)
    functions = a["SPLINES"] + residual
    g_bytes = block_b * block_o * a["g_ptr"].element_size()
    read = blocks * (functions * w_bytes + g_bytes) + 2 * x_bytes
    return blocks * a["SPLINES"], blocks, blocks * functions * tile, read


def moved(launch):
    """Bytes a launch moves between memory and the second-level cache if it moves each tensor
    once."""
    a = launch.arguments
    unused = set() if a.get("HAS_SCALE") else {"s_ptr"}
    tensors = [value for name, value in a.items() if name.endswith("_ptr") and name not in unused]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def trips_of(op, arguments, loops, trips):
    """How often each loop runs. The input gradient has a second one, over blocks of outputs, for
    the residual."""
    if op == "input_grad" and loops == 2:
        return [trips, -(-arguments["O"] // min(64, arguments["BLOCK_O"]))]
    return [trips] * loops


def rate_of(precision, target):
    """(multiply-adds a cycle and SM, how often the contraction is done): of the tensor cores where
    there are any."""
    rates = sass.RATES[target]
    if precision in ("bfloat16", "float16"):
        return rates["16"], 1
    if precision == "tf32x3":
        return rates["tf32"], 3
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
    """(cycles by resource and in all, trips) of one program of a launch."""
    kernel, a = launch.kernel, launch.arguments
    code = sass.parse(kernel.machine_code, kernel.target.startswith("gfx"))
    trips, outer, multiply_adds, read = work(op, a)
    if not code.outer:  # there is one loop, or the compiler has unrolled the inner one of two
        trips = outer if a.get("ROLLED") else trips
    times = [1] * len(code.instructions)
    for first, end in code.outer:
        times[first:end] = [outer] * (end - first)
    need: Counter[str] = Counter()
    for (first, end), often in zip(
        code.loops, trips_of(op, a, len(code.loops), trips), strict=True
    ):
        times[first:end] = [often] * (end - first)
        exposed = sass.exposed(code.instructions[first:end])
        need["exposed"] += often * exposed * kernel.warps / 4
    for often in set(times):
        body = [pair for pair, n in zip(code.instructions, times, strict=True) if n == often]
        for pipe, amount in sass.cycles(body, kernel.warps, kernel.target).items():
            need[pipe] += often * amount
        need["barriers"] += often * sum(name.startswith(("BAR", "s_barrier")) for name, _ in body)
    rate, repeats = rate_of(a["PRECISION"], kernel.target)
    need["tensor"] = multiply_adds * repeats / rate
    need["l2"] = read / sass.RATES[kernel.target]["l2"]
    share = moved(launch) / math.prod(launch.programs)
    need["memory"] = share / sass.RATES[kernel.target]["memory"]
    return need, trips


def row_of(target, op, precision, knots, *, rows=65536, inputs=512, outputs=512, grid_size=5):
    """The table's row of one call: k = 3, SiLU; the input gradient is the forward's, of order
    1."""
    basis = Basis(grid_size, 3, "silu", knots == "uniform")
    with local.forced(False):  # the dense kernels; bench.grids has those for large grids
        done = launches(
            target,
            op,
            precision,
            basis,
            int(op == "input_grad"),
            rows=rows,
            inputs=inputs,
            outputs=outputs,
        )
    main = [launch for launch in done if launch.kernel.name == f"{op}_kernel"]
    total, bound = Counter(), 0.0
    for launch in main:
        programs = math.prod(launch.programs)
        need, _ = profile(op, launch)
        bound += programs * max(need[resource] for resource in RESOURCES)
        for name, amount in need.items():
            total[name] += programs * amount
    need, trips = profile(op, main[0])
    kernel, a = main[0].kernel, main[0].arguments
    serial = total["tensor"] + total["exposed"]
    slowest = max(RESOURCES, key=lambda name: (round(total[name]), name == "tensor"))
    return {
        "target": target, "op": op, "precision": precision, "knots": knots,
        "tile": "x".join(str(a[f"BLOCK_{axis}"]) for axis in "BIO"), "warps": kernel.warps,
        "registers": max(launch.kernel.registers for launch in main),
        "spills": max(launch.kernel.spills for launch in main),
        "shared": max(launch.kernel.shared for launch in main),
        "resident": resident(kernel, target),
        "trips": trips,
        "dots": min(launch.kernel.tensor_core for launch in main),
        **{name: round(need[name] / trips) for name in (*RESOURCES, "barriers")},
        "bound": slowest, "fraction": round(total["tensor"] / bound, 3),
        "lockstep": round(total["tensor"] / max(bound, serial), 3) if total["exposed"] else "",
    }  # fmt: skip


def show(row):
    widths = {"target": 7, "op": 12, "precision": 9, "knots": 8, "tile": 12, "bound": 7}
    return " ".join(
        f"{row[column]!s:>{widths.get(column, max(6, len(column)))}}" for column in COLUMNS
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.codegen", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=tuple(aot.TARGETS),
        default=TARGETS,
    )
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--knots", nargs="+", choices=KNOTS, default=KNOTS)
    parser.add_argument("--rows", type=int, default=65536, help="the batch")
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--outputs", type=int, default=512)
    parser.add_argument("--grid-size", type=int, default=5)
    parser.add_argument(
        "--csv", type=Path, help=f"write the table there (the committed one: {RESULTS})"
    )
    parser.add_argument(
        "--check", action="store_true", help="list what does not fit its target instead"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--wide", action="store_true", help="--check every structure, not the main ones alone"
    )
    extent.add_argument(
        "--sample", action="store_true", help="--check a few of the structures that need the most"
    )
    extent.add_argument(
        "--turn", action="store_true", help="--check of these each for one target, in turn"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="write down that the whole --sample fits: tests then compile it in turn",
    )
    parser.add_argument(
        "--json", action="store_true", help="--check prints every kernel as a line of JSON"
    )
    parser.add_argument(
        "--step", action="store_true", help="predict a training step against an MLP's instead"
    )
    options = parser.parse_args(argv)
    chosen = options.targets, options.ops, options.precisions, options.knots
    if options.check:
        from . import fit

        names = [name for name in ("wide", "sample", "turn") if getattr(options, name)]
        extent = names[0] if names else "main"
        whole = (TARGETS, OPS, PRECISIONS, KNOTS)
        if options.record and (extent != "sample" or tuple(map(tuple, chosen)) != whole):
            parser.error("--record must come with --check --sample for all targets and calls")
        compiled = fit.fingerprint()
        code = fit.check(fit.cases(*chosen, extent), extent=extent, as_json=options.json)
        if options.record and not code:
            fit.RECORD.write_text(compiled)
        return code
    if options.step:
        from . import step

        step.show(options.targets, options.precisions, options.rows)
        return 0
    print(
        "A model of one SM from counted instructions: no latency, no bank conflicts. "
        "Cycles per trip of the loop."
    )
    print(show({column: column for column in COLUMNS}))
    table = []
    shape = {name: getattr(options, name) for name in ("rows", "inputs", "outputs", "grid_size")}
    for case in itertools.product(*chosen):
        table.append(row_of(*case, **shape))
        print(show(table[-1]), flush=True)
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
