"""A stack of plain layers is one autograd function, which only its speed tells."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from stacks import WIDTHS, assert_equal, gradients, make, one_by_one
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from kanfast import KAN, KANLinear
from kanfast.engine import native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [(40,), (300,), (2, 7), (), (0,)], ids=str)
def test_values_and_gradients_bit_for_bit(
    rows: tuple[int, ...], dtype: torch.dtype, chain_calls: list[int]
) -> None:
    model, x = make(dtype, rows)
    tensors = [x.requires_grad_(), *model.parameters()]
    y = model(x)
    assert chain_calls == [3]
    want = one_by_one(model, x)
    assert_equal([y, *gradients(y, tensors)], [want, *gradients(want, tensors)])
    with torch.no_grad():
        assert_equal([model(x)], [want])


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("options", [{}, {"grid_size": 30}, {"base_activation": None}], ids=str)
@pytest.mark.parametrize(
    "widths", [[2, 20, 3, 9, 1], [20, 2, 2, 2, 2], [1, 1], [9, 4, 30]], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_and_wide_layers(
    dtype: torch.dtype, widths: list[int], options: dict[str, Any], frozen: bool
) -> None:
    """Between narrow layers values and gradients lie by column, and elsewhere by row."""
    model, x = make(dtype, (150,), widths, **options)
    model.kan_layers[0].requires_grad_(not frozen or len(widths) == 2)
    tensors = [p for p in model.parameters() if p.requires_grad]
    y, want = model(x), one_by_one(model, x)
    assert y.is_contiguous()
    assert_equal([y, *gradients(y, tensors)], [want, *gradients(want, tensors)])
    assert_equal(gradients(model(x.requires_grad_()), [x]), gradients(one_by_one(model, x), [x]))
    with torch.no_grad():
        assert_equal([model(x)], [want])


def test_gradients_of_gradients() -> None:
    model, x = make(rows=(3,))
    names, values = zip(*model.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))  # type: ignore[no-any-return]

    assert gradcheck(call, (x.requires_grad_(), *values))
    assert gradgradcheck(call, (x, *values))


def test_a_loss_of_third_derivatives() -> None:
    model, x = make()
    results = []
    for call in (lambda x: model(x), lambda x: one_by_one(model, x)):
        leaf = x.clone().requires_grad_()
        values = [y := call(leaf)]
        for _ in range(2):
            (y,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
            values.append(y)
        results.append([*values, *gradients(y, [leaf, *model.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_only_the_inputs_of_layers_are_saved(chain_calls: list[int]) -> None:
    model, x = make()
    parameters = {p.data_ptr() for p in model.parameters()}
    parameters |= {part.grid.data_ptr() for part in model.kan_layers}
    saved: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in parameters:
            saved.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(x)
    assert chain_calls == [3]
    assert [list(t.shape) for t in saved] == [[40, width] for width in WIDTHS[:-1]]
    tensors = list(model.parameters())
    assert_equal(gradients(y, tensors), gradients(one_by_one(model, x), tensors))


@pytest.mark.parametrize("kept", ["x", "0", "1", "2", "spline_weight", "base_weight", "scaler"])
def test_frozen_parameters(kept: str, chain_calls: list[int]) -> None:
    model, x = make()
    x.requires_grad_(kept == "x")
    for name, p in model.named_parameters():
        # Where only base weights are trained, splines are evaluated without them.
        p.requires_grad_(kept in name or (kept == "base_weight" and "spline_weight" in name))
    tensors = [t for t in (x, *model.parameters()) if t.requires_grad]
    y = model(x)
    assert chain_calls == [{"1": 2, "2": 1}.get(kept, 3)]  # from the first trained one on
    y.sin().sum().backward()
    assert_equal([t.grad for t in tensors], gradients(one_by_one(model, x), tensors))  # type: ignore[misc]
    assert all(t.grad is None for t in (x, *model.parameters()) if not t.requires_grad)


def test_a_layer_that_comes_twice(chain_calls: list[int]) -> None:
    torch.manual_seed(0)
    part = KANLinear(3, 3, dtype=torch.float64)
    model, x = KAN.from_layers([part, part]), torch.rand(20, 3, dtype=torch.float64)
    y = model(x)
    assert chain_calls == [2]
    tensors = list(part.parameters())
    want = gradients(one_by_one(model, x), tensors)
    for got, other in zip(gradients(y, tensors), want, strict=True):
        torch.testing.assert_close(got, other)


def test_calls_from_several_threads() -> None:
    model, _ = make()
    batches = [torch.rand(200 + n, 3, dtype=torch.float64) for n in range(4)] * 4
    tensors = list(model.parameters())

    def job(x: Tensor) -> list[Tensor]:
        y = model(x)
        return [y, *gradients(y, tensors)]

    want = [job(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(job, batches), want, strict=True):
            assert_equal(got, expected)


def by_column(t: Tensor) -> Tensor:
    return t.T.contiguous().T if t.shape[0] == 40 else t


def test_checkpoints_and_a_second_backward_pass() -> None:
    model, x = make()
    tensors = [x.requires_grad_(), *model.parameters()]
    want = gradients(model(x), tensors)
    for reentrant in (True, False):
        y = checkpoint(model, x, use_reentrant=reentrant)
        y.sin().sum().backward()
        assert_equal([t.grad for t in tensors], want)  # type: ignore[misc]
        model.zero_grad()
        x.grad = None
    y = model(x).sin().sum()
    for retain in (True, False):
        got = list(torch.autograd.grad(y, tensors, retain_graph=retain))
        assert_equal(got, want)
    with torch.autograd.graph.save_on_cpu():
        y = model(x)
    assert_equal(gradients(y, tensors), want)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, by_column):
        y = model(x)
    assert_equal(gradients(y, tensors), want)


def test_inputs_that_do_not_fit_raise_as_before() -> None:
    model, x = make()
    for bad, error in ((x[:, :2], ValueError), (x.float(), TypeError)):
        with pytest.raises(error) as together:
            model(bad)
        with pytest.raises(error) as alone:
            one_by_one(model, bad)
        assert str(together.value) == str(alone.value)
