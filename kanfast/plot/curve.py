"""The picture of a single edge: its function, the terms of it, the knots and the data."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kanfast.nn.network import Network
from kanfast.plot.functions import (
    Symbols,
    check_model,
    edge_parts,
    layer_inputs,
    layer_symbols,
    sweep,
    symbolic_mask,
)
from kanfast.plot.text import root_figure

MAX_SAMPLES = 2000
_POINTS = 401


def edge(
    model: Network,
    layer: int,
    i: int,
    o: int,
    x: Tensor | None = None,
    *,
    symbolic: Symbols = None,
    ax: Axes | None = None,
) -> Figure:
    """Draws the function on the edge from input i to output o of a layer.

    The curve runs over the extended grid, and over the data where they reach farther: black, or
    red if the edge is symbolic. Its terms are thin lines. The ticks on the bottom line are the
    knots: long ones bound the grid's intervals, short ones are those of its extension.

    Args:
        model: Of any dtype and on any device; its values are copied to the CPU for drawing.
        layer: Index of the layer; 0 is the first.
        i: Input of that layer.
        o: Output of that layer.
        x: Samples [..., features] as the model takes them, drawn as points: at most 2000 rows,
            evenly picked from all.
        symbolic: As in `network`.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure. Nothing is shown, and pyplot does not know of a new figure.

    Raises:
        TypeError: Not a KAN.
        IndexError: No such edge.
        ValueError: x without rows, or values that are not finite.
    """
    layers = check_model(model).kan_layers
    if layer not in range(len(layers)):
        raise IndexError(f"layer must be 0 to {len(layers) - 1}, got {layer}")
    its = layers[layer]
    if i not in range(its.in_features) or o not in range(its.out_features):
        raise IndexError(
            f"layer {layer} has inputs 0 to {its.in_features - 1} and outputs 0 to "
            f"{its.out_features - 1}, got i = {i} and o = {o}"
        )
    symbols = layer_symbols(layers, symbolic)[layer]
    pair = torch.tensor([[o, i]])
    knots = its.grid[i].detach().cpu().double()
    low, high = knots[0], knots[-1]
    samples = None if x is None else _samples(model, layer, x)
    if samples is not None:
        low, high = (
            torch.minimum(low, samples[:, i].min()),
            torch.maximum(high, samples[:, i].max()),
        )
    # With the knots among the points, a kink is where it is.
    points = torch.cat([sweep(low[None], high[None], _POINTS)[:, 0], knots]).sort().values
    parts = edge_parts(its, points[:, None].expand(-1, its.in_features), pair, symbols)

    legend: dict[str, Any] = {"loc": "best"}
    if ax is None:
        ax = Figure(figsize=(7, 4), layout="constrained", facecolor="white").add_subplot()
        legend = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    if samples is not None:
        values = edge_parts(its, samples, pair, symbols).total[:, 0]
        ax.plot(samples[:, i], values, ".", color="tab:green", markersize=5, label="data")
    terms = [
        (name, term, style)
        for name, term, style in zip(parts._fields, parts, ("--", ":", "-."), strict=True)
        if term.any()
    ]
    if len(terms) > 1:
        for name, term, style in terms:
            ax.plot(points, term[:, 0], style, color="tab:blue", linewidth=1, label=name)
    color = "tab:red" if symbolic_mask(its, symbols)[o, i] else "black"
    ax.plot(points, parts.total[:, 0], color=color, linewidth=1.5, label="edge")
    inner = knots[its.spline_order : its.spline_order + its.grid_size + 1]
    for positions, height, name in ((knots, 0.02, "_nolegend_"), (inner, 0.045, "knots")):
        ax.plot(
            positions.repeat_interleave(3),
            torch.tensor([0, height, torch.nan]).repeat(len(positions)),
            transform=ax.get_xaxis_transform(),
            color="0.3",
            linewidth=1,
            label=name,
        )
    ax.set(
        title=f"Layer {layer}, edge from input {i} to output {o}",
        xlabel=f"input {i}",
        ylabel=f"contribution to output {o}",
    )
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", **legend)
    return root_figure(ax)


def _samples(model: Network, layer: int, x: Tensor) -> Tensor:
    """What the layer gets for picked rows of x: [rows, I], float64, on the CPU."""
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) > MAX_SAMPLES:
        rows = rows[:: -(-len(rows) // MAX_SAMPLES)]
    return layer_inputs(model, rows, least=1)[layer].cpu().double()
