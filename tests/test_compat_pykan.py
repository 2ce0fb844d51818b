"""Import of pykan's models: the same function, or an error that says what is unsupported."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kanfast import KAN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pykan = pytest.importorskip("kan", reason="pykan is not installed", exc_type=ImportError)

MODELS: dict[str, dict[str, Any]] = {
    "cubic": {"grid": 5, "k": 3},
    "layers differ": {"grid": [3, 7], "k": [2, 4]},
    "identity": {"grid": 4, "k": 1, "base_fun": "identity"},
    "zero": {"grid": 4, "k": 3, "base_fun": "zero"},
    "module": {"grid": 4, "k": 2, "base_fun": nn.Tanh()},
    "function": {"grid": 4, "k": 2, "base_fun": torch.sin},
    "sparse": {"grid": 4, "k": 3, "sparse_init": True},
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request: pytest.FixtureRequest) -> Any:
    default = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(default)


def samples(rows: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, 3, generator=torch.Generator().manual_seed(2))


def make(width: Any = None, **options: Any) -> Any:
    """A pykan model; it reseeds the global generators and changes `width`."""
    arguments = {"width": width or [3, 4, 2], "auto_save": False, "noise_scale": 1.0}
    return pykan.KAN(**arguments | options)


@pytest.mark.parametrize("adapted", [False, True], ids=["initial", "adapted"])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_function(name: str, adapted: bool, dtype: torch.dtype) -> None:
    model = make(**MODELS[name])
    if adapted:
        model.update_grid_from_samples(samples(80))
        with torch.no_grad():
            model.act_fun[0].mask[1, 2] = 0
            model.act_fun[1].scale_base.mul_(1.5)
            model.node_scale[0].copy_(torch.tensor([1.0, -2.0, 0.5, 1.3]))
            model.subnode_scale[1].mul_(0.7)
    x = samples(60, scale=1.5)
    expected = model(x)
    ours = KAN.from_pykan(model)
    scale = expected.abs().max()
    bound = 1e-6 if dtype == torch.float32 else 1e-13
    assert (ours(x) - expected).abs().max() <= bound * max(1.0, scale)
    base_fun = MODELS[name].get("base_fun", "silu")
    again = KAN.from_pykan_state_dict(model.state_dict(), base_fun)
    assert torch.equal(again(x), ours(x))
    assert ours(x).dtype == dtype
    y = ours(samples(30).reshape(2, 15, 3), update_grid=True)
    assert y.isfinite().all()


def test_it_is_a_copy_that_draws_no_random_numbers() -> None:
    model = make(grid=5, k=3)
    state = torch.get_rng_state()
    ours = KAN.from_pykan(model, backend="reference")
    assert torch.equal(torch.get_rng_state(), state)
    assert ours.backend == "reference"
    x = samples(9)
    expected = model(x)
    with torch.no_grad():
        for tensor in (*ours.parameters(), *ours.buffers()):
            tensor.add_(1.0)
    assert torch.equal(model(x), expected)


def test_what_is_frozen_stays_frozen() -> None:
    ours = KAN.from_pykan(make(sp_trainable=False, sb_trainable=False, grid_eps=0.3))
    for layer in ours.layers:
        assert layer.spline_weight.requires_grad
        assert not layer.spline_scaler.requires_grad
        assert not layer.base_weight.requires_grad
        assert layer.grid_eps == 0.3
    ours(samples(9)).sum().backward()


def test_edges_with_mask_zero_are_removed() -> None:
    model = make()
    with torch.no_grad():
        model.act_fun[0].mask[2, 1] = 0
    ours = KAN.from_pykan(model)
    assert not ours.layers[0].mask[1, 2]
    assert ours.n_edge == model.n_edge == 19


def symbolic(model: Any) -> None:
    model.fix_symbolic(1, 2, 0, "sin", fit_params_bool=False)


def test_a_selection_of_inputs_is_unsupported() -> None:
    model = make()
    model.input_id = torch.tensor([0, 2, 5])
    with pytest.raises(ValueError, match=r"selects the input columns \[0, 2, 5\]"):
        KAN.from_pykan(model)


def test_state_dicts_do_not_say_which_functions_are_symbolic() -> None:
    model = make()
    symbolic(model)
    message = r"symbolic functions on 1 edges of layer 1.*\(1, 2, 0\); a state dict does not say"
    with pytest.raises(ValueError, match=message):
        KAN.from_pykan_state_dict(model.state_dict())


def test_arities_must_fit_a_state_dict() -> None:
    state = make([3, [2, 2], 1], mult_arity=4).state_dict()
    assert KAN.from_pykan_state_dict(state, mult_arity=4).arities == [(), (4, 4), ()]
    for wrong in (2, 5, [[], [4], []]):
        with pytest.raises(ValueError, match="after layer 0, 10 subnodes make 4 nodes, which does"):
            KAN.from_pykan_state_dict(state, mult_arity=wrong)
    with pytest.raises(ValueError, match="a list for each of 3 widths"):
        KAN.from_pykan_state_dict(state, mult_arity=[[4, 4]])


def test_symbolic_edges_count_only_while_pykan_evaluates_them() -> None:
    model = make()
    symbolic(model)
    model.symbolic_enabled = False
    x = samples(9)
    torch.testing.assert_close(KAN.from_pykan(model)(x), model(x))


def test_other_things_than_pykan_models() -> None:
    with pytest.raises(TypeError, match=r"expected a model of pykan.*got Linear without"):
        KAN.from_pykan(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="expected the state dict of a pykan"):
        KAN.from_pykan_state_dict(nn.Linear(2, 2).state_dict())
    state = make().state_dict()
    with pytest.raises(ValueError, match=r"missing: \['node_bias_1'\]"):
        KAN.from_pykan_state_dict({n: t for n, t in state.items() if n != "node_bias_1"})
    with pytest.raises(ValueError, match="base_fun 'relu' in layer 0"):
        KAN.from_pykan_state_dict(state, "relu")
    with pytest.raises(ValueError, match="1 entries for 2 layers"):
        KAN.from_pykan_state_dict(state, ["silu"])
    assert isinstance(KAN.from_pykan_state_dict(state, ["silu", nn.Tanh()]), KAN)
