"""The penalties of `fit`: pykan's numbers, the paper's formulas, their gradients."""

import copy
from typing import Any

import pytest
import torch
from cases import make_kan
from torch import Tensor, nn

from kanfast import KAN, create_dataset
from kanfast.interpret import regularization


@pytest.mark.parametrize(
    "metric",
    [
        "edge_forward_spline_n",
        "edge_forward_spline_u",
        "edge_forward_sum",
        "edge_backward",
        "node_backward",
    ],
)
def test_penalties_are_pykans(metric: str, pykan: Any) -> None:
    theirs = pykan.KAN([3, 4, 2], grid=[3, 5], k=[2, 3], seed=2, auto_save=False)
    x = torch.rand(70, 3) * 2 - 1
    theirs.get_act(x)
    theirs.node_attribute() if metric == "node_backward" else theirs.attribute()
    expected = theirs.reg(metric, 1.3, 2.1, 0.3, 0.7)
    ours = KAN.from_pykan(theirs)
    found = ours.regularization(x, metric, 1.3, 2.1, 0.3, 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    if metric in ("edge_forward_spline_n", "edge_forward_spline_u"):
        expected.backward()
        found.backward()
        for layer, other in zip(ours.layers, theirs.act_fun, strict=True):
            torch.testing.assert_close(
                layer.spline_weight.grad, other.coef.grad.permute(1, 0, 2), rtol=1e-8, atol=1e-10
            )


@pytest.mark.parametrize("metric", ["edge_forward_l1", "edge_forward_sum", "edge_backward"])
def test_gradients_of_penalties(metric: str) -> None:
    model = make_kan(2, 3, 2)
    x = torch.linspace(-1, 1, 22, dtype=torch.float64).reshape(11, 2)
    weights = dict(model.named_parameters())

    def penalty(*values: Tensor) -> Tensor:
        named = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(
            Penalty(model, x, metric), {f"m.{k}": v for k, v in named.items()}, ()
        )

    leaves = [p.detach().clone().requires_grad_() for p in weights.values()]
    assert torch.autograd.gradcheck(penalty, leaves, eps=1e-7, atol=1e-4)


class Penalty(nn.Module):
    def __init__(self, model: KAN, x: Tensor, metric: Any) -> None:
        super().__init__()
        self.m, self.x, self.metric = model, x, metric

    def forward(self) -> Tensor:
        return self.m.regularization(self.x, self.metric)


def test_the_papers_penalty_by_its_formulas() -> None:
    model = make_kan(2, 3, 1)
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(20, 2)
    expected = torch.zeros((), dtype=torch.float64)
    values = x
    for layer in model.layers:
        phi = torch.stack(
            [  # every edge by itself: [O, B, I]
                torch.stack([self_edge(layer, values, o, i) for i in range(layer.in_features)], 1)
                for o in range(layer.out_features)
            ]
        )
        size = phi.abs().mean(1)
        share = size / size.sum()
        expected = expected + 0.5 * size.sum() - 0.25 * (share * share.log()).sum()
        values = layer(values)
    found = model.regularization(x, "edge_forward_l1", 0.5, 0.25)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def self_edge(layer: nn.Module, x: Tensor, o: int, i: int) -> Tensor:
    """phi of one edge: the layer with all other edges removed."""
    mask = torch.zeros(layer.out_features, layer.in_features, dtype=torch.bool)
    mask[o, i] = True
    alone = copy.deepcopy(layer)
    alone.set_mask(mask)
    return alone(x)[:, o]


def test_a_function_of_zero_has_a_finite_penalty() -> None:
    model = make_kan(2, 3, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    x = torch.rand(10, 2, dtype=torch.float64)
    for metric in ("edge_forward_l1", "edge_forward_spline_n", "edge_backward"):
        model.zero_grad()
        penalty = model.regularization(x, metric)
        penalty.backward()
        assert penalty == 0
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_one_row_is_enough() -> None:
    model = make_kan(2, 2, 1)
    penalty = model.regularization(torch.zeros(1, 2, dtype=torch.float64))
    assert penalty == 0
    penalty.backward()


def test_samples_are_needed_and_kept() -> None:
    model = make_kan(2, 2, 1)
    data = create_dataset(lambda x: x, train_num=60, dtype=torch.float64)
    with pytest.raises(ValueError, match="this needs samples"):
        model.regularization()
    values = model.get_act(data)
    assert [v.shape for v in values] == [(60, 2), (60, 2), (60, 1)]
    torch.testing.assert_close(model.regularization(), model.regularization(data["train_input"]))
    assert "samples" not in model.state_dict()
    assert model.float().samples.dtype == torch.float32


def test_the_gradient_of_pykans_entropy() -> None:
    """By finite differences; the value is compared with pykan's own above."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 5), (1, 4), (2, 1)):
        size = torch.rand(shape, generator=generator, dtype=torch.float64)
        size[0, 0] = 0.01
        penalty = regularization._PykanPenalty.apply
        arguments = (size.requires_grad_(), 0.7, 2.0)
        assert torch.autograd.gradcheck(penalty, arguments, eps=1e-7, atol=1e-5)
