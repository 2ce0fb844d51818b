"""A stack of plain layers under transforms of torch.func, autocast and inference mode."""

import copy

import pytest
import torch
from stacks import assert_equal, gradients, make, one_by_one
from torch import Tensor

from kanfast.engine import native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


# torch loads the rules of its own forward mode by a module that it has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_transforms_of_torch_func() -> None:
    model, x = make()
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(model, parameters, (x,))
        return y.sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    want = dict(
        zip(parameters, gradients(one_by_one(model, x), list(parameters.values())), strict=True)
    )
    for name, grad in want.items():
        torch.testing.assert_close(each[name].sum(0), grad)
    v = torch.ones_like(x)
    _, tangent = torch.func.jvp(lambda x: model(x), (x,), (v,))
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    g = torch.zeros_like(y, requires_grad=True)
    (pulled,) = torch.autograd.grad(y, leaf, g, create_graph=True)
    torch.testing.assert_close(tangent, torch.autograd.grad(pulled, g, v)[0])


def test_batched_gradients() -> None:
    model, x = make(rows=(4,))
    y = model(x.requires_grad_())
    g = torch.randn(3, *y.shape, dtype=y.dtype)
    (got,) = torch.autograd.grad(y, x, g, is_grads_batched=True, retain_graph=True)
    want = torch.stack([torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in g])
    torch.testing.assert_close(got, want)


def test_autocast() -> None:
    model, x = make(torch.float32)
    model.backend = "auto"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, want = model(x), one_by_one(model, x)
    assert got.dtype == torch.bfloat16
    assert got.equal(want)


def test_inference_mode_and_its_tensors(chain_calls: list[int]) -> None:
    model, x = make()
    want = one_by_one(model, x)
    chain_calls.clear()
    with torch.inference_mode():
        y = model(x)
        copied = copy.deepcopy(model)
    assert y.is_inference()
    assert_equal([y, copied(x)], [want, want])
    assert not chain_calls


def test_a_first_layer_of_inference_tensors(chain_calls: list[int]) -> None:
    model, x = make()
    with torch.inference_mode():
        model.layers[0] = copy.deepcopy(model.layers[0])
    tensors = list(model.kan_layers[1].parameters())
    y = model(x)
    assert chain_calls == [2]
    assert_equal(gradients(y, tensors), gradients(one_by_one(model, x), tensors))
