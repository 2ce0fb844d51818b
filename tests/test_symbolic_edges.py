"""Symbolic edges of a layer: against a loop over edges, autograd, state."""

import copy
import pickle
import re

import pytest
import torch

from kanfast import KAN
from kanfast.symbolic.edges import SymbolicEdges
from kanfast.symbolic.library import Library, default_library

NAMES = list(default_library())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def filled(dtype=torch.float64, names=NAMES, **options):
    """A [5 -> 7] layer with every function somewhere and some edges left out."""
    generator = torch.Generator().manual_seed(0)
    module = SymbolicEdges(5, 7, dtype=dtype, **options)
    for k, name in enumerate(names):
        params = torch.rand(4, generator=generator) * 0.4 + 0.3
        module.fix(k % 7, (k * 3) % 5, name, params)
    return module


def by_loop(module, x):
    y = x.new_zeros(*x.shape[:-1], module.out_features)
    for (o, i), function in module.functions.items():
        a, b, c, d = module.affine[o, i]
        y[..., o] += module.mask[o, i] * (c * function(a * x[..., i] + b) + d)
    return y


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (5,), (0, 5)], ids=str)
def test_forward_is_the_sum_over_edges(shape):
    module = filled()
    x = torch.rand(shape, dtype=torch.float64)
    module.mask[3, 2] = 0.25
    torch.testing.assert_close(module(x), by_loop(module, x))
    assert module(x).shape == (*shape[:-1], 7)


def test_postactivations_are_ordered_as_edges():
    module = filled()
    x = torch.rand(4, 5, dtype=torch.float64)
    rows, columns = module.edges
    terms = module.postactivations(x)
    assert terms.shape == (4, len(module.functions))
    for k, (o, i) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        a, b, c, d = module.affine[o, i]
        expected = c * module.functions[o, i](a * x[:, i] + b) + d
        torch.testing.assert_close(terms[:, k], expected)


def test_no_symbolic_edges_give_zeros():
    module = SymbolicEdges(3, 2)
    x = torch.rand(4, 3, requires_grad=True)
    assert module(x).tolist() == [[0, 0]] * 4
    assert module.postactivations(x).shape == (4, 0)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_dtypes_and_singular_arguments(dtype):
    module = SymbolicEdges(2, 4, dtype=dtype)
    for o, name in enumerate(["1/x", "log", "sqrt", "arctanh"]):
        module.fix(o, 0, name, (1, 0, 1, 0))
    x = torch.tensor([[0.0, 1], [-1, 1], [1, 1]], dtype=dtype, requires_grad=True)
    y = module(x)
    assert y.dtype == dtype
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert module.affine.grad.isfinite().all()


def test_limit_cuts_poles():
    module = SymbolicEdges(1, 1, limit=10.0)
    module.fix(0, 0, "1/x")
    assert module(torch.tensor([[1e-6]])).item() == pytest.approx(10)


def test_gradients():
    module = filled(names=["x", "x^2", "sin", "exp", "gaussian", "sqrt", "1/x", "log", "tanh", "0"])
    x = (torch.rand(3, 5, dtype=torch.float64) + 0.2).requires_grad_()

    def run(x, affine):
        return torch.func.functional_call(module, {"affine": affine}, (x,))

    affine = module.affine.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, affine))
    assert torch.autograd.gradgradcheck(run, (x, affine))


def test_edges_that_are_not_symbolic_get_no_gradient():
    module = filled(names=["sin", "exp"])
    module(torch.rand(8, 5, dtype=torch.float64)).sum().backward()
    touched = (module.affine.grad != 0).any(-1)
    assert {tuple(edge) for edge in touched.nonzero().tolist()} == set(module.functions)


def test_fix_and_unfix():
    module = SymbolicEdges(2, 2)
    module.fix(0, 1, "sin", [1, 2, 3, 4])
    module.fix(1, 0, default_library()["cos"])
    assert {edge: f.name for edge, f in module.functions.items()} == {(0, 1): "sin", (1, 0): "cos"}
    assert module.mask.tolist() == [[0, 1], [1, 0]]
    assert module.affine[0, 1].tolist() == [1, 2, 3, 4]
    module.fix(0, 1, "exp")
    assert module.affine[0, 1].tolist() == [1, 2, 3, 4]
    module.unfix(0, 1)
    assert list(module.functions) == [(1, 0)]
    assert module.mask.sum() == 1
    assert "1 cos" in repr(module)


def test_state_dict_restores_functions():
    module, other = filled(), SymbolicEdges(5, 7, dtype=torch.float64)
    other.fix(6, 4, "exp")
    state = pickle.loads(pickle.dumps(module.state_dict()))
    other.load_state_dict(state)
    x = torch.rand(4, 5, dtype=torch.float64)
    assert other.functions == module.functions
    torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)


def test_state_dict_is_loaded_from_a_file_without_pickled_code(tmp_path):
    module = filled()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other = SymbolicEdges(5, 7, dtype=torch.float64)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.functions == module.functions


def test_state_is_made_of_tensors(tmp_path):
    """So that formats without code, such as safetensors, hold it."""
    safetensors = pytest.importorskip("safetensors.torch")
    module = filled()
    state = module.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    safetensors.save_file(state, tmp_path / "state.safetensors")
    other = SymbolicEdges(5, 7, dtype=torch.float64)
    other.load_state_dict(safetensors.load_file(tmp_path / "state.safetensors"))
    assert other.functions == module.functions
    x = torch.rand(4, 5, dtype=torch.float64)
    torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)


def test_a_model_with_symbolic_edges_as_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, other = KAN([2, 3, 1]), KAN([2, 3, 1])
    model.fix_symbolic(0, 1, 2, "sin", fit_params_bool=False)
    model.fix_symbolic(1, 0, 0, "1/x^2", fit_params_bool=False)
    model.layers[0].symbolic.affine.data[2, 1] = torch.tensor([2.0, 0.5, 3.0, 0.1])
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"))
    x = torch.rand(9, 2)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def test_states_of_older_versions_are_loaded():
    module, other = filled(), SymbolicEdges(5, 7, dtype=torch.float64)
    state = module.state_dict()
    names = [[o, i, f.name] for (o, i), f in sorted(module.functions.items())]
    other.load_state_dict({**state, "_extra_state": {"functions": names}})
    assert other.functions == module.functions


@pytest.mark.parametrize(
    "state",
    [torch.zeros(0, dtype=torch.uint8), torch.tensor([255]), torch.tensor([300]), {"edges": []},
     torch.tensor(list(b"[1]"), dtype=torch.uint8), {"functions": [[0, 0]]}],
    ids=["empty", "no text", "no bytes", "no functions", "no dict", "no name"],
)  # fmt: skip
def test_a_state_that_is_something_else(state):
    module = filled()
    before = module.functions
    with pytest.raises(ValueError, match="must hold the text of get_extra_state as bytes"):
        module.set_extra_state(state)
    assert module.functions == before


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_are_independent(clone):
    module = filled()
    other = clone(module)
    assert other.library is default_library()
    x = torch.rand(4, 5, dtype=torch.float64)
    torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)
    before = module(x)
    other.unfix(0, 0)
    with torch.no_grad():
        other.affine.zero_()
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)


def test_moving_to_another_dtype_keeps_the_edges():
    module = filled()
    # arguments below 1: beyond it arctanh is what the resolution of the dtype makes it
    x = 0.4 * torch.rand(4, 5, dtype=torch.float64)
    torch.testing.assert_close(
        copy.deepcopy(module).float()(x.float()).double(), module(x), rtol=1e-4, atol=1e-4
    )
    meta = filled(torch.float32).to("meta")
    assert meta(torch.empty(2, 5, device="meta")).shape == (2, 7)


def test_own_library():
    library = Library()
    library.add("softsign", torch.nn.functional.softsign)
    module = SymbolicEdges(1, 1, library=library)
    module.fix(0, 0, "softsign")
    state = module.state_dict()
    other = SymbolicEdges(1, 1)
    with pytest.raises(KeyError, match="no symbolic function 'softsign'"):
        other.load_state_dict(state)
    with pytest.raises(KeyError, match="no symbolic function 'softsign'"):
        other.fix(0, 0, library["softsign"])
    other = SymbolicEdges(1, 1, library=library)
    other.load_state_dict(state)
    assert other(torch.ones(1, 1)).item() == 0.5


def test_pickle_of_a_layer_with_its_own_library():
    library = Library()
    function = library.add("softsign", torch.nn.functional.softsign)
    module = SymbolicEdges(1, 1, library=library)
    module.fix(0, 0, "softsign")
    assert copy.deepcopy(module).functions[0, 0] is function
    other = pickle.loads(pickle.dumps(module))
    assert other(torch.ones(1, 1)).item() == 0.5
    assert other.functions[0, 0] is other.library["softsign"]


def test_memory_is_that_of_the_symbolic_edges():
    module = SymbolicEdges(300, 300)
    module.fix(7, 3, "sin")
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in [out] if isinstance(t, torch.Tensor))
            return out

    x = torch.rand(50, 300)
    with torch.no_grad(), Watch():
        module(x)
    assert max(sizes) <= 50 * 300  # the output itself


def test_training_recovers_parameters():
    module = SymbolicEdges(1, 1, dtype=torch.float64)
    module.fix(0, 0, "sin", (2.8, 0.1, 1, 0))
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None]
    y = 2 * torch.sin(3 * x - 0.2) + 0.5
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (module(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert module.affine[0, 0].tolist() == pytest.approx([3, -0.2, 2, 0.5], abs=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SymbolicEdges(0, 1), ValueError, "positive numbers of features, got 0 and 1"),
        (
            lambda: SymbolicEdges(2, 3).fix(3, 0, "sin"),
            IndexError,
            "0 <= o < 3 and 0 <= i < 2, got (3, 0)",
        ),
        (lambda: SymbolicEdges(2, 3).unfix(0, -1), IndexError, "got (0, -1)"),
        (lambda: SymbolicEdges(1, 1).fix(0, 0, "sine"), KeyError, "no symbolic function 'sine'"),
        (
            lambda: SymbolicEdges(1, 1).fix(0, 0, Library(overwritten())["sin"]),
            KeyError,
            "another function is called 'sin' in this library; add yours under a name of its own",
        ),
        (lambda: SymbolicEdges(1, 1).fix(0, 0, "x", [1, 2]), ValueError, "four finite numbers"),
        (
            lambda: SymbolicEdges(1, 1).fix(0, 0, "x", [1, 2, 3, float("nan")]),
            ValueError,
            "four finite numbers",
        ),
        (lambda: SymbolicEdges(3, 1)(torch.ones(2, 2)), ValueError, "[..., 3], got (2, 2)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def overwritten():
    library = Library()
    return [library.add("sin", torch.sin, overwrite=True)]


def test_failed_fix_changes_nothing():
    module = SymbolicEdges(1, 1)
    with pytest.raises(ValueError, match="four finite numbers"):
        module.fix(0, 0, "sin", [1, 2])
    assert not module.functions
    assert module.mask.sum() == 0
