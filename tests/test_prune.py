"""Masks and pruning: what goes stays gone, and everything else stays as it is."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import make_kan, rows
from torch import Tensor, nn

from kanfast import KAN, KANLinear, create_dataset, parameter_groups

DOUBLE = torch.float64


def random_mask(layer: KANLinear, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(layer.out_features, layer.in_features, generator=generator) > 0.5


# Masks of a layer.

LAYERS: dict[str, dict[str, Any]] = {
    "default": {},
    "no scaler": {"enable_standalone_scale_spline": False},
    "no residual": {"base_activation": None},
    "unfused": {"base_activation": nn.ELU},
}


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_a_mask_is_zero_coefficients(options: dict[str, Any]) -> None:
    layer = KANLinear(5, 4, dtype=DOUBLE, **options)
    zeroed, mask, x = copy.deepcopy(layer), random_mask(layer), rows(30, 5)
    mask[:, 1] = False  # a dead input
    layer.set_mask(mask)
    with torch.no_grad():
        zeroed.spline_weight[~mask] = 0
        if zeroed.base_weight is not None:
            zeroed.base_weight[~mask] = 0
    torch.testing.assert_close(layer(x), zeroed(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(layer.regularization_loss(), zeroed.regularization_loss())
    torch.testing.assert_close(
        layer.scaled_spline_weight, zeroed.scaled_spline_weight, rtol=0, atol=0
    )
    torch.testing.assert_close(layer.edge_statistics(x), zeroed.edge_statistics(x))
    layer(x).square().sum().backward()
    zeroed(x).square().sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None
        assert (p.grad[~mask] == 0).all()
        torch.testing.assert_close(p.grad[mask], zeroed.get_parameter(name).grad[mask])
    layer.set_mask(None)
    assert layer.mask is None


def test_only_the_base_is_trained() -> None:
    layer = KANLinear(3, 2, dtype=DOUBLE)
    x, mask = rows(10, 3), torch.tensor([[True, False, False], [True, False, True]])
    layer.set_mask(mask)
    expected = layer(x)
    layer.spline_weight.requires_grad_(False)
    layer.spline_scaler.requires_grad_(False)
    torch.testing.assert_close(layer(x), expected)
    layer(x).sum().backward()
    assert (layer.base_weight.grad[~mask] == 0).all()


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_dead_inputs_are_not_looked_at(options: dict[str, Any]) -> None:
    layer = KANLinear(3, 2, dtype=DOUBLE, **options)
    layer.set_mask(torch.tensor([[True, False, False], [True, False, True]]))
    x = rows(8, 3)
    x[:, 1] = torch.nan
    assert layer(x).isfinite().all()
    layer.set_mask(torch.zeros(2, 3, dtype=torch.bool))
    assert torch.equal(layer(x), torch.zeros(8, 2, dtype=DOUBLE))
    with pytest.raises(ValueError, match=r"x must be \[..., 3\], got \[8, 2\]"):
        layer(x[:, :2])


def test_changes_of_the_mask_in_place_are_seen() -> None:
    layer, x = KANLinear(2, 1, dtype=DOUBLE), rows(8, 2)
    whole = layer(x)
    layer.set_mask(torch.tensor([[True, False]]))
    assert not torch.equal(layer(x), whole)
    layer.mask[0, 1] = True
    torch.testing.assert_close(layer(x), whole)


def test_masks_in_state_dicts() -> None:
    layer = KANLinear(3, 2, dtype=DOUBLE)
    assert "mask" not in layer.state_dict()
    mask = torch.tensor([[True, False, False], [True, False, True]])
    layer.set_mask(mask)
    x = rows(8, 3)
    for other in (KANLinear(3, 2, dtype=DOUBLE), copy.deepcopy(layer)):
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other.mask, mask)
        assert torch.equal(other(x), layer(x))
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).to(DOUBLE)):
        assert torch.equal(other(x), layer(x))
    with pytest.raises(RuntimeError, match="mask"):
        layer.load_state_dict(KANLinear(3, 2).state_dict())
    halved = copy.deepcopy(layer).half()
    assert halved.mask.dtype == torch.bool


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.LBFGS(p),
    ],
    ids=["AdamW", "SGD", "LBFGS"],
)
def test_removed_edges_stay_zero_in_training(make_optimizer: Any) -> None:
    model, x = make_kan(2, 3, 1), rows(40, 2)
    optimizer = make_optimizer(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - x[:, :1]).square().mean() + 1e-3 * model.regularization_loss()
        loss.backward()
        return loss

    optimizer.step(closure)  # momentum from before the pruning
    model.remove_edge(0, 1, 2)
    model.remove_node(1, 0)
    for _ in range(3):
        optimizer.step(closure)
    edges = model.layers[0].edge_statistics(x)
    dead = torch.tensor([[True, True], [False, False], [False, True]])
    assert torch.equal(edges.min == 0, dead)
    assert torch.equal(edges.max == 0, dead)
    assert torch.equal(model.layers[0].mask, ~dead)
    assert model.n_edge == 3 + 2


def test_masks_survive_grid_changes() -> None:
    model = make_kan(2, 3, 1)
    model.remove_edge(0, 1, 2)
    x = rows(40, 2)
    model.update_grid_from_samples(x)
    finer = model.refine(9)
    torch.testing.assert_close(finer(x), model(x), rtol=0, atol=1e-13)
    assert finer.n_edge == model.n_edge == 8


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 3, dtype=torch.bool), torch.ones(3, 2)], ids=["shape", "dtype"]
)
def test_mask_errors(mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"bool tensor \[out_features, in_features\] = \[3, 2\]"):
        KANLinear(2, 3).set_mask(mask)


# Pruning of models.


def test_nodes_are_really_gone() -> None:
    model, x = make_kan(3, 6, 5, 2), rows(50, 3)
    smaller = model.prune_node(active_neurons_id=[[4, 0, 2], [1, 3]], x=x)
    assert smaller.width == [3, 3, 2, 2]
    assert [tuple(p.shape) for p in smaller.layers[1].parameters()] == [(2, 3), (2, 3, 7), (2, 3)]
    assert smaller.layers[1].grid.shape[0] == 3
    # The same function as the whole model without those nodes.
    reference = copy.deepcopy(model)
    for layer, node in ((1, 1), (1, 3), (1, 5), (2, 0), (2, 2), (2, 4)):
        reference.remove_node(layer, node)
    torch.testing.assert_close(smaller(x), reference(x), rtol=0, atol=1e-13)
    assert model.width == [3, 6, 5, 2]


def test_thresholds_decide() -> None:
    model, x = make_kan(2, 5, 1), rows(80, 2)
    model.get_act(x)
    scores, edges = model.node_scores[1], model.edge_scores
    threshold = scores.sort().values[1].item()  # not above itself
    smaller = model.prune_node(threshold)
    assert smaller.width == [2, 3, 1]
    kept = (scores > threshold).nonzero().flatten()
    assert torch.equal(smaller.layers[0].base_weight, model.layers[0].base_weight[kept])
    limit = edges[0].flatten().sort().values[3].item()
    assert model.prune_edge(limit) is model
    assert torch.equal(model.layers[0].mask, edges[0] > limit)
    assert model.n_edge == int(sum((e > limit).sum() for e in edges))
    before = model.n_edge
    model.prune_edge(0.0)
    assert model.n_edge == before  # what is gone stays gone


def test_prune_is_pykans(pykan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # pykan writes files
    x = rows(100, 3)
    theirs = pykan.KAN([3, 5, 2], grid=3, k=3, seed=4, noise_scale=0.5)
    ours = KAN.from_pykan(theirs)
    theirs.get_act(x)
    ours.get_act(x)
    theirs.attribute()
    node_th = theirs.node_scores[1].sort().values[1].item()
    theirs, ours = theirs.prune(node_th, 0.2), ours.prune(node_th, 0.2)
    assert ours.width == [3, 3, 2]
    for layer, other in zip(ours.layers, theirs.act_fun, strict=True):
        assert torch.equal(layer.mask.T.to(DOUBLE), other.mask)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-12)


def test_all_else_of_a_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = make_kan(3, 4, 2, grid_eps=0.4, backend="reference", base_activation=nn.Tanh)
    model.layers[0].spline_weight.requires_grad_(False)
    model.remove_edge(1, 3, 0)
    model.eval()
    state = copy.deepcopy(model.state_dict())
    x = rows(60, 3)
    model.get_act(x)
    smaller = model.prune_node(active_neurons_id=[[1, 3]]).prune_input(active_inputs=[0, 2])
    assert smaller.width == [2, 2, 2]
    assert not smaller.training
    assert smaller.backend == "reference"
    for layer, old in zip(smaller.layers, model.layers, strict=True):
        assert layer.grid_eps == 0.4
        assert layer.grid.dtype == DOUBLE
        assert isinstance(layer.base_activation, nn.Tanh)
        for name, p in layer.named_parameters():
            assert p.dtype == DOUBLE
            assert p.requires_grad == old.get_parameter(name).requires_grad
    assert smaller.layers[0].mask is None
    assert torch.equal(smaller.layers[1].mask, torch.tensor([[True, False], [True, True]]))
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        for p in smaller.parameters():
            p.zero_()
    assert model(x).abs().max() > 0  # nothing is shared


def test_inputs() -> None:
    model, x = make_kan(4, 3, 1), rows(50, 4)
    reference = copy.deepcopy(model)
    for node in (1, 3):
        reference.remove_node(0, node)
    smaller = model.prune_input(active_inputs=[2, 0])
    assert smaller.input_id.tolist() == [0, 2]
    assert model.input_id.tolist() == [0, 1, 2, 3]
    assert smaller.width == [2, 3, 1]
    torch.testing.assert_close(smaller(x), reference(x), rtol=0, atol=1e-13)
    torch.testing.assert_close(smaller(x, update_grid=True).isfinite().all(), torch.tensor(True))
    last = smaller.prune_input(active_inputs=[1])
    assert last.input_id.tolist() == [2]
    assert last(x.reshape(5, 10, 4)).shape == (5, 10, 1)
    with pytest.raises(ValueError, match=r"all 4 features .* got shape \[50, 1\]"):
        last(x[:, :1])
    restored = KAN([1, 3, 1], grid_size=4, dtype=DOUBLE)
    assert "input_mask" not in restored.state_dict()
    restored.load_state_dict(last.state_dict())
    assert torch.equal(restored(x), last(x))
    assert torch.equal(pickle.loads(pickle.dumps(last))(x), last(x))


def test_input_mask_errors() -> None:
    with pytest.raises(ValueError, match="bool tensor with 2 True"):
        make_kan(2, 1).set_input_mask(torch.tensor([True, False]))


def test_inputs_by_score() -> None:
    model = make_kan(3, 2, 1)
    with torch.no_grad():
        model.layers[0].spline_weight[:, 1] *= 1e-4
        model.layers[0].base_weight[:, 1] *= 1e-4
    x = rows(60, 3)
    model.get_act(x)
    smaller = model.prune_input()
    assert smaller.input_id.tolist() == [0, 2]
    assert smaller.feature_score.shape == (2,)  # the samples still have all features


def test_workflow_on_a_function_with_a_useless_input() -> None:
    data = create_dataset(
        lambda x: torch.sin(2 * x[:, [0]]) + x[:, [1]] ** 2,
        n_var=3,
        train_num=150,
        test_num=80,
        dtype=DOUBLE,
    )
    torch.manual_seed(1)
    model = KAN([3, 3, 1], grid_size=3, dtype=DOUBLE)
    model.fit(data, steps=12, lamb=2e-3, log=0)
    pruned = model.prune_input().prune()
    assert pruned.input_id.tolist() == [0, 1]
    assert pruned.width[1] < 3
    history = pruned.fit(data, steps=10, log=0, update_grid=False)
    assert history["test_loss"][-1] < 0.02


def test_an_optimizer_goes_on_after_pruning() -> None:
    model = make_kan(2, 4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    smaller = model.prune_node(active_neurons_id=[[0, 2]])
    groups = parameter_groups(optimizer, model, smaller)
    assert groups[0]["lr"] == 0.03
    assert [p.shape for p in groups[0]["params"]] == [p.shape for p in smaller.parameters()]


@pytest.mark.parametrize(("mode", "dead"), [("up", [0]), ("down", [1]), ("all", [0, 1])])
def test_remove_node(mode: Any, dead: list[int]) -> None:
    model = make_kan(2, 3, 2)
    model.remove_node(1, 2, mode)
    into, out_of = model.layers[0].mask, model.layers[1].mask
    assert (into is not None) == (1 in dead)
    assert (out_of is not None) == (0 in dead)
    if into is not None:
        assert into.tolist() == [[True, True], [True, True], [False, False]]
    if out_of is not None:
        assert out_of.tolist() == [[True, True, False]] * 2


def test_remove_nodes_at_the_ends() -> None:
    model = make_kan(2, 3, 2)
    model.remove_node(0, 1)
    model.remove_node(2, 0)
    assert model.layers[0].mask.tolist() == [[True, False]] * 3
    assert model.layers[1].mask.tolist() == [[False] * 3, [True] * 3]


def test_errors() -> None:
    model = make_kan(2, 3, 1)
    model.get_act(rows(20, 2))
    for call, error, message in (
        (lambda: model.prune_node(1e9), ValueError, "no nodes of layer 1 would be left"),
        (lambda: model.prune_input(1e9), ValueError, "no inputs would be left: their highest"),
        (lambda: model.prune_node(mode="some"), ValueError, 'mode must be "auto" or "manual"'),
        (lambda: model.prune_node(mode="manual"), ValueError, "needs active_neurons_id"),
        (lambda: model.prune_node(active_neurons_id=[]), ValueError, "each of 1 hidden layers"),
        (lambda: model.prune_node(active_neurons_id=[[3]]), ValueError, "nodes of layer 1 0 to 2"),
        (lambda: model.prune_input(active_inputs=[]), ValueError, "some of the inputs 0 to 1"),
        (lambda: model.remove_edge(2, 0, 0), IndexError, "layer l must be 0 to 1, got 2"),
        (
            lambda: model.remove_edge(0, 2, 0),
            IndexError,
            "input i .* must be 0 to 1, got 2",
        ),
        (
            lambda: model.remove_edge(0, 0, 3),
            IndexError,
            "output j .* must be 0 to 2, got 3",
        ),
        (lambda: model.remove_node(1, -1), IndexError, "node i of layer 1 must be 0 to 2, got -1"),
        (lambda: model.remove_node(3, 0), IndexError, "layer l of nodes must be 0 to 2, got 3"),
        (lambda: model.remove_node(0, 0, "down"), ValueError, "no edges on the side"),
        (lambda: model.remove_node(1, 0, "left"), ValueError, 'mode must be "all"'),
    ):
        with pytest.raises(error, match=message):
            call()
    assert model.n_edge == 9
    with torch.no_grad():
        model.layers[0].base_weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="scores are not finite, so nothing was pruned"):
        model.prune_edge()


def test_pruned_models_compile(fresh_compiler: None) -> None:
    model, x = make_kan(4, 3, 2), rows(16, 4)
    model.remove_node(1, 1)
    model = model.prune_input(active_inputs=[0, 3])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-14)
