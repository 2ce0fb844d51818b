"""Edge statistics against a dense B x O x I tensor made from scipy's splines, and its autograd.

On the CPU, in plain torch and native code; the Triton kernels have a file of their own.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from cases import ACTIVATIONS, KNOTS, make_basis, make_case, make_grid
from oracle import basis_values
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from kanfast import KANLinear
from kanfast.engine import chunked, native
from kanfast.engine.native import statistics as native_statistics
from kanfast.engine.statistics import EdgeStatistics
from kanfast.engine.statistics import edge_statistics as by_backend

SHAPES = ((1, 1, 1), (2, 3, 4), (7, 17, 13), (300, 2, 5), (130, 66, 7), (5000, 1, 70))
CUBIC = make_basis(5, 3, "silu")
Statistics = Callable[..., EdgeStatistics]
built = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


def dense(phi: Tensor) -> EdgeStatistics:
    """The definition, phi [B, O, I]; the deviation with gradient 0 where it is 0."""
    centred = phi - phi.mean(0)
    spread = centred.square().sum(0) / max(1, len(phi) - 1)
    std = torch.where(spread > 0, spread, 1).sqrt() * (spread > 0)
    low, high = phi.min(0).values, phi.max(0).values  # of equal ones the first, here as there
    return EdgeStatistics(phi.mean(0), phi.abs().mean(0), std, low, high)


def activations(x: Tensor, c: Tensor, grid: Tensor, basis: object) -> Tensor:
    return torch.einsum("bij,jio->boi", basis_values(x, grid, basis, 0), c.double())


@pytest.fixture(params=["one chunk", "many chunks", "native"])
def edge_statistics(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Statistics:
    """`kanfast.edge_statistics` by each of the CPU's backends."""
    if request.param == "native":
        if not native.available():
            pytest.skip(f"native: {native.obstacle()}")
        return partial(by_backend, backend="native")
    if request.param == "many chunks":
        monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 50)
        monkeypatch.setattr(chunked, "MIN_ROWS", 3)
    return partial(by_backend, backend="reference")


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(edge_statistics: Statistics, shape: tuple[int, int, int], knots: str) -> None:
    basis = make_basis(4, 2, "silu", knots)
    x, c, _, _, grid = make_case(shape, basis, "float64")
    expected = dense(activations(x, c, grid, basis))
    for name, found, wanted in zip(
        EdgeStatistics._fields, edge_statistics(x, c, grid, basis=basis), expected, strict=True
    ):
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_residual_function(edge_statistics: Statistics, activation: str) -> None:
    basis = make_basis(3, 3, activation)
    x, c, _, _, grid = make_case((20, 3, 4), basis, "float64")
    expected = dense(activations(x, c, grid, basis))
    torch.testing.assert_close(
        edge_statistics(x, c, grid, basis=basis), expected, rtol=1e-12, atol=1e-13
    )


def weighted(stats: tuple[Tensor, ...], seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sum(
        (t.double() * torch.randn(t.shape, generator=generator, dtype=torch.float64)).sum()
        for t in stats
    )


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_gradients_of_all_statistics(edge_statistics: Statistics, degree: int, knots: str) -> None:
    basis = make_basis(4, degree, "gelu", knots)
    x, c, _, _, grid = make_case((40, 5, 6), basis, "float64")
    x.requires_grad_()
    c.requires_grad_()
    found = torch.autograd.grad(weighted(edge_statistics(x, c, grid, basis=basis)), [x, c])
    # The oracle has no gradient in x: basis values and slopes are put together by the chain rule.
    f = basis_values(x, grid, basis, 0).requires_grad_()
    slopes = basis_values(x, grid, basis, 1)
    phi = torch.einsum("bij,jio->boi", f, c)
    grad_f, grad_c = torch.autograd.grad(weighted(dense(phi)), [f, c])
    torch.testing.assert_close(found[1], grad_c, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found[0], (grad_f * slopes).sum(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", EdgeStatistics._fields)
def test_each_statistic_alone(edge_statistics: Statistics, name: str) -> None:
    x, c, _, _, grid = make_case((12, 2, 3), CUBIC, "float64")
    x.requires_grad_()
    c.requires_grad_()

    def statistic(x: Tensor, c: Tensor) -> Tensor:
        return getattr(edge_statistics(x, c, grid, basis=CUBIC), name)

    assert torch.autograd.gradcheck(statistic, (x, c), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=built)])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("shape", [(2000, 8, 9), (20000, 3, 2), (700, 3, 200)], ids=str)
def test_float32_is_exact_to_its_rounding(
    backend: str, shape: tuple[int, int, int], knots: str
) -> None:
    """Errors at most twice those of the dense tensor in float32, and a few roundings."""
    basis = make_basis(5, 3, "silu", knots)
    x, c, _, _, grid = make_case(shape, basis, "ieee")
    leaves = [x.requires_grad_(), c.requires_grad_()]
    stats = by_backend(*leaves, grid, basis=basis, backend=backend)
    # Not of the extremes: rounding may pick another of two rows that are nearly equal.
    grads = torch.autograd.grad(weighted(stats[:3]), leaves)
    exact, plain = (
        dense_with_gradients(x, c, grid, basis, dtype) for dtype in (torch.float64, torch.float32)
    )
    for found, wanted, yardstick in zip((*stats, *grads), exact, plain, strict=True):
        assert found.dtype == torch.float32
        scale = wanted.square().mean().sqrt()
        error, allowed = ((t - wanted).square().mean().sqrt() for t in (found, yardstick))
        assert error <= 2 * allowed + 2e-7 * scale
        assert error <= 1e-6 * scale


def dense_with_gradients(
    x: Tensor, c: Tensor, grid: Tensor, basis: object, dtype: torch.dtype
) -> list[Tensor]:
    """Statistics and the gradients in x and c of the first three, in this dtype, as float64."""
    f = basis_values(x, grid, basis, 0).to(dtype).requires_grad_()
    slopes = basis_values(x, grid, basis, 1).to(dtype)
    c = c.detach().to(dtype).requires_grad_()
    stats = dense(torch.einsum("bij,jio->boi", f, c))
    grad_f, grad_c = torch.autograd.grad(weighted(stats[:3]), [f, c])
    return [t.detach().double() for t in (*stats, (grad_f * slopes).sum(-1), grad_c)]


def test_a_small_spread_about_a_large_mean(edge_statistics: Statistics) -> None:
    basis = make_basis(4, 3, "none")
    x = torch.linspace(-0.9, 0.9, 500)[:, None]
    grid = make_grid(1, basis, dtype=torch.float32)
    c = torch.full((7, 1, 1), 1000.0)
    c[3] += 0.01
    std = edge_statistics(x, c, grid, basis=basis).std
    exact = edge_statistics(x.double(), c.double(), grid.double(), basis=basis).std
    assert exact.item() < 0.01
    # Each value has an error of eps times the mean: 1e-4 here.
    assert (std - exact).abs().item() < 1e-4


def test_dead_edges_have_no_gradient(edge_statistics: Statistics) -> None:
    x, c, _, _, grid = make_case((30, 3, 2), CUBIC, "float64")
    c[:, 1] = 0
    c.requires_grad_()
    stats = edge_statistics(x, c, grid, basis=CUBIC)
    assert all((t[:, 1] == 0).all() for t in stats)
    (grad,) = torch.autograd.grad((stats.std + stats.mean_abs).sum(), c)
    assert grad.isfinite().all()
    assert (grad[:, 1] == 0).all()
    assert (grad[-1, 0] != 0).all()


def test_a_residual_function_that_is_not_fused(edge_statistics: Statistics) -> None:
    basis = make_basis(4, 3, "none")
    x, c, _, _, grid = make_case((25, 3, 4), make_basis(4, 3, "silu"), "float64")
    fused = c.clone().requires_grad_()
    x1, x2 = (x.clone().requires_grad_() for _ in range(2))
    one = edge_statistics(x1, fused, grid, basis=make_basis(4, 3, "silu"))
    other = edge_statistics(x2, fused, grid, basis=basis, residual=torch.nn.functional.silu(x2))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(weighted(s), [a, fused]) for s, a in ((one, x1), (other, x2))]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_nan_stays_with_its_input(edge_statistics: Statistics) -> None:
    x, c, _, _, grid = make_case((20, 3, 4), CUBIC, "float64")
    for row in (0, 7, 19):
        spoiled = x.clone()
        spoiled[row, 1] = torch.nan
        for tensor in edge_statistics(spoiled, c, grid, basis=CUBIC):
            assert tensor[:, 1].isnan().all()
            assert tensor[:, [0, 2]].isfinite().all()


def test_autocast_and_16_bits_compute_in_float32(edge_statistics: Statistics) -> None:
    x, c, _, _, grid = make_case((50, 4, 3), CUBIC, "ieee")
    expected = edge_statistics(x, c, grid, basis=CUBIC)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, edge_statistics(x, c, grid, basis=CUBIC), expected))
    half, half_c = x.bfloat16(), c.bfloat16()
    found = edge_statistics(half, half_c, grid, basis=CUBIC)
    assert all(
        map(torch.equal, found, edge_statistics(half.float(), half_c.float(), grid, basis=CUBIC))
    )


def test_rows_of_any_shape(edge_statistics: Statistics) -> None:
    x, c, _, _, grid = make_case((24, 3, 2), CUBIC, "float64")
    expected = edge_statistics(x, c, grid, basis=CUBIC)
    assert all(
        map(torch.equal, edge_statistics(x.view(2, 3, 4, 3), c, grid, basis=CUBIC), expected)
    )


def test_memory_does_not_grow_with_rows_times_edges() -> None:
    """The largest tensor that plain torch makes, or keeps for the backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(t, Tensor):
                    self.seen = max(self.seen, t.untyped_storage().nbytes() // t.element_size())
            return out

    x, c, _, _, grid = make_case((4000, 40, 50), CUBIC, "ieee")
    leaves = [x.requires_grad_(), c.requires_grad_()]
    with Largest() as largest:
        stats = by_backend(*leaves, grid, basis=CUBIC, backend="reference")
        torch.autograd.grad(weighted(stats), leaves)
    bound = max(x.numel(), c.numel(), 2 * chunked.CHUNK_ELEMENTS * torch.get_num_threads())
    assert largest.seen <= bound < x.shape[0] * c.shape[1] * c.shape[2] / 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 3)}, "at least one row"),
        ({"x": torch.zeros(4, 2)}, "c and grid must be"),
        ({"c": torch.zeros(8, 3, 2)}, r"must be \[9, 3, out_features\]"),
        ({"c": torch.zeros(9, 3)}, r"must be \[9, 3, out_features\]"),
        ({"residual": torch.zeros(4, 3)}, "c and grid must be"),
        (
            {"residual": torch.zeros(4, 3), "c": torch.zeros(10, 3, 2)},
            'a basis with activation "none"',
        ),
    ],
)
def test_errors(change: dict[str, Tensor], message: str) -> None:
    grid = make_grid(3, CUBIC, dtype=torch.float32)
    arguments = {"x": torch.zeros(4, 3), "c": torch.zeros(9, 3, 2), "grid": grid} | change
    with pytest.raises(ValueError, match=message):
        by_backend(**arguments, basis=CUBIC)


def with_gradients(
    case: tuple[Tensor, Tensor, Tensor], basis: object, backend: str
) -> tuple[Tensor, ...]:
    x, c, grid = case
    leaves = [x.detach().clone().requires_grad_(), c.detach().clone().requires_grad_()]
    stats = by_backend(*leaves, grid, basis=basis, backend=backend)
    return (*stats, *torch.autograd.grad(weighted(stats), leaves))


@built
@pytest.mark.usefixtures("poisoned")
class TestNative:
    """Against plain torch, which the tests above hold against scipy."""

    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("degree", range(8))
    def test_degrees_and_tiles_of_outputs(self, degree: int, knots: str) -> None:
        for outputs in (1, 5, 17, 64, 100):
            basis = make_basis(3, degree, "tanh", knots)
            x, c, _, _, grid = make_case((141, 9, outputs), basis, "float64")
            found = with_gradients((x, c, grid), basis, "native")
            wanted = with_gradients((x, c, grid), basis, "reference")
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("grid_size", [1, 13, 300])
    def test_grid_sizes(self, grid_size: int, knots: str) -> None:
        basis = make_basis(grid_size, 3, "none", knots)
        x, c, _, _, grid = make_case((700, 2, 3), basis, "float64")
        found = with_gradients((x, c, grid), basis, "native")
        wanted = with_gradients((x, c, grid), basis, "reference")
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)

    def test_any_strides_and_a_float32_grid(self) -> None:
        x, c, _, _, grid = make_case((40, 3, 4), CUBIC, "float64")
        strided = (
            x.T.contiguous().T,
            c.permute(2, 0, 1).contiguous().permute(1, 2, 0),
            grid.float().T.contiguous().T,
        )
        found = with_gradients(strided, CUBIC, "native")
        wanted = with_gradients((x, c, grid.float().double()), CUBIC, "native")
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("shape", [(9000, 3, 5), (700, 70, 33)], ids=str)
    def test_threads_do_not_change_a_bit(
        self, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, c, _, _, grid = make_case(shape, CUBIC, "ieee")
        results = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
            results.append(with_gradients((x, c, grid), CUBIC, "native"))
        assert all(map(torch.equal, results[1], results[0]))
        assert all(map(torch.equal, results[2], results[0]))

    def test_calls_from_several_threads(self) -> None:
        cases = [make_case((3000, 7, 20), CUBIC, "ieee", seed=seed) for seed in range(4)] * 3
        jobs = [(x, c, grid) for x, c, _, _, grid in cases]
        job = partial(with_gradients, basis=CUBIC, backend="native")
        with ThreadPoolExecutor(4) as pool:
            for got, want in zip(pool.map(job, jobs), map(job, jobs), strict=True):
                assert all(map(torch.equal, got, want))

    def test_of_equal_extremes_the_first_row_has_the_gradient(self) -> None:
        """Not so in plain torch, whose products give equal rows unequal bits."""
        x, c, _, _, grid = make_case((150, 2, 3), CUBIC, "float64")
        x = x.repeat(60, 1).requires_grad_()  # 9000 rows: there are parts of 4096
        stats = by_backend(x, c, grid, basis=CUBIC, backend="native")
        (grad,) = torch.autograd.grad((stats.min + stats.max).sum(), x)
        assert (grad[:150] != 0).any()
        assert (grad[150:] == 0).all()

    def test_only_what_is_wanted_is_made(self) -> None:
        x, c, _, _, grid = make_case((30, 3, 2), CUBIC, "float64")
        stats = native_statistics.edge_statistics(x, c, None, grid, basis=CUBIC)
        gradients = [torch.ones_like(t) for t in stats]
        every = native_statistics.edge_statistics_grad(
            x, c, None, grid, stats, gradients, (True, True, False), basis=CUBIC
        )
        assert every[2] is None
        for which in range(2):
            needs = tuple(n == which for n in range(3))
            some = native_statistics.edge_statistics_grad(
                x, c, None, grid, stats, gradients, needs, basis=CUBIC
            )
            assert [t is not None for t in some] == list(needs)
            assert some[which].equal(every[which])


@built
def test_a_layer_hands_its_backend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = KANLinear(3, 2), torch.rand(20, 3)
    expected = layer.edge_statistics(x)
    monkeypatch.setattr(native_statistics, "edge_statistics", None)
    with pytest.raises(TypeError, match="not callable"):
        layer.edge_statistics(x)
    layer.backend = "reference"
    torch.testing.assert_close(layer.edge_statistics(x), expected)


def test_under_a_tracer_plain_torch_is_what_auto_takes() -> None:
    x, c, _, _, grid = make_case((20, 3, 4), CUBIC, "float64")
    traced = make_fx(lambda x: by_backend(x, c, grid, basis=CUBIC).std)
    other = x.flip(0) * 0.9
    found = traced(x)(other)
    torch.testing.assert_close(found, by_backend(other, c, grid, basis=CUBIC).std)
