"""A layer from its parameters in one call each way, by every backend, against plain torch."""

import pytest
import torch
from cases import DEVICE, KNOTS, make_basis, make_grid
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from kanfast import kan_linear
from kanfast.engine import layer as engine
from kanfast.engine import native, packing, reference
from kanfast.engine.layer import layer

# torch loads the rules of its own forward mode by a module that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")

ACTIVATIONS = ("silu", "gelu", "none")
BACKENDS = [
    "reference",
    "triton",
    pytest.param(
        "native", marks=pytest.mark.skipif(not native.available(), reason="it was not built")
    ),
]


def make(shape, basis, *, scaled=True, dtype=torch.float64):
    """(x, weight, base, scaler, grid) of a layer; what it does not have is None."""
    (rows, inputs, outputs), generator = shape, torch.Generator().manual_seed(0)

    def normal(*size):
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        return values.to(DEVICE, dtype).requires_grad_()

    x, weight = normal(rows, inputs), normal(outputs, inputs, basis.num_splines)
    base = normal(outputs, inputs) if basis.activation != "none" else None
    return x, weight, base, normal(outputs, inputs) if scaled else None, make_grid(inputs, basis)


def composed(x, weight, base, scaler, grid, basis):
    c = reference.pack(weight, base, scaler)
    return kan_linear(x, c, grid, basis=basis, backend="reference")


def gradients(y, tensors, g, **options):
    return torch.autograd.grad(y, [t for t in tensors if t is not None], g, **options)


@pytest.mark.parametrize("scaled", [True, False], ids=["scaler", "bare"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(37, 4, 3), (130, 20, 17), (0, 3, 2), (1, 1, 1)], ids=str)
def test_values_and_gradients(shape, backend, knots, activation, scaled):
    if backend == "triton" and (shape != (37, 4, 3) or activation == "gelu"):
        pytest.skip("the kernels have tests of their own, and their interpreter takes its time")
    basis = make_basis(5, 3, activation, knots)
    *tensors, grid = make(shape, basis, scaled=scaled)
    g = torch.randn(shape[0], shape[2], dtype=torch.float64, device=DEVICE)
    got = layer(*tensors, grid, basis=basis, backend=backend)
    want = composed(*tensors, grid, basis)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    all_of_them = zip(gradients(got, tensors, g, retain_graph=True),
                      gradients(want, tensors, g, retain_graph=True), strict=True)  # fmt: skip
    for a, b in all_of_them:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for t in tensors:  # of each alone
        if t is not None:
            (a,), (b,) = (gradients(y, [t], g, retain_graph=True) for y in (got, want))
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_gradients_of_gradients(activation, backend):
    basis = make_basis(*((1, 1) if backend == "triton" else (4, 2)), activation)
    *tensors, grid = make((1, 1, 1) if backend == "triton" else (4, 3, 2), basis)
    there = [t for t in tensors if t is not None]

    def call(*_):
        return layer(*tensors, grid, basis=basis, backend=backend)

    assert gradcheck(call, there)
    assert gradgradcheck(call, there)


@pytest.mark.parametrize("deriv", [0, 1, 2])
@pytest.mark.parametrize("degree", [1, 3])
def test_gradients_of_knots(degree, deriv):
    """Knots may be parameters: of values, of derivatives, and to second order."""
    basis = make_basis(3, degree, "silu", "general")
    x, weight, base, scaler, grid = make((5, 2, 2), basis)
    grid = (grid + torch.linspace(0, 0.3, grid.shape[1], dtype=grid.dtype)).requires_grad_()
    c = reference.pack(weight, base, scaler).detach().requires_grad_()

    def call(grid, x, c):
        return kan_linear(x, c, grid, basis=basis, deriv=deriv)

    assert gradcheck(call, (grid, x, c))
    if deriv + 2 < degree:
        assert gradgradcheck(call, (grid, x, c))
    assert gradcheck(lambda grid: layer(x, weight, base, scaler, grid, basis=basis), (grid,))


def test_knots_have_no_tangent():
    basis = make_basis(3, 3)
    *tensors, grid = make((5, 2, 2), basis)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"grid .* no tangent"):
        layer(*tensors, forward_ad.make_dual(grid, grid), basis=basis)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_arguments_are_saved(backend):
    basis = make_basis()
    *tensors, grid = make((9, 3, 2), basis)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        layer(*tensors, grid, basis=basis, backend=backend)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (*tensors, grid)}


@pytest.mark.parametrize("op", ["layer", "layer_grad"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_ops_keep_torchs_rules(op, backend):
    basis = make_basis(3, 2)
    *tensors, grid = [None if t is None else t.detach() for t in make((9, 3, 2), basis)]
    scalars = (3, 2, "silu", basis.uniform, 0, "float64", backend)
    if op == "layer":
        arguments = (*tensors, grid, *scalars, torch.float64)
    else:
        g = torch.randn(9, 2, dtype=torch.float64, device=DEVICE)
        arguments = (g, *tensors, grid, *scalars, [True, True, False, True, False])
    bare = getattr(torch.ops.kanfast, op).default
    torch.library.opcheck(bare, arguments)
    first, *others = arguments
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"forward-mode .* bare op"):
        bare(forward_ad.make_dual(first, first), *others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_mix_under_autocast(dtype, held):
    """As in nn.Linear: parameters of any dtype below float64, autocast of another."""
    basis = make_basis()
    x, *tensors, grid = make((9, 3, 2), basis, dtype=torch.float32)
    tensors = [t.detach().to(held).requires_grad_() for t in tensors]
    with torch.autocast(DEVICE, dtype=dtype if dtype != torch.float32 else torch.bfloat16):
        y = layer(x.to(dtype), *tensors, grid.float(), basis=basis)
        linear = torch.nn.functional.linear(x.to(dtype), tensors[1])
    assert y.dtype == linear.dtype
    exact = composed(x.double(), *[t.double() for t in tensors], grid, basis)
    torch.testing.assert_close(y.double(), exact, rtol=0.05, atol=0.1)
    for grad, t in zip(torch.autograd.grad(y.float().sum(), tensors), tensors, strict=True):
        assert grad.dtype == t.dtype


class TestPacking:
    """The packing by itself, and its gradients."""

    @pytest.mark.parametrize("scaled", [True, False], ids=["scaler", "bare"])
    @pytest.mark.parametrize("with_base", [True, False], ids=["base", "splines"])
    @pytest.mark.parametrize("shape", [(5, 3, 4), (33, 20, 8), (1, 1, 1), (3, 0, 2)], ids=str)
    def test_it_is_that_of_plain_torch(self, shape, with_base, scaled):
        generator = torch.Generator().manual_seed(0)
        weight, edges = torch.randn(shape, generator=generator, dtype=torch.float64), shape[:2]
        base = torch.randn(edges, generator=generator, dtype=torch.float64) if with_base else None
        scaler = torch.randn(edges, generator=generator, dtype=torch.float64).T.contiguous().T
        scaler = scaler if scaled else None
        given = [t.requires_grad_() for t in (weight, base, scaler) if t is not None]
        results = []
        for pack in (packing.pack, reference.pack):
            c = pack(weight, base, scaler)
            assert c.is_contiguous()
            (first,) = torch.autograd.grad(c.sin().sum(), given[:1], create_graph=True)
            every = torch.autograd.grad(c.cos().sum(), given, retain_graph=True)
            results.append(
                [c, first, *every, *torch.autograd.grad(first.square().sum(), given[:1])]
            )
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


def test_a_plan_is_made_once_for_all_that_it_follows_from():
    basis = make_basis()
    *tensors, grid = make((9, 3, 2), basis)
    engine._plan.cache_clear()
    for _ in range(3):
        layer(*tensors, grid, basis=basis)
    assert engine._plan.cache_info().misses == 1
    layer(*tensors, grid.float(), basis=basis)
    with torch.autocast(DEVICE):
        layer(*tensors, grid, basis=basis)
    assert engine._plan.cache_info().misses in (2, 3)  # autocast leaves float64 alone
