"""Backward attribution, against live pykan and against its definition on dense activations."""

from typing import Any

import pytest
import torch
from cases import make_kan, rows
from torch import Tensor

from kanfast import KAN, KANLinear
from kanfast.interpret.attribution import Attribution

DOUBLE = torch.float64


def trained_pykan(pykan: Any, x: Tensor) -> Any:
    model = pykan.KAN([3, 4, 3, 2], grid=[3, 4, 5], k=3, noise_scale=1.0, auto_save=False)
    with torch.no_grad():
        model.act_fun[0].mask[1, 2] = 0
    model.get_act(x)
    return model


def test_scores_are_pykans(pykan: Any) -> None:
    x = rows(90, 3)
    theirs = trained_pykan(pykan, x)
    ours = KAN.from_pykan(theirs)
    ours.get_act(x)
    theirs.attribute()
    found = ours.attribute()
    for name in ("node_scores", "edge_scores", "node_scores_all", "edge_scores_all"):
        torch.testing.assert_close(getattr(found, name), getattr(theirs, name), rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.feature_score, theirs.feature_score, rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.node_scores, found.node_scores)
    torch.testing.assert_close(ours.edge_scores, found.edge_scores)
    assert [tuple(s.shape) for s in found.edge_scores] == [(4, 3), (3, 4), (2, 3)]
    assert [tuple(s.shape) for s in found.node_scores_all] == [(2, 3), (2, 4), (2, 3), (2, 2)]


def test_scores_of_nodes_are_pykans(pykan: Any) -> None:
    x = rows(90, 3)
    theirs = trained_pykan(pykan, x)
    ours = KAN.from_pykan(theirs)
    for layer in (1, 2, 3):
        found = ours.attribute(layer, x=x)
        torch.testing.assert_close(found, theirs.attribute(layer), rtol=1e-9, atol=0)
        torch.testing.assert_close(ours.attribute(layer, 1, x=x), found[1])
        expected = theirs.attribute(layer, 1, plot=False)
        torch.testing.assert_close(found[1], expected, rtol=1e-9, atol=0)


def test_scores_of_the_outputs_are_pykans(pykan: Any) -> None:
    x, out_score = rows(90, 3), torch.tensor([0.3, 2.0])
    theirs = trained_pykan(pykan, x)
    theirs.attribute(out_score=out_score)
    found = KAN.from_pykan(theirs).attribute(out_score=out_score, x=x)
    torch.testing.assert_close(found.node_scores, theirs.node_scores, rtol=1e-9, atol=0)


def test_the_definition_on_dense_activations() -> None:
    model, x = make_kan(2, 3, 2), rows(50, 2)
    values, deviations = x, []
    for layer in model.layers:
        phi = torch.einsum("nij,oij->noi", layer.b_splines(values), layer.scaled_spline_weight)
        phi = phi + torch.nn.functional.silu(values)[:, None] * layer.base_weight
        deviations.append((phi.std(0), phi.sum(2).std(0)))
        values = phi.sum(2)
    torch.testing.assert_close(values, model(x))
    score = torch.eye(2, dtype=DOUBLE)
    for index in (1, 0):
        edges, nodes = deviations[index]
        edge = score[:, :, None] * edges / (nodes[:, None] + 1e-4)
        torch.testing.assert_close(model.attribute(x=x).edge_scores_all[index], edge)
        score = edge.sum(1)
    torch.testing.assert_close(model.attribute(x=x).node_scores[0], score.mean(0))


def test_scores_find_the_feature_that_matters() -> None:
    model = make_kan(3, 1)
    with torch.no_grad():
        model.layers[0].spline_weight[:, 1:] *= 0.01
        model.layers[0].base_weight[:, 1:] *= 0.01
    first, *others = model.attribute(x=rows(100, 3)).node_scores[0].tolist()
    assert first > 0.9
    assert max(others) < 0.05


def test_scores_are_never_stale() -> None:
    model = make_kan(2, 1)
    model.get_act(rows(40, 2))
    before = model.feature_score
    with torch.no_grad():
        model.layers[0].spline_weight[:, 0] *= 10
    assert model.feature_score[0] > before[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes_and_shapes(dtype: torch.dtype) -> None:
    model = make_kan(2, 3, 1, dtype=dtype)
    x = rows(60, 2).to(dtype).reshape(3, 20, 2)
    found = model.attribute(x=x).node_scores[0]
    assert found.dtype == torch.float32
    exact = make_kan(2, 3, 1).load_state_dict(model.state_dict())
    assert not exact.missing_keys
    wide = make_kan(2, 3, 1)
    wide.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    expected = wide.attribute(x=x.double()).node_scores[0]
    bound = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


def test_layers_without_or_with_unfused_residuals() -> None:
    layers = [
        KANLinear(2, 3, base_activation=None, dtype=DOUBLE),
        KANLinear(3, 2, base_activation=torch.nn.ELU, dtype=DOUBLE),
    ]
    model, x = KAN.from_layers(layers), rows(30, 2)
    values = model.activations(x)
    for layer, inner, outer in zip(layers, values, values[1:], strict=False):
        statistics = layer.edge_statistics(inner)
        torch.testing.assert_close(statistics.mean.sum(1), outer.mean(0))
    assert all(s.isfinite().all() for s in model.attribute(x=x).edge_scores)


def test_one_row_scores_zero() -> None:
    model = make_kan(2, 2, 1)
    assert all((s == 0).all() for s in model.attribute(x=rows(1, 2)).edge_scores)


def test_it_is_a_plain_result() -> None:
    found = make_kan(2, 1).attribute(x=rows(9, 2))
    assert isinstance(found, Attribution)
    assert not found.node_scores[0].requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "this needs samples: pass x="),
        ({"l": 0}, "l must be 1 to 2"),
        ({"l": 3}, "l must be 1 to 2"),
        ({"i": 0}, "without l"),
        ({"l": 1, "i": 5}, "layer 1 has nodes 0 to 2, got i = 5"),
        ({"l": 1, "out_score": torch.ones(1)}, "out_score is that of the outputs"),
        ({"out_score": torch.ones(3)}, "one number for each of 1 outputs"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    model = make_kan(2, 3, 1)
    if arguments:
        model.get_act(rows(5, 2))
    with pytest.raises(ValueError, match=message):
        model.attribute(**arguments)
