"""torch.func and forward-mode differentiation of kan_linear."""

import pytest
import torch
from cases import KNOTS, make_basis, make_case
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from kanfast import kan_linear
from kanfast.engine import primitives

pytestmark = [
    # torch loads the rules of its own forward mode by a module that it has deprecated.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
]


@pytest.fixture(params=KNOTS)
def layer(request):
    """(function of x, c, s; x; c; s) in float64."""
    basis = make_basis(4, 4, "silu", request.param)
    x, c, s, _, grid = make_case((4, 3, 2), basis, "float64", scale=True)

    def call(x, c, s):
        return kan_linear(x, c, grid, basis=basis, input_scale=s)

    return call, x, c, s


def assert_same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("of", [0, 1, 2], ids=["x", "c", "s"])
def test_jacobians_in_both_modes(layer, of):
    call, *tensors = layer

    def alone(t):
        return call(*tensors[:of], t, *tensors[of + 1 :])

    want = torch.autograd.functional.jacobian(alone, tensors[of])
    assert_same(jacrev(call, argnums=of)(*tensors), want)
    assert_same(jacfwd(call, argnums=of)(*tensors), want)


@pytest.mark.parametrize("of", [0, 1, 2], ids=["x", "c", "s"])
@pytest.mark.parametrize(
    "transform",
    [
        hessian,
        lambda f, argnums: jacrev(jacrev(f, argnums), argnums),
        lambda f, argnums: jacrev(jacfwd(f, argnums), argnums),
        lambda f, argnums: jacfwd(jacfwd(f, argnums), argnums),
    ],
    ids=["hessian", "reverse over reverse", "reverse over forward", "forward over forward"],
)
def test_hessians_in_every_order_of_modes(layer, transform, of):
    call, *tensors = layer

    def loss(*tensors):
        return call(*tensors).square().sum()

    def alone(t):
        return loss(*tensors[:of], t, *tensors[of + 1 :])

    want = torch.autograd.functional.hessian(alone, tensors[of])
    assert_same(transform(loss, argnums=of)(*tensors), want)


def test_three_nested_forward_derivatives(layer):
    _, x, c, s = layer
    x, c, s = x[:1, :1], c[:, :1, :1], s[:1, :1]
    basis = make_basis(4, 4)
    _, _, _, _, grid = make_case((1, 1, 1), basis, "float64")

    def f(t):
        return kan_linear(t.reshape(1, 1), c, grid, basis=basis, input_scale=s).squeeze()

    third = jacfwd(jacfwd(jacfwd(f)))(x.squeeze())
    want = kan_linear(x, c, grid, basis=basis, deriv=3, input_scale=s)
    assert_same(third, want.squeeze())


def test_mixed_partial_derivatives(layer):
    call, x, c, s = layer
    by_reverse = jacrev(jacrev(call, argnums=0), argnums=1)(x, c, s)
    assert_same(jacfwd(jacrev(call, argnums=0), argnums=1)(x, c, s), by_reverse)
    assert_same(jacfwd(jacfwd(call, argnums=0), argnums=1)(x, c, s), by_reverse)
    swapped = jacrev(jacfwd(call, argnums=1), argnums=0)(x, c, s)
    assert_same(swapped.movedim((5, 6), (2, 3)), by_reverse)


def test_vmap_is_a_loop(layer):
    call, x, c, s = layer
    xs, cs, ss = (torch.stack([t, 2 * t, t - 1]) for t in (x, c, s))
    for dims in ((0, None, None), (None, 0, None), (None, None, 0), (0, 0, None), (0, None, 0)):
        batch = [many if d == 0 else one for many, one, d in zip((xs, cs, ss), (x, c, s), dims)]  # noqa: B905
        got = vmap(call, in_dims=dims)(*batch)
        rows = [[t[v] if d == 0 else t for t, d in zip(batch, dims, strict=True)] for v in range(3)]
        assert_same(got, torch.stack([call(*row) for row in rows]))
    assert_same(vmap(call, (1, 2, None))(xs.movedim(0, 1), cs.movedim(0, 2), s),
                vmap(call, (0, 0, None))(xs, cs, s))  # fmt: skip


def test_vmap_of_ops_without_gradients(layer):
    call, x, c, _ = layer
    with torch.no_grad():
        assert_same(vmap(lambda row: call(row[None], c, row[None])[0])(x), call(x, c, x))


def test_gradients_for_each_sample(layer):
    call, x, c, s = layer

    def loss(c, x, s):
        return call(x[None], c, s[None]).square().sum()

    got = vmap(grad(loss), in_dims=(None, 0, 0))(c, x, s)
    want = torch.stack([grad(loss)(c, x[b], s[b]) for b in range(4)])
    assert_same(got, want)


def test_gradient_of_a_vmap(layer):
    call, x, c, _ = layer
    got = grad(lambda x: vmap(lambda r: call(r, c, r))(x).square().sum())(x)
    assert_same(got, grad(lambda x: call(x, c, x).square().sum())(x))


def test_an_ensemble_of_coefficients(layer):
    call, x, c, s = layer
    cs = torch.stack([c, -c, c + 1])
    got = vmap(jacrev(call, argnums=1), in_dims=(None, 0, None))(x, cs, s)
    assert_same(got, torch.stack([jacrev(call, argnums=1)(x, one, s) for one in cs]))


@pytest.mark.parametrize(
    ("dims", "calls"), [((0, None, 0), 1), ((None, 0, None), 1), ((0, 0, 0), 3)]
)
def test_batches_are_folded_into_one_call_where_they_can(layer, monkeypatch, dims, calls):
    call, x, c, s = layer
    seen, run = [], primitives._run
    monkeypatch.setattr(primitives, "_run", lambda *a: seen.append(a) or run(*a))
    batch = [t if d is None else torch.stack([t, t, t]) for t, d in zip((x, c, s), dims)]  # noqa: B905
    vmap(call, in_dims=dims)(*batch)
    assert len(seen) == calls


@pytest.mark.parametrize("of", ["grid", "grid and c", "all"])
def test_batched_grids(of):
    """An ensemble whose members have knots of their own."""
    basis = make_basis(knots="general")
    x, c, _, _, grid = make_case((4, 3, 2), basis, "float64")
    grids = torch.stack([grid, grid + 0.1, 2 * grid])
    xs, cs = torch.stack([x, x - 1, x / 2]), torch.stack([c, -c, c + 1])
    batch = {"grid": (x, c, grids), "grid and c": (x, cs, grids), "all": (xs, cs, grids)}[of]
    dims = tuple(0 if t.dim() > small else None for t, small in zip(batch, (2, 3, 2), strict=True))

    def loss(x, c, grid):
        return kan_linear(x, c, grid, basis=basis).square().sum()

    got = vmap(grad(loss, argnums=(0, 1, 2)), in_dims=dims)(*batch)
    for v in range(3):
        one = [t[v] if d == 0 else t for t, d in zip(batch, dims, strict=True)]
        for a, b in zip(got, grad(loss, argnums=(0, 1, 2))(*one), strict=True):
            assert_same(a[v], b)


def test_tangents_and_cotangents_agree(layer):
    call, *tensors = layer
    directions = tuple(torch.randn_like(t) for t in tensors)
    y, tangent = jvp(call, tuple(tensors), directions)
    g = torch.randn_like(y)
    _, pull = vjp(call, *tensors)
    products = [(a * b).sum() for a, b in zip(pull(g), directions, strict=True)]
    assert_same(sum(products), (g * tangent).sum())


def test_dual_numbers(layer):
    call, x, c, s = layer
    x.requires_grad_()
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)), c, s))
        (mixed,) = torch.autograd.grad(y.tangent.sum(), x)
    assert_same(y.tangent, jvp(lambda x: call(x, c, s), (x,), (torch.ones_like(x),))[1])
    second = jacrev(lambda x: jvp(lambda x: call(x, c, s), (x,), (torch.ones_like(x),))[1].sum())(x)
    assert_same(mixed, second)


def test_a_bare_op_does_not_drop_tangents():
    basis = make_basis()
    x, c, _, _, grid = make_case((4, 3, 2), basis, "float64")
    scalars = (5, 3, "silu", True, 0, "float64", "reference", torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=r"forward-mode differentiation .* bare op"):
            torch.ops.kanfast.forward(dual, c, None, grid, *scalars)
