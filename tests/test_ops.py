"""kan_linear as torch sees it: gradients of any order, dtypes, what is saved and skipped."""

import subprocess
import sys
from itertools import pairwise

import oracle
import pytest
import torch
from cases import BACKENDS, DEVICE, DTYPES, KNOTS, make_basis, make_case, make_grid
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from kanfast import kan_linear, pack_coefficients
from kanfast.engine import autograd, native
from kanfast.engine.backends import resolve_backend
from kanfast.engine.primitives import Spec

# torch loads the rules of its own forward mode by a module that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")

SHAPE = (4, 2, 3)
OPS = ("forward", "input_grad", "weight_grad")


def primitive(op, case, basis, deriv, backend="reference"):
    """(function of the tensors to differentiate, these tensors) of a Function in float64."""
    x, c, s, g, grid = case
    spec = Spec(basis, deriv, "float64", backend)
    tensors = {"forward": (x, c, s), "input_grad": (g, x, c), "weight_grad": (g, x, s)}[op]

    def call(*tensors):
        return getattr(autograd, op)(*tensors, grid, spec, torch.float64)

    return call, tuple(None if t is None else t.requires_grad_() for t in tensors)


@pytest.mark.parametrize("deriv", [0, 1, 2])
@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("op", OPS)
def test_gradients_of_the_primitives(op, knots, deriv):
    basis = make_basis(4, 4, "silu", knots)
    call, tensors = primitive(op, make_case(SHAPE, basis, "float64", scale=True), basis, deriv)
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("op", ["forward", "weight_grad"])
def test_gradients_without_an_input_scale(op):
    basis = make_basis()
    call, tensors = primitive(op, make_case(SHAPE, basis, "float64"), basis, 0)
    assert gradcheck(lambda a, b: call(a, b, None), tensors[:2], check_forward_ad=True)
    assert gradgradcheck(lambda a, b: call(a, b, None), tensors[:2], check_fwd_over_rev=True)


def test_the_third_derivative_of_a_layer():
    basis = make_basis(5, 5)
    x, c, _, _, grid = make_case((7, 1, 1), basis, "float64")
    y = x.requires_grad_()
    f = kan_linear(y, c, grid, basis=basis)
    for deriv in range(1, 4):
        (f,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        want = kan_linear(x, c, grid, basis=basis, deriv=deriv)
        torch.testing.assert_close(f, want, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("knots", KNOTS)
def test_values_and_gradients_by_autograd_through_the_sum(knots, backend):
    basis = make_basis(knots=knots)
    x, c, s, g, grid = make_case((9, 4, 3), basis, "float64", scale=True)
    y = kan_linear(x, c.requires_grad_(), grid, basis=basis, input_scale=s, backend=backend)
    torch.testing.assert_close(y.detach(), oracle.forward(x, c.detach(), s, grid, basis, 0))
    y.backward(g)
    torch.testing.assert_close(c.grad, oracle.weight_grad(g, x, s, grid, basis, 0))


def cox_de_boor(x, grid, degree):
    """[B, I, G + k] by the textbook recursion, which autograd differentiates."""
    x = x.unsqueeze(-1)
    f = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
    for d in range(1, degree + 1):
        left = (x - grid[:, : -d - 1]) / (grid[:, d:-1] - grid[:, : -d - 1])
        right = (grid[:, d + 1 :] - x) / (grid[:, d + 1 :] - grid[:, 1:-d])
        f = left * f[..., :-1] + right * f[..., 1:]
    return f


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("knots", KNOTS)
def test_a_pinn_loss(knots, backend):
    """Parameter gradients of a loss of second derivatives by the input, to 1e-9."""
    generator = torch.Generator().manual_seed(0)
    basis = make_basis(5, 3, "silu", knots)
    widths, grids, parameters = (2, 4, 1), [], []
    for seed, (inputs, outputs) in enumerate(pairwise(widths)):
        grid = make_grid(inputs, basis, seed)
        if knots == "general":  # the textbook recursion does not bear repeated knots
            grid = grid + torch.linspace(0, 0.1, grid.shape[1], dtype=torch.float64)
        grids.append(grid.to(DEVICE))
        for shape in ((outputs, inputs, basis.num_splines), (outputs, inputs), (outputs, inputs)):
            weights = torch.randn(shape, generator=generator, dtype=torch.float64)
            parameters.append(weights.to(DEVICE).requires_grad_())
    points = torch.rand(17, 2, generator=generator, dtype=torch.float64) * 2 - 1

    def ours(x, grid, spline, base, scaler):
        c = pack_coefficients(spline, base, scaler)
        return kan_linear(x, c, grid, basis=basis, backend=backend)

    def plain(x, grid, spline, base, scaler):
        f = cox_de_boor(x, grid, basis.degree).flatten(1)
        silu = torch.nn.functional.silu(x)
        return silu @ base.T + f @ (spline * scaler.unsqueeze(-1)).flatten(1).T

    def gradients(layer):
        x = points.to(DEVICE).requires_grad_()
        y = layer(layer(x, grids[0], *parameters[:3]), grids[1], *parameters[3:])
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        laplacian = torch.zeros_like(y[:, 0])
        for i in range(2):
            (second,) = torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)
            laplacian = laplacian + second[:, i]
        loss = (laplacian - torch.sin(x[:, 0])).square().mean()
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    for got, want in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op):
    basis = make_basis(3, 2)
    x, c, s, g, grid = make_case(SHAPE, basis, "ieee", scale=True)
    tensors = {"forward": (x, c, s), "input_grad": (g, x, c), "weight_grad": (g, x, s)}[op]
    scalars = (3, 2, "silu", True, 1, "ieee", "reference", torch.float32)
    torch.library.opcheck(getattr(torch.ops.kanfast, op).default, (*tensors, grid, *scalars))


def test_nothing_but_x_and_c_is_saved():
    basis = make_basis()
    x, c, s, _, grid = make_case((64, 5, 4), basis, "float64", scale=True)
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kan_linear(x.requires_grad_(), c.requires_grad_(), grid, basis=basis)
        assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, c, grid)}
        saved.clear()
        kan_linear(x, c, grid, basis=basis, input_scale=s)
        assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, c, s, grid)}


def test_packing_saves_its_parameters_only():
    spline, base, scaler = (torch.randn(n, requires_grad=True) for n in ((4, 3, 8), (4, 3), (4, 3)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        pack_coefficients(spline, base, scaler)
    assert {t.data_ptr() for t in saved} <= {t.data_ptr() for t in (spline, scaler)}


class Calls(TorchDispatchMode):
    """Counts the calls of the primitives."""

    def __init__(self):
        super().__init__()
        self.counts = dict.fromkeys(OPS, 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "kanfast":
            self.counts[func._opname] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("x_grad", [False, True])
@pytest.mark.parametrize("c_grad", [False, True])
def test_gradients_nobody_asks_for_are_not_computed(x_grad, c_grad):
    basis = make_basis()
    x, c, _, _, grid = make_case(SHAPE, basis, "float64")
    y = kan_linear(x.requires_grad_(x_grad), c.requires_grad_(c_grad), grid, basis=basis)
    assert y.requires_grad == (x_grad or c_grad)
    with Calls() as calls:
        if y.requires_grad:
            y.sum().backward()
    assert calls.counts == {"forward": 0, "input_grad": x_grad, "weight_grad": c_grad}


def test_no_function_is_built_when_nothing_asks_for_a_gradient(monkeypatch):
    basis = make_basis()
    x, c, _, _, grid = make_case(SHAPE, basis, "float64")
    for function in (autograd.Contraction, autograd.EagerContraction, autograd.DualContraction):
        monkeypatch.setattr(function, "apply", lambda *_: pytest.fail("a Function was applied"))
    assert not kan_linear(x, c, grid, basis=basis).requires_grad
    with torch.no_grad():
        assert not kan_linear(x.requires_grad_(), c, grid, basis=basis).requires_grad


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4, 3), (2, 0, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_dimensions(shape, backend):
    basis = make_basis()
    _, c, _, _, grid = make_case((1, 3, 2), basis, "float64")
    x = torch.randn(shape, dtype=torch.float64, device=DEVICE, requires_grad=True)
    c.requires_grad_()
    y = kan_linear(x, c, grid, basis=basis, input_scale=x, backend=backend)
    assert y.shape == (*shape[:-1], 2)
    rows = x.reshape(-1, 3)
    want = kan_linear(rows, c, grid, basis=basis, input_scale=rows)
    torch.testing.assert_close(y, want.view(y.shape))
    y.sum().backward()
    assert x.grad.shape == shape
    assert c.grad.shape == c.shape


def test_expanded_and_strided_gradients():
    basis = make_basis()
    x, c, _, _, grid = make_case((6, 3, 4), basis, "float64")
    x.requires_grad_()
    y = kan_linear(x, c, grid, basis=basis)
    for g in (torch.ones(1, 1).expand(6, 4), torch.rand(6, 1).expand(6, 4), torch.rand(4, 6).T):
        g = g.double().to(DEVICE)
        (got,) = torch.autograd.grad(y, x, g, retain_graph=True)
        (want,) = torch.autograd.grad(y, x, g.contiguous(), retain_graph=True)
        assert torch.equal(got, want)


@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_splines_differentiated_away(degree, backend):
    basis = make_basis(4, degree, "none")
    x, c, _, g, grid = make_case(SHAPE, basis, "float64")
    x.requires_grad_()
    c.requires_grad_()
    y = kan_linear(x, c, grid, basis=basis, deriv=degree + 1, backend=backend)
    assert torch.equal(y, torch.zeros_like(g))
    for grad, tensor in zip(torch.autograd.grad(y, (x, c), g), (x, c), strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("precision", ["ieee", "bfloat16", "float16", "float64"])
def test_the_output_and_the_gradients_have_the_dtype_of_the_input(precision):
    basis = make_basis()
    x, c, s, _, grid = make_case((20, 6, 4), basis, precision, scale=True)
    tensors = [t.requires_grad_() for t in (x, c, s)]
    y = kan_linear(x, c, grid, basis=basis, input_scale=s)
    assert y.dtype == DTYPES[precision]
    assert all(g.dtype == DTYPES[precision] for g in torch.autograd.grad(y.sum(), tensors))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(low):
    basis = make_basis()
    x, c, _, g, grid = make_case((64, 16, 8), basis, "ieee")
    x.requires_grad_()
    c.requires_grad_()
    exact = kan_linear(x, c, grid, basis=basis)
    want = torch.autograd.grad(exact, (x, c), g)
    with torch.autocast(DEVICE, dtype=low):
        y = kan_linear(x, c, grid, basis=basis)
        again = kan_linear(y @ torch.ones(8, 16, device=DEVICE), c, grid, basis=basis)
    assert y.dtype == again.dtype == low
    gradients = torch.autograd.grad(y, (x, c), g.to(low))
    assert [t.dtype for t in gradients] == [torch.float32] * 2
    for got, full in zip((y, *gradients), (exact, *want), strict=True):
        assert 1e-7 < (got.float() - full).norm() / full.norm() < 1e-2


def test_autocast_leaves_float64_alone():
    basis = make_basis()
    x, c, _, _, grid = make_case((9, 3, 2), basis, "float64")
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = kan_linear(x, c, grid, basis=basis)
    assert torch.equal(y, kan_linear(x, c, grid, basis=basis))


def test_precision_can_be_chosen():
    basis = make_basis()
    x, c, _, _, grid = make_case((64, 16, 8), basis, "ieee")
    exact = kan_linear(x, c, grid, basis=basis)
    y = kan_linear(x, c, grid, basis=basis, precision="bfloat16")
    assert y.dtype == torch.float32
    assert 1e-4 < (y - exact).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("scaler", [False, True])
def test_packing(base, scaler):
    spline = torch.randn(4, 3, 8, dtype=torch.float64, requires_grad=True)
    others = [
        torch.randn(4, 3, dtype=torch.float64, requires_grad=True) if given else None
        for given in (base, scaler)
    ]
    c = pack_coefficients(spline, *others)
    assert c.shape == (8 + base, 3, 4)
    assert c.is_contiguous()
    factor = others[1].detach() if scaler else torch.ones(4, 3).double()
    for j in range(8):
        torch.testing.assert_close(c[j].detach(), (spline[:, :, j].detach() * factor).T)
    if base:
        torch.testing.assert_close(c[8].detach(), others[0].detach().T)
    given = [t for t in (spline, *others) if t is not None]

    def pack(*tensors):
        rest = iter(tensors[1:])
        return pack_coefficients(tensors[0], *(None if t is None else next(rest) for t in others))

    assert gradcheck(pack, given)


def test_a_backend_for_every_tensor():
    triton = pytest.importorskip("triton")
    cpu = torch.zeros(1)
    assert resolve_backend("auto", cpu) == ("native" if native.available() else "reference")
    assert resolve_backend("reference", cpu) == "reference"
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        assert resolve_backend("triton", cpu) == "triton"
        triton.knobs.runtime.interpret = False
        with pytest.raises(RuntimeError, match=r"device of the tensor, cpu, but .*reference"):
            resolve_backend("triton", cpu)


WITHOUT_TRITON = """
import sys
from itertools import pairwise
sys.modules["triton"] = None
import torch, kanfast
basis = kanfast.Basis(5, 3)
x, c = torch.rand(4, 3, requires_grad=True), torch.rand(9, 3, 2)
grid = torch.linspace(-2.2, 2.2, 12).expand(3, 12)
kanfast.kan_linear(x, c, grid, basis=basis).sum().backward()
assert x.grad.abs().sum() > 0
try:
    kanfast.kan_linear(x, c, grid, basis=basis, backend="triton")
except RuntimeError as error:
    assert "Triton cannot be imported" in str(error), error
else:
    raise SystemExit("no error")
assert "kanfast.kernels" not in sys.modules
"""


def test_kanfast_works_without_triton():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_TRITON], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_meta_tensors_pass_through() -> None:
    basis = make_basis()
    meta = {"device": "meta"}
    c, grid = torch.empty(9, 4, 2, **meta), torch.empty(4, 12, **meta)
    y = kan_linear(torch.empty(7, 3, 4, **meta), c, grid, basis=basis)
    assert y.is_meta
    assert y.shape == (7, 3, 2)


def test_import_is_light() -> None:
    heavy = "{'torch._dynamo', 'triton', 'sympy', 'matplotlib'} & set(sys.modules)"
    code = f"import torch, sys; before = {heavy}; import kanfast; print({heavy} - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
