"""A training step of KANs against one of MLPs, predicted by the model of bench.codegen.

    python -m bench.codegen --step [--targets sm_90 ..] [--precisions bfloat16 ..]

The KAN's time is the sum of its kernels' bounds: of each layer forward, input gradient and weight
gradient, and the memory traffic of the small kernels around them. An MLP layer with as many
parameters costs three matrix products of as many multiply-adds. Two ratios are printed: to an MLP
at the data sheet's peak, which no library reaches, and at 0.8 of it, an assumed share for large
products. Neither has the optimizer, launches and latencies; the MLP has no activations either.
"""

from __future__ import annotations

import math

from kanfast.engine.basis import Basis

from . import codegen, sass

# Assumed, not measured: the share of the peak that cuBLAS reaches for large matrices.
CUBLAS = 0.8


def cycles_of(target, op, precision, width, rows):
    """SM-cycles of one call on all of a GPU's SMs together, and the launches."""
    basis = Basis(5, 3, "silu", True)
    done = codegen.launches(
        target, op, precision, basis, int(op == "input_grad"),
        rows=rows, inputs=width, outputs=width,
    )  # fmt: skip
    cycles = 0.0
    for launch in done:
        if launch.kernel.name == f"{op}_kernel":
            need, _ = codegen.profile(op, launch)
            cycles += math.prod(launch.programs) * max(need[name] for name in codegen.RESOURCES)
        else:  # a pass over the weights, or over partial sums of their gradients
            cycles += codegen.moved(launch) / sass.RATES[target]["memory"]
    return cycles, len(done)


def predict(target, precision, *, layers=2, width=512, rows=65536):
    """(time over that of an MLP at the peak, launches of a layer forward, and backward)."""
    total, launched = 0.0, {}
    for op in codegen.OPS:
        cycles, launched[op] = cycles_of(target, op, precision, width, rows)
        total += layers * cycles
    rate, repeats = codegen.rate_of(precision, target)
    multiply_adds = 3 * layers * rows * width * width * Basis(5, 3, "silu", True).num_functions
    mlp = multiply_adds * repeats / rate
    backward = launched["input_grad"] + launched["weight_grad"]
    return total / mlp, launched["forward"], backward


def show(targets, precisions, rows):
    """One line a target and precision."""
    print(
        f"Training step of [512, 512, 512], B = {rows}: modelled time over that of an MLP with as"
    )
    print(f"many parameters at the peak, and at {CUBLAS} of it; launches of a layer, both ways.")
    for target in targets:
        for precision in precisions:
            ratio, forward, backward = predict(target, precision, rows=rows)
            numbers = f"{ratio:6.2f} {ratio * CUBLAS:6.2f} {forward:3} {backward:3}"
            print(f"{target:>7} {precision:>9} {numbers}", flush=True)
