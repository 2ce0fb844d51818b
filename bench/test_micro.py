"""`pytest bench`: the primitives, layers and bases one by one, by pytest-benchmark. No time fails.

Results are not compared here: that is what `tests` do, and the gate of `python -m bench`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch

from kanfast import Basis, KANLinear
from kanfast.engine import native

pytest.importorskip("pytest_benchmark", reason="pip install pytest-benchmark")

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
MODULES = {
    "kanfast.engine.reference": True,
    "kanfast.engine.native": not ON_GPU and native.available(),
}
MODULES |= {"kanfast.kernels": ON_GPU}
SHAPES = [(8192, 64, 64), (4096, 256, 256)] if not ON_GPU else [(65_536, 512, 512)]
BASES = {
    "uniform": Basis(5, 3),
    "general": Basis(5, 3, uniform=False),
    "quintic": Basis(5, 5),
    "G=50": Basis(50, 3),
}


def timed(benchmark: Callable[..., object], call: Callable[[], object]) -> None:
    def waiting() -> None:
        call()
        if ON_GPU:
            torch.cuda.synchronize()

    waiting()
    benchmark(waiting)


def grid_of(inputs: int, basis: Basis) -> torch.Tensor:
    k, size = basis.degree, basis.grid_size
    knots = torch.arange(-k, size + k + 1, device=DEVICE) * (2 / size) - 1
    return knots.repeat(inputs, 1)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("deriv", [0, 1])
@pytest.mark.parametrize("op", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("module", [name for name, fits in MODULES.items() if fits])
def test_primitive(benchmark, module, shape, op, deriv, kind):
    basis, (rows, inputs, outputs) = BASES[kind], shape
    x = torch.rand(rows, inputs, device=DEVICE) * 2 - 1
    c = torch.randn(basis.num_functions, inputs, outputs, device=DEVICE)
    g, grid = torch.randn(rows, outputs, device=DEVICE), grid_of(inputs, basis)
    tensors = {"forward": (x, c, None), "input_grad": (g, x, c), "weight_grad": (g, x, None)}[op]
    function = getattr(importlib.import_module(module), op)
    precision = "tf32x3" if module == "kanfast.kernels" else "ieee"
    keywords = {"deriv": deriv, "precision": precision, "out_dtype": torch.float32}
    timed(benchmark, lambda: function(*tensors, grid, basis=basis, **keywords))


@pytest.mark.parametrize("rows", [1, 32, 1024])
def test_layer_on_few_rows(benchmark, rows):
    layer, x = KANLinear(64, 64, device=DEVICE), torch.rand(rows, 64, device=DEVICE)
    with torch.no_grad():
        timed(benchmark, lambda: layer(x))


def test_update_grid(benchmark):
    layer, x = KANLinear(16, 16, device=DEVICE), torch.rand(1000, 16, device=DEVICE)
    timed(benchmark, lambda: layer.update_grid(x))
