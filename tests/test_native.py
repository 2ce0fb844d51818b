"""The native CPU kernels against scipy's B-splines."""

from concurrent.futures import ThreadPoolExecutor

import oracle
import pytest
import torch
from cases import ACTIVATIONS, DTYPES, KNOTS, ORDERS, SHAPES, make_basis, make_case
from torch.autograd import gradcheck, gradgradcheck

from kanfast import KAN, kan_linear
from kanfast.engine import native, reference

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


OPS = ("forward", "input_grad", "weight_grad")


PRECISIONS = ("float64", "ieee")


def arguments(op, case):
    x, c, s, g, grid = case
    return {
        "forward": (x, c, s, grid),
        "input_grad": (g, x, c, grid),
        "weight_grad": (g, x, s, grid),
    }[op]


def compute(module, op, case, basis, deriv=0, precision="float64"):
    keywords = {"basis": basis, "deriv": deriv, "precision": precision}
    return getattr(module, op)(*arguments(op, case), **keywords, out_dtype=DTYPES[precision])


def check(op, case, basis, deriv=0, precision="float64"):
    """The largest error is at most twice that of plain torch, and a few roundings."""
    got = compute(native, op, case, basis, deriv, precision)
    want = getattr(oracle, op)(*arguments(op, case), basis, deriv)
    assert got.dtype == DTYPES[precision]
    assert got.shape == want.shape
    if want.numel():
        plain = compute(reference, op, case, basis, deriv, precision)
        error, yardstick = ((t.double() - want).abs().max().item() for t in (got, plain))
        largest = want.abs().max().item()
        floor = 8 * torch.finfo(got.dtype).eps * largest
        if basis.uniform:
            # Native code takes the knots from the line through the ends of the grid, and plain
            # float64 code as they are: each is rounded, by up to G / 2 roundings of a cell.
            floor += basis.grid_size / 2 * torch.finfo(torch.float64).eps * largest
        assert error <= 2 * yardstick + floor


def relative(got, want):
    """The error, as a share of the whole in the Euclidean norm."""
    return ((got.double() - want).norm() / want.norm()).item()


@torch.no_grad()
def away_from_knots(model, x):
    """Rows whose nodes keep off the knots, where rounding decides on the last derivative."""
    near = torch.zeros(len(x), dtype=torch.bool)
    for part in model.kan_layers:
        near |= ((x[..., None] - part.grid).abs().amin(-1) < 1e-5).any(1)
        x = part(x)
    return ~near


def values_and_gradients(model, x):
    y = model(x.requires_grad_())
    return y, *torch.autograd.grad(y.square().mean(), [x, *model.parameters()])


def second_derivatives(model, x):
    """Gradients of a loss of second derivatives, as in physics-informed networks."""
    y = model(x.requires_grad_())
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    loss = y.square().mean() + curvature.square().mean()
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.usefixtures("poisoned")
class TestValues:
    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_shapes(self, shape, precision, knots, op):
        basis = make_basis(knots=knots)
        check(op, make_case(shape, basis, precision, scale=True), basis, 0, precision)

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize(("degree", "deriv"), ORDERS)
    def test_degrees_and_derivatives(self, degree, deriv, precision, knots, op):
        basis = make_basis(4, degree, "silu", knots)
        # Two blocks of rows; inputs and outputs that fill neither a block nor a register.
        check(op, make_case((139, 10, 3), basis, precision), basis, deriv, precision)

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_activations(self, precision, name, op):
        basis = make_basis(3, 2, name)
        case = make_case((40, 4, 3), basis, precision)
        case[0].mul_(10)  # a sigmoid is no constant, and exp does not overflow
        for deriv in range(4):
            check(op, case, basis, deriv, precision)

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("outputs", [1, 2, 5, 16, 33, 64, 100])
    def test_tiles_of_outputs(self, outputs, knots, op):
        basis = make_basis(knots=knots)
        for precision in PRECISIONS:
            check(op, make_case((29, 9, outputs), basis, precision), basis, 1, precision)

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("grid_size", [1, 2, 13, 300])
    def test_grid_sizes(self, grid_size, knots, op):
        basis = make_basis(grid_size, knots=knots)
        for precision in PRECISIONS:
            check(op, make_case((200, 2, 3), basis, precision), basis, 0, precision)

    @pytest.mark.parametrize("op", OPS)
    def test_repeated_knots(self, op):
        basis = make_basis(5, 3, knots="general")
        case = make_case((200, 3, 4), basis, "float64")
        case[4][:, 4:7] = case[4][:, 4:5]
        case[4][:, :4] = case[4][:, 3:4]
        case[0][:12] = case[4].T  # and values from the right at the knots themselves
        for deriv in range(3):
            check(op, case, basis, deriv)

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("grid_dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("knots", KNOTS)
    def test_dtypes_of_the_grid_as_plain_torch_reads_them(self, knots, grid_dtype, op):
        basis = make_basis(knots=knots)
        for precision in PRECISIONS:
            *rest, grid = make_case((60, 4, 3), basis, precision)
            case = (*rest, grid.to(grid_dtype))
            got, want = (compute(m, op, case, basis, 0, precision) for m in (native, reference))
            bound = 100 * torch.finfo(got.dtype).eps
            torch.testing.assert_close(got, want, rtol=0, atol=bound * want.abs().max().item())

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("outputs", [1, 4, 40])
    @pytest.mark.parametrize("by_column", [False, True], ids=["expanded", "by column"])
    def test_any_strides(self, by_column, outputs, op):
        basis = make_basis()
        x, c, s, g, grid = make_case((16, 6, outputs), basis, "float64", scale=True)
        strided = (
            x.T.contiguous().T,
            c.permute(2, 0, 1).contiguous().permute(1, 2, 0),
            s.T.contiguous().T if by_column else s[:1].expand(16, 6),
            g.T.contiguous().T if by_column else g[:, :1].expand(16, outputs),
            grid.T.contiguous().T,
        )
        check(op, strided, basis)

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_far_away_and_not_a_number(self, precision, knots, op):
        basis = make_basis(activation="none", knots=knots)
        case = make_case((7, 4, 3), basis, precision)
        case[0][1], case[0][2] = torch.finfo(case[0].dtype).max, torch.finfo(case[0].dtype).min
        case[0][3], case[0][4] = torch.inf, -torch.inf
        got, want = (compute(m, op, case, basis, 0, precision) for m in (native, reference))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        case[0][5, 2] = torch.nan
        got, want = (compute(m, op, case, basis, 1, precision).isnan() for m in (native, reference))
        assert want.any()
        assert got.equal(want)


class TestManyTerms:
    """Sums so long that their order tells: at most twice the error of plain torch, by the norm."""

    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("deriv", [0, 1, 2])
    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("shape", [(300, 784, 20), (8192, 16, 9), (300, 9, 700)], ids=str)
    def test_primitives(self, shape, op, deriv, knots):
        basis = make_basis(knots=knots)
        case = make_case(shape, basis, "ieee", scale=True)
        want = compute(reference, op, tuple(t.double() for t in case), basis, deriv)
        got, plain = (compute(m, op, case, basis, deriv, "ieee") for m in (native, reference))
        assert relative(got, want) <= 2 * relative(plain, want)

    @pytest.mark.parametrize("measure", [values_and_gradients, second_derivatives])
    @pytest.mark.parametrize(
        ("widths", "rows"), [((784, 64, 10), 256), ((64, 64), 4096), ((10, 10, 10, 1), 20_000)]
    )
    def test_models(self, widths, rows, measure):
        torch.manual_seed(0)
        exact = KAN(widths, backend="reference")
        for part in exact.kan_layers:
            torch.nn.init.normal_(part.spline_weight, std=part.in_features**-0.5)
        x = torch.rand(rows, widths[0]) * 2 - 1
        native_model, plain_model = exact.copy(), exact.copy()
        native_model.backend = "native"
        exact = exact.double()
        x = x[away_from_knots(exact, x.double())]
        truth = measure(exact, x.double())
        results = (measure(model, x) for model in (native_model, plain_model))
        for got, plain, want in zip(*results, truth, strict=True):
            assert relative(got, want) <= 2 * relative(plain, want)


class TestThreads:
    @pytest.mark.parametrize("shape", [(9000, 3, 5), (700, 70, 33)], ids=str)
    @pytest.mark.parametrize("op", OPS)
    def test_their_number_does_not_change_a_bit(self, op, shape, monkeypatch):
        basis = make_basis()
        case = make_case(shape, basis, "ieee", scale=True)
        results = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
            results.append(compute(native, op, case, basis, 1, "ieee"))
        assert results[1].equal(results[0])
        assert results[2].equal(results[0])

    def test_calls_from_several_threads(self):
        basis = make_basis()
        cases = [make_case((3000, 12, 20), basis, "ieee", seed=seed) for seed in range(4)]
        jobs = [(op, case) for op in OPS for case in cases] * 3

        def job(arguments):
            return compute(native, *arguments, basis, 1, "ieee")

        with ThreadPoolExecutor(4) as pool:
            for got, want in zip(pool.map(job, jobs), map(job, jobs), strict=True):
                assert got.equal(want)


@pytest.mark.parametrize("knots", KNOTS)
def test_gradients_of_any_order(knots):
    basis = make_basis(3, 3, "silu", knots)
    x, c, s, _, grid = make_case((4, 3, 2), basis, "float64", scale=True)

    def call(x, c, s):
        return kan_linear(x, c, grid, basis=basis, input_scale=s, backend="native")

    tensors = [t.requires_grad_() for t in (x, c, s)]
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)
