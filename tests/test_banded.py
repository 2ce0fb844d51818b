"""Least squares on fine grids against numpy's on matrices of all splines, and scipy's B-splines."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from cases import make_layer, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import spline_values
from torch import Tensor

from kanfast.engine import banded
from kanfast.engine import grid as grids

OUTPUTS = 3


def scattered(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def matrix(points: Tensor, knots: Tensor, degree: int) -> np.ndarray:
    """All splines [I, N, G+k] at points [I, N], by scipy."""
    rows = zip(points.numpy(), knots.numpy(), strict=True)
    return np.stack([spline_values(x, t, degree, 0) for x, t in rows])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7), st.integers(1, 30), st.integers(0, 2**20), st.booleans())
def test_local_splines_are_scipys(degree: int, size: int, seed: int, repeated: bool) -> None:
    knots = scattered(2, size + 2 * degree + 1, seed=seed).sort(dim=1).values
    if repeated:
        knots[:, size // 2 : size // 2 + degree + 1] = knots[:, size // 2, None]
    points = torch.cat([scattered(2, 40, seed=seed + 1), knots, 1e3 * knots[:, :3]], dim=1)
    local, dense = banded.local_splines(points, knots, degree), matrix(points, knots, degree)
    coefficients, curves = scattered(2, size + degree, OUTPUTS), scattered(*points.shape, OUTPUTS)
    np.testing.assert_allclose(local.sums(coefficients), dense @ coefficients.numpy(), atol=1e-12)
    products = np.swapaxes(dense, 1, 2) @ curves.numpy()
    np.testing.assert_allclose(local.products(curves), products, atol=1e-11)
    gram = np.swapaxes(dense, 1, 2) @ dense
    for d in range(min(degree + 1, size + degree)):
        diagonal = np.diagonal(gram, d, 1, 2)
        np.testing.assert_allclose(local.bands()[:, : diagonal.shape[1], d], diagonal, atol=1e-12)


@pytest.mark.parametrize("size", [3, 40, 200])
@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_determined_fits_are_numpys(degree: int, size: int) -> None:
    knots = torch.rand(2, size + 2 * degree, dtype=torch.float64) + 0.1
    knots = torch.nn.functional.pad(knots.cumsum(1), (1, 0))
    points = grids.between(knots, degree + 2)
    curves = scattered(*points.shape, OUTPUTS)
    dense = matrix(points, knots, degree)
    best = np.stack([np.linalg.lstsq(a, b)[0] for a, b in zip(dense, curves.numpy(), strict=True)])
    start = scattered(2, size + degree, OUTPUTS, seed=9)
    fitted = banded.least_squares(banded.local_splines(points, knots, degree), curves, start)
    np.testing.assert_allclose(fitted, best, rtol=0, atol=1e-9 * np.abs(best).max())


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_what_points_leave_open_stays_where_it_starts(count: int) -> None:
    """The change is that of the minimal norm, which numpy finds, too."""
    knots = grids.uniform_knots((-1, 1), 100, 3, 2, dtype=torch.float64)
    points = torch.linspace(-0.5, 0.5, count, dtype=torch.float64).expand(2, -1)
    curves, start = scattered(2, count, OUTPUTS), scattered(2, 103, OUTPUTS, seed=1)
    fitted = banded.least_squares(banded.local_splines(points, knots, 3), curves, start)
    dense = matrix(points, knots, 3)
    change = np.linalg.pinv(dense) @ (curves.numpy() - dense @ start.numpy())
    np.testing.assert_allclose(fitted, start.numpy() + change, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [1, 70, 700])
@pytest.mark.parametrize("grid_eps", [0.02, 1.0])
@pytest.mark.parametrize("degree", [0, 2, 3])
def test_a_layer_is_kept_as_well_as_by_dense_fits(
    degree: int, grid_eps: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the samples and between them; they differ in directions that samples hardly determine."""
    x, offs = samples(count, 3), []
    for fine in (10**9, 0):
        monkeypatch.setattr(grids, "_FINE", fine)
        layer = make_layer(3, 2, 80, degree, grid_eps=grid_eps)
        old = deepcopy(layer)
        layer.update_grid(x)
        between = grids.between(layer.grid[:, degree : 81 + degree], 3).T.contiguous()
        offs.append([(layer(at) - old(at)).norm().item() for at in (x, between)])
    (at_samples, between), (by_banded, between_by_banded) = offs
    size = old(x).norm().item()
    assert by_banded <= 1.001 * at_samples + 0.01 * size
    assert between_by_banded <= 1.5 * between + 1e-9 * size
    if (count, grid_eps) == (700, 0.02):
        assert offs[1] == pytest.approx(offs[0], rel=1e-6)


def test_fine_fits_are_differentiable_in_the_values() -> None:
    knots = grids.uniform_knots((-1, 1), 70, 3, 1, dtype=torch.float64)
    points = torch.linspace(-1, 0.99, 6, dtype=torch.float64)[:, None]
    curves = scattered(6, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y: grids.fit_coefficients(points, y, knots, 3), curves, eps=1.0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid_size", [5, 100])
def test_samples_of_any_size(dtype: torch.dtype, grid_size: int) -> None:
    largest = torch.finfo(dtype).max
    for share in (1e-30, 1e-8, 0.1):
        layer, x = make_layer(3, 4, grid_size, dtype=dtype), samples(50, 3).to(dtype)
        layer.update_grid(x / x.abs().max() * largest * share)
        assert all(t.isfinite().all() for t in layer.state_dict().values())
    layer = make_layer(3, 4, grid_size, dtype=dtype)
    before = layer.grid.clone()
    x[:, [0, 2]] = 0.3
    with pytest.raises(ValueError, match=r"3 more knots .* the features \[1\]: scale them down"):
        layer.update_grid(torch.where(x == 0.3, x, x / x[:, 1].abs().max() * largest))
    assert torch.equal(layer.grid, before)
