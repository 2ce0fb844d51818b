"""The Triton kernels of the edge statistics, held against a dense tensor made from scipy's splines.

Run where tests/test_kernels.py is: in the interpreter, on a GPU, or on an emulated one. What is
marked slow would take seconds to compile for every case there.
"""

import pytest
import torch
from cases import ACTIVATIONS, DEVICE, KNOTS, make_basis, make_case
from oracle import basis_values
from torch import Tensor

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from kanfast.kernels import launch

from kanfast import KANLinear, edge_statistics, kernels

pytestmark = pytest.mark.usefixtures("poisoned")

FLOORS = {"float64": 1e-12, "ieee": 1e-6}
DTYPES = tuple(FLOORS)
SHAPES = ((1, 1, 1), (7, 17, 2), (63, 2, 7), (100, 1, 17), (17, 1, 100))
NAMES = ("mean", "mean_abs", "std", "min", "max", "grad_x", "grad_c")
Found = tuple[Tensor, ...]


def signs(t: Tensor) -> Tensor:
    """Weights of the statistics' sum: 1, 2, 3, .. with alternating signs, of the shape of t."""
    values = torch.arange(1, t.numel() + 1, dtype=t.dtype, device=t.device)
    return (values % 7 * (-1) ** values).view(t.shape) / 3


def by_backend(
    case: tuple[Tensor, Tensor, Tensor], basis: object, extremes: bool, backend: str = "triton"
) -> Found:
    """Five statistics and the gradients in x and c of a weighted sum of them."""
    x, c, grid = case
    leaves = [x.detach().clone().requires_grad_(), c.detach().clone().requires_grad_()]
    stats = edge_statistics(*leaves, grid, basis=basis, backend=backend)
    total = sum((t * signs(t)).sum() for t in (stats if extremes else stats[:3]))
    return (*stats, *torch.autograd.grad(total, leaves))


def dense(
    case: tuple[Tensor, Tensor, Tensor], basis: object, extremes: bool
) -> tuple[Found, list[Tensor]]:
    """The same from all activations at once, in float64, basis values from scipy; and, last, the
    sizes of what is added up in each gradient."""
    x, c, grid = (t.cpu() for t in case)
    f = basis_values(x, grid, basis, 0).requires_grad_()
    slopes, wide = basis_values(x, grid, basis, 1), c.double().requires_grad_()
    phi = torch.einsum("bij,jio->boi", f, wide)
    centred = phi - phi.mean(0)
    spread = centred.square().sum(0) / max(1, len(phi) - 1)
    std = torch.where(spread > 0, spread, 1).sqrt() * (spread > 0)
    stats = (phi.mean(0), phi.abs().mean(0), std, phi.min(0).values, phi.max(0).values)
    total = sum((t * signs(t)).sum() for t in (stats if extremes else stats[:3]))
    grad_phi, grad_f, grad_c = torch.autograd.grad(total, [phi, f, wide])
    terms = grad_f * slopes
    sizes = terms.abs().sum(-1), torch.einsum("bij,boi->jio", f.abs(), grad_phi.abs())
    return (*(t.detach() for t in stats), terms.sum(-1), grad_c), [t.detach() for t in sizes]


def check(shape: tuple[int, int, int], basis: object, dtype: str, seed: int = 0) -> None:
    """Errors at most twice those of plain torch in the same dtype, and a few roundings."""
    x, c, _, _, grid = make_case(shape, basis, dtype, seed=seed)
    # In float32 rounding may pick another of two rows that are nearly equal.
    extremes = dtype == "float64"
    found = by_backend((x, c, grid), basis, extremes)
    exact, sizes = dense((x, c, grid), basis, extremes)
    plain = by_backend((x, c, grid), basis, extremes, "reference")
    largest = exact[3:5]
    scales = (*[torch.maximum(*(t.abs() for t in largest))] * 3, *largest, *sizes)
    for name, got, want, yardstick, scale in zip(NAMES, found, exact, plain, scales, strict=True):
        assert got.dtype == x.dtype
        got, yardstick = got.double().cpu(), yardstick.double().cpu()
        assert not got.isnan().any(), name
        floor = FLOORS[dtype] * scale.abs().max()
        error, allowed = ((t - want).abs().max() for t in (got, yardstick))
        assert error <= 2 * allowed + floor, f"{name}: {error:.2e} against {allowed:.2e}"


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_awkward_shapes(shape, dtype, knots):
    check(shape, make_basis(knots=knots), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("degree", range(8))
def test_every_degree(degree, knots):
    check((40, 2, 3), make_basis(4, degree, "silu", knots), "float64")


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    check((40, 2, 3), make_basis(3, 3, activation), "float64")


@pytest.mark.slow
@pytest.mark.parametrize("grid_size", [1, 6, 13, 100])
@pytest.mark.parametrize("knots", KNOTS)
def test_every_grid_size(grid_size, knots):
    check((30, 1, 3), make_basis(grid_size, knots=knots), "float64")


@pytest.mark.parametrize("knots", KNOTS)
def test_a_split_batch_is_joined_and_reproducible(knots):
    basis = make_basis(knots=knots)
    shape = (300, 1, 2)
    x, c, _, _, grid = make_case(shape, basis, "float64")
    tile, _, _ = launch.edges("statistics", basis, x.dtype, shape[0], shape[2])
    assert launch.split_batch(shape[0], shape[1], tile["BLOCK_B"])[0] > 1
    check(shape, basis, "float64")
    first = by_backend((x, c, grid), basis, True)
    assert all(map(torch.equal, by_backend((x, c, grid), basis, True), first))


def test_of_equal_extremes_the_first_row_has_the_gradient():
    basis = make_basis()
    x, c, _, _, grid = make_case((40, 2, 3), basis, "float64")
    x = x.repeat(8, 1).requires_grad_()  # 320 rows: two parts
    stats = edge_statistics(x, c, grid, basis=basis, backend="triton")
    (grad,) = torch.autograd.grad((stats.min + stats.max).sum(), x)
    assert (grad[:40] != 0).any()
    assert (grad[40:] == 0).all()


@pytest.mark.parametrize("activation", ["silu", "relu", "none"])
@pytest.mark.parametrize("knots", KNOTS)
def test_nan_stays_with_its_input_and_its_row(knots, activation):
    basis = make_basis(activation=activation, knots=knots)
    x, c, _, _, grid = make_case((20, 3, 4), basis, "ieee")
    clean = by_backend((x, c, grid), basis, False)
    x[7, 1] = torch.nan
    *stats, grad_x, grad_c = by_backend((x, c, grid), basis, False)
    for got, before in zip(stats, clean, strict=False):
        assert got[:, 1].isnan().all()
        assert torch.equal(got[:, [0, 2]], before[:, [0, 2]])
    assert torch.equal(grad_x[:, [0, 2]], clean[5][:, [0, 2]])
    assert torch.equal(grad_c[:, [0, 2]], clean[6][:, [0, 2]])
    assert grad_c[:, 1].isnan().all()


def test_strided_and_expanded_inputs():
    basis = make_basis()
    x, c, _, _, grid = make_case((24, 6, 8), basis, "float64")
    x[:, 1:] = x[:, :1]
    strided = (
        x[:, :1].expand(24, 6),
        c.transpose(0, 2).contiguous().transpose(0, 2),
        torch.cat([grid, grid], 1)[:, : grid.shape[1]],
    )
    call = {"basis": basis, "backend": "triton"}
    got = edge_statistics(*strided, **call)
    assert all(map(torch.equal, got, edge_statistics(x, c, grid, **call)))


@pytest.mark.parametrize("wanted", range(3))
def test_a_residual_function_that_is_not_fused_and_only_what_is_wanted(wanted):
    """Against the fused function: its slope joins those of the splines, for x alone."""
    fused, bare = make_basis(4, 3, "silu"), make_basis(4, 3, "none")
    x, c, _, _, grid = make_case((25, 3, 4), fused, "float64")
    residual = torch.nn.functional.silu(x)
    needs = tuple(n == wanted for n in range(3))
    stats = kernels.edge_statistics(x, c, residual, grid, basis=bare)
    expected = kernels.edge_statistics(x, c, None, grid, basis=fused)
    torch.testing.assert_close(stats, expected, rtol=1e-12, atol=1e-12)
    gradients = [signs(t) for t in stats]
    found = kernels.edge_statistics_grad(x, c, residual, grid, stats, gradients, needs, basis=bare)
    assert [t is not None for t in found] == list(needs)
    every = kernels.edge_statistics_grad(
        x, c, residual, grid, stats, gradients, (True,) * 3, basis=bare
    )
    assert torch.equal(found[wanted], every[wanted])
    with_slope = kernels.edge_statistics_grad(
        x, c, None, grid, stats, gradients, (True, True, False), basis=fused
    )
    s = torch.sigmoid(x)
    slope = s * (1 + x * (1 - s))
    torch.testing.assert_close(every[0] + slope * every[2], with_slope[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(every[1], with_slope[1], rtol=1e-9, atol=1e-11)


def test_16_bit_tensors_are_computed_in_float32():
    basis = make_basis()
    x, c, _, _, grid = make_case((20, 3, 4), basis, "bfloat16")
    call = {"basis": basis, "backend": "triton"}
    found = edge_statistics(x, c, grid, **call)
    assert all(map(torch.equal, found, edge_statistics(x.float(), c.float(), grid, **call)))
    assert found.mean.dtype == torch.float32


def test_no_outputs_and_a_layer_that_hands_its_backend_on():
    layer = KANLinear(3, 2, backend="triton", device=DEVICE)
    x = torch.rand(20, 3, device=DEVICE)
    found = layer.edge_statistics(x)
    layer.backend = "reference"
    torch.testing.assert_close(found, layer.edge_statistics(x), rtol=1e-5, atol=1e-6)
    basis = make_basis()
    x, c, _, _, grid = make_case((5, 3, 0), basis, "ieee")
    assert edge_statistics(x, c, grid, basis=basis, backend="triton").mean.shape == (0, 3)
