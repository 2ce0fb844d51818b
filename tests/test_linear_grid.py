"""The grid of a KANLinear: whether it is equally spaced, and its way to samples."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_layer, samples
from oracle import edge_splines, spline_values
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from kanfast import KANLinear
from kanfast.engine import grid as grids

# --- equally spaced knots and the fast path -------------------------------------------------------


def is_fast(layer: KANLinear) -> bool:
    """Whether a GPU is told that the layer's knots are equally spaced. On CPUs each call looks."""
    return layer._uniform


def test_the_layer_knows_whether_its_knots_are_equally_spaced() -> None:
    layer = make_layer(dtype=torch.float32)
    assert is_fast(layer)
    assert not is_fast(copy.deepcopy(layer).double())
    assert is_fast(copy.deepcopy(layer).double().float())
    assert is_fast(make_layer())
    assert is_fast(make_layer(dtype=torch.bfloat16))
    layer.update_grid(samples(30, 3).float())
    assert not is_fast(layer)
    layer.grid_eps = 1.0
    layer.update_grid((samples(30, 3) * torch.tensor([1.0, 5.0, 0.1])).float())
    assert is_fast(layer), "every input has its own equal spacing"
    layer.load_state_dict(make_layer(grid_range=(0, 3)).state_dict())
    assert is_fast(layer)


def test_changes_of_the_grid_by_hand_are_noticed() -> None:
    layer = make_layer()
    x = samples(20, 3)
    layer(x)
    layer.grid[1, 5] += 0.05
    np.testing.assert_allclose(
        layer(x).detach() - torch.nn.functional.silu(x) @ layer.base_weight.detach().T,
        edge_splines(layer, x).sum(-1),
        atol=1e-12,
    )
    layer.grid = grids.uniform_knots((-2, 2), 5, 3, 3, dtype=torch.float64)
    buffers = {"grid": layer.grid + torch.linspace(0, 0.1, 12, dtype=torch.float64) ** 2}
    moved = torch.func.functional_call(layer, buffers, (x,))
    assert (moved - layer(x)).abs().max() > 1e-4


def test_forward_does_not_look_at_the_knots_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer()
    layer(samples(5, 3))

    def fail(*_: Any) -> bool:
        raise RuntimeError("looked")

    monkeypatch.setattr(grids, "is_uniform", fail)
    for _ in range(3):
        layer(samples(5, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="looked"):
        layer.refresh_grid()


def test_inference_tensors() -> None:
    with torch.inference_mode():
        layer = make_layer()
        layer.update_grid(samples(30, 3))
        assert layer(samples(5, 3)).isfinite().all()
    assert layer(samples(5, 3)).isfinite().all()


# --- fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False], ids=["scaler", "no-scaler"])
@pytest.mark.parametrize("grid_eps", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("degree", [0, 2, 3])
def test_update_grid_keeps_every_edge_as_well_as_possible(
    degree: int, grid_eps: float, scaled: bool
) -> None:
    layer = make_layer(3, 4, 5, degree, grid_eps=grid_eps, enable_standalone_scale_spline=scaled)
    x = samples(300, 3)
    before = edge_splines(layer, x)
    others = [p.clone() for p in layer.parameters() if p is not layer.spline_weight]
    layer.update_grid(x)
    after = edge_splines(layer, x)
    for i in range(3):
        basis = spline_values(x[:, i].numpy(), layer.grid[i].numpy(), degree, 0)
        best = basis @ np.linalg.lstsq(basis, before[:, :, i])[0]
        np.testing.assert_allclose(after[:, :, i], best, rtol=0, atol=1e-7)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            others, (p for p in layer.parameters() if p is not layer.spline_weight), strict=True
        )
    )


def test_update_grid_takes_rows_of_any_shape() -> None:
    layer, other = make_layer(), make_layer()
    x = samples(4, 30, 3)
    layer.update_grid(x)
    other.update_grid(x.reshape(-1, 3).clone().requires_grad_())
    assert torch.equal(layer.grid, other.grid)
    assert torch.equal(layer.spline_weight, other.spline_weight)
    assert layer.spline_weight.grad_fn is None


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_update_grid_with_fewer_samples_than_knots(rows: int) -> None:
    layer = make_layer()
    x = samples(rows, 3, scale=0.3)
    before = layer(x)
    layer.update_grid(x)
    assert all(t.isfinite().all() for t in layer.state_dict().values())
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-6)


def test_update_grid_with_inputs_that_do_not_vary() -> None:
    layer = make_layer(dtype=torch.float32)
    x = torch.tensor([[0.0, 0.3, 1e7]]).repeat(50, 1)
    before = layer(x)
    for _ in range(3):
        layer.update_grid(x)
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_update_grid_refuses_samples_that_are_not_finite(bad: float) -> None:
    layer = make_layer()
    state = copy.deepcopy(layer.state_dict())
    x = samples(9, 3)
    x[4, 1] = bad
    with pytest.raises(ValueError, match=r"finite samples.* features \[1\]"):
        layer.update_grid(x)
    with pytest.raises(ValueError, match="at least one row of samples, got an empty batch"):
        layer.update_grid(x[:0])
    assert all(torch.equal(state[name], t) for name, t in layer.state_dict().items())


def test_edges_without_scale_survive_update_grid() -> None:
    layer = make_layer()
    with torch.no_grad():
        layer.spline_scaler[1] = 0
    weight = layer.spline_weight[1].clone()
    layer.update_grid(samples(90, 3))
    assert layer.spline_weight.isfinite().all()
    assert not torch.equal(layer.spline_weight[1], weight), "the spline under the zero is kept, too"


def test_reset_parameters_on_a_moved_grid() -> None:
    layer = make_layer()
    layer.update_grid(samples(90, 3))
    grid = layer.grid.clone()
    layer.reset_parameters()
    assert torch.equal(layer.grid, grid)
    assert layer(samples(9, 3)).isfinite().all()


def test_reparametrised_weights() -> None:
    layer = make_layer()
    before = layer(samples(9, 3))
    parametrizations.weight_norm(layer, "spline_weight")
    torch.testing.assert_close(layer(samples(9, 3)), before)
    layer.update_grid(samples(60, 3))
    assert "spline_weight" not in dict(layer.named_parameters())
    plain = make_layer()
    plain.update_grid(samples(60, 3))
    torch.testing.assert_close(layer(samples(9, 3)), plain(samples(9, 3)))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_update_grid_does_not_lose_its_fit_silently() -> None:
    layer = make_layer()
    parametrize.register_parametrization(layer, "spline_weight", Doubled())
    before = layer.grid.clone()
    with pytest.raises(RuntimeError, match="right_inverse"):
        layer.update_grid(samples(60, 3))
    pruned = make_layer()
    prune.l1_unstructured(pruned, "spline_weight", 0.5)
    with pytest.raises(RuntimeError, match=r"update_grid cannot set .* make that permanent first"):
        pruned.update_grid(samples(60, 3))
    assert torch.equal(layer.grid, before)
    assert torch.equal(pruned.grid, before)


@pytest.mark.gpu
@pytest.mark.parametrize("grid_eps", [0.02, 1.0])
def test_a_gpu_layer_is_fitted_as_on_the_cpu(grid_eps: float) -> None:
    layer = make_layer(grid_eps=grid_eps)
    other = copy.deepcopy(layer).cuda()
    x = samples(3, 40, 3)
    layer.update_grid(x)
    other.update_grid(x.cuda())
    assert torch.equal(other.grid.cpu(), layer.grid)
    torch.testing.assert_close(other.spline_weight.cpu(), layer.spline_weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(other(x.cuda()).cpu(), layer(x), rtol=0, atol=1e-10)
