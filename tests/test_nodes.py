"""Multiplication nodes and affine maps: against live pykan, and against their definition."""

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import make_kan, rows

from kanfast import KAN, create_dataset, parameter_groups
from kanfast.nn.nodes import Nodes

DOUBLE = torch.float64


MODELS: dict[str, dict[str, Any]] = {
    "pairs": {"width": [3, [2, 3], [1, 1], 2]},
    "arity 3": {"width": [3, [1, 2], 2], "mult_arity": 3},
    "each its own": {"width": [3, [2, 2], [0, 1]], "mult_arity": [[], [2, 3], [4]]},
    "no products": {"width": [3, 4, 2]},
}


def theirs(pykan: Any, *, affine: bool = True, symbolic: bool = True, **options: Any) -> Any:
    """A pykan model of random affine maps, with symbolic edges and a removed one."""
    options = {"grid": 4, "k": 3, "noise_scale": 1.0, "auto_save": False} | copy.deepcopy(options)
    model = pykan.KAN(**options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name in ("node_scale", "node_bias", "subnode_scale", "subnode_bias"):
            for tensor in getattr(model, name) if affine else ():
                tensor.add_(0.5 * torch.rand(tensor.shape, generator=generator, dtype=DOUBLE))
        model.act_fun[0].mask[1, 1] = 0
    if symbolic:
        model.get_act(rows(50, 3))
        model.fix_symbolic(0, 1, 0, "sin", fit_params_bool=False, log_history=False)
        model.fix_symbolic(0, 2, 1, "x^2", fit_params_bool=False, log_history=False)
        model.fix_symbolic(1, 0, 0, "tanh", fit_params_bool=False, log_history=False)
        with torch.no_grad():
            model.symbolic_fun[0].affine[1, 2].copy_(torch.tensor([0.5, 0.3, 2.0, -1.0]))
            model.symbolic_fun[0].mask[1, 2] = 0.7
            model.act_fun[0].mask[2, 1] = 0.4  # a spline as well
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("symbolic", [False, True], ids=["numeric", "symbolic"])
def test_values_gradients_and_scores_are_pykans(pykan: Any, name: str, symbolic: bool) -> None:
    model = theirs(pykan, symbolic=symbolic, **MODELS[name])
    ours, x = KAN.from_pykan(model), rows(60, 3).requires_grad_()
    weights = torch.randn(60, ours.width[-1], dtype=DOUBLE)
    expected = model(x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-10)
    slopes = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (ours(x), expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)
    ours.get_act(x.detach())
    model.get_act(x.detach())
    for mine, acts in zip(ours.activations(x), model.acts, strict=True):
        torch.testing.assert_close(mine.detach(), acts, rtol=0, atol=1e-10)
    if name != "no products" or symbolic:  # else scales are in the weights, before the deviation
        model.attribute()
        found = ours.attribute()
        for scores in ("node_scores", "edge_scores", "subnode_scores", "edge_scores_all"):
            expected = [t.detach() for t in getattr(model, scores)]
            torch.testing.assert_close(getattr(found, scores), expected, rtol=1e-9, atol=1e-12)
    if not symbolic:
        options = MODELS[name]
        again = KAN.from_pykan_state_dict(
            model.state_dict(), mult_arity=options.get("mult_arity", 2)
        )
        torch.testing.assert_close(again(x), ours(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("metric", ["edge_forward_spline_n", "edge_forward_spline_u"])
def test_regularization_is_pykans(pykan: Any, metric: str) -> None:
    model = theirs(pykan, **MODELS["pairs"])
    with torch.no_grad():
        model.act_fun[0].mask[2, 1] = 0  # pykan counts the spline of an edge that has both
    ours, x = KAN.from_pykan(model), rows(60, 3)
    model.get_act(x)
    expected = model.get_reg(metric, 1.0, 2.0, 0.0, 0.0)
    torch.testing.assert_close(ours.regularization(x, metric), expected, rtol=1e-9, atol=0)


def test_trainable_affine_maps_come_along(pykan: Any) -> None:
    ours = KAN.from_pykan(theirs(pykan, width=[3, 2, 1], affine_trainable=True, affine=False))
    assert ours.nodes["0"].subnode_scale.requires_grad
    assert ours.nodes["1"].node_bias.requires_grad
    assert not KAN.from_pykan(theirs(pykan, width=[3, 2, 1])).nodes["0"].node_bias.requires_grad


def test_unknown_functions_are_refused(pykan: Any) -> None:
    model = theirs(pykan, width=[3, 2, 1])
    model.fix_symbolic(
        0, 0, 0, lambda x: x**2, fit_params_bool=False, verbose=False, log_history=False
    )
    with pytest.raises(ValueError, match=r"function 'anonymous' of the edge \(0, 0, 0\)"):
        KAN.from_pykan(model)


def test_nodes_by_hand() -> None:
    nodes, x = Nodes(8, [2, 2, 3]), rows(5, 8)
    s = x.unbind(-1)
    expected = torch.stack([s[0], s[1] * s[2], s[3] * s[4], s[5] * s[6] * s[7]], -1)
    torch.testing.assert_close(nodes(x), expected, rtol=0, atol=0)
    assert nodes.node_of_subnode().tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert not list(nodes.parameters())
    nodes.add_affine(x)
    torch.testing.assert_close(nodes(x), expected, rtol=0, atol=0)
    nodes.set_affine("node_bias", torch.arange(4.0))
    nodes.set_affine("subnode_scale", torch.full((8,), 2.0))
    scaled = expected * torch.tensor([2.0, 4, 4, 8]) + torch.arange(4.0)
    torch.testing.assert_close(nodes(x), scaled, rtol=0, atol=1e-14)
    part = nodes.taken(torch.tensor([0, 3]))
    assert part.arities == (3,)
    torch.testing.assert_close(part(x[:, [0, 5, 6, 7]]), scaled[:, [0, 3]])


def test_widths() -> None:
    widths = [2, [3, 2], [1, 0], [0, 1]]
    model = make_kan(*widths, mult_arity=[[], [2, 3], [], [2]])
    assert widths == [2, [3, 2], [1, 0], [0, 1]]
    assert model.width == model.width_in == [2, 5, 1, 1]
    assert model.width_out == [2, 8, 1, 2]
    assert model.arities == [(), (2, 3), (), (2,)]
    assert list(model.nodes) == ["0", "2"]
    assert model(rows(7, 2)).shape == (7, 1)
    assert not any(name.startswith("nodes") for name in model.state_dict())


def test_plain_models_are_as_before() -> None:
    model, same = make_kan(2, 3, 1), make_kan(2, [3, 0], [1, 0])
    assert not model.nodes
    assert not same.nodes
    assert list(model.state_dict()) == list(same.state_dict())
    x = rows(9, 2)
    assert torch.equal(model(x), same(x))


ERRORS = {
    "inputs": (([[1, 1], 1], {}), r"inputs cannot be multiplication nodes, got \[1, 1\]"),
    "pair": (([2, [1, 2, 3], 1], {}), r"an int or \[n_sum, n_mult\], got \[1, 2, 3\]"),
    "lists": (([2, [1, 1], 1], {"mult_arity": [[2]]}), "a list for each of 3 widths"),
    "count": (([2, [1, 1], 1], {"mult_arity": [[], [], []]}), "an arity for each of 1 mult"),
    "arity": (([2, [1, 1], 1], {"mult_arity": 1}), r"at least 2 subnodes.* arities \[1\]"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(arguments: Any, message: str) -> None:
    widths, options = arguments
    with pytest.raises(ValueError, match=message):
        KAN(widths, **options)


def test_other_errors() -> None:
    with pytest.raises(TypeError, match=r"an int or \[n_sum, n_mult\], got 2.5"):
        KAN([2, 2.5, 1])
    with pytest.raises(ValueError, match=r"expected one of .* 3 subnodes or 2 nodes, got 'scale'"):
        Nodes(3, [2]).set_affine("scale", torch.ones(3))
    layers = make_kan(2, 3, 1).kan_layers
    with pytest.raises(ValueError, match=r"nodes\[0\] has 4 subnodes"):
        KAN.from_layers(layers, {0: Nodes(4, [2])})
    with pytest.raises(ValueError, match="layer 0 has 2 outputs, but layer 1 has 3 inputs"):
        KAN.from_layers(layers, {0: Nodes(3, [2])})


@pytest.fixture
def model() -> KAN:
    """[3, [2, 2], [1, 1]] with affine maps that do something."""
    model = make_kan(3, [2, 2], [1, 1], mult_arity=3, affine_trainable=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("nodes"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_transforms_and_copies(model: KAN, fresh_compiler: None) -> None:
    x = rows(6, 3)
    expected = model(x)
    other = make_kan(3, [2, 2], [1, 1], mult_arity=3)
    other.load_state_dict(model.state_dict())
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.refine(8)):
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=1e-12)
    assert other.float()(x.float()).dtype == torch.float32
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-12)
    of_row = torch.func.hessian(lambda row: model(row).sum())
    hessian = torch.func.vmap(of_row)(x)
    single = torch.autograd.functional.hessian(lambda row: model(row).sum(), x[0])
    torch.testing.assert_close(hessian[0], single, rtol=0, atol=1e-10)
    assert torch.autograd.gradgradcheck(model, (x.requires_grad_(),))


def test_a_state_dict_brings_affine_maps_to_a_plain_model() -> None:
    model = make_kan(2, 3, 1, affine_trainable=True)
    plain = make_kan(2, 3, 1).float()
    with torch.no_grad():
        model.nodes["0"].node_bias.fill_(0.5)
    plain.load_state_dict(model.state_dict())
    assert plain.nodes["0"].node_bias.dtype == torch.float32
    x = rows(5, 2)
    torch.testing.assert_close(plain(x.float()).double(), model(x), rtol=0, atol=1e-5)


def test_pruning_nodes_takes_their_factors(model: KAN) -> None:
    x = rows(60, 3)
    pruned = model.prune_node(mode="manual", active_neurons_id=[[1, 3]])
    assert pruned.width == [3, 2, 2]
    assert pruned.width_out == [3, 4, 4]
    only = copy.deepcopy(model)
    only.remove_node(1, 0, "up")
    only.remove_node(1, 2, "up")
    torch.testing.assert_close(pruned(x), only(x), rtol=0, atol=1e-12)
    sums = model.prune_node(mode="manual", active_neurons_id=[[0, 1]])
    assert sums.arities[1] == ()
    assert model.width == [3, 4, 2]


def test_removing_a_product_removes_the_edges_of_its_factors(model: KAN) -> None:
    model.remove_node(1, 2, "down")
    assert (
        model.kan_layers[0].edge_mask.any(dim=1).tolist() == [True] * 2 + [False] * 3 + [True] * 3
    )
    model.remove_edge(0, 1, 7)
    assert model.n_edge == 5 * 3 - 1 + 4 * 4


def test_automatic_pruning_and_grids(model: KAN) -> None:
    x = rows(80, 3)
    scores = model.attribute(x=x)
    assert [len(s) for s in scores.node_scores] == [3, 4, 2]
    assert [tuple(s.shape) for s in scores.edge_scores] == [(8, 3), (4, 4)]
    assert model.attribute(2, 1, x=x).shape == (3,)
    threshold = float(scores.node_scores[1].min())
    assert model.prune_node(threshold, x=x).width == [3, 3, 2]
    before = model(x)
    model.update_grid_from_samples(x)
    assert (model(x) - before).abs().max() < 0.5 * before.abs().max()
    assert model(x, update_grid=True).shape == (80, 2)


def test_a_product_is_learned_and_read() -> None:
    dataset = create_dataset(lambda x: x[:, [0]] * x[:, [1]], train_num=300, dtype=DOUBLE)
    model = make_kan(2, [0, 1], 1, scale_noise=0.1)
    model.fit(dataset, steps=40, log=0)
    for l, i, j in ((0, 0, 1), (0, 1, 0)):
        model.remove_edge(l, i, j)
    model.fit(dataset, steps=40, log=0)
    model.auto_symbolic(lib=["x", "x^2", "sin"])
    history = model.fit(dataset, steps=20, log=0)
    assert history["test_loss"][-1] < 1e-8
    x = dataset["test_input"]
    torch.testing.assert_close(model.symbolic_formula()(x), model(x).detach(), rtol=0, atol=1e-10)


def test_the_formula_of_products_and_affine_maps_is_the_model(model: KAN) -> None:
    x = rows(40, 3)
    model.auto_symbolic(lib=["x", "sin", "x^2", "tanh"], x=x)
    formula = model.symbolic_formula()
    torch.testing.assert_close(formula(x), model(x).detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("named", [False, True])
def test_an_optimizer_is_kept_where_symbolic_edges_are_pruned(model: KAN, named: bool) -> None:
    model.fix_symbolic(0, 0, 0, "sin", x=rows(50, 3))
    held = model.named_parameters() if named else model.parameters()
    optimizer = torch.optim.Adam(held, lr=0.3)
    pruned = model.prune_node(mode="manual", active_neurons_id=[[1, 3]])
    assert pruned.kan_layers[0].symbolic is None
    fresh = torch.optim.Adam(parameter_groups(optimizer, model, pruned))
    assert fresh.param_groups[0]["lr"] == 0.3
    found = {id(p) for group in fresh.param_groups for p in group["params"]}
    assert found == {id(p) for p in pruned.parameters()}
