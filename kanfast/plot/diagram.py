"""The picture of a whole network: nodes in rows, and on every edge a box with its curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kanfast.nn.linear import KANLinear
from kanfast.nn.network import Network
from kanfast.plot.artists import Color, draw_edges, draw_nodes, draw_ticks
from kanfast.plot.functions import (
    Symbols,
    check_model,
    core_range,
    edge_parts,
    layer_inputs,
    layer_symbols,
    live_edges,
    sweep,
    symbolic_mask,
)
from kanfast.plot.labels import Labels
from kanfast.plot.layout import arrange, natural_height, natural_width
from kanfast.plot.scores import check_scores, relative_scores, top
from kanfast.plot.text import check_names, default_names, root_figure

# More edges than this from one row of nodes to the next are not told apart.
MAX_EDGES = 100
# Rows of more nodes than this show only those with a drawn edge.
MAX_NODES = 100

# Points of a curve.
_POINTS = 201
_NUMERIC, _SYMBOLIC = (0.0, 0.0, 0.0), (0.85, 0.0, 0.0)
# Brightness of a node without a visible edge; others are as dark as their strongest edge.
_UNUSED = 0.75


def network(
    model: Network,
    x: Tensor | None = None,
    *,
    scores: Sequence[Tensor] | None = None,
    symbolic: Symbols = None,
    in_vars: Sequence[Any] | None = None,
    out_vars: Sequence[Any] | None = None,
    title: str | None = None,
    beta: float = 3.0,
    top_edges: int | None = None,
    tick: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Draws a network as the KAN papers do: a box with the learned curve on every edge.

    Inputs are at the bottom and outputs at the top. The curve of an edge runs over the values that
    the samples x give to its input, without samples over the grid; each is scaled to its box (see
    `tick` for the numbers). Edges of zeros are left out. An edge is drawn with the opacity
    tanh(beta * score), in red if it is symbolic and in black otherwise. Nodes are as dark as their
    strongest edge, and grey without one. A multiplication node is a cross in a circle, with a dot
    below it for each of its factors.

    Args:
        model: Of any dtype and on any device; its values are copied to the CPU for drawing.
        x: Samples [..., features], at least two rows, as the model takes them.
        scores: A tensor [O, I] of numbers >= 0 for each layer, for example the `edge_scores` of an
            attribution. None: the standard deviation of what the edge adds over the samples x, or
            without them its range over the grid, relative to the highest in the layer.
        symbolic: For each layer, in a list or by its index, the edges that are symbolic: a mask
            [O, I], a `SymbolicEdges` (then its functions are drawn in place of the layer's own), or
            None. What the model says if None.
        in_vars: Names of the inputs, strings or SymPy symbols; of all features if the model selects
            some of them. "$...$" is mathematics. x_1, x_2, ... if None.
        out_vars: Names of the outputs; y_1, y_2, ..., or y if there is only one, if None.
        title: Above the picture.
        beta: How fast opacity grows with the score.
        top_edges: At most so many edges of each layer are drawn, those of highest score; 100 if
            None. Where edges or nodes are left out for this reason, the picture says how many.
        tick: Write the range of its input and its values beside each box.
        ax: Where to draw; None makes a new figure of a suitable size.

    Returns:
        The figure. Nothing is shown, and pyplot does not know of a new figure.

    Raises:
        TypeError: Not a KAN.
        ValueError: Arguments that do not fit the model, or values that are not finite.
    """
    layers, width = check_model(model).kan_layers, model.width
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be a positive number, got {beta}")
    if top_edges is not None and top_edges < 1:
        raise ValueError(f"top_edges must be at least 1, got {top_edges}")
    in_names = _input_names(model, in_vars)
    out_names = default_names("y", width[-1]) if out_vars is None else list(out_vars)
    out_names = check_names("out_vars", out_names, width[-1])
    symbols = layer_symbols(layers, symbolic)
    inputs = None if x is None else layer_inputs(model, x, least=2)
    if scores is None:
        scores = relative_scores(layers, inputs, symbols)
    scores = check_scores(scores, layers)

    live = [live_edges(*pair) for pair in zip(layers, symbols, strict=True)]
    limit = MAX_EDGES if top_edges is None else top_edges
    edges = [top(*pair, limit) for pair in zip(scores, live, strict=True)]
    opacities = [
        torch.tanh(beta * score[pairs[:, 0], pairs[:, 1]])
        for score, pairs in zip(scores, edges, strict=True)
    ]
    owners = _owners(model)
    nodes = _drawn_nodes(width, edges, owners)
    subnodes = [_subnodes(*pair) for pair in zip(nodes, owners, strict=True)]
    counts = [len(drawn) for drawn in nodes], [len(drawn) for drawn in edges]
    cells = [sum(map(len, its.values())) for its in subnodes], counts[1]
    labels = Labels(
        [in_names[node] for node in nodes[0]],
        [out_names[node] for node in nodes[-1]],
        _notes(counts[0], width, "nodes"),
        _notes(counts[1], [int(mask.sum()) for mask in live], "edges"),
        title or "",
    )

    ax, size = _canvas(ax, cells, labels, tick)
    frame = labels.frame(*size)
    layout = arrange(nodes, subnodes, counts[1], frame, tick=tick)
    for index, layer in enumerate(layers):
        low, high = _domains(layer, None if inputs is None else inputs[index])
        pairs, place = edges[index], layout.boxes[index]
        parts = edge_parts(layer, sweep(low, high, _POINTS), pairs, symbols[index])
        curves = parts.total.T.numpy()
        colors = _colors(pairs, opacities[index], symbolic_mask(layer, symbols[index]))
        rows = layout.rows[index], layout.rows[index + 1]
        draw_edges(ax, str(index), place, rows, pairs.numpy(), curves, colors)
        if tick:
            domains = torch.stack([low, high], dim=1)[pairs[:, 1]].numpy()
            draw_ticks(ax, place, domains, curves, colors)
    for index, row in enumerate(layout.rows):
        above, below = _strengths(index, (width[index], len(owners[index])), edges, opacities)
        whole = above.scatter_reduce(0, owners[index], below, "amax")
        draw_nodes(
            ax, str(index), row, _greys(whole[list(row.nodes)]), _greys(below[list(row.subnodes)])
        )
    labels.draw(ax, layout, frame)
    return root_figure(ax)


def _input_names(model: Network, in_vars: Sequence[Any] | None) -> list[str]:
    """Names of the nodes of the first row."""
    inputs, mask = model.width[0], model.input_mask
    features = inputs if mask is None else len(mask)
    names = default_names("x", features) if in_vars is None else list(in_vars)
    if mask is not None and len(names) != inputs:
        names = check_names("in_vars", names, features)
        return [name for name, selected in zip(names, mask.tolist(), strict=True) if selected]
    return check_names("in_vars", names, inputs)


def _owners(model: Network) -> list[Tensor]:
    """For each row the node that each of its subnodes belongs to."""
    owners = [torch.arange(model.width[0])]
    for index, layer in enumerate(model.kan_layers):
        nodes = model.nodes_after(index)
        owners.append(
            torch.arange(layer.out_features) if nodes is None else nodes.node_of_subnode()
        )
    return owners


def _subnodes(nodes: Sequence[int], owner: Tensor) -> dict[int, list[int]]:
    """The subnodes of some nodes."""
    found: dict[int, list[int]] = {node: [] for node in nodes}
    for subnode, node in enumerate(owner.tolist()):
        if node in found:
            found[node].append(subnode)
    return found


def _drawn_nodes(
    width: Sequence[int], edges: Sequence[Tensor], owners: Sequence[Tensor]
) -> list[list[int]]:
    """For each row the nodes that are drawn: all, or if they are too many those with an edge."""
    return [
        list(range(count)) if count <= MAX_NODES else sorted(_used_nodes(row, edges, owners))
        for row, count in enumerate(width)
    ]


def _used_nodes(row: int, edges: Sequence[Tensor], owners: Sequence[Tensor]) -> set[int]:
    """The nodes of a row at which an edge ends or begins."""
    ending = owners[row][edges[row - 1][:, 0]].tolist() if row > 0 else []
    beginning = edges[row][:, 1].tolist() if row < len(edges) else []
    return {*ending, *beginning}


def _notes(drawn: Sequence[int], all_of: Sequence[int], what: str) -> list[str]:
    """How many of how many are drawn, where that is not all."""
    return [
        f"{some:,} of {count:,} {what}" if some < count else ""
        for some, count in zip(drawn, all_of, strict=True)
    ]


def _canvas(
    ax: Axes | None, counts: tuple[list[int], list[int]], labels: Labels, tick: bool
) -> tuple[Axes, tuple[float, float]]:
    """Axes whose unit is an inch, and their size: the given ones, or new ones of suitable size."""
    if ax is None:
        inner = labels.widened(natural_width(*counts, tick=tick))
        rows = natural_height(inner, counts[1], tick=tick)
        width, height = inner + labels.beside, rows + sum(labels.heights(inner))
        ax = Figure(figsize=(width, height), facecolor="white").add_axes((0, 0, 1, 1))
    else:
        box = ax.get_window_extent()
        width, height = box.width / ax.figure.dpi, box.height / ax.figure.dpi
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return ax, (width, height)


def _domains(layer: KANLinear, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where the curves of each input run: low and high, [I]."""
    low, high = core_range(layer)
    if inputs is None:
        return low, high
    least, most = inputs.amin(0).cpu().double(), inputs.amax(0).cpu().double()
    varies = most > least
    return torch.where(varies, least, low), torch.where(varies, most, high)


def _colors(edges: Tensor, opacity: Tensor, symbolic: Tensor) -> list[Color]:
    """RGBA of the edges."""
    red = symbolic[edges[:, 0], edges[:, 1]]
    return [
        (*(_SYMBOLIC if is_red else _NUMERIC), alpha)
        for is_red, alpha in zip(red.tolist(), opacity.tolist(), strict=True)
    ]


def _strengths(
    row: int, counts: tuple[int, int], edges: Sequence[Tensor], opacities: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Opacity of the strongest edge out of each node of a row, and into each subnode."""
    out_of, into = (torch.zeros(count, dtype=torch.float64) for count in counts)
    for strengths, layer, column in ((into, row - 1, 0), (out_of, row, 1)):
        if 0 <= layer < len(edges):
            strengths.scatter_reduce_(0, edges[layer][:, column], opacities[layer], "amax")
    return out_of, into


def _greys(strengths: Tensor) -> list[Color]:
    """The darker, the stronger."""
    return [(shade,) * 3 for shade in (_UNUSED * (1 - strengths)).tolist()]
