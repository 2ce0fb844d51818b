"""The kernels of the edge statistics, compiled for GPUs that are not here.

    python -m bench.edges [--targets sm_90 ..] [--wide] [--json]

Prints, for each kernel: registers, spills, shared memory, and what the machine code's main loop
needs an activation (edge and row): instructions, and the cycles of an SM by pipe, as bench.codegen
counts them. A model of counted instructions, not a measurement. The exit status is 1 if a kernel
spills or does not fit; --wide goes through degrees, activations, residual functions and shapes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator

import torch

from kanfast import kernels
from kanfast.engine.basis import Basis

from . import aot, sass

KERNELS = ("statistics_kernel", "extremes_kernel", "input_kernel", "coefficient_kernel")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
KNOTS = ("uniform", "general")
Shape = tuple[int, int, int]
MAIN: Shape = (65536, 512, 512)


def launches(target: str, basis: Basis, dtype: torch.dtype, shape: Shape, *, given: bool = False):
    """The launches of the statistics and of all their gradients, nothing executed."""
    rows, inputs, outputs = shape
    x = torch.empty(rows, inputs, dtype=dtype)
    c = torch.empty(basis.num_functions + given, inputs, outputs, dtype=dtype)
    grid = torch.empty(inputs, basis.num_knots, dtype=dtype)
    residual = x if given else None
    statistics = [torch.zeros(outputs, inputs, dtype=dtype) for _ in range(5)]
    with aot.compile_for(target) as done:
        kernels.edge_statistics(x, c, residual, grid, basis=basis)
        needs = (True, True, given)
        kernels.edge_statistics_grad(
            x, c, residual, grid, statistics, statistics, needs, basis=basis
        )
    return done


def structures(wide: bool) -> Iterator[tuple[int, int, str, bool, Shape]]:
    """(grid size, degree, activation, given residual, shape)."""
    yield 5, 3, "silu", False, MAIN
    if not wide:
        return
    for degree in range(8):
        yield 5, degree, "silu", False, MAIN
    for activation in ("gelu", "tanh", "sigmoid", "relu", "identity", "none"):
        yield 5, 3, activation, False, MAIN
    yield 5, 3, "none", True, MAIN
    for shape in ((65536, 64, 64), (65536, 16, 16), (1, 1, 1), (1000, 2, 5), (1000, 5, 1)):
        yield 5, 3, "silu", False, shape
    yield 500, 3, "silu", False, MAIN


def balance(kernel: aot.Compiled, places: int) -> dict[str, float]:
    """Instructions and cycles an activation, of the loop with the most arithmetic."""
    code = sass.parse(kernel.machine_code, kernel.target.startswith("gfx"))
    if not code.loops:
        return {}
    first, last = max(code.loops, key=lambda span: span[1] - span[0])
    body = code.instructions[first:last]
    need = sass.cycles(body, kernel.warps, kernel.target)
    lanes = 64 if kernel.target.startswith("gfx") else 32
    found = {"instructions": len(body) * lanes * kernel.warps / places}
    return found | {pipe: need[pipe] / places for pipe in sass.PIPES if need[pipe]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.edges", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=tuple(aot.TARGETS), default=("sm_90",))
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--json", action="store_true", help="a line of JSON for every kernel")
    options = parser.parse_args(arguments)
    wrong = 0
    for target, dtype, knots in itertools.product(options.targets, DTYPES, KNOTS):
        for size, degree, activation, given, shape in structures(options.wide):
            basis = Basis(size, degree, activation, knots == "uniform")
            done = launches(target, basis, DTYPES[dtype], shape, given=given)
            for launch in {launch.kernel.name: launch for launch in done}.values():
                kernel = launch.kernel
                if kernel.name not in KERNELS:
                    continue
                problems = [f"spills {kernel.spills} bytes a thread"] * (kernel.spills > 0)
                problems += [kernel.overflow] * bool(kernel.overflow)
                wrong += bool(problems)
                places = launch.arguments["BLOCK_B"] * launch.arguments["BLOCK_O"]
                row = {
                    "target": target, "kernel": kernel.name, "dtype": dtype, "knots": knots,
                    "basis": f"G={size} k={degree} {activation}" + given * " given",
                    "shape": "x".join(map(str, shape)), "registers": kernel.registers,
                    "shared": kernel.shared, "problems": problems,
                }  # fmt: skip
                if options.json:
                    print(json.dumps(row), flush=True)
                elif problems or not options.wide:
                    print(*row.values(), flush=True)
                    costs = balance(kernel, places).items()
                    print("   ", *(f"{name} {cost:.3g}" for name, cost in costs), flush=True)
    print(f"{wrong} kernels do not fit", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
