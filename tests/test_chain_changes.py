"""What changes between two calls of a stack, or before its backward pass, is noticed."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from stacks import assert_equal, gradients, make, one_by_one
from torch import nn

from kanfast import KAN, KANLinear
from kanfast.engine import native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_on_their_own(copied: Callable[[KAN], KAN], chain_calls: list[int]) -> None:
    model, x = make()
    want = model(x)
    other = copied(model)
    with torch.no_grad():
        model.kan_layers[1].spline_weight.zero_()
        other.kan_layers[0].grid.add_(0)
    assert_equal([other(x)], [want])
    assert not model(x).equal(want)
    assert chain_calls == [3, 3, 3]


def test_new_memory_behind_a_parameter_is_noticed() -> None:
    torch.manual_seed(0)
    model, x = KAN([3, 3, 3], dtype=torch.float64), torch.rand(9, 3, dtype=torch.float64)
    model(x)
    weight = model.kan_layers[1].base_weight
    assert weight is not None
    for data in (weight.data.clone() + 1, weight.data.T, weight.data * 2):
        weight.data = data
        torch.testing.assert_close(model(x), one_by_one(model, x))
    weight.data = weight.data.float()
    message = "dtype of spline_weight, torch.float64, got torch.float32: convert one"
    with pytest.raises(TypeError, match=message):
        model(x)


def test_changes_between_calls_are_noticed() -> None:
    model, x = make()
    part = model.kan_layers[1]

    def new_parameter() -> None:
        part.spline_weight = nn.Parameter(part.spline_weight.detach() * 2)

    def new_grid() -> None:
        part.grid = part.grid + 0.1

    def moved_grid() -> None:
        part.grid[:, 4].add_(0.05)  # no longer equally spaced

    def swapped() -> None:
        model.layers[1] = KANLinear(5, 4, grid_size=3, dtype=torch.float64, backend="native")

    def scaled() -> None:
        part = model.kan_layers[1]
        part.enable_standalone_scale_spline = False
        del part.spline_scaler

    model(x)
    for change in (new_parameter, new_grid, moved_grid, model.float, model.double, swapped, scaled):
        with torch.no_grad():
            change()
        given = x.to(model.kan_layers[0].grid.dtype)
        got, want = model(given), one_by_one(model, given)
        tensors = list(model.parameters())
        assert_equal([got, *gradients(got, tensors)], [want, *gradients(want, tensors)])


def test_a_grid_with_a_gradient_has_none() -> None:
    model, x = make()
    model.kan_layers[1].grid.requires_grad_()
    y = model(x)
    tensors = list(model.parameters())
    assert_equal(gradients(y, tensors), gradients(one_by_one(model, x), tensors))
    y = model(x)
    (grad,) = torch.autograd.grad(y.sum(), model.kan_layers[1].grid, allow_unused=True)
    assert grad is None


@pytest.mark.parametrize("what", ["spline_weight", "grid"])
def test_changes_in_place_before_the_backward_pass_raise(what: str) -> None:
    model, x = make()
    y = model(x)
    with torch.no_grad():
        getattr(model.kan_layers[1], what).add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_outputs_may_be_changed_in_place() -> None:
    model, x = make()
    tensors = list(model.parameters())
    assert_equal(gradients(model(x).mul_(2), tensors), gradients(model(x) * 2, tensors))
