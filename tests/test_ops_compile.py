"""kan_linear under torch.compile and torch.export."""

import pytest
import torch
from cases import DEVICE, KNOTS, LEFT_TO_PYTHON, make_basis, make_case, tangent
from torch._dynamo.testing import CompileCounter

from kanfast import KAN, kan_linear, pack_coefficients
from kanfast.engine import _torch, primitives

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    # torch loads the rules of its own forward mode by a module that it has deprecated.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
    # torch's own: its code generator asks this of a machine without CUDA.
    pytest.mark.filterwarnings("ignore:.*CUDA:UserWarning"),
]


def gradients(call, *tensors):
    y = call(*tensors)
    return [
        y.detach(),
        *torch.autograd.grad(y.square().sum(), [t for t in tensors if t.requires_grad]),
    ]


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("knots", KNOTS)
def test_training_compiles_to_one_graph(knots):
    basis = make_basis(knots=knots)
    x, c, s, _, grid = make_case((9, 3, 2), basis, "float64", scale=True)
    tensors = [t.requires_grad_() for t in (x, c, s)]

    def call(x, c, s):
        return torch.tanh(kan_linear(x, c, grid, basis=basis, input_scale=s)) * 2

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same(gradients(compiled, *tensors), gradients(call, *tensors))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*tensors), call(*tensors))


class Model(torch.nn.Module):
    """Two layers on parameters in torch's layout."""

    def __init__(self, basis):
        super().__init__()
        self.basis = basis
        for n, (inputs, outputs) in enumerate(((3, 4), (4, 2))):
            _, c, _, _, grid = make_case((1, inputs, outputs), basis, "ieee", seed=n)
            c = c.permute(2, 1, 0)
            self.register_parameter(f"spline{n}", torch.nn.Parameter(c[..., :-1].clone()))
            self.register_parameter(f"base{n}", torch.nn.Parameter(c[..., -1].clone()))
            self.register_buffer(f"grid{n}", grid)

    def forward(self, x):
        for n in range(2):
            c = pack_coefficients(getattr(self, f"spline{n}"), getattr(self, f"base{n}"))
            x = kan_linear(x, c, getattr(self, f"grid{n}"), basis=self.basis)
        return x


def test_inductor_trains_a_model_of_any_batch_size():
    model = Model(make_basis()).to(DEVICE)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for rows in (9, 33, 1):
        x = torch.randn(rows, 3, device=DEVICE)
        both = []
        for call in (compiled, model):
            model.zero_grad()
            y = call(x)
            y.square().mean().backward()
            both.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
        for got, want in zip(*both, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_batch_size_is_no_reason_to_compile_again():
    basis = make_basis()
    _, c, _, _, grid = make_case((9, 3, 2), basis, "float64")
    count = CompileCounter()

    def call(x):
        return kan_linear(x, c, grid, basis=basis)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=count)
    for rows in (5, 9, 17):
        x = torch.randn(rows, 3, dtype=torch.float64, device=DEVICE)
        torch.testing.assert_close(compiled(x), call(x))
    assert count.frame_count == 1


@pytest.mark.skipif(
    not _torch._GRAPHS_OF_GRAD, reason="torch before 2.13 has no graph of a Function within grad"
)
def test_func_grad_compiles():
    basis = make_basis()
    x, c, _, _, grid = make_case((9, 3, 2), basis, "float64")

    def loss(x):
        return kan_linear(x, c, grid, basis=basis).square().sum()

    slope = torch.func.grad(loss)
    compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), slope(x))


@pytest.fixture
def float32_precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_kernels_compile_at_the_precision_torch_allows(monkeypatch, float32_precision):
    pytest.importorskip("triton")
    basis = make_basis()
    x, c, _, _, grid = make_case((9, 3, 2), basis, "ieee")
    c.requires_grad_()

    def call(x, c):
        return kan_linear(x, c, grid, basis=basis, backend="triton")

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    seen, run = [], primitives._run
    monkeypatch.setattr(primitives, "_run", lambda *a: seen.append(a[2].precision) or run(*a))
    for allowed, precision in (("highest", "tf32x3"), ("high", "tf32"), ("highest", "tf32x3")):
        float32_precision(allowed)
        seen.clear()
        assert_same(gradients(compiled, x, c), gradients(call, x, c))
        assert seen == [precision] * 4


def test_compiled_autocast():
    basis = make_basis()
    x, c, _, _, grid = make_case((9, 3, 2), basis, "ieee")
    c.requires_grad_()

    def call(x, c):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return kan_linear(x, c, grid, basis=basis)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert compiled(x, c).dtype == torch.bfloat16
    assert_same(gradients(compiled, x, c), gradients(call, x, c))


@pytest.mark.parametrize("before", [False, True], ids=["first", "after a plain call"])
def test_forward_mode_around_compiled_code(before):
    basis = make_basis()
    x, c, _, _, grid = make_case((9, 3, 2), basis, "float64")

    def call(x):
        return torch.sin(kan_linear(x, c, grid, basis=basis))

    compiled = torch.compile(call, backend="aot_eager")
    if before:
        compiled(x)
    torch.testing.assert_close(tangent(compiled, x), tangent(call, x))
    torch.testing.assert_close(compiled(x), call(x))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model = Model(make_basis()).to(DEVICE)
    rows = torch.export.Dim("rows")
    example = (torch.randn(9, 3, device=DEVICE),)
    program = torch.export.export(model, example, dynamic_shapes={"x": {0: rows}}, strict=strict)
    x = torch.randn(5, 3, device=DEVICE)
    torch.testing.assert_close(program.module()(x), model(x))
    targets = [str(node.target) for node in program.graph.nodes if "kanfast" in str(node.target)]
    assert targets == ["kanfast.forward.default"] * 2


def jvp(call, x):
    return torch.func.jvp(call, (x,), (torch.cos(x),))[1]


def gradients_of_parameters(model, x):
    def loss(parameters):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    gradients = torch.func.grad(loss)(dict(model.named_parameters()))
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


TRANSFORMS = {
    "grad": lambda call, x: torch.func.grad(lambda x: call(x).square().sum())(x),
    "jacrev": lambda call, x: torch.func.jacrev(call)(x),
    "vmap": lambda call, x: torch.func.vmap(call)(x),
    "vmap of grad": lambda call, x: torch.func.vmap(torch.func.grad(lambda x: call(x).sum()))(x),
    "hessian": lambda call, x: torch.func.hessian(lambda x: call(x).square().sum())(x),
    "jvp": jvp,
    "parameters": gradients_of_parameters,
}


@LEFT_TO_PYTHON
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_within_compiled_code(name, trained, backend):
    """No derivative is silently zero."""
    model = KAN([3, 4, 2], dtype=torch.float64, backend=backend).requires_grad_(trained)
    x = torch.rand(5, 3, dtype=torch.float64)
    transformed = TRANSFORMS[name]
    compiled = torch.compile(lambda x: transformed(model, x), backend="aot_eager")
    want = transformed(model, x)
    assert want.abs().max() > 1e-6
    torch.testing.assert_close(compiled(x), want)
