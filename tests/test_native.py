"""The native CPU kernels against scipy's B-splines, and what it means that they are optional."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import oracle
import pytest
import torch
from cases import ACTIVATIONS, DTYPES, KNOTS, ORDERS, SHAPES, make_basis, make_case, make_grid
from torch.autograd import gradcheck, gradgradcheck

from kanfast import KAN, kan_linear, layer, native, packing, reference
from kanfast.native import layers as native_layers
from kanfast.ops import resolve_backend

built = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")

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
        floor = 8 * torch.finfo(got.dtype).eps * want.abs().max().item()
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


@built
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


@built
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


@built
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


@built
@pytest.mark.parametrize("knots", KNOTS)
def test_gradients_of_any_order(knots):
    basis = make_basis(3, 3, "silu", knots)
    x, c, s, _, grid = make_case((4, 3, 2), basis, "float64", scale=True)

    def call(x, c, s):
        return kan_linear(x, c, grid, basis=basis, input_scale=s, backend="native")

    tensors = [t.requires_grad_() for t in (x, c, s)]
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


@built
@pytest.mark.parametrize("with_scaler", [True, False], ids=["scaler", "bare"])
@pytest.mark.parametrize("with_base", [True, False], ids=["base", "splines"])
@pytest.mark.parametrize("shape", [(5, 3, 4), (33, 20, 8), (1, 1, 1), (3, 0, 2)], ids=str)
def test_packing_and_its_gradients_are_those_of_plain_torch(shape, with_base, with_scaler):
    generator = torch.Generator().manual_seed(0)
    weight, edges = torch.randn(shape, generator=generator, dtype=torch.float64), shape[:2]
    base = torch.randn(edges, generator=generator, dtype=torch.float64) if with_base else None
    scaler = torch.randn(edges, generator=generator, dtype=torch.float64).T.contiguous().T
    scaler = scaler if with_scaler else None
    given = [t.requires_grad_() for t in (weight, base, scaler) if t is not None]
    results = []
    for pack in (packing.pack, packing._plain):
        c = pack(weight, base, scaler)
        assert c.is_contiguous()
        (first,) = torch.autograd.grad(c.sin().sum(), given[:1], create_graph=True)
        every = torch.autograd.grad(c.cos().sum(), given, retain_graph=True)
        results.append([c, first, *every, *torch.autograd.grad(first.square().sum(), given[:1])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


@built
class TestWholeLayer:
    """A layer in one call, from its parameters, against packing and `kan_linear` in plain torch."""

    @pytest.mark.parametrize("with_scaler", [True, False], ids=["scaler", "bare"])
    @pytest.mark.parametrize("activation", ["silu", "none"])
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("shape", [(37, 4, 3), (300, 20, 40), (0, 3, 2)], ids=str)
    def test_values_and_gradients(self, shape, knots, activation, with_scaler):
        whole, plain, tensors, g = self.make(shape, knots, activation, with_scaler)
        assert layer.takes(whole.args[0])
        results = []
        for call in (whole, plain):
            y = call()
            # All, and those of the input or of a parameter alone.
            grads = [
                torch.autograd.grad(y, t, g, retain_graph=True) for t in (tensors, tensors[:1])
            ]
            grads += [torch.autograd.grad(y, t, g, retain_graph=True) for t in tensors[1:]]
            results.append([y, *(d for part in grads for d in part)])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("with_scaler", [True, False], ids=["scaler", "bare"])
    @pytest.mark.parametrize("activation", ["silu", "none"])
    def test_gradients_of_gradients(self, activation, with_scaler):
        whole, _, tensors, _ = self.make((5, 3, 2), "uniform", activation, with_scaler)
        assert gradcheck(lambda *_: whole(), tensors)
        assert gradgradcheck(lambda *_: whole(), tensors)

    def test_what_does_not_fit_goes_the_usual_way(self):
        whole, *_ = self.make((5, 3, 2), "uniform", "silu", True)
        x, _, (weight, base, scaler, grid) = whole.args
        for given in (x, x.expand(4, 5, 3), x[:0], x[0], x.float()):
            assert layer.takes(given)
        for given in (x.half(), x.to("meta"), x.sum(), x.int()):
            assert not layer.takes(given)
        basis, dtype = make_basis(), x.dtype
        right = (weight, base, scaler, grid, basis, dtype)
        shape, tensors = layer.fit(*right)
        assert tensors == [weight, base, scaler, grid]
        assert layer.fit(*right)[0] is shape
        for given in (
            (weight, base, scaler, grid, basis, torch.float32),
            (weight[..., :-1], base, scaler, grid, basis, dtype),
            (weight[0], base, scaler, grid, basis, dtype),
            (weight.to("meta"), base, scaler, grid, basis, dtype),
            (weight, base[:, :2], scaler, grid, basis, dtype),
            (weight, base, scaler.T, grid, basis, dtype),
            (weight, base, scaler.float(), grid, basis, dtype),
            (weight, base, scaler.T.contiguous().T, grid, basis, dtype),
            (weight, None, scaler, grid, basis, dtype),
            (weight, base, scaler, grid[:2], basis, dtype),
            (weight, base, scaler, grid.half(), basis, dtype),
            (weight, base, scaler, grid.clone().requires_grad_(), basis, dtype),
            (weight, base, scaler, grid, make_basis(activation="gelu"), dtype),
            (weight, base, scaler, grid, make_basis(4), dtype),
        ):
            assert layer.fit(*given) is None

    @staticmethod
    def make(shape, knots, activation, with_scaler):
        (rows, inputs, outputs), basis = shape, make_basis(5, 3, activation, knots)
        generator = torch.Generator().manual_seed(0)

        def normal(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()

        x, weight = normal(rows, inputs), normal(outputs, inputs, basis.num_splines)
        base = normal(outputs, inputs) if activation != "none" else None
        scaler = normal(outputs, inputs) if with_scaler else None
        grid = make_grid(inputs, basis)

        def plain():
            c = packing._plain(weight, base, scaler)
            return kan_linear(x, c, grid, basis=basis, backend="reference")

        shape, its = layer.fit(weight, base, scaler, grid, basis, x.dtype)
        whole = partial(layer.evaluate, x, native_layers.chain(shape), its)
        tensors = [t for t in (x, weight, base, scaler) if t is not None]
        return whole, plain, tensors, torch.randn(rows, outputs, generator=generator).double()


@built
def test_16_bit_tensors_with_float32_arithmetic():
    basis = make_basis()
    x, c, _, _, grid = make_case((20, 4, 3), basis, "bfloat16")
    keywords = {"basis": basis, "precision": "ieee"}
    got = kan_linear(x, c, grid, backend="native", **keywords)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, kan_linear(x, c, grid, backend="reference", **keywords))


@built
def test_what_auto_takes():
    x = torch.zeros(1)
    assert resolve_backend("auto", x) == "native"
    assert resolve_backend("auto", x, "float64") == "native"
    assert resolve_backend("auto", x, "bfloat16") == "reference"
    assert resolve_backend("auto", x.to("meta")) == "reference"


@built
def test_by_name_it_never_falls_back():
    with pytest.raises(RuntimeError, match=r"CPU tensors, got meta"):
        resolve_backend("native", torch.zeros(1, device="meta"))
    basis = make_basis()
    x, c, _, _, grid = make_case((5, 2, 2), basis, "bfloat16")
    with pytest.raises(RuntimeError, match=r"float32 or float64, got the precision 'bfloat16'"):
        kan_linear(x, c, grid, basis=basis, backend="native")


NOT_BUILT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if "native._" in name else find(name, *a)
import torch, kanfast
assert not kanfast.native.available()
model = kanfast.KAN([2, 3, 1])
model(torch.zeros(4, 2)).sum().backward()
model.backend = "native"
x, weight = torch.zeros(4, 2), model.layers[0].spline_weight
for call in (lambda: model(x), lambda: kanfast.native.pack(weight, None, None)):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


def test_without_the_library_plain_torch_does_the_work(tmp_path):
    command = [sys.executable, "-c", NOT_BUILT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    by_name, launcher = done.stdout.splitlines()
    reason = "is expected to be built, but it was not compiled for this processor when kanfast was"
    assert by_name.startswith(f'backend "native" {reason}')
    assert by_name.endswith('or use backend="auto"')
    assert launcher.startswith(f"kanfast.native {reason}")


OUT_OF_MEMORY = """
import resource, torch, kanfast
torch.set_num_threads(1)
basis = kanfast.Basis(1, 0, "none")
x, grid = torch.zeros(1, 8192), torch.tensor([-1.0, 1.0]).expand(8192, 2)
c = torch.empty(1, 8192, 8192)  # 256 MiB, as much as the copy of it that the library makes
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for call, results in ((kanfast.kan_linear, 0), (kanfast.edge_statistics, 5)):
    room = used + (results * 256 + 128) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    try:
        call(x, c, grid, basis=basis, backend="native")
    except MemoryError as error:
        print(error)
"""


@built
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as on Linux")
def test_without_memory_for_its_buffers_it_says_so():
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    message = (
        "kanfast.native needs buffers for 8192 inputs and 8192 outputs, got no memory for them: "
        'use backend="reference", which needs less'
    )
    assert done.stdout.splitlines() == [message, message]


@built
def test_every_instruction_set_gives_the_same():
    """The build for older processors, in a process that takes it, to rounding."""
    program = (
        "import torch, kanfast\n"
        "torch.manual_seed(0)\n"
        "model = kanfast.KAN([9, 20, 3], backend='native').double()\n"
        "x = torch.linspace(-1.5, 1.5, 900, dtype=torch.float64).view(100, 9)\n"
        "model(x).square().sum().backward()\n"
        "print(torch.backends.cpu.get_cpu_capability())\n"
        "print(*(p.grad.norm().item() for p in model.parameters()))\n"
    )
    seen = {}
    for capability in ("avx2", "avx512"):
        env = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        name, norms = done.stdout.splitlines()
        seen[name] = torch.tensor([float(n) for n in norms.split()], dtype=torch.float64)
    first, *others = seen.values()
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)


@built
def test_a_model_trains_on_it():
    torch.manual_seed(0)
    model = KAN([2, 5, 1], backend="native")
    x = torch.rand(256, 2) * 2 - 1
    y = (x[:, :1] * x[:, 1:]).sin()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = None
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first
