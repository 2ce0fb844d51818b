"""The affine fit: known functions are found again from their samples."""

import math

import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kanfast.symbolic.custom import Differentiable
from kanfast.symbolic.fit import fit_affine
from kanfast.symbolic.library import Library, default_library

LIBRARY = default_library()
SEARCHED = [f for f in LIBRARY.values() if f.search != "constant"]


def evaluate(fits, edge, column, x):
    a, b, c, d = fits.affine[edge, column]
    return c * fits.functions[column](a * x + b) + d


def windows(function):
    """Intervals of arguments on which the function is itself and no other."""
    low, high = function.domain
    if function.name in ("sgn", "abs"):
        return [(-1, 1), (-0.3, 2)]
    if math.isinf(low):
        return [(-1, 1), (-2.5, 1.5), (0.5, 2)]
    if math.isinf(high):
        return [(0.5, 2), (0.02, 1), (2, 9)] + ([(0, 1)] if function.closed else [])
    width = (high - low) * (0 if function.closed else 0.01)
    return [(low + width, high - width), (low / 2, high / 3), (0.1 * high, 0.9 * high)]


@pytest.mark.parametrize("function", SEARCHED, ids=lambda f: f.name)
def test_exact_samples_give_the_function_back(function):
    maps = [(1, 0), (-0.5, 3), (40, 7), (1e-4, 0), (300, -1e4)]  # arguments to x: slope, shift
    x, y = [], []
    for low, high in windows(function):
        u = torch.linspace(low, high, 257, dtype=torch.float64)
        for slope, shift in maps:
            x.append(slope * u + shift)
            y.append(2.5 * function(u) - 0.7)
    x, y = torch.stack(x), torch.stack(y)
    fits = fit_affine(x, y, [function])
    assert fits.residual.max() < 1e-10
    for edge in range(len(x)):
        torch.testing.assert_close(
            evaluate(fits, edge, 0, x[edge]), y[edge], rtol=1e-6, atol=1e-5 * float(y[edge].std())
        )


@pytest.mark.parametrize("function", SEARCHED, ids=lambda f: f.name)
def test_residual_is_that_of_the_parameters(function):
    torch.manual_seed(0)
    x, y = torch.randn(150).double(), torch.randn(3, 150).double()
    y[1] += x.exp()
    fits = fit_affine(x, y, [function])
    assert (fits.affine[..., 0] > 0).all() or not function.symmetric
    for edge in range(3):
        error = (evaluate(fits, edge, 0, x) - y[edge]).square().mean()
        variance = (y[edge] - y[edge].mean()).square().mean()
        assert fits.residual[edge, 0] == pytest.approx(float(error / variance), rel=1e-9)
        assert fits.r2[edge, 0] == 1 - fits.residual[edge, 0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["sin", "cos", "tanh", "gaussian", "arctan", "exp", "x^2", "x^3", "abs"]),
    width=st.floats(0.8, 3.0),
    middle=st.floats(-0.9, 0.9),
    c=st.floats(0.1, 9).flatmap(lambda c: st.sampled_from([c, -c])),
    d=st.floats(-9, 9),
    scale=st.floats(-2, 2),
    shift=st.floats(-5, 5),
)
def test_random_affine_parameters(name, width, middle, c, d, scale, shift):
    function = LIBRARY[name]
    u = torch.linspace(-width, width, 200, dtype=torch.float64) + middle * width
    x = u * 10**scale + shift
    fits = fit_affine(x, (c * function(u) + d)[None], [function])
    assert fits.residual[0, 0] < 1e-10


@pytest.mark.parametrize(
    ("low", "high", "omega"), [(-1, 1, 20), (0, 1, 20), (-10, 10, 20), (-1, 1, 60), (5, 6, 13)]
)
def test_high_frequencies_are_found_in_noise(low, high, omega):
    generator = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(1000, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(1000, generator=generator, dtype=torch.float64)
    y = 3 * torch.sin(omega * x + 1)
    exact, noisy = fit_affine(x, torch.stack([y, y + 3 * noise]), ["sin"]).affine[:, 0]
    assert exact[0] == pytest.approx(omega, rel=1e-9)
    assert noisy[0] == pytest.approx(omega, abs=0.1)
    assert abs(noisy[2]) == pytest.approx(3, rel=0.02)


def test_bessel_function_is_found_without_a_range():
    j1 = Differentiable(torch.special.bessel_j1, lambda x: j0(x) - j1(x) / x)
    j0 = Differentiable(torch.special.bessel_j0, lambda x: -j1(x))
    library = Library()
    library.add("J0", j0, 4)
    x = torch.linspace(-1, 1, 500, dtype=torch.float64)
    y = torch.stack([torch.from_numpy(scipy.special.j0(20 * x.numpy() + k)) for k in (0, 3)])
    fits = fit_affine(x, 5 * y - 1, ["J0"], library=library)
    assert fits.residual.max() < 1e-12
    assert fits.affine[:, 0, 0].tolist() == pytest.approx([20, 20], rel=1e-6)
    assert fits.affine[:, 0, 2].tolist() == pytest.approx([5, 5], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("sin", (-3, 0.4, -2, 1), (3, -0.4, 2, 1)),
        ("sin", (3, 2.5, 1, 0), (3, 2.5 - math.pi, -1, 0)),
        ("cos", (-3, 0, 2, 1), (3, 0, 2, 1)),
        ("cos", (3, math.pi, 2, 1), (3, 0, -2, 1)),
        ("tan", (0.5, math.pi, 1, 0), (0.5, 0, 1, 0)),
        ("tanh", (-2, 1, 3, 0), (2, -1, -3, 0)),
        ("gaussian", (-2, 1, 3, 0), (2, -1, 3, 0)),
        ("x^2", (2, 1, 3, 0), (1, 0.5, 12, 0)),
        ("x^3", (-2, 1, 3, 0), (1, -0.5, -24, 0)),
        ("1/x", (-2, -8, 3, 0), (1, 4, -1.5, 0)),
        ("sqrt", (-4, 16, 3, 0), (-1, 4, 6, 0)),
        ("log", (2, 8, 3, 0), (1, 4, 3, 3 * math.log(2))),
        ("exp", (2, 1, 3, 5), (2, 0, 3 * math.e, 5)),
        ("abs", (-2, 1, 3, 0), (1, -0.5, 6, 0)),
        ("x", (2, 1, 3, 1), (1, 0, 6, 4)),
        ("arccos", (-0.5, 0, 1, 0), (0.5, 0, -1, math.pi)),
    ],
    ids=repr,
)
def test_canonical_parameters(name, arguments, expected):
    a, b, c, d = arguments
    x = torch.linspace(-1.7, 1.3, 101, dtype=torch.float64)
    fits = fit_affine(x, (c * LIBRARY[name](a * x + b) + d)[None], [name])
    assert fits.affine[0, 0].tolist() == pytest.approx(expected, abs=1e-7)


def test_twins_are_fitted_alike():
    torch.manual_seed(0)
    x, y = torch.rand(80).double() + 0.1, torch.randn(2, 80).double()
    twins = ["sqrt", "x^0.5", "1/sqrt(x)", "1/x^0.5", "sin", "cos", "arcsin", "arccos"]
    residual = fit_affine(x, y, twins).residual
    torch.testing.assert_close(residual[:, ::2], residual[:, 1::2], rtol=1e-9, atol=0)


def test_whole_library_on_an_edge_with_noise_finds_its_parameters():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2000, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(2000, generator=generator, dtype=torch.float64)
    fits = fit_affine(x, (2 * torch.tanh(1.5 * x - 0.5) + 1 + noise)[None])
    a, b, c, d = fits.affine[0, fits.index("tanh")].tolist()
    assert (a, b, c, d) == pytest.approx((1.5, -0.5, 2, 1), abs=0.03)
    assert fits.residual.argmin() == fits.index("tanh")
    assert fits.affine.isfinite().all()
    assert (fits.residual >= 0).all()
    assert (fits.residual <= 1 + 1e-12).all()


@pytest.mark.parametrize("name", ["log", "sqrt", "1/x", "1/x^4", "arcsin", "arctanh", "tan"])
def test_arguments_stay_inside_the_domain_on_all_samples(name):
    torch.manual_seed(2)
    function = LIBRARY[name]
    x, y = 3 * torch.randn(4, 300).double() + 1, torch.randn(4, 300).double()
    y[1] += x[1]
    y[2] += 5 * (x[2] > 0)
    fits = fit_affine(x, y, [name])
    u = fits.affine[:, 0, 0, None] * x + fits.affine[:, 0, 1, None]
    if function.search == "location":
        one_side = (u.amin(1) * u.amax(1)) >= 0
        assert one_side.all()
        assert (u >= 0).all() or function.symmetric
    else:
        period = function.period or 0
        u = u - period * torch.round((u.amin(1, True) + u.amax(1, True)) / 2 / (period or 1))
        assert u.min() >= function.domain[0] - 1e-9
        assert u.max() <= function.domain[1] + 1e-9


def test_scale_of_x_and_y_does_not_matter():
    x = torch.linspace(0.1, 1, 60, dtype=torch.float64)
    y = torch.log(x) + x
    plain = fit_affine(x, y[None]).residual[0]
    scaled = fit_affine(1e-8 * x + 1e-9, 1e-30 * y[None]).residual[0]
    torch.testing.assert_close(plain, scaled, rtol=1e-4, atol=1e-10)


def test_edges_share_or_have_their_own_inputs():
    x = torch.linspace(-1, 1, 90, dtype=torch.float64)
    y = torch.stack([x.sin(), x.exp()])
    shared, own = fit_affine(x, y), fit_affine(torch.stack([x, x]), y)
    assert torch.equal(shared.affine, own.affine)
    shuffled = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    again = fit_affine(x[shuffled], y[:, shuffled])
    torch.testing.assert_close(again.residual, shared.residual, rtol=1e-6, atol=1e-12)


def test_weights_count_like_repetitions():
    torch.manual_seed(0)
    x, y = torch.rand(60).double(), torch.randn(1, 60).double()
    times = torch.arange(60) % 3 + 1
    names = ["x", "x^2", "exp", "sgn", "sqrt"]
    weighted = fit_affine(x, y, names, weights=times.double())
    repeated = fit_affine(x.repeat_interleave(times), y.repeat_interleave(times, 1), names)
    torch.testing.assert_close(weighted.residual, repeated.residual, rtol=1e-7, atol=0)
    torch.testing.assert_close(weighted.affine, repeated.affine, rtol=1e-4, atol=1e-4)


def test_samples_of_no_weight_do_not_count():
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    y = torch.where(x > 0.5, 50, x.square())[None]
    fits = fit_affine(x, y, ["x^2"], weights=(x <= 0.5).double())
    assert fits.residual[0, 0] < 1e-20


def test_more_samples_than_are_refined_on():
    x = torch.linspace(-2, 2, 5000, dtype=torch.float64)
    noise = 0.1 * torch.sin(1e5 * x)
    few = fit_affine(x, (torch.tanh(2 * x) + noise)[None], ["tanh"], max_samples=100)
    assert few.affine[0, 0].tolist() == pytest.approx([2, 0, 1, 0], abs=0.2)
    error = evaluate(few, 0, 0, x) - torch.tanh(2 * x) - noise
    assert error.mean().abs() < 1e-12  # c and d are those of all samples


def test_constant_edges():
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)
    y = torch.stack([torch.zeros(30), torch.full((30,), 0.1), x.float()]).double()
    fits = fit_affine(x, y)
    assert fits.live.tolist() == [False, False, True]
    assert (fits.residual[:2] == 0).all()
    assert (fits.affine[:2, :, 2] == 0).all()
    assert fits.affine[1, :, 3].tolist() == pytest.approx([0.1] * 29)
    still = fit_affine(torch.ones(30), y)
    assert not still.live.any()
    assert still.residual[2].tolist() == [1] * 29


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_samples(count):
    torch.manual_seed(count)
    x = torch.linspace(-1, 1, count, dtype=torch.float64)
    fits = fit_affine(x, torch.randn(3, count, dtype=torch.float64))
    assert fits.affine.isfinite().all()
    assert fits.residual.isfinite().all()
    if count == 2:
        assert fits.residual[:, fits.index("x")].max() < 1e-20


def test_repeated_inputs():
    x = torch.tensor([0.0, 0, 0, 1, 1, 2, 2, 2]).double()
    y = torch.tensor([[1.0, 1, 1, 2, 2, 5, 5, 5]]).double()
    fits = fit_affine(x, y)
    assert fits.residual[0, fits.index("x^2")] < 1e-20
    assert fits.affine.isfinite().all()


def test_steps_between_and_at_samples():
    x = torch.tensor([-1.0, -0.5, 0.25, 0.5, 2.0]).double()
    y = torch.stack([3 * torch.sign(x) + 1, 2 * torch.sign(x - 0.25)])
    fits = fit_affine(x, y, ["sgn"])
    assert fits.residual.max() < 1e-25
    assert fits.affine[0, 0].tolist() == pytest.approx([1, 0.125, 3, 1])
    assert fits.affine[1, 0].tolist() == pytest.approx([1, -0.25, 2, 0])


def test_no_edges():
    assert fit_affine(torch.zeros(5), torch.zeros(0, 5)).affine.shape == (0, 29, 4)


def test_any_dtype_gives_float64_on_the_cpu():
    x = torch.linspace(-1, 1, 64, dtype=torch.float16)
    fits = fit_affine(x, x.square()[None])
    assert fits.affine.dtype == torch.float64
    assert fits.residual[0, fits.index("x^2")] < 1e-6


def test_gradients_do_not_flow_and_grad_mode_does_not_matter():
    x = torch.linspace(-1, 1, 64, requires_grad=True)
    with torch.no_grad():
        fits = fit_affine(x, x.tanh()[None], ["tanh", "gaussian"])
    assert not fits.affine.requires_grad
    assert fits.residual[0, 0] < 1e-10


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        ([0.0], [[0.0, 1]], {}, ValueError, r"x of shape \(2,\) or \(1, 2\) .* got \(1,\)"),
        ([0.0], [0.0], {}, ValueError, r"y of shape \[edges, samples >= 1\], got \(1,\)"),
        ([], [[]], {}, ValueError, r"got \(1, 0\)"),
        ([0, 1], [[0.0, 1]], {}, TypeError, "x to be a floating tensor, got torch.int64"),
        (
            [0.0, 1],
            [[0, math.nan]],
            {},
            ValueError,
            "1 NaN or infinite values in y, first in edge 0",
        ),
        ([0.0, math.inf], [[0.0, 1]], {}, ValueError, "1 NaN or infinite values in x; leave"),
        (
            [0.0, 1],
            [[0.0, 1]],
            {"weights": torch.tensor([-1.0, 1])},
            ValueError,
            "weights >= 0, .* of edge 0 between -1 and 1",
        ),
        ([0.0, 1], [[0.0, 1]], {"weights": torch.zeros(2)}, ValueError, "not all of them 0"),
        ([0.0, 1], [[0.0, 1]], {"max_samples": 1}, ValueError, "max_samples >= 2, got 1"),
        ([0.0, 1], [[0.0, 1]], {"functions": ["nope"]}, KeyError, "no symbolic function 'nope'"),
    ],
    ids=repr,
)
def test_errors(x, y, options, error, message):
    with pytest.raises(error, match=message):
        fit_affine(torch.tensor(x), torch.tensor(y), **options)


def test_x_that_is_no_tensor():
    with pytest.raises(TypeError, match="expected x to be a floating tensor, got list"):
        fit_affine([0.0, 1.0], torch.zeros(1, 2))


def test_index_of_a_function_that_was_not_fitted():
    fits = fit_affine(torch.linspace(0, 1, 5), torch.zeros(1, 5), ["x"])
    with pytest.raises(ValueError, match=r"one of the fitted functions \['x'\], got 'sin'"):
        fits.index("sin")
