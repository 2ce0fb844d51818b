"""The kernels with local support against scipy's B-splines in float64, as test_kernels.py does it
for the dense ones."""

import csv
import itertools
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from cases import ACTIVATIONS, DEVICE, KNOTS, ORDERS, PRECISIONS, SHAPES, make_basis, make_case

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from kanfast.kernels import bins, launch, local
from test_kernels import assert_accurate, calls, check, check_nan, check_strided

from kanfast import kernels

pytestmark = pytest.mark.usefixtures("poisoned", "forced")

GRIDS = Path(__file__).parents[1] / "bench/results/grids.csv"
OPS = ("forward", "input_grad", "weight_grad")
GATHERING = OPS[:2]  # to which tf32 and tf32x3 are "ieee"
DISTINCT = ("float64", "ieee", "bfloat16", "float16")


@pytest.fixture
def forced():
    """The local kernels, whatever the shape."""
    with local.forced(True):
        yield


def in_turn(n):
    """All operations, or one where each takes a second to compile."""
    return OPS if kernels.interpreting() else (OPS[n % 3],)


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", GATHERING)
def test_the_choice_is_the_local_kernel_s_from_the_table_s_size_on(op, knots, monkeypatch):
    packed = []
    pack = local.pack
    monkeypatch.setattr(local, "pack", lambda *a: packed.append(a) or pack(*a))
    group = launch.target_class(torch.device(DEVICE))
    monkeypatch.setitem(local.FROM, group, {op: {"ieee": 10}})
    with local.forced(None):
        for grid_size in (6, 7):
            check(op, (20, 3, 5), make_basis(grid_size, knots=knots), "ieee", 0)
        assert len(packed) == 1
        check(op, (20, 3, 5), make_basis(7, knots=knots), "ieee", 4)
        check(op, (20, 3, 5), make_basis(7, knots=knots), "float64", 0)
    assert len(packed) == 1, "nothing of the 4th derivative, nothing the table does not name"


def test_the_weight_gradient_is_local_from_the_table_s_size_and_some_work_on(monkeypatch):
    ordered = []
    sort = bins.sort
    monkeypatch.setattr(bins, "sort", lambda *a: ordered.append(a) or sort(*a))
    group = launch.target_class(torch.device(DEVICE))
    monkeypatch.setitem(local.FROM, group, {"weight_grad": {"ieee": 10}})
    with local.forced(None):
        check("weight_grad", (20, 3, 5), make_basis(7), "ieee", 0)
        monkeypatch.setattr(local, "SMALL", 20 * 3 * 5)
        check("weight_grad", (20, 3, 5), make_basis(6), "ieee", 0)
        check("weight_grad", (20, 3, 4), make_basis(7), "ieee", 0)
        check("weight_grad", (20, 3, 5), make_basis(7), "ieee", 4)
        assert not ordered, "too little work, too few functions, none that live"
        check("weight_grad", (20, 3, 5), make_basis(7), "ieee", 0)
    assert len(ordered) == 1


def test_the_table_knows_every_class_operation_and_precision():
    assert set(local.FROM) == set(launch.TILES)
    for group, operations in local.FROM.items():
        assert set(operations) == set(OPS)
        for sizes in operations.values():
            known = {precision for op, precision, *_ in launch.TILES[group] if op == "forward"}
            assert set(sizes) == known


def test_the_table_is_what_the_committed_model_says():
    """Of both kinds of knots the later size, and 32 at least."""
    targets = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma"}
    wanted = {group: {op: {} for op in OPS} for group in local.FROM}
    with GRIDS.open(newline="") as file:
        for row in csv.DictReader(file):
            sizes = wanted[targets[row["target"]]][row["op"]]
            sizes[row["precision"]] = max(32, int(row["from"]), sizes.get(row["precision"], 0))
    assert wanted == local.FROM


@pytest.mark.parametrize("deriv", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("precision", DISTINCT)
def test_every_precision_and_derivative_on_ragged_shapes(precision, knots, deriv):
    for op in in_turn(deriv + DISTINCT.index(precision)):
        check(op, (37, 19, 21), make_basis(knots=knots), precision, deriv, scale=deriv == 1)


@pytest.mark.parametrize("deriv", [0, 1])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
def test_the_weight_gradient_in_tf32(precision, knots, deriv):
    check("weight_grad", (67, 5, 37), make_basis(40, knots=knots), precision, deriv)


@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
@pytest.mark.parametrize("op", GATHERING)
def test_tf32_is_plain_float32(op, precision):
    basis = make_basis()
    case = make_case((37, 9, 21), basis, "ieee")
    got = calls(op, kernels, case, basis, 0, precision)
    assert torch.equal(got, calls(op, kernels, case, basis, 0, "ieee"))


@pytest.mark.parametrize(
    ("grid_size", "precision"),
    [(1, "float64"), (13, "ieee"), (100, "bfloat16"), (500, "float64"), (500, "ieee")],
)
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_every_grid_size(op, knots, grid_size, precision):
    check(op, (70, 3, 40), make_basis(grid_size, knots=knots), precision, 1)


# Inputs are gone through one after the other: as many as in (130, 66, 70) show nothing new.
FEW_INPUTS = [(130, 9, 70) if shape == (130, 66, 70) else shape for shape in SHAPES]


@pytest.mark.parametrize(
    "shape", [*FEW_INPUTS, (65, 3, 65), (5, 65, 1)], ids=lambda s: "x".join(map(str, s))
)
@pytest.mark.parametrize("knots", KNOTS)
def test_awkward_shapes(knots, shape):
    for op in in_turn(sum(shape)):
        check(op, shape, make_basis(knots=knots), "tf32x3", 0, scale=True)


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_several_tiles_of_rows_and_outputs(op, knots):
    """Wider than a tile in every axis that has one."""
    check(op, (520, 2, 70), make_basis(500, knots=knots), "ieee", 0, scale=True)


@pytest.mark.parametrize(("degree", "deriv"), ORDERS, ids=lambda n: str(n))
@pytest.mark.parametrize("knots", KNOTS)
def test_every_degree(knots, degree, deriv):
    for op in in_turn(degree + deriv):
        basis = make_basis(4, degree, "silu", knots)
        for precision in ("float64", "ieee"):
            check(op, (9, 3, 5), basis, precision, deriv, scale=True)


@pytest.mark.parametrize("deriv", [0, 1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, deriv):
    for op in in_turn(deriv + ACTIVATIONS.index(activation)):
        check(op, (9, 3, 5), make_basis(3, 3, activation), "float64", deriv)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("at", ["knots", "ends", "outside"])
def test_at_the_knots_and_beyond_the_grid(knots, at, degree):
    """At knots of which some are double the value is that from the right; beyond them exactly 0."""
    basis = make_basis(5, degree, "none", knots)
    _, c, s, _, grid = make_case((1, 2, 4), basis, "float64")
    far = torch.full((1, 2), torch.inf, dtype=torch.float64, device=DEVICE)
    x = {
        "knots": grid.T,
        "ends": grid[:, [basis.degree, basis.degree + basis.grid_size]].T,
        "outside": torch.cat(
            [
                torch.stack([grid[:, 0] - 5, grid[:, 0] - 1e-9]),
                torch.stack([grid[:, -1] + 1e-9, grid[:, -1] + 5]),
                far, -far, torch.full_like(far, 1e300), torch.full_like(far, -1e30),
            ]
        ),
    }[at].contiguous()  # fmt: skip
    g = torch.ones(len(x), 4, dtype=torch.float64, device=DEVICE)
    jump = knots == "uniform"  # whose knots are the same only up to rounding
    for deriv in range(degree + 1 - (jump and at != "outside")):
        for op in in_turn(deriv):
            case = (x, c, s, g, grid)
            got = calls(op, kernels, case, basis, deriv, "float64")
            expected = calls(op, oracle, case, basis, deriv, "float64")
            torch.testing.assert_close(got.cpu(), expected, rtol=1e-12, atol=1e-10)
            if at == "outside":
                assert torch.count_nonzero(got) == 0


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("precision", ["float64", "ieee"])
@pytest.mark.parametrize("op", OPS)
def test_cells_are_those_of_the_dense_kernel(op, precision, degree):
    """At and around the knots of fine uniform grids, jumps of the last derivative included."""
    basis = make_basis(50, degree, "none", "uniform")
    _, c, s, _, grid = make_case((1, 2, 3), basis, precision)
    at = grid.T[::4]
    x = torch.cat([at, torch.nextafter(at, at + 1), torch.nextafter(at, at - 1)]).contiguous()
    g = torch.ones(len(x), 3, dtype=grid.dtype, device=DEVICE)
    case = (x, c, s, g, grid)
    got = calls(op, kernels, case, basis, degree, precision)
    with local.forced(False):
        dense = calls(op, kernels, case, basis, degree, precision)
    assert_accurate(got, dense.double(), dense, precision)


@pytest.mark.parametrize("op", OPS)
def test_knots_all_alike_and_knots_of_full_multiplicity(op):
    basis = make_basis(6, 2, "none", "general")
    x, c, s, g, grid = make_case((50, 2, 3), basis, "float64")
    alike = calls(op, kernels, (x, c, s, g, torch.full_like(grid, 0.5)), basis, 0, "float64")
    assert torch.count_nonzero(alike) == 0
    clamped = grid.clone()
    clamped[:, :3], clamped[:, -3:] = clamped[:, 2:3], clamped[:, -3:-2]
    clamped[:, 5:7] = clamped[:, 4:5]
    g = torch.cat([g, torch.ones_like(g[: len(grid.T)])])
    case = (torch.cat([x, clamped.T]), c, s, g, clamped)
    for deriv in (0, 1, 2):
        got = calls(op, kernels, case, basis, deriv, "float64")
        expected = calls(op, oracle, case, basis, deriv, "float64")
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(
    ("precision", "activation"),
    [(p, a) for p in ("tf32x3", "bfloat16") for a in ("silu", "none")] + [("tf32x3", "relu")],
)
@pytest.mark.parametrize("knots", KNOTS)
def test_nan_stays_in_its_row(precision, knots, activation):
    check_nan(precision, knots, activation)


@pytest.mark.parametrize("op", OPS)
def test_strided_transposed_and_expanded_inputs(op):
    check_strided(op)


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_output_dtype_is_the_rounded_result(op, out_dtype):
    basis = make_basis()
    case = make_case((10, 6, 8), basis, "ieee")
    exact = calls(op, kernels, case, basis, 0, "ieee", torch.float32)
    assert torch.equal(calls(op, kernels, case, basis, 0, "ieee", out_dtype), exact.to(out_dtype))


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_results_are_reproducible(op, knots):
    basis = make_basis(100, knots=knots)
    case = make_case((300, 3, 40), basis, "ieee")
    first = calls(op, kernels, case, basis, 1, "ieee")
    assert torch.equal(first, calls(op, kernels, case, basis, 1, "ieee"))


@pytest.mark.parametrize("where", ["one cell", "two blocks", "one value", "outside"])
@pytest.mark.parametrize("knots", KNOTS)
def test_rows_that_crowd(knots, where, monkeypatch):
    """In the bins of one block of functions, in those of two, or in the one that nobody reads."""
    monkeypatch.setattr(bins, "ROWS", 64)
    basis = make_basis(60, knots=knots)
    x, c, s, g, grid = make_case((150, 2, 5), basis, "float64", scale=True)
    begin, end = {
        "one cell": (40, 41), "two blocks": (16, 20), "one value": (40, 40), "outside": (0, 0),
    }[where]  # fmt: skip
    low, high = grid[:, begin], grid[:, end]
    x = low + (x + 2) / 4 * (high - low)
    if where == "outside":
        x = torch.where(torch.arange(150, device=DEVICE)[:, None] % 2 == 0, low - 1, -low + 5)
    case = (x, c, s, g, grid)
    got = calls("weight_grad", kernels, case, basis, 0, "float64")
    expected = calls("weight_grad", oracle, case, basis, 0, "float64")
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-12, atol=1e-12)
    if where == "outside":
        assert torch.count_nonzero(got[:-1]) == 0


@pytest.mark.parametrize("splits", [1, 3])
def test_many_blocks_of_rows_and_parts_of_a_bin(splits, monkeypatch):
    monkeypatch.setattr(bins, "ROWS", 64)
    monkeypatch.setattr(launch, "split_batch", lambda rows, tiles, block: (splits, rows))
    basis = make_basis(70)
    check("weight_grad", (500, 2, 5), basis, "ieee", 0)
    check("weight_grad", (1, 2, 5), basis, "ieee", 0)


@pytest.mark.parametrize("block_j", [16, 32])
@pytest.mark.parametrize("degree", [0, 3, 7])
@pytest.mark.parametrize("knots", KNOTS)
def test_rows_are_ordered_by_bins_and_in_each_as_they_were(knots, degree, block_j, monkeypatch):
    monkeypatch.setattr(bins, "ROWS", 32)
    basis = make_basis(50, degree, "none", knots)
    x, _, _, _, grid = make_case((100, 3, 1), basis, "float64")
    x[4, 1], x[5, 1], x[6, 1] = torch.nan, torch.inf, -torch.inf
    order = bins.sort(x.t().contiguous(), grid, basis, torch.float64, block_j)
    blocks = bins.number_of(basis, block_j)
    assert order.ends.shape == (3, 2 * blocks + 3)
    for i in range(3):
        rows, ends = order.rows[i].cpu(), order.ends[i].tolist()
        assert sorted(rows.tolist()) == list(range(100))
        torch.testing.assert_close(order.x[i], x[order.rows[i].long(), i], equal_nan=True)
        assert (ends[0], ends[-1]) == (0, 100)
        for begin, end in itertools.pairwise(ends):
            assert rows[begin:end].tolist() == sorted(rows[begin:end].tolist())
        values = oracle.basis_values(x[:, i : i + 1], grid[i : i + 1].cpu(), basis, 0)[:, 0] != 0
        for block in range(blocks):
            seen = set(rows[ends[2 * block] : ends[2 * block + 3]].tolist())
            living = values[:, block * block_j : (block + 1) * block_j].any(1).nonzero().flatten()
            assert set(living.tolist()) <= seen
        nowhere = set(rows[ends[-2] :].tolist())
        assert i != 1 or (4 not in nowhere and {5, 6} <= nowhere)


@pytest.mark.slow
@pytest.mark.parametrize("op", GATHERING)
def test_coefficients_beyond_the_reach_of_32_bits(op):
    """Functions above 2^31 elements apart. The memory between them is reserved, never touched."""
    basis = make_basis(1, 0, "silu")
    x, c, s, g, grid = make_case((3, 2, 3), basis, "float16")
    reserve = torch.from_numpy(np.empty(2**31 + 64, np.float16)).to(DEVICE)
    far = reserve.as_strided(c.shape, (2**31, c.shape[2], 1))
    far.copy_(c)
    got = calls(op, kernels, (x, far, s, g, grid), basis, 0, "float16")
    assert torch.equal(got, calls(op, kernels, (x, c, s, g, grid), basis, 0, "float16"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "float64"])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_large_batches_on_the_gpu(op, knots, precision):
    check(op, (20000, 70, 257), make_basis(500, knots=knots), precision, 0, scale=True)
