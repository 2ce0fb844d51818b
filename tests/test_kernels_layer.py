"""A layer from its parameters in Triton: packed and unpacked in one pass each, against torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import DEVICE, make_basis, make_grid

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from kanfast.kernels import local

from kanfast import kernels
from kanfast.engine import reference

pytestmark = pytest.mark.usefixtures("poisoned")

SHAPES = [(9, 3, 5), (1, 1, 1), (7, 1, 40), (5, 33, 2), (0, 3, 5), (4, 0, 5), (4, 3, 0)]
PARAMETERS = [(True, True), (True, False), (False, True), (False, False)]
DTYPES = {"float64": torch.float64, "ieee": torch.float32, "bfloat16": torch.bfloat16}
NEEDS = (True, True, True, True, False)


@pytest.fixture(params=[False, True], ids=["dense", "local"])
def kind(request):
    """The kernels for small grids and those for large ones, whatever the grid."""
    with local.forced(request.param):
        yield


def make(shape, basis, precision, *, base=True, scaler=True, seed=0):
    """(x, weight, base, scaler, grid) and g on DEVICE."""
    (rows, inputs, outputs), generator = shape, torch.Generator().manual_seed(seed)

    def normal(*size):
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        return values.to(DTYPES[precision]).to(DEVICE)

    wide = torch.float64 if precision == "float64" else torch.float32
    tensors = (
        normal(rows, inputs),
        normal(outputs, inputs, basis.num_splines),
        normal(outputs, inputs) if base else None,
        normal(outputs, inputs) if scaler else None,
        make_grid(inputs, basis, seed, wide).to(DEVICE),
    )
    return tensors, normal(rows, outputs)


def in_float64(tensors):
    return [None if t is None else t.cpu().double() for t in tensors]


def check(tensors, g, basis, precision, needs=NEEDS):
    """Both directions against plain torch in float64; errors are relative to the largest value."""
    exact, out_dtype = (basis, "float64"), tensors[0].dtype
    y = kernels.layer_forward(*tensors, basis, precision, out_dtype)
    grads = kernels.layer_grad(g, *tensors, needs, basis, precision)
    wide = in_float64(tensors)
    wanted = [reference.layer_forward(*wide, *exact, torch.float64)]
    wanted += reference.layer_grad(g.cpu().double(), *wide, needs, *exact)
    tolerance = {"float64": 1e-13, "ieee": 2e-5, "bfloat16": 3e-2}[precision]
    for got, want, like in zip([y, *grads], wanted, [y, *tensors], strict=True):
        assert (got is None) == (want is None)
        if got is None:
            continue
        assert got.dtype == like.dtype
        assert got.shape == want.shape
        if got.numel():
            error = (got.cpu().double() - want).abs().max()
            assert error <= tolerance * want.abs().max().clamp_min(1e-30)


@pytest.mark.parametrize(("base", "scaler"), PARAMETERS)
@pytest.mark.parametrize("precision", DTYPES)
def test_every_set_of_parameters(kind, precision, base, scaler):
    basis = make_basis(activation="silu" if base else "none")
    check(*make((9, 3, 5), basis, precision, base=base, scaler=scaler), basis, precision)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_awkward_shapes(kind, shape):
    basis = make_basis(4, 2)
    check(*make(shape, basis, "float64"), basis, "float64")


@pytest.mark.parametrize("precision", ["float64", "ieee"])
def test_parameters_may_lie_anyhow(precision):
    """Transposed, sliced, reversed by hand, and one row for all."""
    basis = make_basis(5, 3, knots="general")
    (x, weight, base, scaler, grid), g = make((6, 4, 7), basis, precision)
    weight = weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    base = torch.stack([base, base], -1)[..., 0]
    scaler = scaler[:1].expand(7, 4)
    assert not any(t.is_contiguous() for t in (weight, base, scaler))
    check((x, weight, base, scaler, grid), g, basis, precision)


@pytest.mark.parametrize("needs", [*itertools.product([False, True], repeat=4)])
def test_what_is_not_needed_is_not_made(needs):
    basis = make_basis(3, 2)
    check(*make((5, 2, 3), basis, "float64"), basis, "float64", (*needs, False))


@pytest.mark.parametrize("degree", [0, 1, 5])
def test_degrees(kind, degree):
    basis = make_basis(5, degree, "gelu", "general")
    check(*make((8, 3, 4), basis, "float64"), basis, "float64")
