"""The functions of an edge against scipy's B-splines and against derivatives by autograd."""

import math

import oracle
import pytest
import torch
from cases import ACTIVATIONS, KNOTS, make_basis, make_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from kanfast import Basis
from kanfast.engine import activations
from kanfast.engine.activations import activation, gelu_derivative, hermite, sigmoid_derivative
from kanfast.engine.basis import evaluate, spline_basis
from kanfast.nn import residual

LIVING = [(k, n) for k in range(8) for n in range(k + 1)]
SMOOTH = [(k, n) for k, n in LIVING if n < k]
# Of the derivative with respect to x / h. Powers up to seven times larger cancel in degree 7.
BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6}


def exact_grid(basis, inputs=3):
    """Knots that every dtype holds exactly, another step for every input."""
    knots = torch.arange(basis.num_knots, dtype=torch.float64) - basis.degree - 2
    return knots * 2.0 ** -torch.arange(1, inputs + 1, dtype=torch.float64)[:, None]


def points(grid, rows=200, seed=0):
    """[rows, I]: across the extended grid and a tenth beyond it, on both sides."""
    u = torch.rand(rows, grid.shape[0], generator=torch.Generator().manual_seed(seed)).double()
    first, last = grid[:, 0], grid[:, -1]
    return (first + (1.2 * u - 0.1) * (last - first)).float().double()


def scipy_splines(x, grid, basis, deriv):
    """[B, G + k, I], as kanfast lays them out."""
    none = Basis(basis.grid_size, basis.degree, "none", basis.uniform)
    return oracle.basis_values(x, grid, none, deriv).transpose(1, 2)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("degree", "deriv"), LIVING)
def test_uniform_splines_are_scipys(degree, deriv, dtype):
    basis = Basis(5, degree, "none")
    grid = exact_grid(basis)
    x = points(grid)
    got = evaluate(x.to(dtype), grid.to(dtype), basis, deriv).double()
    want = scipy_splines(x, grid, basis, deriv)
    unit = (grid[:, 1] - grid[:, 0]) ** deriv
    bound = BOUNDS[dtype] * max(1.0, (want * unit).abs().max().item())
    if degree == 7 and dtype == torch.float32:
        bound *= 2
    torch.testing.assert_close(got * unit, want * unit, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("degree", "deriv"), LIVING)
def test_general_splines_are_scipys(degree, deriv, dtype):
    basis = Basis(5, degree, "none", uniform=False)
    grid = exact_grid(basis)
    uneven = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1)).double() * 0.8
    grid = (grid + uneven * (grid[:, 1:2] - grid[:, :1])).float().double()
    x = points(grid)
    got = evaluate(x.to(dtype), grid.to(dtype), basis, deriv).double()
    want = scipy_splines(x, grid, basis, deriv)
    largest = want.abs().amax(dim=(0, 1))
    torch.testing.assert_close(got / largest, want / largest, rtol=0, atol=BOUNDS[dtype])


@pytest.mark.parametrize(("degree", "deriv"), SMOOTH)
def test_both_evaluations_agree_on_a_uniform_grid(degree, deriv):
    x = points(exact_grid(Basis(6, degree)))
    uniform, general = Basis(6, degree), Basis(6, degree, uniform=False)
    grid = exact_grid(uniform)
    a, b = evaluate(x, grid, uniform, deriv), evaluate(x, grid, general, deriv)
    largest = a.abs().amax(dim=(0, 1))
    torch.testing.assert_close(a / largest, b / largest, rtol=0, atol=3e-14)


def test_the_cubic_spline_at_its_knots():
    basis = Basis(1, 3, "none")
    grid = torch.arange(-3.0, 5.0)[None].double()
    x = torch.tensor([[-3.0], [-2.0], [-1.0], [0.0], [1.0]], dtype=torch.float64)
    values = torch.tensor([0, 1 / 6, 2 / 3, 1 / 6, 0], dtype=torch.float64)
    slopes = torch.tensor([0, 1 / 2, 0, -1 / 2, 0], dtype=torch.float64)
    curvatures = torch.tensor([0, 1, -2, 1, 0], dtype=torch.float64)
    for deriv, want in enumerate((values, slopes, curvatures)):
        torch.testing.assert_close(evaluate(x, grid, basis, deriv)[:, 0, 0], want)


@pytest.mark.parametrize("knots", KNOTS)
def test_jumps_take_the_value_from_the_right(knots):
    basis = make_basis(4, 0, "none", knots)
    grid = torch.arange(5.0)[None]
    steps = evaluate(grid.T, grid, basis)[:, :, 0]
    assert torch.equal(steps, torch.eye(5)[:, :4])  # and zero from the last knot on
    basis = make_basis(4, 2, "none", knots)
    grid = torch.arange(9.0)[None]
    second = evaluate(grid[:, :4].T, grid, basis, deriv=2)[:, 0, 0]
    assert second.tolist() == [1, -2, 1, 0]


@pytest.mark.parametrize("deriv", range(5))
def test_repeated_knots(deriv):
    basis = Basis(4, 3, "none", uniform=False)
    clamped = torch.tensor([0, 0, 0, 0, 0.2, 0.2, 0.7, 1, 1, 1, 1], dtype=torch.float64)[None]
    x = torch.linspace(-0.5, 1.5, 101, dtype=torch.float64)[:, None] + 1e-3
    got = evaluate(x, clamped, basis, deriv)
    torch.testing.assert_close(got, scipy_splines(x, clamped, basis, deriv), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_knots_closer_than_a_reciprocal_can_tell(dtype):
    tiny = torch.finfo(dtype).tiny
    basis = Basis(4, 2, "none", uniform=False)
    grid = torch.tensor([-9, -5, 0, tiny / 8, tiny / 4, tiny, 5, 9, 300], dtype=dtype)[None]
    x = torch.tensor([-20, -9, 0, tiny / 8, tiny / 2, 1, 9, 301, math.inf, -math.inf], dtype=dtype)
    f = evaluate(x[:, None], grid, basis)
    assert f.isfinite().all()
    assert (f >= 0).all()
    assert (f.sum(1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_nan_stays_nan_and_in_its_place(name, degree, knots):
    basis = make_basis(3, degree, name, knots)
    grid = make_grid(2, basis)
    x = torch.tensor([[math.nan, 0.1], [0.2, 0.3]], dtype=torch.float64)
    for deriv in range(degree + 3):
        f = evaluate(x, grid, basis, deriv)
        assert f[0, :, 0].isnan().all()
        assert f[0, :, 1].isfinite().all()
        assert f[1].isfinite().all()


@pytest.mark.parametrize("knots", KNOTS)
def test_far_outside_only_the_activation_is_left(knots):
    basis = make_basis(5, 3, "tanh", knots)
    grid = make_grid(2, basis, dtype=torch.float32)
    for far in (1e3, -1e3, 1e30, -1e30, math.inf, -math.inf):
        for deriv in range(5):
            f = evaluate(torch.full((1, 2), far), grid, basis, deriv)
            assert torch.equal(f[:, :-1], torch.zeros_like(f[:, :-1]))
            assert torch.equal(f[:, -1], torch.full((1, 2), math.copysign(1, far) * (deriv == 0)))


@given(
    degree=st.integers(0, 7),
    grid_size=st.integers(1, 20),
    knots=st.sampled_from(KNOTS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_splines_are_a_partition_of_unity_inside_the_grid(degree, grid_size, knots, seed):
    basis = make_basis(grid_size, degree, "none", knots)
    grid = make_grid(3, basis, seed)
    lo, hi = grid[:, degree], grid[:, degree + grid_size]
    u = torch.rand(50, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = lo + u * (hi - lo) * 0.999
    f = evaluate(x, grid, basis)
    assert (f >= -1e-14).all()
    torch.testing.assert_close(f.sum(1), torch.ones_like(x), rtol=0, atol=1e-13)
    for deriv in range(1, min(degree, 3) + 1):
        slope = evaluate(x, grid, basis, deriv)
        assert slope.sum(1).abs().max() <= 1e-12 * slope.abs().max()


def test_every_place_has_all_activations():
    everywhere = set(activations.ACTIVATIONS)
    assert everywhere == set(ACTIVATIONS)
    assert everywhere == {*residual._FUSED.values(), "none"} == {*oracle.ACTIVATIONS, "none"}


@pytest.mark.parametrize("deriv", range(7))
@pytest.mark.parametrize("name", [a for a in ACTIVATIONS if a != "none"])
def test_activations_and_their_derivatives(name, deriv):
    x = torch.linspace(-6, 6, 50, dtype=torch.float64)
    want = oracle.activation_values(x, name, deriv)
    largest = max(1.0, want.abs().max().item())
    torch.testing.assert_close(activation(name, x, deriv), want, rtol=0, atol=2e-14 * largest)
    single = activation(name, x.float(), deriv)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), want, rtol=0, atol=2e-6 * largest)


def test_activation_derivatives_vanish_far_out():
    x = torch.tensor([-200.0, 200.0])
    for name in ("silu", "gelu", "tanh", "sigmoid"):
        for deriv in range(2, 8):
            assert torch.equal(activation(name, x, deriv).abs(), torch.zeros(2))


def test_the_polynomials_of_the_derivatives():
    assert sigmoid_derivative(1) == sigmoid_derivative(2) == (0, 1)
    assert sigmoid_derivative(3) == (0, 1, -6)
    assert sigmoid_derivative(5) == (0, 1, -30, 120)
    assert hermite(0) == (1,)
    assert hermite(2) == (-1, 0, 1)
    assert hermite(5) == (0, 15, 0, -10, 0, 1)
    assert gelu_derivative(2) == (2, 0, -1)


def test_an_unknown_activation_says_which_there_are():
    with pytest.raises(ValueError, match=r"one of .*'silu'.* got 'swish'"):
        activation("swish", torch.zeros(1))


def test_the_layout():
    basis = Basis(4, 2)
    assert (basis.num_splines, basis.num_functions, basis.num_knots) == (6, 7, 9)
    assert Basis(4, 2, "none").num_functions == 6
    x, grid = torch.zeros(5, 3), make_grid(3, basis, dtype=torch.float32)
    assert evaluate(x, grid, basis).shape == (5, 7, 3)
    assert torch.equal(spline_basis(x, grid, basis), evaluate(x, grid, basis)[:, :6])
    assert evaluate(x[:0], grid, basis).shape == (0, 7, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3), ValueError, "grid_size must be at least 1, got 0"),
        ((5, 8), ValueError, "degree must be 0 to 7, got 8"),
        ((5, -1), ValueError, "degree must be 0 to 7, got -1"),
        ((5.0, 3), TypeError, r"grid_size must be an int, got 5\.0"),
        ((5, True), TypeError, "degree must be an int, got True"),
        ((5, 3, "swish"), ValueError, "activation must be one of .*, got 'swish'"),
    ],
)
def test_a_basis_that_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        Basis(*arguments)
