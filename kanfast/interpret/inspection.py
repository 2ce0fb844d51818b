"""Looking at a network, with pykan's names: its picture, its edges one by one, its test loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.edges import edge_samples
from kanfast.interpret.regularization import edge_sizes
from kanfast.nn.edges import Edge
from kanfast.nn.network import Network

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PlotMetric = Literal["backward", "forward_n", "forward_u"]

_SIZES = {
    "backward": "edge_backward",
    "forward_n": "edge_forward_sum",
    "forward_u": "edge_forward_spline_u",
}


@torch.no_grad()
def plot(
    network: Network,
    beta: float = 3.0,
    metric: PlotMetric = "backward",
    tick: bool = False,
    in_vars: Sequence[Any] | None = None,
    out_vars: Sequence[Any] | None = None,
    title: str | None = None,
    *,
    x: Tensor | None = None,
    ax: Axes | None = None,
) -> Figure:
    """`kanfast.plot.network` with pykan's scores: edges are the darker, the higher they are.

    Args:
        beta, tick, in_vars, out_vars, title, ax: As in `kanfast.plot.network`.
        metric: "backward", the `edge_scores`; "forward_u", the deviation of the edges;
            "forward_n", that over the deviation of their inputs plus 0.1.
        x: Samples [..., inputs]; `samples` if None.

    Raises:
        ImportError: Matplotlib is missing.
        ValueError: No samples, another metric, or as in `kanfast.plot.network`.

    Example:
        >>> model = KAN([2, 5, 1])
        >>> figure = model.plot(x=torch.rand(100, 2), in_vars=["mass", "speed"])
        >>> figure.savefig("model.png")  # doctest: +SKIP
        >>> len(figure.axes) > 0
        True
    """
    from kanfast import plot as pictures  # needs Matplotlib

    if metric not in _SIZES:
        raise ValueError(f"metric must be one of {tuple(_SIZES)}, got {metric!r}")
    samples = network.samples_or(x)
    scores = edge_sizes(network, network.trace(samples), _SIZES[metric])
    return pictures.network(
        network,
        samples,
        scores=scores,
        in_vars=in_vars,
        out_vars=out_vars,
        title=title,
        beta=beta,
        tick=tick,
        ax=ax,
    )


def get_fun(
    network: Network, l: int, i: int, j: int, *, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What goes into and comes out of an edge at the samples: [rows] each, ascending, float64.

    Args:
        l, i, j: Layer, input and output of the edge. `kanfast.plot.edge` draws it.
        x: Samples [..., inputs]; `samples` if None.

    Raises:
        IndexError: There is no such edge.
        ValueError: No samples.
    """
    network.layer_of_edge(l, i, j)
    given, taken = edge_samples(network, [Edge(l, i, j)], network.samples_or(x))
    order = given[0].argsort()
    return given[0, order], taken[0, order]


def get_range(
    network: Network, l: int, i: int, j: int, *, x: Tensor | None = None
) -> tuple[float, float, float, float]:
    """Least and largest input and output of an edge: (x_min, x_max, y_min, y_max).

    Arguments and errors as in `get_fun`.
    """
    given, taken = get_fun(network, l, i, j, x=x)
    return tuple(float(t) for t in (given.min(), given.max(), taken.min(), taken.max()))  # type: ignore[return-value]


def get_act(network: Network, x: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
    """Sets `samples` to x, or to the train_input of a dataset, and returns `activations`."""
    samples = x if isinstance(x, Tensor) else x["train_input"]
    with torch.no_grad():
        values = network.activations(samples)
    network.samples = samples.detach()
    return values


@torch.no_grad()
def evaluate(network: Network, dataset: Dataset) -> dict[str, Any]:
    """Root mean squared error on the test rows, number of edges and of grid intervals.

    Returns:
        "test_loss", "n_edge" and "n_grid" (`grid_size`).

    Raises:
        ValueError, TypeError: Not a dataset.
    """
    rows = check_dataset(dataset)
    error = (network(rows["test_input"]) - rows["test_label"]).square().mean().sqrt()
    return {"test_loss": error.item(), "n_edge": network.n_edge, "n_grid": network.grid_size}
