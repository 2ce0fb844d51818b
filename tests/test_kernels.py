"""The three Triton launchers against scipy's B-splines in float64.

Run in Triton's interpreter where there is no GPU, on the GPU where there is one. A kernel passes
when its error is at most twice that of plain torch at the same precision, plus a floor of a few
roundings of the output.
"""

import numpy as np
import oracle
import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICE,
    DTYPES,
    KNOTS,
    ORDERS,
    PRECISIONS,
    SHAPES,
    make_basis,
    make_case,
)

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from kanfast import kernels
from kanfast.engine import reference

pytestmark = pytest.mark.usefixtures("poisoned", "dense")

OPS = ("forward", "input_grad", "weight_grad")


@pytest.fixture
def dense():
    """The dense kernels, for large grids as well: test_kernels_local.py has the others."""
    with kernels.local.forced(False):
        yield


def rotating(n):
    """All three operations; one of them in turn where each takes a second to compile."""
    return OPS if kernels.interpreting() else (OPS[n % 3],)


def calls(op, module, case, basis, deriv, precision, out_dtype=None):
    """op of kernels or reference, or the oracle's, on the case."""
    x, c, s, g, grid = case
    arguments = {
        "forward": (x, c, s, grid),
        "input_grad": (g, x, c, grid),
        "weight_grad": (g, x, s, grid),
    }[op]
    if module is oracle:
        return getattr(oracle, op)(*arguments, basis, deriv)
    return getattr(module, op)(
        *arguments,
        basis=basis,
        deriv=deriv,
        precision=precision,
        out_dtype=out_dtype or (torch.float64 if precision == "float64" else torch.float32),
    )


def plain(op, case, basis, deriv, precision):
    """The result of plain torch at this precision; tf32, which no CPU has, by rounding."""
    if precision != "tf32":
        return calls(op, reference, case, basis, deriv, precision)
    x, c, s, g, grid = case
    f = oracle.basis_values(x, grid, basis, deriv).float()
    if op != "input_grad" and s is not None:
        f = f * s.cpu().unsqueeze(-1)
    g, c = tf32(g.cpu()), tf32(c.cpu())
    if op == "forward":
        return torch.einsum("bij,jio->bo", tf32(f), c)
    if op == "input_grad":
        return torch.einsum("bo,jio,bij->bi", g, c, f)
    return torch.einsum("bo,bij->jio", g, tf32(f))


def tf32(t):
    """t rounded to the nearest tf32: 10 bits of mantissa."""
    bits = (t.float().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32)


def assert_accurate(got, expected, yardstick, precision):
    """Largest and RMS error at most twice the yardstick's plus a floor; names the worst element."""
    assert got.shape == expected.shape
    if got.numel() == 0:
        return
    got, expected, yardstick = got.double().cpu(), expected.cpu(), yardstick.double().cpu()
    scale = expected.abs().max().clamp_min(1e-300)
    floor = 8 * torch.finfo(torch.float64 if precision == "float64" else torch.float32).eps
    error, allowed = (got - expected).abs() / scale, (yardstick - expected).abs() / scale
    worst = np.unravel_index(int(torch.nan_to_num(error, nan=torch.inf).argmax()), got.shape)
    message = f"at {tuple(map(int, worst))}: got {got[worst]}, expected {expected[worst]}"
    assert error.max() <= 2 * allowed.max() + floor, message
    rms, allowed_rms = error.square().mean().sqrt(), allowed.square().mean().sqrt()
    assert rms <= 2 * allowed_rms + floor, (
        f"RMS {rms:.2e} against {allowed_rms:.2e}; worst {message}"
    )


def check(op, shape, basis, precision, deriv, *, scale=False, seed=0):
    case = make_case(shape, basis, precision, scale=scale, seed=seed)
    got = calls(op, kernels, case, basis, deriv, precision)
    expected = calls(op, oracle, case, basis, deriv, precision)
    assert_accurate(got, expected, plain(op, case, basis, deriv, precision), precision)


@pytest.mark.parametrize("deriv", [0, 1, 2])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("op", OPS)
def test_every_precision_and_derivative_on_ragged_shapes(op, precision, knots, deriv):
    check(op, (37, 19, 21), make_basis(knots=knots), precision, deriv, scale=deriv == 1)


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("op", OPS)
def test_full_tiles(op, precision, knots):
    check(op, (130, 33, 257), make_basis(knots=knots), precision, 0)


@pytest.mark.parametrize(
    ("precision", "activation", "deriv"),
    [(p, "silu", 0) for p in PRECISIONS]
    + [("tf32x3", a, n) for a, n in (("silu", 1), ("silu", 4), ("none", 0), ("none", 1))],
)
@pytest.mark.parametrize("knots", KNOTS)
def test_a_loop_with_a_single_product(precision, knots, deriv, activation, monkeypatch):
    """The form that the launch table picks where products are summed in tensor memory."""
    tile = kernels.launch.tile
    monkeypatch.setattr(kernels.launch, "tile", lambda *a, **k: (tile(*a, **k)[0], 0))
    basis = make_basis(knots=knots, activation=activation)
    check("forward", (37, 19, 21), basis, precision, deriv, scale=deriv == 1)
    case = make_case((20, 5, 6), basis, precision)
    clean = calls("forward", kernels, case, basis, deriv, precision)
    case[0][7, 2] = torch.nan
    y = calls("forward", kernels, case, basis, deriv, precision)
    rows = torch.arange(20) != 7
    assert y[7].isnan().all()
    assert torch.equal(y[rows], clean[rows])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_awkward_shapes(op, knots, shape):
    check(op, shape, make_basis(knots=knots), "tf32x3", 0, scale=True)


@pytest.mark.parametrize(("degree", "deriv"), ORDERS, ids=lambda n: str(n))
@pytest.mark.parametrize("knots", KNOTS)
def test_every_degree(knots, degree, deriv):
    for op in rotating(degree + deriv):
        check(op, (9, 3, 5), make_basis(4, degree, "silu", knots), "float64", deriv, scale=True)


@pytest.mark.parametrize("deriv", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, deriv):
    for op in rotating(deriv + ACTIVATIONS.index(activation)):
        check(op, (9, 3, 5), make_basis(3, 3, activation), "float64", deriv)


@pytest.mark.parametrize("grid_size", [1, 6, 13, 500])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_every_grid_size(op, knots, grid_size):
    check(op, (12, 2, 3), make_basis(grid_size, knots=knots), "float64", 1)
    check(op, (12, 2, 3), make_basis(grid_size, knots=knots), "ieee", 0)


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("at", ["knots", "ends", "outside"])
def test_at_the_knots_and_beyond_the_grid(knots, at):
    """On general knots even the jumps of the last derivative are right-continuous, exactly."""
    basis = make_basis(5, 3, "none", knots)
    _, c, s, _, grid = make_case((1, 2, 4), basis, "float64")
    x = {
        "knots": grid.T,
        "ends": grid[:, [basis.degree, basis.degree + basis.grid_size]].T,
        "outside": torch.stack([grid[:, 0] - 5, grid[:, 0] - 1e-9, grid[:, -1], grid[:, -1] + 5]),
    }[at].contiguous()
    g = torch.ones(len(x), 4, dtype=torch.float64, device=DEVICE)
    for deriv in range(4 if knots == "general" else 3):
        for op in OPS:
            case = (x, c, s, g, grid)
            got = calls(op, kernels, case, basis, deriv, "float64")
            expected = calls(op, oracle, case, basis, deriv, "float64")
            torch.testing.assert_close(got.cpu(), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("knots", KNOTS)
def test_knots_all_alike_give_zero_splines(knots):
    if knots == "uniform":
        pytest.skip("a uniform grid has a positive step by definition")
    basis = make_basis(3, 2, "none", knots)
    x, c, s, g, grid = make_case((5, 2, 3), basis, "float64")
    case = (x, c, s, g, torch.full_like(grid, 0.5))
    for op in OPS:
        assert torch.count_nonzero(calls(op, kernels, case, basis, 0, "float64")) == 0


def check_nan(precision, knots, activation):
    """A NaN in x reaches what depends on it, and nothing else."""
    basis = make_basis(knots=knots, activation=activation)
    case = make_case((20, 5, 6), basis, precision)
    clean = {op: calls(op, kernels, case, basis, 0, precision) for op in OPS}
    case[0][7, 2] = torch.nan
    y = calls("forward", kernels, case, basis, 0, precision)
    dx = calls("input_grad", kernels, case, basis, 0, precision)
    dc = calls("weight_grad", kernels, case, basis, 0, precision)
    rows = torch.arange(20) != 7
    assert y[7].isnan().all()
    assert torch.equal(y[rows], clean["forward"][rows])
    assert dx[7, 2].isnan()
    others = torch.ones_like(dx, dtype=torch.bool)
    others[7, 2] = False
    assert torch.equal(dx[others], clean["input_grad"][others])
    columns = torch.arange(5) != 2
    assert torch.equal(dc[:, columns], clean["weight_grad"][:, columns])
    assert dc[:, 2].isnan().any()


@pytest.mark.parametrize(
    ("precision", "activation"),
    [(p, a) for p in ("tf32x3", "bfloat16") for a in ("silu", "none")] + [("tf32x3", "relu")],
)
@pytest.mark.parametrize("knots", KNOTS)
def test_nan_stays_in_its_row(precision, knots, activation):
    check_nan(precision, knots, activation)


def check_strided(op):
    """Strides of the inputs do not matter, to any bit."""
    basis = make_basis()
    x, c, s, g, grid = make_case((24, 6, 8), basis, "float64", scale=True)
    strided = (
        torch.stack([x, x], 2)[:, :, 0],
        c.transpose(0, 2).contiguous().transpose(0, 2),
        s.T.contiguous().T,
        g[:, :1].expand_as(g),
        torch.cat([grid, grid], 1)[:, : grid.shape[1]],
    )
    dense = tuple(t.contiguous() for t in strided)
    got = calls(op, kernels, strided, basis, 0, "float64")
    assert torch.equal(got, calls(op, kernels, dense, basis, 0, "float64"))
    assert_accurate(got, calls(op, oracle, dense, basis, 0, "float64"), got, "float64")


@pytest.mark.parametrize("op", OPS)
def test_strided_transposed_and_expanded_inputs(op):
    check_strided(op)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_rows_beyond_the_reach_of_32_bits(op):
    """Row offsets above 2^31 elements. The memory between the rows is reserved, never touched."""
    basis = make_basis()
    case = make_case((3, 4, 16), basis, "float16", scale=True)
    stride = 2**30 + 16

    def far_apart(t):
        reserve = torch.from_numpy(np.empty(2 * stride + t.shape[1], np.float16)).to(DEVICE)
        view = reserve.as_strided(t.shape, (stride, 1))
        view.copy_(t)
        return view

    x, c, s, g, grid = case
    got = calls(op, kernels, (far_apart(x), c, s, far_apart(g), grid), basis, 0, "float16")
    assert torch.equal(got, calls(op, kernels, case, basis, 0, "float16"))


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_output_dtype_is_the_rounded_result(op, out_dtype):
    basis = make_basis()
    case = make_case((10, 6, 8), basis, "ieee")
    exact = calls(op, kernels, case, basis, 0, "ieee", torch.float32)
    assert torch.equal(calls(op, kernels, case, basis, 0, "ieee", out_dtype), exact.to(out_dtype))


def test_weight_grad_over_a_split_batch_is_reproducible():
    basis = make_basis()
    case = make_case((1500, 3, 5), basis, "ieee")
    first = calls("weight_grad", kernels, case, basis, 0, "ieee")
    assert torch.equal(first, calls("weight_grad", kernels, case, basis, 0, "ieee"))
    expected = calls("weight_grad", oracle, case, basis, 0, "ieee")
    assert_accurate(first, expected, plain("weight_grad", case, basis, 0, "ieee"), "ieee")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "float64"])
@pytest.mark.parametrize("op", OPS)
def test_large_batches_on_the_gpu(op, precision):
    check(op, (20000, 130, 257), make_basis(), precision, 0, scale=True)


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_launches_can_be_captured_in_a_cuda_graph(op):
    basis = make_basis()
    case = make_case((256, 64, 64), basis, "bfloat16")
    eager = calls(op, kernels, case, basis, 0, "bfloat16")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = calls(op, kernels, case, basis, 0, "bfloat16")
    graph.replay()
    assert torch.equal(captured, eager)


def test_dtypes_of_the_cases_cover_every_precision():
    assert set(DTYPES) == set(PRECISIONS) == set(reference.OPERAND_DTYPES)
