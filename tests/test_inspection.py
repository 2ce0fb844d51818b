"""The picture of a model by its own method, its edges one by one, its evaluation."""

from typing import Any

import pytest
import torch
from cases import make_kan, rows
from pictures import artist

from kanfast import KAN, create_dataset, plot

DOUBLE = torch.float64


def test_functions_and_ranges_of_edges(pykan: Any) -> None:
    theirs = pykan.KAN([2, [2, 1], 1], noise_scale=1.0, auto_save=False)
    ours, x = KAN.from_pykan(theirs), rows(50, 2)
    theirs.get_act(x)
    ours.get_act(x)
    for l, i, j in ((0, 1, 3), (1, 2, 0)):
        given, taken = ours.get_fun(l, i, j)
        order = theirs.spline_preacts[l][:, j, i].argsort()
        expected = theirs.spline_preacts[l][order, j, i], theirs.spline_postacts[l][order, j, i]
        torch.testing.assert_close((given, taken), expected, rtol=0, atol=1e-12)
        ends = theirs.get_range(l, i, j, verbose=False)
        assert ours.get_range(l, i, j) == pytest.approx([float(end) for end in ends], abs=1e-12)
    assert (ours.n_sum, ours.n_mult) == (list(theirs.n_sum), list(theirs.n_mult))
    dataset = create_dataset(lambda x: x[:, [0]] * x[:, [1]], test_num=40, dtype=DOUBLE)
    expected = theirs.evaluate(dataset)
    found = ours.evaluate(dataset)
    assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-9)
    assert (found["n_edge"], found["n_grid"]) == (expected["n_edge"], expected["n_grid"])


def test_symbolic_edges_and_products_in_pictures() -> None:
    model, x = make_kan(2, [3, 1], 1), rows(60, 2)
    model.get_act(x)
    model.fix_symbolic(0, 0, 3, "x^2")
    figure = model.plot(in_vars=["a", "b"], title="products")
    colors = artist(figure, "curves 0").get_colors()
    assert (colors[:, 0] > 0.5).tolist() == [False] * 3 + [True] + [False] * 6  # inputs, outputs
    nodes = artist(figure, "nodes 1").get_offsets()
    factors = artist(figure, "subnodes 1").get_offsets()
    assert len(nodes) == 4
    assert len(artist(figure, "products 1").get_offsets()) == 1
    assert factors[:, 0].mean() == pytest.approx(nodes[3, 0])
    assert (factors[:, 1] < nodes[3, 1]).all()
    joins = [segment.tolist() for segment in artist(figure, "joins 1").get_segments()]
    assert joins == [[list(factor), list(nodes[3])] for factor in factors.tolist()]
    ends = {tuple(wire[0]) for wire in artist(figure, "wires out of 0").get_segments()}
    assert ends == {tuple(place) for place in [*nodes[:3].tolist(), *factors.tolist()]}
    assert not figure.findobj(lambda found: found.get_gid() == "products 2")


def test_the_curve_of_a_symbolic_edge_is_its_function() -> None:
    model, x = make_kan(1, 1), rows(60, 1)
    model.fix_symbolic(0, 0, 0, "x^2", fit_params_bool=False)
    (curve,) = artist(plot.network(model, x), "curves 0").get_segments()
    t = torch.linspace(float(x.min()), float(x.max()), len(curve), dtype=DOUBLE) ** 2
    level = torch.tensor(curve[:, 1])
    expected = (t - t.min()) / (t.max() - t.min())
    scaled = (level - level.min()) / (level.max() - level.min())
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", ["backward", "forward_n", "forward_u"])
def test_metrics_are_opacities(metric: Any) -> None:
    model, x = make_kan(3, 2, 1), rows(60, 3)
    statistics = model.kan_layers[0].edge_statistics(x).std
    sizes = {
        "backward": model.attribute(x=x).edge_scores[0],
        "forward_u": statistics,
        "forward_n": statistics / (x.std(0) + 0.1),
    }
    colors = artist(model.plot(metric=metric, x=x), "curves 0").get_colors()
    opacity = torch.tanh(3 * sizes[metric].detach()).T.flatten()
    torch.testing.assert_close(torch.tensor(colors[:, 3]), opacity, rtol=0, atol=1e-9)


def test_errors() -> None:
    model = make_kan(2, 1)
    with pytest.raises(ValueError, match="this needs samples"):
        model.plot()
    with pytest.raises(ValueError, match=r"metric must be one of .*, got 'forward'"):
        model.plot(metric="forward", x=rows(9, 2))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="output j of layer 0 must be 0 to 0, got 1"):
        model.get_fun(0, 0, 1)
