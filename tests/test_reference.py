"""The primitives in plain torch against sums over scipy's B-splines, and what they cost."""

import oracle
import pytest
import torch
from cases import ACTIVATIONS, DTYPES, KNOTS, ORDERS, SHAPES, make_basis, make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from kanfast.engine import reference

OPS = ("forward", "input_grad", "weight_grad")
# Of the largest entry. Products of 16-bit operands are exact in float32: the operands are rounded.
BOUNDS = {"float64": 1e-13, "ieee": 3e-6, "bfloat16": 1e-2, "float16": 1e-3}


def arguments(op, case):
    x, c, s, g, grid = case
    return {
        "forward": (x, c, s, grid),
        "input_grad": (g, x, c, grid),
        "weight_grad": (g, x, s, grid),
    }[op]


def compute(op, case, basis, deriv=0, precision="float64", out_dtype=None):
    out_dtype = out_dtype or (torch.float64 if precision == "float64" else torch.float32)
    keywords = {"basis": basis, "deriv": deriv, "precision": precision, "out_dtype": out_dtype}
    return getattr(reference, op)(*arguments(op, case), **keywords)


def check(op, case, basis, deriv=0, precision="float64"):
    got = compute(op, case, basis, deriv, precision).double()
    want = getattr(oracle, op)(*arguments(op, case), basis, deriv)
    assert got.shape == want.shape
    if want.numel():
        bound = BOUNDS[precision] * max(1.0, want.abs().max().item())
        torch.testing.assert_close(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, knots, op):
    basis = make_basis(knots=knots)
    check(op, make_case(shape, basis, "float64", scale=True), basis)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize(("degree", "deriv"), ORDERS)
def test_degrees_and_derivatives(degree, deriv, knots, op):
    basis = make_basis(4, degree, "silu", knots)
    check(op, make_case((17, 5, 3), basis, "float64"), basis, deriv)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, op):
    basis = make_basis(3, 2, name)
    check(op, make_case((9, 4, 3), basis, "float64"), basis, deriv=1)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("precision", BOUNDS)
def test_precisions(precision, op):
    basis = make_basis()
    case = make_case((100, 20, 30), basis, precision, scale=True)
    check(op, case, basis, precision=precision)
    for out_dtype in (DTYPES[precision], torch.float64):
        assert compute(op, case, basis, 0, precision, out_dtype).dtype == out_dtype


@pytest.mark.parametrize("op", OPS)
def test_16_bit_operands_are_summed_in_float32(op):
    basis = make_basis()
    case = make_case((3000, 5, 4), basis, "bfloat16")
    x, c, _, g, grid = case
    rounded = oracle.basis_values(x, grid, basis, 0).float().bfloat16().double()
    c64, g64 = c.double(), g.double()
    want = {
        "forward": torch.einsum("bij,jio->bo", rounded, c64),
        "weight_grad": torch.einsum("bo,bij->jio", g64, rounded),
        "input_grad": oracle.input_grad(g, x, c, grid, basis, 0),
    }[op]
    got = compute(op, case, basis, 0, "bfloat16").double()
    # Basis values between two bfloat16 numbers may be rounded to either, hence the norm.
    assert (got - want).norm() <= 1e-4 * want.norm()


@pytest.mark.parametrize("op", OPS)
def test_any_strides(op):
    basis = make_basis()
    x, c, s, g, grid = make_case((16, 6, 4), basis, "float64", scale=True)
    strided = (
        x.T.contiguous().T,
        c.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        s[:1].expand(16, 6),
        g[:, :1].expand(16, 4),
        grid.T.contiguous().T,
    )
    check(op, strided, basis)


@pytest.mark.parametrize("op", OPS)
def test_the_size_of_the_chunks_does_not_matter(op, monkeypatch):
    basis = make_basis()
    case = make_case((50, 6, 4), basis, "float64", scale=True)
    whole = compute(op, case, basis)
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(reference, "MIN_ROWS", 7)
    torch.testing.assert_close(compute(op, case, basis), whole, rtol=1e-13, atol=1e-13)


def test_weight_gradients_are_reproducible_bit_for_bit():
    basis = make_basis()
    case = make_case((9000, 16, 8), basis, "ieee")
    first = compute("weight_grad", case, basis, precision="ieee")
    for _ in range(3):
        assert torch.equal(compute("weight_grad", case, basis, precision="ieee"), first)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements in storage of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.untyped_storage().nbytes() // out.element_size())
        return out


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_no_tensor_grows_with_rows_times_functions(op, knots):
    basis = make_basis(knots=knots)
    rows, inputs, outputs = 40_000, 16, 16
    case = make_case((rows, inputs, outputs), basis, "ieee")
    with LargestTensor() as seen:
        compute(op, case, basis, 1, "ieee")
    functions = basis.num_splines + 2 * basis.degree + 1
    chunk = reference.CHUNK_ELEMENTS * torch.get_num_threads() * functions // basis.num_functions
    assert seen.largest <= max(rows * inputs, chunk) < rows * inputs * basis.num_functions / 4


@given(
    knots=st.sampled_from(KNOTS),
    degree=st.integers(0, 4),
    deriv=st.integers(0, 3),
    rows=st.integers(0, 9),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_three_are_one_trilinear_form(knots, degree, deriv, rows, inputs, outputs, seed):
    basis = make_basis(3, degree, "silu", knots)
    case = make_case((rows, inputs, outputs), basis, "float64", scale=True, seed=seed)
    _, c, s, g, _ = case
    form = (g * compute("forward", case, basis, deriv)).sum()
    by_input = (s * compute("input_grad", case, basis, deriv)).sum()
    by_weight = (c * compute("weight_grad", case, basis, deriv)).sum()
    scale = 1 + form.abs().item()
    torch.testing.assert_close(by_input, form, rtol=1e-11, atol=1e-11 * scale)
    torch.testing.assert_close(by_weight, form, rtol=1e-11, atol=1e-11 * scale)


def test_nan_stays_in_its_row():
    basis = make_basis()
    case = make_case((5, 4, 3), basis, "float64")
    case[0][2, 1] = torch.nan
    for op in ("forward", "input_grad"):
        bad = compute(op, case, basis).isnan()
        assert bad[2].any()
        assert not bad[[0, 1, 3, 4]].any()
