"""KAN: the stack of layers, its training, and what it shares with every torch module."""

import copy
import io
import pickle
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import samples
from torch import Tensor, nn

from kanfast import KAN, KANLinear


def make(**options: object) -> KAN:
    torch.manual_seed(0)
    return KAN([2, 5, 3, 1], **{"dtype": torch.float64} | options)  # type: ignore[arg-type]


def test_layers_follow_one_another() -> None:
    model = make(grid_size=4, spline_order=2, base_activation=nn.Tanh, grid_range=(-2, 2))
    widths = [(layer.in_features, layer.out_features) for layer in model.layers]
    assert widths == [(2, 5), (5, 3), (3, 1)]
    assert (model.grid_size, model.spline_order) == (4, 2)
    x = samples(7, 6, 2)
    expected = x
    for layer in model.layers:
        expected = layer(expected)
    assert torch.equal(model(x), expected)
    assert model(x[:0]).shape == (0, 6, 1)


def test_too_few_widths() -> None:
    with pytest.raises(ValueError, match="at least two widths"):
        KAN([3])


@pytest.mark.parametrize("shape", [(200, 2), (10, 20, 2)], ids=str)
def test_update_grid_moves_every_layer_to_its_own_input(shape: tuple[int, ...]) -> None:
    model = make(grid_eps=0.1)
    x = samples(*shape).requires_grad_()
    expected, inner = copy.deepcopy(model), x
    for layer in expected.layers:
        layer.update_grid(inner)
        inner = layer(inner)
    y = model(x, update_grid=True)
    assert torch.equal(y, inner)
    for layer, other in zip(model.layers, expected.layers, strict=True):
        assert torch.equal(layer.grid, other.grid)
    y.sum().backward()
    assert x.grad is not None


def test_update_grid_keeps_a_smooth_function() -> None:
    model = make(grid_size=8)
    x = samples(500, 2).clamp(-1, 1)
    target = torch.sin(3 * x[:, :1]) * x[:, 1:]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(80):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x, update_grid=step in (5, 30)), target)
        loss.backward()
        optimizer.step()
    before = model(x)
    after = model(x, update_grid=True)
    assert loss.item() < 0.02
    assert (after - before).square().mean() < 0.02 * before.square().mean()


def test_regularisation_is_the_sum_over_layers() -> None:
    model = make()
    expected = sum(layer.regularization_loss(0.3, 0.7) for layer in model.layers)
    torch.testing.assert_close(model.regularization_loss(0.3, 0.7), expected)


def test_the_backend_of_all_layers() -> None:
    model = make(backend="reference")
    assert model.backend == "reference"
    model.backend = "auto"
    assert {layer.backend for layer in model.layers} == {"auto"}
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'gpu'"):
        model.backend = "gpu"
    model.layers[1].backend = "reference"
    with pytest.raises(ValueError, match=r"different backends, \['auto', 'reference'\]: ask each"):
        _ = model.backend


def test_a_model_of_different_layers() -> None:
    layers = [KANLinear(2, 3, 4, 2, base_activation=None), KANLinear(3, 1, 7, 3)]
    model = KAN.from_layers(layers)
    assert (model.grid_size, model.spline_order) == ([4, 7], [2, 3])
    assert model(torch.zeros(5, 2)).shape == (5, 1)
    with pytest.raises(ValueError, match="layer 0 has 1 outputs, but layer 1 has 2 inputs"):
        KAN.from_layers(layers[::-1])
    with pytest.raises(ValueError, match="at least one layer"):
        KAN.from_layers([])


def test_layers_of_other_kinds_may_be_put_between() -> None:
    model = make()
    model.layers.insert(1, nn.LayerNorm(5, dtype=torch.float64))
    x = samples(9, 2)
    norm = model.layers[1]
    expected = model.layers[3](model.layers[2](norm(model.layers[0](x))))
    assert torch.equal(model(x), expected)


def saved(model: KAN) -> KAN:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: KAN = torch.load(file, weights_only=False)
    return loaded


def reloaded(model: KAN) -> KAN:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = KAN([2, 5, 3, 1], dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


COPIES: dict[str, Callable[[KAN], KAN]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": saved,
    "state_dict": reloaded,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies(copied: Callable[[KAN], KAN]) -> None:
    model = make()
    x = samples(50, 2)
    model(x, update_grid=True)
    assert torch.equal(copied(model)(x), model(x))


def test_casts() -> None:
    model = make(dtype=torch.float32)
    x = samples(50, 2).float()
    expected = model(x)
    assert torch.equal(copy.deepcopy(model).double().float()(x), expected)
    half = copy.deepcopy(model).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert all(layer.grid.dtype == torch.float32 for layer in half.layers)


def test_weight_decay_groups() -> None:
    model = make()
    decayed = {n for n, _ in model.named_parameters() if not n.endswith("spline_scaler")}
    assert decayed == {f"layers.{i}.{n}_weight" for i in range(3) for n in ("base", "spline")}


def test_functional_call_and_per_sample_gradients() -> None:
    model = make()
    x = samples(6, 2)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(model, values, (row[None],))
        return y.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    model(x).square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(each[name].sum(0), parameter.grad)


def test_an_ensemble() -> None:
    models = [make() for _ in range(3)]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        for layer in model.layers:
            layer.reset_parameters()
    x = samples(6, 2)
    parameters, buffers = torch.func.stack_module_state(models)

    def call(values: dict[str, Tensor], knots: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(models[0], (values, knots), (x,))
        return y

    own = dict(models[0].named_buffers())
    together = torch.func.vmap(call, in_dims=(0, None))(parameters, own)
    torch.testing.assert_close(together, torch.stack([model(x) for model in models]))
    for model in models[1:]:  # knots that differ
        model(samples(50, 2), update_grid=True)
    parameters, buffers = torch.func.stack_module_state(models)
    together = torch.func.vmap(call)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([model(x) for model in models]))


CAN_COMPILE = (
    any(map(shutil.which, ("g++", "clang++", "c++", "cl")))
    and Path(sysconfig.get_path("include"), "Python.h").exists()
)
INDUCTOR = pytest.mark.skipif(
    not CAN_COMPILE, reason="Inductor needs a C++ compiler and the headers of Python"
)


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=INDUCTOR)])
def test_compiled_training_is_eager_training(compiler: str, fresh_compiler: None) -> None:
    torch.manual_seed(0)
    model = KAN.from_layers(
        [KANLinear(2, 4, dtype=torch.float64), KANLinear(4, 1, 3, base_activation=nn.ELU).double()]
    )
    other = copy.deepcopy(model)
    x, target = samples(64, 2), samples(64, 1)
    losses: list[list[float]] = [[], []]
    compiled = torch.compile(other, fullgraph=True, backend=compiler)
    for module, history in zip((model, compiled), losses, strict=True):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(module(x), target)
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_compiled_forward_follows_the_grid(fresh_compiler: None) -> None:
    model = make()
    x = samples(64, 2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for grid_eps in (None, 0.02, 1.0):
        if grid_eps is not None:
            for layer in model.layers:
                layer.grid_eps = grid_eps
            model(x, update_grid=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-12)
