"""Whether what the launch table picks fits its targets: `python -m bench.codegen --check`."""

from __future__ import annotations

import itertools
import json

from kanfast.basis import Basis

from . import aot, codegen

# Tensor-core instructions are missing where the hardware has none for float32 ("ieee" on NVIDIA)
# or float64.
WITHOUT_TENSOR_CORES = {
    ("sm_80", "ieee"), ("sm_86", "ieee"), ("sm_89", "ieee"), ("sm_90", "ieee"), ("sm_100", "ieee"),
    ("sm_86", "float64"), ("sm_89", "float64"),
}  # fmt: skip


def structures(wide):
    """(degree, derivative, activation, scale, (rows, inputs, outputs)): the main one, or all that
    matter."""
    main = (65536, 512, 512)
    yield 3, 0, "silu", False, main
    if not wide:
        return
    for degree in range(8):
        for deriv in range(3):
            yield degree, deriv, "silu", deriv == 1, main
    for activation in ("gelu", "tanh", "sigmoid", "relu", "identity", "none"):
        for deriv in range(3):
            yield 3, deriv, activation, False, main
    for scale in (False, True):
        for shape in ((65536, 64, 64), (65536, 16, 16), (1, 1, 1), (100, 40, 500), (4096, 3, 5)):
            yield 3, 0, "silu", scale, shape


def cases(targets, ops, precisions, knots, wide):
    """What to compile. Both 16-bit types share their entries: one target shows the second."""
    for case in itertools.product(targets, ops, precisions, knots):
        if wide or case[2] != "float16" or case[0] == "sm_90":
            yield case


def problems(kernel, precision, reads_weights):
    """What is wrong with a main kernel, in words."""
    found = []
    if kernel.spills:
        found.append(f"spills {kernel.spills} bytes a thread")
    if kernel.overflow:
        found.append(kernel.overflow)
    if not kernel.tensor_core and (kernel.target, precision) not in WITHOUT_TENSOR_CORES:
        found.append("no tensor-core instructions")
    if reads_weights and not kernel.wide_loads:
        found.append("no 128-bit loads of the weights")
    return found


def check(cases, *, wide, as_json):
    """Compile and list; the exit status is 1 if anything is wrong."""
    bad = 0
    for target, op, precision, knots in cases:
        for degree, deriv, activation, scale, shape in structures(wide):
            deriv += op == "input_grad"
            basis = Basis(5, degree, activation, knots == "uniform")
            done = codegen.launches(
                target, op, precision, basis, deriv,
                rows=shape[0], inputs=shape[1], outputs=shape[2], scale=scale,
            )  # fmt: skip
            main = [launch.kernel for launch in done if launch.kernel.name == f"{op}_kernel"]
            for kernel in {id(kernel): kernel for kernel in main}.values():
                found = problems(kernel, precision, op != "weight_grad" and min(shape) >= 64)
                bad += bool(found)
                name = (
                    f"{target} {op} {precision} {knots} {shape} k={degree} n={deriv} {activation}"
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
