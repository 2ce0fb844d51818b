"""Pictures of single edges and of trainings: the numbers that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pictures import Array, drawn, kill, make, phi, samples
from torch import Tensor, nn

from kanfast import plot
from kanfast.symbolic import SymbolicEdges

pytestmark = pytest.mark.usefixtures("leaves_pyplot_alone")


def line(figure: Figure, label: str) -> tuple[Array, Array]:
    (found,) = [a for a in figure.axes[0].lines if a.get_label() == label]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_edge(dtype: torch.dtype) -> None:
    model = make([2, 3, 1], dtype, grid_size=4, spline_order=2, scale_noise=2.0)
    x = 2 * samples(40, 2, dtype)
    figure = plot.edge(model, 1, 2, 0, x)
    its = model.kan_layers[1]
    knots = its.grid[2].double().numpy()
    inputs = model.kan_layers[0](x).detach().double().numpy()[:, 2]

    at, values = line(figure, "edge")
    np.testing.assert_allclose(values, phi(model, 1, 0, 2, at), atol=1e-12)
    assert at[0] == min(knots[0], inputs.min())
    assert at[-1] == max(knots[-1], inputs.max())
    assert np.isin(knots, at).all()
    at, values = line(figure, "data")
    np.testing.assert_array_equal(at, inputs)
    np.testing.assert_allclose(values, phi(model, 1, 0, 2, inputs), atol=1e-12)
    spline, residual = line(figure, "spline"), line(figure, "residual")
    np.testing.assert_allclose(spline[1] + residual[1], line(figure, "edge")[1])
    weight = its.base_weight[0, 2].item()  # type: ignore[index]
    np.testing.assert_allclose(residual[1], weight * residual[0] / (1 + np.exp(-residual[0])))

    np.testing.assert_allclose(line(figure, "knots")[0][::3], knots[2:7])
    np.testing.assert_allclose(line(figure, "_nolegend_")[0][::3], knots)
    axes = figure.axes[0]
    assert axes.get_title() == "Layer 1, edge from input 2 to output 0"
    assert axes.get_xlabel() == "input 2"
    assert axes.get_ylabel() == "contribution to output 0"


def test_edge_picks_some_of_many_samples() -> None:
    x = samples(5000, 2)
    at, _ = line(plot.edge(make([2, 1]), 0, 1, 0, x), "data")
    np.testing.assert_array_equal(at, x[::3, 1])


def test_symbolic_edge() -> None:
    model = make([2, 1])
    edges = SymbolicEdges(2, 1, dtype=torch.float64)
    edges.fix(0, 1, "x^2", [1.0, 1.0, 2.0, 0.0])
    figure = plot.edge(model, 0, 1, 0, symbolic=[edges])
    at, values = line(figure, "symbolic")
    np.testing.assert_allclose(values, 2 * (at + 1) ** 2)
    total = phi(model, 0, 0, 1, at) + values
    np.testing.assert_allclose(line(figure, "edge")[1], total)
    kill(model, 0, (0, 1))
    figure = plot.edge(model, 0, 1, 0, symbolic=[edges])
    assert "symbolic" not in {a.get_label() for a in figure.axes[0].lines}
    np.testing.assert_allclose(line(figure, "edge")[1], values)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((2, 0, 0), "layer must be 0 to 1, got 2"),
        ((-1, 0, 0), "layer must be 0 to 1, got -1"),
        ((0, 2, 0), "layer 0 has inputs 0 to 1 and outputs 0 to 2, got i = 2 and o = 0"),
        ((1, 0, 1), "layer 1 has inputs 0 to 2 and outputs 0 to 0, got i = 0 and o = 1"),
    ],
)
def test_no_such_edge(place: tuple[int, int, int], message: str) -> None:
    with pytest.raises(IndexError, match=message):
        plot.edge(make([2, 3, 1]), *place)


def test_edge_without_rows() -> None:
    with pytest.raises(ValueError, match=r"at least 1 row, got shape \[0, 2\]"):
        plot.edge(make([2, 1]), 0, 0, 0, samples(0, 2))


class Scaled(nn.Module):
    """A residual function with a parameter for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.scale * x)


def test_residual_functions_of_ones_own_and_none() -> None:
    model = make([2, 1], torch.float32, base_activation=Scaled)
    figure = plot.edge(model, 0, 1, 0)
    x, residual = line(figure, "residual")
    weight = model.kan_layers[0].base_weight[0, 1].item()  # type: ignore[index]
    np.testing.assert_allclose(residual, weight * np.sin(2 * x), atol=1e-6)
    assert drawn(plot.network(model, samples(20, 2, torch.float32))) == [2]
    figure = plot.edge(make([2, 1], base_activation=None), 0, 1, 0)
    assert {label.get_label() for label in figure.axes[0].lines} == {"edge", "knots", "_nolegend_"}


# Trainings.


def test_history() -> None:
    figure = plot.history(
        {
            "train_loss": [1.0, 0.1, 0.01],
            "test_loss": [1.0, 0.2, float("nan")],
            "reg": [3.0, 2.0, 1.5],
            "train_acc": [0.0, 0.5, 1.0],
            "test_acc": [0.0, 0.4, 0.9],
            "edges": [12.0, 12.0, 4.0],
        }
    )
    loss, reg, accuracy, edges = figure.axes
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["loss", "regularisation", "acc", "edges"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear", "linear"]
    assert [a.get_label() for a in loss.lines] == ["training", "test"]
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), [1.0, 0.2, np.nan])
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), [0.0, 0.5, 1.0])
    assert len(reg.lines) == len(edges.lines) == 1
    figure.canvas.draw()


def test_history_of_fit() -> None:
    model, x = make([2, 1]), samples(30, 2)
    y = x[:, :1] * 2
    data = {"train_input": x, "train_label": y, "test_input": x, "test_label": y}
    history = model.fit(data, opt="Adam", lr=0.01, steps=3, log=0, update_grid=False)
    (loss,) = plot.history(history).axes  # no penalty, hence no panel of zeros
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), history["train_loss"])


def test_history_of_one_step_is_visible() -> None:
    (axes,) = plot.history({"train_loss": [0.5]}).axes
    assert axes.lines[0].get_marker() == "o"


@pytest.mark.parametrize("given", [{}, {"train_loss": []}, {"reg": [0.0]}], ids=str)
def test_no_history(given: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="must hold a list of numbers"):
        plot.history(given)
