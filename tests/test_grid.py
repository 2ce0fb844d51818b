"""Knots and least-squares fits, against scipy and answers worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from oracle import spline_values
from torch.utils._python_dispatch import TorchDispatchMode

from kanfast.engine import grid as grids

RANGES = [(-1, 1), (0, 1), (-0.1, 0.1), (0, 6.28), (-1000, 1000), (100, 110)]


def splines(points: torch.Tensor, knots: torch.Tensor, degree: int) -> np.ndarray:
    """scipy's B-splines [N, G+k] at points [N]."""
    return spline_values(points.numpy(), knots.numpy(), degree, 0)


def scattered(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def uneven_knots(inputs: int, grid_size: int, degree: int) -> torch.Tensor:
    steps = 0.2 + scattered(inputs, grid_size + 2 * degree, seed=3).abs()
    return torch.cat([torch.zeros(inputs, 1), steps.cumsum(1)], 1) - 2


def test_uniform_knots_by_hand() -> None:
    knots = grids.uniform_knots((-1, 1), 4, 2, 3, dtype=torch.float64)
    row = [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2]
    assert torch.equal(knots, torch.tensor([row] * 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("grid_range", RANGES, ids=str)
def test_equal_spacing_is_seen_through_rounding(
    grid_range: tuple[float, float], dtype: torch.dtype
) -> None:
    for grid_size in (1, 2, 3, 5, 7, 20, 100, 500):
        for degree in range(8):
            knots = grids.uniform_knots(grid_range, grid_size, degree, 2, dtype=dtype)
            assert grids.is_uniform(knots, degree), (grid_size, degree)


def test_knots_that_are_not_equally_spaced() -> None:
    knots = grids.uniform_knots((-1, 1), 5, 3, 3, dtype=torch.float32)
    assert not grids.is_uniform(knots.double(), 3), "rounded to float32, off by 1e-8"
    for change in (1e-5, float("nan")):
        moved = knots.clone()
        moved[2, 6] += change
        assert not grids.is_uniform(moved, 3)
    assert not grids.is_uniform(torch.zeros_like(knots), 3)
    assert not grids.is_uniform(knots.flip(1), 3)


def test_each_input_may_have_its_own_spacing() -> None:
    rows = [
        grids.uniform_knots(r, 5, 3, 1, dtype=torch.float32) for r in ((-1, 1), (2, 9), (0, 0.1))
    ]
    assert grids.is_uniform(torch.cat(rows), 3)


@pytest.mark.parametrize("degree", range(8))
def test_b_splines_are_scipys(degree: int) -> None:
    knots = uneven_knots(2, 4, degree)
    points = scattered(50, 2, scale=2.0)
    values = grids.b_splines(points, knots, degree)
    expected = [splines(points[:, i], knots[i], degree) for i in range(2)]
    np.testing.assert_allclose(values, np.stack(expected, 1), rtol=0, atol=1e-13)


def test_b_splines_are_differentiable() -> None:
    knots = uneven_knots(2, 4, 3)
    points = scattered(6, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: grids.b_splines(x, knots, 3), points)


def test_b_splines_on_repeated_knots() -> None:
    knots = torch.tensor([[-2, -1, 0, 0, 0, 0, 0.5, 1, 2, 3.0]], dtype=torch.float64)
    points = torch.tensor([[-0.5], [0.0], [0.25], [0.75]], dtype=torch.float64)
    values = grids.b_splines(points, knots, 3)
    assert values.isfinite().all()
    torch.testing.assert_close(values[1:3].sum(-1), torch.ones(2, 1, dtype=torch.float64))


@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_fit_finds_the_curve_it_was_given(degree: int) -> None:
    knots = uneven_knots(3, 6, degree)
    low, high = knots[:, degree], knots[:, degree + 6]
    points = low + (high - low) * torch.linspace(0, 0.999, 80, dtype=torch.float64)[:, None]
    coefficients = scattered(4, 3, 6 + degree, seed=1)
    curves = torch.einsum("nij,oij->nio", grids.b_splines(points, knots, degree), coefficients)
    fitted = grids.fit_coefficients(points, curves, knots, degree)
    torch.testing.assert_close(fitted, coefficients, rtol=0, atol=1e-8)


def test_fit_has_minimal_norm() -> None:
    knots = grids.uniform_knots((-1, 1), 5, 3, 2, dtype=torch.float64)
    points = knots[:, 3:-3].T  # 6 points for 8 coefficients
    curves = scattered(6, 2, 3)
    basis = grids.b_splines(points, knots, 3).transpose(0, 1)
    expected = (torch.linalg.pinv(basis) @ curves.transpose(0, 1)).permute(2, 0, 1)
    fitted = grids.fit_coefficients(points, curves, knots, 3)
    torch.testing.assert_close(fitted, expected, rtol=0, atol=1e-12)


def test_fit_is_differentiable_in_the_values() -> None:
    knots = grids.uniform_knots((-1, 1), 3, 2, 1, dtype=torch.float64)
    points = torch.linspace(-1, 0.99, 9, dtype=torch.float64)[:, None]
    curves = scattered(9, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y: grids.fit_coefficients(points, y, knots, 2), curves, atol=1e-6
    )


@pytest.mark.parametrize("samples", [1, 3, 30])
def test_rank_deficient_fits_are_finite_and_pass_through_the_points(samples: int) -> None:
    knots = grids.uniform_knots((-1, 1), 5, 3, 2, dtype=torch.float32)
    points = torch.full((samples, 2), 0.3)
    curves = scattered(1, 2, 3).float().expand(samples, -1, -1)
    fitted = grids.fit_coefficients(points, curves, knots, 3)
    values = torch.einsum("nij,oij->nio", grids.b_splines(points, knots, 3), fitted)
    torch.testing.assert_close(values, curves, rtol=0, atol=1e-6)


def evaluated(points: torch.Tensor, knots: torch.Tensor, coefficients: torch.Tensor) -> np.ndarray:
    """Curves [N, I, O] of cubic splines, by scipy."""
    columns = [splines(points[:, i], knots[i], 3) for i in range(len(knots))]
    return np.einsum("inj,oij->nio", np.stack(columns), coefficients)


def test_refit_on_a_finer_grid_is_exact() -> None:
    old = grids.uniform_knots((-1, 1), 4, 3, 3, dtype=torch.float64)
    new = grids.uniform_knots((-1, 1), 12, 3, 3, dtype=torch.float64)
    coefficients = scattered(2, 3, 7)
    samples = torch.linspace(-1, 0.999, 100, dtype=torch.float64)[:, None].expand(-1, 3)
    fitted = grids.refit(coefficients, samples, old, new, 3)
    np.testing.assert_allclose(
        evaluated(samples, new, fitted), evaluated(samples, old, coefficients), atol=1e-11
    )


def test_refit_is_the_least_squares_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    old = grids.uniform_knots((-2, 2), 5, 3, 4, dtype=torch.float64)
    samples = scattered(300, 4, scale=0.8)
    new = grids.knots_from_samples(samples, old, 3, grid_eps=0.3, margin=0.1)
    coefficients = scattered(2, 4, 8)
    targets = evaluated(samples, old, coefficients)
    bases = [splines(samples[:, i], new[i], 3) for i in range(4)]
    expected = np.stack([np.linalg.lstsq(bases[i], targets[:, i])[0].T for i in range(4)], 1)
    for elements, rows in ((2**21, 1024), (1, 7), (5000, 64)):
        monkeypatch.setattr(grids, "_ELEMENTS", elements)
        monkeypatch.setattr(grids, "_SAMPLES", rows)
        fitted = grids.refit(coefficients, samples, old, new, 3)
        np.testing.assert_allclose(fitted, expected, rtol=0, atol=1e-10)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any op makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_refit_needs_no_more_memory_than_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "_ELEMENTS", 2**14)
    monkeypatch.setattr(grids, "_SAMPLES", 64)
    grid = grids.uniform_knots((-3, 3), 5, 3, 20, dtype=torch.float64)
    samples, coefficients = scattered(4000, 20), scattered(30, 20, 8)
    with Largest() as largest:
        knots = grids.knots_from_samples(samples, grid, 3, grid_eps=0.5, margin=0.1)
        grids.refit(coefficients, samples, grid, knots, 3)
    assert largest.elements <= samples.numel(), "the basis alone has eight times as many"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_refit_follows_the_old_spline_where_samples_are_missing(count: int) -> None:
    old = grids.uniform_knots((-1, 1), 5, 3, 2, dtype=torch.float64)
    new = grids.uniform_knots((-0.8, 0.8), 5, 3, 2, dtype=torch.float64)
    coefficients = scattered(3, 2, 8)
    samples = scattered(count, 2, scale=0.3)
    fitted = grids.refit(coefficients, samples, old, new, 3)
    np.testing.assert_allclose(
        evaluated(samples, new, fitted), evaluated(samples, old, coefficients), atol=1e-6
    )
    between = torch.linspace(-0.79, 0.79, 80, dtype=torch.float64)[:, None].expand(-1, 2)
    before, after = evaluated(between, old, coefficients), evaluated(between, new, fitted)
    assert np.abs(after - before).max() < 0.25 * np.abs(before).max()


def test_knots_from_samples_by_hand() -> None:
    samples = torch.arange(100, dtype=torch.float64)[torch.randperm(100)][:, None]
    grid = torch.zeros(1, 8)
    quantiles = grids.knots_from_samples(samples, grid, 1, grid_eps=0.0, margin=1.0)
    step = 101 / 5
    assert quantiles[0, 1:-1].tolist() == [0, 19, 39, 59, 79, 99]
    torch.testing.assert_close(quantiles[0, [0, -1]], torch.tensor([-step, 99 + step]))
    equal = grids.knots_from_samples(samples, grid, 1, grid_eps=1.0, margin=1.0)
    torch.testing.assert_close(equal[0], torch.arange(-1.0, 7.0) * step - 1)
    assert equal.dtype == torch.float32


def test_knots_that_the_dtype_cannot_tell_apart_stay_where_they_are() -> None:
    grid = grids.uniform_knots((-1, 1), 5, 3, 3, dtype=torch.float32)
    samples = torch.tensor([[0.3, 1e7, 0.0]]).expand(20, -1)
    knots = grids.knots_from_samples(samples, grid, 3, grid_eps=0.02, margin=0.01)
    assert torch.equal(knots[1], grid[1])
    assert (knots[[0, 2]].diff(dim=1) > 0).all()
    still = grids.knots_from_samples(samples, grid, 3, grid_eps=0.02, margin=0.0)
    assert torch.equal(still, grid)
