"""Whether what the launch table picks fits its targets: `python -m bench.codegen --check`."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import triton

from kanfast.engine.basis import Basis

from . import aot, codegen

# Tensor-core instructions are missing where the hardware has none for float32 ("ieee" on NVIDIA)
# or float64.
WITHOUT_TENSOR_CORES = {
    ("sm_80", "ieee"), ("sm_86", "ieee"), ("sm_89", "ieee"), ("sm_90", "ieee"), ("sm_100", "ieee"),
    ("sm_86", "float64"), ("sm_89", "float64"),
}  # fmt: skip


RECORD = Path(__file__).parent / "results/sample.txt"
"""The kernels and the compiler of which the whole sample was compiled last and fitted."""


def fingerprint() -> str:
    """The kernels as they are and Triton's version, in a line."""
    sources = sorted((Path(__file__).parents[1] / "kernels").rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return f"{digest} triton {triton.__version__}\n"


# (grid size, degree, derivative, activation, scale, (rows, inputs, outputs))
MAIN = 5, 3, 0, "silu", False, (65536, 512, 512)
STEEP = 5, 7, 2, "silu", True, (65536, 512, 512)  # what needs the most registers, on any knots
FINE = 13, 3, 2, "gelu", True, (65536, 512, 512)  # the same of cubic splines
GRID = 13, 5, 0, "gelu", False, (65536, 512, 512)  # more splines than are unrolled at once
MANY = 27, 3, 0, "silu", False, (65536, 512, 512)  # the same for training's
LAST = 5, 3, 3, "silu", True, (65536, 512, 512)  # the last derivative that lives
PINN = 5, 3, 1, "silu", False, (65536, 512, 512)  # derivatives of a solution
ODD = 5, 3, 0, "silu", False, (65536, 500, 500)  # sizes that 16 does not divide
NARROW = 5, 3, 0, "silu", False, (10**6, 10, 10)
SINGLE = 5, 3, 0, "silu", True, (10**6, 5, 1)  # sizes of one are constants to the compiler
SQUARE = 5, 2, 0, "silu", False, (65536, 512, 512)  # what shares an entry with training's calls
GELU = 5, 3, 0, "gelu", False, (65536, 512, 512)
SAMPLE = {
    "bfloat16": (STEEP, MANY, NARROW, LAST, ODD, GELU), "float16": (FINE,),
    "tf32": (FINE, NARROW, GRID, LAST, ODD, GELU),
    "tf32x3": (STEEP, MANY, NARROW, SINGLE, ODD, SQUARE),
    "ieee": (FINE, STEEP, NARROW, GRID, SINGLE, ODD, SQUARE),
    "float64": (STEEP, PINN, NARROW, GRID, GELU, SQUARE),
}  # fmt: skip
GENERAL = {
    "bfloat16": (STEEP, ODD),
    "tf32": (STEEP, ODD),
    "ieee": (STEEP, PINN),
    "float64": (STEEP, PINN),
}


def structures(extent, precision, knots):
    """The main structure, or with it a sample of the worst of each class, or all that matter."""
    if extent == "wide":
        yield from _all()
    else:
        yield MAIN
    if extent in ("sample", "turn"):
        if knots == "uniform":
            yield from SAMPLE[precision]
        else:
            yield from GENERAL.get(precision, (STEEP,))


def _all():
    yield MAIN
    main = MAIN[-1]
    for degree in range(8):
        for deriv in sorted({0, 1, 2, degree}):
            yield 5, degree, deriv, "silu", deriv > 0, main
    for activation in ("gelu", "tanh", "sigmoid", "relu", "identity", "none"):
        for deriv in range(3):
            yield 5, 3, deriv, activation, False, main
    for grid_size in (3, 10, 20, 27, 50):
        for scale in (False, True):
            yield grid_size, 3, 0, "silu", scale, main
        yield grid_size, 3, 0, "silu", False, NARROW[-1]
    for grid_size in (1, 13, 500):
        for scale in (False, True):
            yield grid_size, 5, 0, "gelu", scale, main
            yield grid_size, 3, 0, "silu", scale, main
            yield grid_size, 7, 2, "gelu", scale, main
    for scale in (False, True):
        for shape in (
            (65536, 64, 64),
            (65536, 16, 16),
            (1, 1, 1),
            (65536, 1, 1),
            (100, 40, 500),
            (65536, 500, 500),
            (4096, 784, 10),
            (4096, 3, 5),
            (65536, 5, 1),
            (65536, 1, 5),
            (65536, 64, 1),
            (65536, 1, 64),
        ):
            yield 5, 3, 0, "silu", scale, shape
            yield 5, 7, 2, "gelu", scale, shape


def in_turn(extent, target, place):
    """Whether a target takes the structure at a place of the list: in turn, each is one's."""
    targets = list(codegen.TARGETS)
    return extent != "turn" or targets.index(target) == place % len(targets)


def cases(targets, ops, precisions, knots, extent):
    """What to compile. Both 16-bit types share their entries: one target shows the second."""
    for case in itertools.product(targets, ops, precisions, knots):
        if extent in ("wide", "turn") or case[2] != "float16" or case[0] == "sm_90":
            yield case


def _wide(launch):
    """Whether a thread's part of a tile of weights fills 128 bits."""
    a, lanes = launch.arguments, 64 if launch.kernel.target.startswith("gfx") else 32
    tile = a["BLOCK_I"] * a["BLOCK_O"] * a["c_ptr"].element_size()
    return min(a["I"], a["O"]) >= 64 and tile >= 16 * lanes * launch.kernel.warps


def problems(kernel, precision, *, multiplies=True, reads_weights):
    """What is wrong with a main kernel, in words. Without a function that lives nothing is
    multiplied."""
    found = []
    if kernel.spills:
        found.append(f"spills {kernel.spills} bytes a thread")
    if kernel.overflow:
        found.append(kernel.overflow)
    missing = multiplies and not kernel.tensor_core
    if missing and (kernel.target, precision) not in WITHOUT_TENSOR_CORES:
        found.append("no tensor-core instructions")
    if reads_weights and not kernel.wide_loads:
        found.append("no 128-bit loads of the weights")
    return found


def check(cases, *, extent, as_json):
    """Compile and list; the exit status is 1 if anything is wrong."""
    bad = 0
    for target, op, precision, knots in cases:
        first = codegen.PRECISIONS.index(precision) + codegen.OPS.index(op)
        for place, structure in enumerate(structures(extent, precision, knots), first):
            if not in_turn(extent, target, place):
                continue
            grid_size, degree, deriv, activation, scale, shape = structure
            deriv += op == "input_grad"
            basis = Basis(grid_size, degree, activation, knots == "uniform")
            multiplies = deriv <= degree or activation != "none"
            done = codegen.launches(
                target, op, precision, basis, deriv,
                rows=shape[0], inputs=shape[1], outputs=shape[2], scale=scale,
            )  # fmt: skip
            main = [launch for launch in done if launch.kernel.name == f"{op}_kernel"]
            for launch in {id(launch.kernel): launch for launch in main}.values():
                kernel = launch.kernel
                reads_weights = multiplies and op != "weight_grad" and _wide(launch)
                found = problems(
                    kernel, precision, multiplies=multiplies, reads_weights=reads_weights
                )
                bad += bool(found)
                name = (
                    f"{target} {op} {precision} {knots} {shape} G={grid_size} k={degree} n={deriv}"
                    + f" {activation}"
                    + scale * " s"
                )
                row = {
                    "name": name,
                    "precision": precision,
                    "knots": knots,
                    "registers": kernel.registers,
                }
                if as_json:
                    print(
                        json.dumps({**row, "shared": kernel.shared, "problems": found}), flush=True
                    )
                elif found:
                    print(f"{name}: {'; '.join(found)}", flush=True)
    if not as_json:
        print(f"{bad} kernels do not fit", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(f"run: python -m bench.codegen --check (targets: {', '.join(aot.TARGETS)})")
