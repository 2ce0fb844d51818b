"""KANLinear as a module: numbers against scipy, and everything one expects of nn.Linear."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_layer, samples
from oracle import edge_splines
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kanfast import KANLinear


class Calls(TorchDispatchMode):
    """Names of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


# --- the function ---------------------------------------------------------------------------------


@pytest.mark.parametrize("uneven", [False, True], ids=["equal", "uneven"])
@pytest.mark.parametrize(("grid_size", "degree"), [(5, 3), (1, 0), (4, 0), (2, 1), (3, 5), (9, 7)])
def test_output_is_the_sum_of_scipys_splines(grid_size: int, degree: int, uneven: bool) -> None:
    layer = make_layer(3, 4, grid_size, degree, grid_eps=0.3)
    if uneven:
        layer.update_grid(samples(40, 3))
    x = samples(30, 3, scale=1.5)
    base = torch.nn.functional.silu(x) @ layer.base_weight.T
    expected = edge_splines(layer, x).sum(-1) + base.detach().numpy()
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=0, atol=1e-12)


class OwnSiLU(nn.SiLU):
    """A subclass might compute anything, so it is not fused."""


ACTIVATIONS: dict[str, tuple[Callable[..., Any], bool]] = {
    "silu": (nn.SiLU, True),
    "gelu": (nn.GELU, True),
    "tanh": (nn.Tanh, True),
    "sigmoid": (nn.Sigmoid(), True),
    "relu": (lambda: nn.ReLU(), True),
    "identity": (nn.Identity, True),
    "gelu-tanh": (nn.GELU("tanh"), False),
    "subclass": (OwnSiLU, False),
    "elu": (nn.ELU, False),
    "function": (lambda: torch.sin, False),
}


@pytest.mark.parametrize(("given", "fused"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_every_residual_function(given: Callable[..., Any], fused: bool) -> None:
    layer = make_layer(base_activation=given)
    x = samples(20, 3)
    expected = (
        edge_splines(layer, x).sum(-1)
        + (layer.base_activation(x) @ layer.base_weight.T).detach().numpy()
    )
    with Calls() as calls:
        y = layer(x)
    np.testing.assert_allclose(y.detach(), expected, rtol=0, atol=1e-12)
    products = [
        name for name in calls.names if name.startswith(("aten.mm", "aten.addmm", "aten.linear"))
    ]
    assert bool(products) != fused, products


def test_without_residual_function() -> None:
    layer = make_layer(base_activation=None)
    x = samples(20, 3)
    assert layer.base_weight is None
    assert list(layer.state_dict()) == ["spline_weight", "spline_scaler", "grid"]
    np.testing.assert_allclose(
        layer(x).detach(), edge_splines(layer, x).sum(-1), rtol=0, atol=1e-12
    )
    layer.update_grid(x)
    layer.reset_parameters()


def test_derivatives_of_two_orders() -> None:
    for layer in (make_layer(2, 2, 3), make_layer(2, 2, 3, 2, base_activation=nn.ELU)):
        layer.update_grid(samples(30, 2))
        names = [name for name, _ in layer.named_parameters()]

        def function(
            x: Tensor, *values: Tensor, layer: nn.Module = layer, names: Any = names
        ) -> Tensor:
            parameters = dict(zip(names, values, strict=True))
            return torch.func.functional_call(layer, parameters, (x,))

        inputs = (samples(4, 2).requires_grad_(), *layer.parameters())
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(
    "shape", [(3,), (0, 3), (5, 3), (2, 0, 3), (2, 5, 3), (2, 1, 4, 3)], ids=str
)
@pytest.mark.parametrize("activation", [nn.SiLU, nn.ELU])
def test_any_number_of_rows(shape: tuple[int, ...], activation: type[nn.Module]) -> None:
    layer = make_layer(base_activation=activation)
    x = samples(*shape)
    y = layer(x)
    assert y.shape == (*shape[:-1], 4)
    rows = [layer(row) for row in x.reshape(-1, 3)]
    if rows:
        torch.testing.assert_close(y.reshape(-1, 4), torch.stack(rows))
    y.sum().backward()
    assert layer.spline_weight.grad is not None
    assert layer.b_splines(x).shape == (*shape, 8)


def test_a_nan_stays_in_its_row() -> None:
    layer = make_layer()
    x = samples(4, 3)
    expected = layer(x)
    x[1, 2] = float("nan")
    y = layer(x)
    assert y[1].isnan().all()
    assert torch.equal(y[[0, 2, 3]], expected[[0, 2, 3]])


# --- what one expects of a module -----------------------------------------------------------------


def saved(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "save": saved,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("grid_eps", [0.02, 1.0])
def test_copies(copied: Callable[[nn.Module], nn.Module], grid_eps: float) -> None:
    layer = make_layer(grid_eps=grid_eps, backend="reference")
    layer.update_grid(samples(30, 3))
    other = copied(layer)
    x = samples(20, 3)
    assert torch.equal(other(x), layer(x))
    assert other.backend == "reference"
    other.update_grid(samples(30, 3, scale=2))
    assert not torch.equal(other.grid, layer.grid)


def test_state_dict_carries_the_grid() -> None:
    layer, other = make_layer(), make_layer(grid_range=(0, 1))
    layer.update_grid(samples(30, 3))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(samples(9, 3)), layer(samples(9, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("origin", [torch.float32, torch.float64], ids=str)
def test_the_grid_stays_wide_in_16_bit_modules(dtype: torch.dtype, origin: torch.dtype) -> None:
    layer = make_layer(grid_size=64, dtype=origin)
    knots = layer.grid.clone()
    narrow = copy.deepcopy(layer).to(dtype)
    assert narrow.spline_weight.dtype == dtype
    assert narrow.grid.dtype == torch.float32
    assert torch.equal(narrow.grid, knots.float())
    x = samples(50, 3).to(dtype)
    y, expected = narrow(x), layer(x.to(origin))
    assert y.dtype == dtype
    assert (y - expected).abs().max() < 8 * torch.finfo(dtype).eps * expected.abs().max()
    narrow.update_grid(x)
    assert narrow(x).isfinite().all()
    assert KANLinear(3, 4, dtype=dtype).grid.dtype == torch.float32


def test_a_16_bit_checkpoint_does_not_narrow_the_grid() -> None:
    state = {name: value.half() for name, value in make_layer().state_dict().items()}
    for assign in (False, True):
        layer = make_layer(dtype=torch.float32)
        layer.load_state_dict(state, assign=assign)
        assert layer.grid.dtype == torch.float32


def test_construction_on_the_meta_device() -> None:
    layer = make_layer(device="meta")
    assert all(t.is_meta for t in layer.state_dict().values())
    trained = make_layer()
    layer.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(layer(samples(9, 3)), trained(samples(9, 3)))
    empty = KANLinear(3, 4, device="meta").to_empty(device="cpu")
    assert torch.equal(empty.grid, KANLinear(3, 4).grid), "the grid does not come from a file"
    empty.reset_parameters()
    assert empty(samples(9, 3).float()).isfinite().all()
    assert torch.equal(nn.utils.skip_init(KANLinear, 3, 4).grid, KANLinear(3, 4).grid)


def test_dtype_and_default_dtype() -> None:
    assert {t.dtype for t in make_layer(dtype=torch.float64).state_dict().values()} == {
        torch.float64
    }
    assert {t.dtype for t in KANLinear(3, 4).state_dict().values()} == {torch.float32}


def test_repr_and_attributes() -> None:
    layer = make_layer(backend="reference")
    sizes = "in_features=3, out_features=4, grid_size=5, spline_order=3, backend='reference'"
    assert layer.extra_repr() == sizes
    assert "SiLU" in repr(layer)
    unscaled = KANLinear(3, 4, enable_standalone_scale_spline=False)
    assert not hasattr(unscaled, "spline_scaler")
    assert unscaled.scaled_spline_weight is unscaled.spline_weight


def test_the_backend_is_checked_when_it_is_set() -> None:
    layer = make_layer()
    assert layer.backend == "auto"
    layer.backend = "reference"
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'cuda'"):
        layer.backend = "cuda"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'fast'"):
        make_layer(backend="fast")
    assert layer.backend == "reference"


WRONG = [
    ({"in_features": 0}, ValueError, "in_features must be at least 1, got 0"),
    ({"out_features": -2}, ValueError, "out_features must be at least 1, got -2"),
    ({"grid_size": 0}, ValueError, "grid_size must be at least 1, got 0"),
    ({"spline_order": 8}, ValueError, "spline_order must be 0 to 7, got 8"),
    ({"spline_order": -1}, ValueError, "spline_order must be at least 0, got -1"),
    ({"grid_size": 2.5}, TypeError, "grid_size must be an int, got 2.5"),
    ({"grid_range": (1, -1)}, ValueError, r"two finite numbers, low < high, got \(1, -1\)"),
    ({"grid_range": (0, 1, 2)}, ValueError, "grid_range must be two"),
    ({"grid_range": (0, float("inf"))}, ValueError, r"finite numbers.*got \(0, inf\)"),
    ({"base_activation": "silu"}, TypeError, "base_activation must be .* got 'silu'"),
    ({"base_activation": torch.tanh}, TypeError, "calling .* failed: "),
    ({"base_activation": lambda: 3}, TypeError, "base_activation must be .* made 3"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_arguments_that_make_no_sense(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        KANLinear(**{"in_features": 3, "out_features": 4} | options)


def test_a_residual_function_and_its_weights_come_together() -> None:
    layer, x = make_layer(base_activation=None), samples(5, 3)
    layer.base_activation = nn.ELU()
    with pytest.raises(ValueError, match=r"both None, got ELU\(.*\) and None: set both"):
        layer(x)
    layer = make_layer()
    layer.base_activation = None
    layer.spline_weight.requires_grad_(False)
    layer.spline_scaler.requires_grad_(False)
    with pytest.raises(ValueError, match=r"got None and \[4, 3\]: set both"):
        layer(x)


def test_inputs_that_do_not_fit() -> None:
    layer = make_layer()
    for call, message in (
        (
            layer,
            r"x must have 3 features in its last dimension, as the layer has 3 inputs, got 2: give",
        ),
        (layer.b_splines, r"x must be \[..., 3\], got \[5, 2\]"),
        (layer.update_grid, r"samples must be \[..., 3\], got \[5, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call(samples(5, 2))
    with pytest.raises(
        ValueError, match=r"x \[N, 3\] and y \[N, 3, 4\], got \[5, 3\] and \[5, 3, 3\]"
    ):
        layer.curve2coeff(samples(5, 3), samples(5, 3, 3))


# --- frozen parameters ----------------------------------------------------------------------------

PARAMETERS = ["base_weight", "spline_weight", "spline_scaler"]


@pytest.mark.parametrize("mask", range(8), ids=lambda m: f"{m:03b}")
def test_frozen_parameters_get_no_gradient_and_leave_the_others_theirs(mask: int) -> None:
    x = samples(20, 3)
    full, layer = make_layer(), make_layer()
    full(x).square().sum().backward()
    for bit, name in enumerate(PARAMETERS):
        getattr(layer, name).requires_grad_(bool(mask >> bit & 1))
    inputs = x.clone().requires_grad_()
    layer(inputs).square().sum().backward()
    for bit, name in enumerate(PARAMETERS):
        gradient = getattr(layer, name).grad
        if mask >> bit & 1:
            torch.testing.assert_close(gradient, getattr(full, name).grad)
        else:
            assert gradient is None


@pytest.mark.parametrize("trained", [None, "base_weight"])
def test_frozen_splines_cost_no_weight_gradient(trained: str | None) -> None:
    layer = make_layer().requires_grad_(False)
    if trained:
        getattr(layer, trained).requires_grad_()
    x = samples(20, 3).requires_grad_()
    with Calls() as calls:
        layer(x).sum().backward()
    assert "kanfast.input_grad.default" in calls.names
    assert "kanfast.weight_grad.default" not in calls.names


# --- regularisation -------------------------------------------------------------------------------


def test_regularisation_by_hand() -> None:
    layer = KANLinear(2, 1, 1, 0, dtype=torch.float64)
    with torch.no_grad():
        layer.spline_weight.copy_(torch.tensor([[[3.0], [-1.0]]]))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    loss = layer.regularization_loss(0.5, 2.0)
    assert loss.item() == pytest.approx(0.5 * 4 + 2 * entropy, rel=1e-14)


@pytest.mark.parametrize("dead", [1, 12])
def test_regularisation_of_dead_edges_is_finite(dead: int) -> None:
    layer = make_layer()
    with torch.no_grad():
        layer.spline_weight.view(12, -1)[:dead] = 0
    loss = layer.regularization_loss()
    loss.backward()
    gradient = layer.spline_weight.grad.view(12, -1)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[:dead] == 0).all()
    assert (gradient[dead:] != 0).all()


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_gpu_training_step_does_not_wait() -> None:
    layer = make_layer(dtype=torch.float32).cuda()
    x = samples(64, 3).float().cuda()
    layer(x).sum().backward()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
