"""Where a call does more than splines, or somebody looks on, layers are called one by one."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from stacks import assert_equal, gradients, make
from torch import Tensor, nn

from kanfast import KAN, KANLinear
from kanfast.engine import native
from kanfast.nn.chain import ChainCache
from kanfast.nn.nodes import Nodes

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


class Own(KANLinear):
    """Something else than its name says."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def replaced(model: KAN) -> None:
    model.layers[1] = Own(5, 4, grid_size=4, dtype=torch.float64, backend="native")


def own_forward(model: KAN) -> None:
    part = model.kan_layers[1]
    forward = part.forward
    part.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign]


def masked(model: KAN) -> None:
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[2, 3] = False
    model.kan_layers[1].set_mask(mask)


def multiplied(model: KAN) -> None:
    nodes = Nodes(5)
    nodes.add_affine(model.kan_layers[0].grid)
    nodes.set_affine("node_scale", torch.arange(5.0, dtype=torch.float64))
    model.set_nodes(0, nodes)


def gelu(model: KAN) -> None:
    model.kan_layers[1].base_activation = nn.GELU()


def plain_torch(model: KAN) -> None:
    model.kan_layers[1].backend = "reference"


def parametrised(model: KAN) -> None:
    nn.utils.parametrizations.weight_norm(model.kan_layers[1], "spline_weight")


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        own_forward,
        masked,
        multiplied,
        gelu,
        plain_torch,
        parametrised,
        lambda model: model.fix_symbolic(1, 0, 0, "sin", x=torch.rand(9, 3).double()),
        lambda model: model.kan_layers[0].compile(backend="eager"),
    ],
)
def test_other_layers_are_called_one_by_one(
    change: Callable[[KAN], object], chain_calls: list[int]
) -> None:
    model, x = make()
    change(model)
    y = model(x)
    assert 3 not in chain_calls
    want, tensors = model.activations(x)[-1], list(model.parameters())
    grads = [torch.autograd.grad(t.sin().sum(), tensors, allow_unused=True) for t in (y, want)]
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(*[[g for g in some if g is not None] for some in grads])


def test_hooks_see_every_layer(chain_calls: list[int]) -> None:
    model, x = make()
    want, grads = model(x), gradients(model(x), list(model.parameters()))
    seen: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    part = model.kan_layers[1]
    for register in (
        part.register_forward_hook,
        part.register_forward_pre_hook,
        part.register_full_backward_hook,
        part.register_full_backward_pre_hook,
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ):
        chain_calls.clear()
        seen.clear()
        handle = register(note(register.__name__))
        try:
            y = model(x.requires_grad_())
            assert_equal([y, *gradients(y, list(model.parameters()))], [want, *grads])
        finally:
            handle.remove()
        assert chain_calls == [1, 1, 1]
        assert seen
    chain_calls.clear()
    model(x)
    assert chain_calls == [3]


@pytest.mark.parametrize("attribute", ["_forward_hooks", "_backward_hooks"])
def test_hooks_in_a_new_dictionary_are_seen(attribute: str) -> None:
    model, x = make()
    model(x)
    part, seen = model.kan_layers[1], []
    setattr(part, attribute, OrderedDict())
    if "forward" in attribute:
        part.register_forward_hook(lambda *_: seen.append(1))
    else:
        part.register_full_backward_hook(lambda *_: seen.append(1))
    model(x).sum().backward()
    assert seen == [1]


def test_a_patched_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make()
    forward, seen = KANLinear.forward, []

    def noted(self: KANLinear, x: Tensor) -> Tensor:
        seen.append(self)
        return forward(self, x)

    monkeypatch.setattr(KANLinear, "forward", noted)
    model(x)
    assert seen == model.kan_layers


def test_none_for_no_kan_layers() -> None:
    assert ChainCache().evaluate({"0": nn.Linear(2, 2)}, torch.zeros(1, 2)) is None
