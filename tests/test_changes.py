"""Every idiom that changes a parameter, the knots or a mask is noticed by the next call."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kanfast import KAN, KANLinear
from kanfast.engine import native

BACKENDS = [
    "reference",
    pytest.param(
        "native", marks=pytest.mark.skipif(not native.available(), reason="it was not built")
    ),
]
NEW = torch.linspace(-1.7, 2.1, 11, dtype=torch.float64) + 0.15 * torch.sin(
    3 * torch.arange(11, dtype=torch.float64)
)


def new_grid(layer: KANLinear) -> Tensor:
    """Knots that are not equally spaced."""
    return NEW.sort().values.repeat(layer.in_features, 1)


def by_data(layer: KANLinear) -> None:
    layer.grid.data.copy_(new_grid(layer))


def as_data(layer: KANLinear) -> None:
    layer.grid.data = new_grid(layer)


def by_numpy(layer: KANLinear) -> None:
    layer.grid.numpy()[:] = new_grid(layer).numpy()


def by_dlpack(layer: KANLinear) -> None:
    torch.from_dlpack(layer.grid).copy_(new_grid(layer))


def in_inference_mode(layer: KANLinear) -> None:
    with torch.inference_mode():
        layer.grid.copy_(new_grid(layer))


def in_place(layer: KANLinear) -> None:
    with torch.no_grad():
        layer.grid.copy_(new_grid(layer))


def assigned(layer: KANLinear) -> None:
    layer.grid = new_grid(layer)


def loaded(layer: KANLinear, assign: bool = False) -> None:
    state = copy.deepcopy(layer.state_dict())
    state["grid"] = new_grid(layer)
    layer.load_state_dict(state, assign=assign)


def loaded_by_assignment(layer: KANLinear) -> None:
    loaded(layer, assign=True)


def averaged(layer: KANLinear) -> None:
    """As target networks and averages of models do: `.data` of parameters and buffers."""
    source = KANLinear(layer.in_features, layer.out_features, grid_size=4, dtype=torch.float64)
    source.grid = new_grid(layer)
    for mine, other in zip(layer.buffers(), source.buffers(), strict=True):
        mine.data.mul_(0).add_(other.data)


def emptied_and_filled(layer: KANLinear) -> None:
    state = copy.deepcopy(layer.state_dict())
    layer.to_empty(device="cpu")
    layer.load_state_dict(state)
    by_data(layer)


def in_another_thread(layer: KANLinear) -> None:
    thread = threading.Thread(target=by_data, args=(layer,))
    thread.start()
    thread.join()


def shared(layer: KANLinear) -> None:
    layer.share_memory()
    by_data(layer)


CHANGES = [
    by_data, as_data, by_numpy, by_dlpack, in_inference_mode, in_place, assigned, loaded,
    loaded_by_assignment, averaged, emptied_and_filled, in_another_thread, shared,
]  # fmt: skip


def make(backend: str) -> tuple[KANLinear, Tensor]:
    torch.manual_seed(0)
    layer = KANLinear(3, 2, grid_size=4, dtype=torch.float64, backend=backend)  # type: ignore[arg-type]
    return layer, torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(20, 3)


def plain(layer: KANLinear, x: Tensor) -> Tensor:
    """The layer by its own definition."""
    values = layer.b_splines(x).flatten(1)
    weight = layer.scaled_spline_weight.flatten(1)
    assert layer.base_weight is not None
    return nn.functional.silu(x) @ layer.base_weight.T + values @ weight.T


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_knots(change: Callable[[KANLinear], None], backend: str) -> None:
    layer, x = make(backend)
    before = layer(x)
    change(layer)
    torch.testing.assert_close(layer.grid.sort().values, new_grid(layer))
    y = layer(x)
    assert (y - before).abs().max() > 1e-3
    torch.testing.assert_close(y, plain(layer, x), rtol=1e-12, atol=1e-12)
    statistics = layer.edge_statistics(x).mean.sum(1)
    torch.testing.assert_close(statistics, y.mean(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("fresh_compiler")
def test_knots_before_a_compiled_forward(backend: str) -> None:
    layer, x = make(backend)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    compiled(x)
    by_data(layer)
    torch.testing.assert_close(compiled(x), plain(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters(backend: str) -> None:
    layer, x = make(backend)

    def check() -> None:
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-12, atol=1e-12)

    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector.detach() * 2, layer.parameters())
    check()
    layer.spline_weight.data = (
        layer.spline_weight.data.permute(1, 0, 2).contiguous().transpose(0, 1)
    )
    check()
    other = nn.Parameter(torch.randn_like(layer.spline_weight))
    torch.utils.swap_tensors(layer.spline_weight, other)
    check()
    nn.utils.parametrizations.weight_norm(layer, "spline_weight")
    check()
    nn.utils.parametrize.remove_parametrizations(layer, "spline_weight")
    check()
    tripled = {"base_weight": 3 * layer.base_weight, "grid": layer.grid * 2}
    y = torch.func.functional_call(layer, tripled, (x,))
    with torch.no_grad():
        layer.base_weight.mul_(3)  # type: ignore[union-attr]
        layer.grid.mul_(2)
    torch.testing.assert_close(y, plain(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_knots_that_are_trained(backend: str) -> None:
    layer, x = make(backend)
    del layer.grid
    layer.grid = nn.Parameter(NEW.sort().values.repeat(3, 1))
    (got,) = torch.autograd.grad(layer(x).sin().sum(), layer.grid)
    (want,) = torch.autograd.grad(plain(layer, x).sin().sum(), layer.grid)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("what", ["x", "weight", "g"])
def test_lazy_signs(what: str, backend: str) -> None:
    """The imaginary part of a conjugate is minus what is in its memory."""
    if backend == "triton":
        pytest.importorskip("triton")
    layer, x = make(backend)

    def conjugated(t: Tensor) -> Tensor:
        imaginary = torch.complex(torch.zeros_like(t), -t).conj().imag
        assert imaginary.is_neg()
        return imaginary

    want = torch.autograd.grad(layer(x), list(layer.parameters()), torch.ones(20, 2).double())
    g = torch.ones(20, 2, dtype=torch.float64)
    if what == "weight":
        layer.spline_weight = nn.Parameter(layer.spline_weight.detach())
        layer.spline_weight.data = conjugated(layer.spline_weight.data)
    y = layer(conjugated(x) if what == "x" else x)
    got = torch.autograd.grad(y, list(layer.parameters()), conjugated(g) if what == "g" else g)
    by_name = dict(zip(dict(layer.named_parameters()), got, strict=True))
    layer, x = make(backend)
    names = [name for name, _ in layer.named_parameters()]
    for name, b in zip(names, want, strict=True):
        torch.testing.assert_close(by_name[name], b, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not native.available(), reason="the native library was not built")
@pytest.mark.parametrize("what", ["spline_weight", "base_weight", "spline_scaler", "grid", "x"])
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_freed_storage(what: str, when: str) -> None:
    model = KAN([3, 4, 2])
    x = torch.rand(5, 3)
    y = model(x)
    freed = x if what == "x" else getattr(model.kan_layers[0], what)
    freed.untyped_storage().resize_(0)
    call = (lambda: model(x)) if when == "forward" else y.sum().backward
    with pytest.raises(RuntimeError, match="storage"):
        call()
