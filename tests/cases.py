"""Every list of cases, once: what the tests of kernels, ops and modules run over."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from kanfast import KAN, Basis, KANLinear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("reference", "triton")

PRECISIONS = ("float64", "ieee", "tf32x3", "tf32", "bfloat16", "float16")
DTYPES = {
    "float64": torch.float64,
    "ieee": torch.float32,
    "tf32x3": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
KNOTS = ("uniform", "general")
ACTIVATIONS = ("silu", "gelu", "tanh", "sigmoid", "relu", "identity", "none")

# torch's own: its compiler looks at all tensors of what it leaves to Python.
LEFT_TO_PYTHON = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

# (B, I, O): ragged, single, wider than a tile, and with nothing to loop over or to write.
SHAPES = (
    (1, 1, 1),
    (7, 17, 63),
    (63, 7, 17),
    (100, 3, 5),
    (130, 66, 70),
    (0, 3, 5),
    (9, 0, 5),
    (9, 3, 0),
)

# (degree, derivative): every degree; derivatives up to 2, the last one that lives and the first
# that vanishes.
ORDERS = tuple((k, n) for k in range(8) for n in sorted({0, 1, 2, k, k + 1}) if n <= k + 1)


def make_grid(inputs, basis, seed=0, dtype=torch.float64):
    """[I, G + 2k + 1]: equal steps, other ends for each input; or unequal, with a double knot."""
    generator = torch.Generator().manual_seed(seed)
    step = 2 / basis.grid_size
    knots = (
        torch.arange(-basis.degree, basis.grid_size + basis.degree + 1, dtype=torch.float64) * step
        - 1
    )
    if basis.uniform:
        shift = torch.rand(2, inputs, 1, generator=generator, dtype=torch.float64) * 0.2
        return ((knots * (1 + shift[0])) + shift[1]).to(dtype)
    noise = torch.rand(inputs, len(knots), generator=generator, dtype=torch.float64) - 0.5
    grid = knots + 0.8 * step * noise
    if basis.grid_size > 2:
        grid[:, basis.degree + 2] = grid[:, basis.degree + 1]
    return grid.sort(dim=1).values.to(dtype)


def make_case(shape, basis, precision, *, scale=False, seed=0):
    """(x, c, s, g, grid) on DEVICE, of the precision's dtype; x inside and outside the grid."""
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)
    dtype = DTYPES[precision]
    wide = torch.float64 if precision == "float64" else torch.float32

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)

    x = (
        (torch.rand(rows, inputs, generator=generator, dtype=torch.float64) * 4 - 2)
        .to(dtype)
        .to(DEVICE)
    )
    s = normal(rows, inputs) if scale else None
    c, g = normal(basis.num_functions, inputs, outputs), normal(rows, outputs)
    return x, c, s, g, make_grid(inputs, basis, seed, wide).to(DEVICE)


def make_basis(grid_size=5, degree=3, activation="silu", knots="uniform"):
    return Basis(grid_size, degree, activation, knots == "uniform")


def make_kan(*widths, **options):
    """A KAN in float64 whose edges are far from straight, the same for the same arguments."""
    torch.manual_seed(0)
    return KAN(widths, **{"grid_size": 4, "scale_noise": 1.0, "dtype": torch.float64} | options)


def rows(count, features, seed=0):
    """[count, features] in [-1, 1], where grids are at first; float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, features, generator=generator, dtype=torch.float64) - 1


def make_layer(*sizes, **options):
    """A KANLinear in float64 with splines that are not small; 3 inputs and 4 outputs by default."""
    torch.manual_seed(0)
    options = {"dtype": torch.float64, "scale_noise": 2.0} | options
    return KANLinear(*(sizes or (3, 4)), **options)


def samples(*shape, scale=0.8):
    """Normal ones, of which some are beyond [-1, 1]; float64, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


@contextlib.contextmanager
def unchanged_generators():
    """Nothing is drawn from the global generators, and none is seeded."""
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    yield
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]


def tangent(call, x):
    """The derivative of call(x) in the direction cos(x), in forward mode."""
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.cos(x)))).tangent
    assert found is not None
    assert found.abs().max() > 1e-6
    return found
