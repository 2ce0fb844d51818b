"""Pictures of networks: what is drawn, where, in which colour; not how it looks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import sympy
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pictures import Array, artist, drawn, kill, make, phi, samples
from torch import nn

from kanfast import plot
from kanfast.symbolic import SymbolicEdges

pytestmark = pytest.mark.usefixtures("leaves_pyplot_alone")


def lines(figure: Figure, gid: str) -> Array:
    """Points [lines, points, 2] of a collection."""
    collection = artist(figure, gid)
    assert isinstance(collection, LineCollection)
    return np.array(collection.get_segments())


def colors(figure: Figure, layer: int) -> Array:
    return np.array(artist(figure, f"curves {layer}").get_colors())


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def normalised(values: Array) -> Array:
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_samples", [True, False])
def test_curves_are_the_edges_functions(dtype: torch.dtype, with_samples: bool) -> None:
    model = make([2, 3, 1], dtype, scale_noise=2.0)
    x = samples(50, 2, dtype) if with_samples else None
    figure = plot.network(model, x)
    assert drawn(figure) == [6, 3]
    inputs = [torch.tensor([[-1.0], [1.0]]).expand(2, width) for width in (2, 3)]
    if x is not None:
        with torch.no_grad():
            inputs = [x.double(), model.kan_layers[0](x).double()]
    for layer, pairs in enumerate([[(o, i) for i in range(2) for o in range(3)], [(0, 0)]]):
        curves, boxes = lines(figure, f"curves {layer}"), lines(figure, f"boxes {layer}")
        for (o, i), curve, box in zip(pairs, curves, boxes, strict=False):
            low, high = inputs[layer][:, i].min(), inputs[layer][:, i].max()
            expected = phi(model, layer, o, i, np.linspace(float(low), float(high), len(curve)))
            # Positions of the picture are rounded to float64 inches; scaled, but not cut or moved.
            np.testing.assert_allclose(normalised(curve[:, 1]), normalised(expected), atol=1e-9)
            np.testing.assert_allclose(normalised(curve[:, 0]), np.linspace(0, 1, len(curve)))
            inside = (curve > box.min(0)) & (curve < box.max(0))
            assert inside.all()


def test_wires_join_each_box_to_its_nodes() -> None:
    figure = plot.network(make([2, 3, 1]))
    rows = [artist(figure, f"nodes {row}").get_offsets() for row in range(3)]
    boxes = lines(figure, "boxes 0")
    into, out_of = lines(figure, "wires into 0"), lines(figure, "wires out of 0")
    pairs = [(o, i) for i in range(2) for o in range(3)]
    np.testing.assert_allclose(into[:, 0], [rows[0][i] for _, i in pairs])
    np.testing.assert_allclose(out_of[:, 0], [rows[1][o] for o, _ in pairs])
    np.testing.assert_allclose(into[:, 1, 1], boxes[:, :, 1].min(1))
    np.testing.assert_allclose(out_of[:, 1, 1], boxes[:, :, 1].max(1))
    np.testing.assert_allclose(into[:, 1, 0], boxes[:, :4, 0].mean(1))


def test_boxes_do_not_overlap_and_are_within_the_picture() -> None:
    for widths in ([1, 1], [3, 2, 2], [4, 10, 10, 1], [200, 3]):
        figure = plot.network(make(widths, torch.float32), tick=widths == [3, 2, 2])
        width, height = figure.get_size_inches()
        for layer in range(len(widths) - 1):
            boxes = lines(figure, f"boxes {layer}")
            left, right = boxes[:, :, 0].min(1), boxes[:, :, 0].max(1)
            assert (left[1:] > right[:-1]).all()
            assert left[0] > 0
            assert right[-1] < width
            np.testing.assert_allclose(right - left, np.ptp(boxes[:, :, 1], axis=1))
        assert 0 < artist(figure, "nodes 0").get_offsets()[0, 1] < height


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose drawn boxes meet, and texts that leave the picture."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    found = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts]
    pairs = [
        (a, b)
        for index, (a, first) in enumerate(found)
        for b, second in found[:index]
        if first.overlaps(second)
    ]
    whole = figure.bbox
    outside = [
        (text, "outside")
        for text, box in found
        if box.x0 < 0 or box.y0 < 0 or box.x1 > whole.x1 or box.y1 > whole.y1
    ]
    return pairs + outside


@pytest.mark.parametrize("names", ["default", "words", "sentences"])
@pytest.mark.parametrize("widths", [[1, 1], [2, 5, 1], [9, 2, 7], [150, 3]], ids=str)
def test_no_text_overlaps_another(widths: list[int], names: str) -> None:
    def name(count: int) -> list[str] | None:
        if names == "default":
            return None
        long = " and some more words about it" if names == "sentences" else ""
        return [f"feature {index}{long}" for index in range(count)]

    figure = plot.network(
        make(widths, torch.float32),
        in_vars=name(widths[0]),
        out_vars=name(widths[-1]),
        title="A title that is much longer than the smallest networks are wide",
        top_edges=40,
        tick=widths[0] < 10,
    )
    figure.set_canvas(mpl.backends.backend_agg.FigureCanvasAgg(figure))
    assert overlapping(figure) == []


def test_opacity_grows_with_the_score() -> None:
    model = make([2, 2, 1])
    scores = [torch.tensor([[0.0, 0.3], [0.1, 2.0]]), torch.tensor([[0.5, 0.5]])]
    figure = plot.network(model, scores=scores, beta=2.0)
    # In the order of inputs, then outputs.
    expected = np.tanh(2 * np.array([0.0, 0.1, 0.3, 2.0]))
    np.testing.assert_allclose(colors(figure, 0)[:, 3], expected)
    np.testing.assert_allclose(colors(figure, 1)[:, 3], np.tanh([1.0, 1.0]))
    for part in ("boxes", "wires into", "wires out of"):
        assert np.array_equal(artist(figure, f"{part} 0").get_colors(), colors(figure, 0))


def test_scores_are_relative_deviations_over_the_samples() -> None:
    model = make([3, 4, 2])
    x = samples(300, 3)
    figure = plot.network(model, x.reshape(10, 30, 3))
    columns = [x.numpy(), model.kan_layers[0](x).detach().numpy()]
    for layer, (inputs, outputs) in enumerate([(3, 4), (4, 2)]):
        std = np.array(
            [
                phi(model, layer, o, i, columns[layer][:, i]).std(ddof=1)
                for i in range(inputs)
                for o in range(outputs)
            ]
        )
        np.testing.assert_allclose(colors(figure, layer)[:, 3], np.tanh(3 * std / std.max()))


def test_scores_without_samples_are_relative_ranges_over_the_grid() -> None:
    model = make([2, 3], grid_range=(0, 2))
    dense = np.linspace(0, 2, 5001)
    spread = np.array([np.ptp(phi(model, 0, o, i, dense)) for i in range(2) for o in range(3)])
    expected = np.tanh(3 * spread / spread.max())
    np.testing.assert_allclose(colors(plot.network(model), 0)[:, 3], expected, rtol=1e-2)


def test_dead_edges_are_left_out_and_their_nodes_grey() -> None:
    model = make([2, 5, 1])
    kill(model, 0, (1, 0), (3, 0), (3, 1))
    kill(model, 1, (0, 3))
    figure = plot.network(model)
    assert drawn(figure) == [7, 4]
    hidden = artist(figure, "nodes 1").get_facecolors()[:, 0]
    opacity = [colors(figure, layer)[:, 3] for layer in range(2)]
    assert hidden[3] == 0.75
    # Node 0 has two edges into it, the first of each input, and the first out of it.
    strongest = max(opacity[0][0], opacity[0][3], opacity[1][0])
    np.testing.assert_allclose(hidden[0], 0.75 * (1 - strongest))
    assert not any("edges" in text for text in texts(figure))


def test_removed_edges_are_dead() -> None:
    model = make([2, 2, 1])
    model.kan_layers[0].set_mask(torch.tensor([[True, False], [True, True]]))
    assert drawn(plot.network(model, samples(20, 2))) == [3, 2]


def test_a_network_of_dead_edges() -> None:
    model = make([2, 1])
    kill(model, 0, (0, 0), (0, 1))
    assert drawn(plot.network(model, tick=True)) == [0]


def test_a_constant_edge_is_a_line_in_the_middle() -> None:
    model = make([1, 1])
    kill(model, 0, (0, 0))
    with torch.no_grad():
        model.kan_layers[0].spline_weight[0, 0] = 3.0
    figure = plot.network(model, scores=[torch.ones(1, 1)])
    curve, box = lines(figure, "curves 0")[0], lines(figure, "boxes 0")[0]
    np.testing.assert_allclose(curve[:, 1], (box[:, 1].min() + box[:, 1].max()) / 2)


def test_symbolic_edges_are_red() -> None:
    model = make([2, 2, 1])
    mask = torch.tensor([[True, False], [False, False]])
    for symbolic in ({0: mask}, [mask, None], [mask, torch.zeros(1, 2, dtype=torch.bool)]):
        figure = plot.network(model, symbolic=symbolic)  # type: ignore[arg-type]
        red = colors(figure, 0)[:, 0] > 0.5
        assert red.tolist() == [True, False, False, False]
        assert not colors(figure, 1)[:, :3].any()


def test_functions_of_symbolic_edges_are_drawn() -> None:
    model = make([2, 2, 1])
    kill(model, 0, (0, 1), (1, 1))
    edges = SymbolicEdges(2, 2, dtype=torch.float64)
    edges.fix(0, 1, "sin", [3.0, 0.5, 2.0, 1.0])
    edges.fix(1, 1, "0", [1.0, 0.0, 1.0, 0.0])
    x = samples(200, 2)
    figure = plot.network(model, x, symbolic=[edges, None])
    assert drawn(figure) == [3, 2]
    assert (colors(figure, 0)[:, 0] > 0.5).tolist() == [False, False, True]
    curve = lines(figure, "curves 0")[2]
    low, high = float(x[:, 1].min()), float(x[:, 1].max())
    expected = np.sin(3 * np.linspace(low, high, len(curve)) + 0.5)
    np.testing.assert_allclose(normalised(curve[:, 1]), normalised(expected), atol=1e-12)
    # It varies most, so that its opacity is the highest there is.
    assert colors(figure, 0)[:, 3].argmax() == 2
    np.testing.assert_allclose(colors(figure, 0)[2, 3], np.tanh(3))


def test_top_edges() -> None:
    model = make([3, 4, 1])
    scores = [torch.arange(12.0).reshape(4, 3), torch.tensor([[1.0, 4.0, 2.0, 3.0]])]
    figure = plot.network(model, scores=scores, top_edges=2, beta=0.1)
    assert drawn(figure) == [2, 2]
    assert {"2 of 12 edges", "2 of 4 edges"} <= set(texts(figure))
    np.testing.assert_allclose(colors(figure, 0)[:, 3], np.tanh([1.0, 1.1]))
    np.testing.assert_allclose(colors(figure, 1)[:, 3], np.tanh([0.4, 0.3]))
    assert drawn(plot.network(model, scores=scores, top_edges=50)) == [12, 4]


def test_large_networks_show_what_matters() -> None:
    model = make([784, 64, 10], torch.float32)
    figure = plot.network(model, samples(20, 784, torch.float32))
    assert drawn(figure) == [100, 100]
    assert {"100 of 50,176 edges", "100 of 640 edges"} <= set(texts(figure))
    shown = len(artist(figure, "nodes 0").get_offsets())
    assert f"{shown} of 784 nodes" in texts(figure)
    assert shown == sum(text.startswith("$x_") for text in texts(figure)) <= 100
    assert len(artist(figure, "nodes 1").get_offsets()) == 64


def test_names() -> None:
    model = make([2, 1])
    assert texts(plot.network(model)) == ["$x_{1}$", "$x_{2}$", "$y$"]
    assert texts(plot.network(make([1, 2]))) == ["$x_{1}$", "$y_{1}$", "$y_{2}$"]
    figure = plot.network(
        model, in_vars=[sympy.Symbol("alpha_2"), "US$ of A$"], out_vars=["p"], title="A title"
    )
    assert texts(figure) == [r"$\alpha_{2}$", "US$ of A$", "p", "A title"]
    figure.canvas.draw()


def test_names_of_selected_inputs() -> None:
    model = make([2, 1])
    model.input_mask = torch.tensor([True, False, False, True])
    x = samples(20, 4)
    assert texts(plot.network(model, x))[:2] == ["$x_{1}$", "$x_{4}$"]
    assert texts(plot.network(model, x, in_vars=list("abcd")))[:2] == ["a", "d"]
    assert texts(plot.network(model, x, in_vars=["a", "d"]))[:2] == ["a", "d"]
    with pytest.raises(ValueError, match="in_vars must have 4 names, got 3"):
        plot.network(model, in_vars=list("abc"))


def test_ticks_are_the_ranges() -> None:
    model = make([1, 1])
    x = torch.tensor([[-0.5], [0.25]], dtype=torch.float64)
    figure = plot.network(model, x, tick=True)
    values = phi(model, 0, 0, 0, np.linspace(-0.5, 0.25, 201))
    expected = ["-0.5", "0.25", f"{values.min():.2g}", f"{values.max():.2g}"]
    assert texts(figure)[:4] == expected


def test_given_axes() -> None:
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    assert plot.network(make([2, 2, 1]), ax=left, title="left") is figure
    assert plot.edge(make([2, 2, 1]), 0, 1, 0, ax=right) is figure
    assert len(figure.axes) == 2
    size = left.get_window_extent().size / figure.dpi
    np.testing.assert_allclose([left.get_xlim()[1], left.get_ylim()[1]], size)
    nested = Figure().subfigures(1, 2)
    assert plot.network(make([1, 1]), ax=nested[0].add_subplot()) is nested[0].figure
    with pytest.raises(ValueError, match=r"the axes of .* inches are too small"):
        plot.network(make([1, 1]), ax=Figure(figsize=(1, 0.4)).add_subplot())


def test_plotting_changes_nothing() -> None:
    model = make([2, 3, 1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plot.network(model, samples(20, 2))
    plot.edge(model, 0, 0, 0, samples(20, 2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.samples is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta must be a positive number, got 0.0"),
        ({"top_edges": 0}, "top_edges must be at least 1, got 0"),
        ({"in_vars": ["a"]}, "in_vars must have 2 names, got 1"),
        ({"out_vars": ["a", "b"]}, "out_vars must have 1 names, got 2"),
        ({"scores": [torch.ones(2, 2)]}, "one tensor for each of 2 layers, got 1"),
        (
            {"scores": [torch.ones(2, 2), torch.ones(2, 1)]},
            r"scores of layer 1 must have the shape \[1, 2\], got \[2, 1\]",
        ),
        (
            {"scores": [-torch.ones(2, 2), torch.ones(1, 2)]},
            "scores of layer 0 must not be negative, got -1",
        ),
        (
            {"scores": [torch.full((2, 2), torch.nan), torch.ones(1, 2)]},
            "scores of layer 0 are not all finite",
        ),
        ({"x": torch.ones(1, 2).double()}, r"at least 2 rows, got shape \[1, 2\]"),
        ({"x": torch.full((3, 2), torch.nan).double()}, "not finite at the inputs of layer 0"),
        ({"symbolic": [None]}, "symbolic must have one item for each of 2 layers, got 1"),
        ({"symbolic": {2: None}}, r"symbolic has the layers \[2\], but the model has 0 to 1"),
        (
            {"symbolic": {1: torch.ones(2, 2)}},
            r"symbolic\[1\] must have the shape \[1, 2\] of its layer, got \[2, 2\]",
        ),
    ],
)
def test_network_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot.network(make([2, 2, 1]), **options)


def test_type_errors() -> None:
    with pytest.raises(TypeError, match=r"expected a kanfast\.KAN, got Linear"):
        plot.network(nn.Linear(2, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"symbolic\[0\] must be a mask .* got str"):
        plot.network(make([2, 1]), symbolic=["sin"])  # type: ignore[list-item]


def test_diverged_models_are_named() -> None:
    model = make([2, 1])
    with torch.no_grad():
        model.kan_layers[0].spline_weight[0, 0, 2] = torch.nan
    with pytest.raises(ValueError, match="scores of layer 0 are not all finite"):
        plot.network(model)


def test_without_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import kanfast; import kanfast.plot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'matplotlib is not installed: pip install "kanfast[run]"' in done.stderr


def test_pyplot_is_not_imported() -> None:
    code = (
        "import sys; from kanfast import KAN, plot; plot.network(KAN([2, 1]));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
