"""What torch costs a small KAN before any arithmetic: its autograd, and torch.compile.

    python -m bench.floor [--seconds 5] [--threads 1] [--csv PATH]

A training step of [2,5,1] (forward pass, sum of squares, gradients of the parameters) on 1 and 1000
rows, beside the MLP with as many parameters, and beside an autograd Function over the same
tensors that saves them and returns uninitialised ones: what is left of a step when the arithmetic
takes no time. No KAN that Python hands to autograd can be faster than that. "one weight" is the
step of x -> w x: the loss and torch's autograd alone, with nothing in Python.

"arithmetic" is that step's native calls alone.

And a forward pass of [64,64] on 8 rows, compiled or not, beside torch.nn.Linear of that size: what
torch.compile costs a call when it has nothing to fuse. Last, a forward pass of [256,256] on 4096
rows, 1.3e9 multiply-adds, beside the matrix product over all nine functions, 2.4e9 of them.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from kanfast import KAN
from kanfast.cli.compare import count_parameters, mlp, mlp_widths
from kanfast.engine.basis import shared_basis
from kanfast.engine.native import layer as native_layer

from .measures import Result, Work
from .timing import Sample, interleave

RESULTS = Path("bench/results/floor.csv")
WIDTHS, BATCHES = (2, 5, 1), (1, 1000)


class Empty(Function):
    """From x and the parameters of a KAN to something of the shape of its output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        return x.new_empty(len(x), WIDTHS[-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _, *parameters = ctx.saved_tensors
        return None, *[torch.empty_like(p) for p in parameters]


def step(parameters: list[nn.Parameter], call: Callable[[Tensor], Tensor], batch: int) -> Work:
    x, target = torch.rand(batch, WIDTHS[0]) * 2 - 1, torch.rand(batch, WIDTHS[-1])

    def run(_: None) -> None:
        for parameter in parameters:
            parameter.grad = None
        (call(x) - target).square().sum().backward()

    return Work(run, lambda _: Result())


def steps() -> dict[str, Work]:
    kan = KAN(WIDTHS)
    perceptron = mlp(mlp_widths(WIDTHS, count_parameters(kan)))
    tensors, weight = list(kan.parameters()), nn.Parameter(torch.ones(1))
    found = {}
    for batch in BATCHES:
        found[f"KAN, {batch} rows"] = step(tensors, kan, batch)
        found[f"MLP, {batch} rows"] = step(list(perceptron.parameters()), perceptron, batch)
        found[f"arithmetic, {batch} rows"] = arithmetic(kan, batch)
        found[f"one weight, {batch} rows"] = step([weight], lambda x: x[:, :1] * weight, batch)
        found[f"nothing, {batch} rows"] = step(tensors, lambda x: Empty.apply(x, *tensors), batch)
    return found


def forward_passes() -> dict[str, Work]:
    x, found = torch.rand(8, 64), {}
    for name, layer in (("KAN", KAN([64, 64])), ("Linear", nn.Linear(64, 64))):
        found[f"{name}, eager"] = inference(layer, x)
        found[f"{name}, compiled"] = inference(torch.compile(layer, fullgraph=True), x)
    return found


def products() -> dict[str, Work]:
    x, bases, weights = torch.rand(4096, 256), torch.rand(4096, 2304), torch.rand(2304, 256)
    return {
        "KAN [256,256]": inference(KAN([256, 256]), x),
        "matrix product": inference(lambda _: bases @ weights, x),
    }


def arithmetic(kan: KAN, batch: int) -> Work:
    """The native calls of a step, without autograd."""
    x, g = torch.rand(batch, WIDTHS[0]) * 2 - 1, torch.rand(batch, WIDTHS[-1])
    calls = [
        (
            (layer.spline_weight, layer.base_weight, layer.spline_scaler, layer.grid),
            shared_basis(layer.grid_size, layer.spline_order, "silu", True),
        )
        for layer in kan.kan_layers
    ]

    @torch.no_grad()
    def run(_: None) -> None:
        values = [x]
        for tensors, basis in calls:
            y = native_layer.layer_forward(values[-1], *tensors, basis, "ieee", x.dtype)
            values.append(y)
        grad = g
        for n, (tensors, basis) in reversed([*enumerate(calls)]):
            needs = (n > 0, True, True, True, False)
            grads = native_layer.layer_grad(grad, values[n], *tensors, needs, basis, "ieee")
            grad = cast(Tensor, grads[0])

    return Work(run, lambda _: Result())


def inference(call: Callable[[Tensor], Tensor], x: Tensor) -> Work:
    @torch.no_grad()
    def run(_: None) -> None:
        call(x)

    for _ in range(3):
        run(None)
    return Work(run, lambda _: Result())


def median(samples: list[Sample]) -> float:
    """Microseconds of processor time."""
    return 1e3 * statistics.median(sample.cpu for sample in samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=5, help="for each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = [
        {"what": name, "microseconds": f"{median(samples):.1f}", "repetitions": len(samples)}
        for works in (steps(), forward_passes(), products())
        for name, samples in interleave(works, "cpu", arguments.seconds).items()
    ]
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['what']:20} {row['microseconds']:>8} us")


if __name__ == "__main__":
    main()
