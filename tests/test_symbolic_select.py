"""The choice of a function: right for exact edges and for splines that only approximate it."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline, make_lsq_spline

from kanfast.symbolic.fit import fit_affine
from kanfast.symbolic.library import Library, default_library
from kanfast.symbolic.select import scores, suggest

TWINS = {"x^0.5": "sqrt", "1/x^0.5": "1/sqrt(x)", "arccos": "arcsin"}


def spline(function, low, high, grid_size, seed=0):
    """1000 samples of the cubic spline of least squares on a grid of `grid_size` intervals."""
    x = np.sort(np.random.default_rng(seed).uniform(low, high, 1000))
    knots = np.r_[[low] * 3, np.linspace(low, high, grid_size + 1), [high] * 3]
    return x, make_lsq_spline(x, function(x), knots, 3)(x)


def smooth_error(x, y, size, seed):
    """A cubic spline of random coefficients, `size` times as large as y."""
    low, high = x.min(), x.max()
    knots = np.r_[[low] * 3, np.linspace(low, high, 6), [high] * 3]
    error = BSpline(knots, np.random.default_rng(seed).normal(size=8), 3)(x)
    return y + error * size * y.std() / error.std()


def best(curves):
    x, y = (torch.from_numpy(np.stack(columns)) for columns in zip(*curves, strict=True))
    names = [report.best.name for report in suggest(fit_affine(x, y))]
    return [TWINS.get(name, name) for name in names]


SPLINES = [
    ("x", lambda x: 2 * x + 1, -1, 1, 3),
    ("x^2", lambda x: x**2, -1, 1, 3),
    ("x^2", lambda x: (x - 0.3) ** 2, -1, 1, 3),
    ("x^2", lambda x: x**2, -3, 2, 3),
    ("x^3", lambda x: x**3, -1, 1, 3),
    ("x^4", lambda x: x**4, -1, 1, 3),
    ("sin", lambda x: np.sin(np.pi * x), -1, 1, 3),
    ("sin", lambda x: np.sin(5 * x), -1, 1, 5),
    ("cos", lambda x: np.cos(np.pi * x), -1, 1, 3),
    ("exp", np.exp, -1, 1, 3),
    ("exp", lambda x: np.exp(-2 * x), -1, 1, 3),
    ("exp", np.exp, -2, 2, 3),
    ("log", np.log, 0.5, 2, 3),
    ("log", np.log, 0.1, 2, 5),
    ("sqrt", np.sqrt, 0.1, 2, 3),
    ("sqrt", np.sqrt, 0, 1, 3),
    ("1/x", lambda x: 1 / x, 0.5, 2, 3),
    ("1/x^2", lambda x: 1 / x**2, 0.5, 2, 5),
    ("gaussian", lambda x: np.exp(-(x**2)), -2, 2, 5),
    ("gaussian", lambda x: np.exp(-(x**2) / 2), -1, 1, 5),
    ("tanh", lambda x: np.tanh(3 * x), -1, 1, 3),
    ("abs", np.abs, -1, 1, 5),
]


@pytest.mark.parametrize("grid_size", [0, 3, 5, 10], ids=lambda g: f"G={g}" if g else "exact")
def test_splines_are_recognised_in_the_whole_library(grid_size):
    cases = [case for case in SPLINES if grid_size == 0 or case[4] <= grid_size]
    curves = []
    for _, function, low, high, _ in cases:
        x, y = spline(function, low, high, max(grid_size, 1))
        curves.append((x, y if grid_size else function(x)))
    assert best(curves) == [case[0] for case in cases]


def test_splines_with_errors_of_a_thousandth_are_recognised():
    cases = [case for case in SPLINES if case[0] in ("x", "x^2", "x^3", "sin", "cos", "exp", "log")]
    curves = []
    for _, function, low, high, _ in cases:
        for seed in range(3):
            x, y = spline(function, low, high, 10)
            curves.append((x, smooth_error(x, y, 1e-3, seed)))
    expected = [case[0] for case in cases for _ in range(3)]
    right = sum(a == b for a, b in zip(best(curves), expected, strict=True))
    assert right >= 0.9 * len(expected)


def test_parabola_is_preferred_over_what_looks_like_one():
    x = np.linspace(-1, 1, 500)
    curves = [(x, smooth_error(x, x**2, size, seed)) for size in (1e-4, 1e-3) for seed in range(5)]
    assert best(curves) == ["x^2"] * 10


def test_sin_and_cos_are_told_apart_by_the_phase():
    x = torch.linspace(-2, 2, 100, dtype=torch.float64)
    reports = suggest(fit_affine(x, torch.stack([torch.sin(3 * x + 0.2), torch.cos(3 * x - 0.2)])))
    assert [report.best.name for report in reports] == ["sin", "cos"]
    # they are one family, so that there are two of them makes nothing uncertain
    assert all(report.margin > 10 for report in reports)


def test_live_edge_is_never_zero_and_constant_edge_is():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fits = fit_affine(x, torch.stack([1e-12 * noise, x * 0 + 2, x * 0]))
    reports = suggest(fits)
    assert [report.best.name for report in reports] == [reports[0].best.name, "0", "0"]
    assert reports[0].best.name != "0"
    assert reports[0].uncertain
    assert not reports[1].uncertain
    assert reports[1].best.params[3] == 2
    assert scores(fits)[0, fits.index("0")] == math.inf
    assert scores(fits, rule="pykan")[0, fits.index("0")] == math.inf


def test_pykan_rule():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    fits = fit_affine(x, torch.exp(x)[None], ["x", "exp", "gaussian"])
    table = scores(fits, rule="pykan", weight_simple=0.7)[0]
    for column, (complexity, r2) in enumerate(zip([1, 2, 3], fits.r2[0].tolist(), strict=True)):
        expected = 0.7 * complexity + 0.3 * math.log2(1 + 1e-5 - r2)
        assert table[column] == pytest.approx(expected, abs=0.02)
    assert suggest(fits, rule="pykan", weight_simple=0)[0].best.name == "exp"
    assert suggest(fits, rule="pykan", weight_simple=1)[0].best.name == "x"


def test_noise_makes_small_residuals_equal():
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)
    y = (x**2 + 0.003 * torch.sin(3 * x))[None]
    fits = fit_affine(x, y)
    assert suggest(fits, noise=1e-4)[0].best.name == "x^2"
    assert scores(fits, noise=1e-4).min() > scores(fits, noise=1e-9).min()


def test_more_parameters_than_samples_are_no_fit():
    x = torch.tensor([-1.0, 0.1, 1.0], dtype=torch.float64)
    fits = fit_affine(x, torch.tensor([[1.0, 2.0, 3.1]], dtype=torch.float64))
    assert suggest(fits)[0].best.name == "x"


def test_report():
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    fits = fit_affine(x, torch.stack([torch.exp(x), x * 0]))
    report, constant = suggest(fits, topk=3, edges=["(0, 0, 1)", "(0, 0, 2)"])
    lines = str(report).splitlines()
    assert lines[0] == "(0, 0, 1)"
    header = ["function", "score", "1 - r2", "complexity", "c f(a x + b) + d"]
    assert re.split(r"\s{2,}", lines[1]) == header
    assert lines[2].split()[0] == "exp"
    assert lines[2].endswith("a=1, b=0, c=1, d=0")
    assert len(lines) == 5
    assert str(constant).startswith("(0, 0, 2) (constant)")
    first = report.candidates[0]
    assert first.function is default_library()["exp"]
    assert first.complexity == 2
    assert [c.score for c in report.candidates] == sorted(c.score for c in report.candidates)
    assert report.margin == pytest.approx(report.candidates[1].score - first.score)


def test_single_candidate():
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    report = suggest(fit_affine(x, x[None], ["x"]))[0]
    assert report.margin == math.inf
    assert not report.uncertain


def test_added_function_wins_where_it_belongs():
    library = Library()
    library.add("sinc", torch.special.sinc, 4)
    x = torch.linspace(-1, 1, 300, dtype=torch.float64)
    report = suggest(fit_affine(x, torch.special.sinc(4 * x)[None], library=library))[0]
    assert report.best.name == "sinc"
    assert report.best.params == pytest.approx((4, 0, 1, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "aic"}, 'expected rule "length" or "pykan", got \'aic\''),
        ({"rule": "pykan", "weight_simple": 2}, r"weight_simple in \[0, 1\], got 2"),
        ({"noise": 0}, "expected noise > 0, got 0"),
        ({"topk": 0}, "expected topk >= 1, got 0"),
        ({"edges": ["a", "b"]}, "expected 1 names of edges, got 2"),
    ],
    ids=repr,
)
def test_errors(options, message):
    x = torch.linspace(-1, 1, 10)
    with pytest.raises(ValueError, match=message):
        suggest(fit_affine(x, x[None], ["x"]), **options)
