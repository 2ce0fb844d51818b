"""Drawing on axes whose unit is an inch: nodes, boxes, curves, and the lines between them.

Thousands of lines are drawn at once as a `LineCollection`: an axes for each curve, and even a line
for each, would take seconds. Each artist has a `gid` that says what it is, such as "curves 0" for
those of layer 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import CircleCollection, LineCollection
from numpy.typing import NDArray

from kanfast.plot.layout import Boxes, Positions, Row
from kanfast.plot.text import Horizontal, Vertical, draw_text, text_width

Color = tuple[float, ...]

_TICK_SIZE = 7.0
# Share of a box between its frame and the curve, on each side.
_INSET = 0.1
_CORNERS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])


def draw_edges(
    ax: Axes,
    name: str,
    boxes: Boxes,
    rows: tuple[Row, Row],
    edges: NDArray[np.int64],
    curves: Positions,
    colors: Sequence[Color],
) -> None:
    """The edges [E, 2], pairs (o, i), from a lower to an upper row; curves are [E, points]."""
    size = boxes.size
    line = min(1.2, max(0.4, 3 * size))
    centres = np.stack([boxes.x, np.full_like(boxes.x, boxes.y)], axis=1)
    _draw_lines(ax, f"boxes {name}", centres[:, None] + size * _CORNERS, colors, line)
    _draw_lines(ax, f"curves {name}", _in_boxes(curves, centres, size), colors, 1.6 * line)
    lower, upper = rows
    below, above = (
        np.searchsorted(lower.nodes, edges[:, 1]),
        np.searchsorted(upper.subnodes, edges[:, 0]),
    )
    for x, y, side, what in (
        (lower.x[below], np.full(len(edges), lower.y), -0.5, "wires into"),
        (upper.subnode_x[above], upper.subnode_y[above], 0.5, "wires out of"),
    ):
        ends = np.stack([x, y], axis=1), centres + np.array([0, side * size])
        _draw_lines(ax, f"{what} {name}", np.stack(ends, axis=1), colors, line)


def _draw_lines(
    ax: Axes, gid: str, lines: Positions, colors: Sequence[Color], width: float
) -> None:
    """Lines [E, points, 2]."""
    collection = LineCollection(
        list(lines), colors=list(colors), linewidths=width, capstyle="round", zorder=1, gid=gid
    )
    ax.add_collection(collection, autolim=False)


def _in_boxes(curves: Positions, centres: Positions, size: float) -> Positions:
    """Curves [E, points] scaled to their boxes: [E, points, 2]. A constant is in the middle."""
    low, high = curves.min(axis=1, keepdims=True), curves.max(axis=1, keepdims=True)
    # What differs by rounding only is constant.
    varies = high - low > 1e-9 * np.maximum(abs(low), abs(high))
    level = np.where(varies, (curves - low) / np.where(varies, high - low, 1), 0.5)
    along = np.broadcast_to(np.linspace(0, 1, curves.shape[1]), curves.shape)
    inside = np.stack([along, level], axis=-1) - 0.5
    return centres[:, None] + size * (1 - 2 * _INSET) * inside


def draw_ticks(
    ax: Axes, boxes: Boxes, domains: Positions, curves: Positions, colors: Sequence[Color]
) -> None:
    """The ends of the domains [E, 2] below the boxes, and those of the values beside them."""
    half, gap = boxes.size / 2, 0.03
    left, right = (boxes.x - half).tolist(), (boxes.x + half).tolist()
    bottom, top = boxes.y - half, boxes.y + half
    below: list[tuple[str, float, float, Horizontal, Vertical]] = []
    beside: list[tuple[str, float, float, Horizontal, Vertical]] = []
    for x0, x1, domain, curve in zip(left, right, domains, curves, strict=True):
        low, high, least, most = (f"{end:.2g}" for end in (*domain, curve.min(), curve.max()))
        below += [(low, x0, bottom - gap, "left", "top"), (high, x1, bottom - gap, "right", "top")]
        beside += [
            (least, x0 - gap, bottom, "right", "bottom"),
            (most, x0 - gap, top, "right", "top"),
        ]
    size = _TICK_SIZE
    for texts, room in ((below, 0.46 * boxes.size), (beside, boxes.cell - boxes.size - gap)):
        longest = max((text_width(text, _TICK_SIZE) for text, *_ in texts), default=room)
        size = min(size, _TICK_SIZE * room / longest)
    for texts in (below, beside):
        for index, (text, x, y, ha, va) in enumerate(texts):
            color = colors[index // 2]
            draw_text(ax, x, y, text, size, ha=ha, va=va, color=color, backed=True)


def draw_nodes(
    ax: Axes, name: str, row: Row, colors: Sequence[Color], subnode_colors: Sequence[Color]
) -> None:
    """A dot for each node of a row; a product is a cross in a circle above dots for its factors."""
    diameter = 72 * min(0.1, 0.6 * row.cell)
    y = np.full_like(row.x, row.y)
    ax.scatter(row.x, y, s=diameter**2, c=colors, linewidths=0, zorder=3, gid=f"nodes {name}")
    if not row.is_product.any():
        return
    factors, line = row.is_factor.nonzero()[0].tolist(), min(1.2, 0.15 * diameter)
    shades = [subnode_colors[factor] for factor in factors]
    below = np.stack([row.subnode_x, row.subnode_y], axis=1)[factors]
    above = np.stack([row.x, y], axis=1)[row.owner[factors]]
    _draw_lines(ax, f"joins {name}", np.stack([below, above], axis=1), shades, line)
    small = (0.7 * diameter) ** 2
    ax.scatter(
        below[:, 0], below[:, 1], s=small, c=shades, linewidths=0, zorder=3, gid=f"subnodes {name}"
    )
    products = row.is_product.nonzero()[0].tolist()
    circles = CircleCollection(
        [2 * diameter**2] * len(products),
        offsets=np.stack([row.x, y], axis=1)[products],
        offset_transform=ax.transData,
        facecolors="white",
        edgecolors=[colors[product] for product in products],
        linewidths=line,
        zorder=3,
        gid=f"products {name}",
    )
    ax.add_collection(circles, autolim=False)
    crosses = [colors[product] for product in products]
    size = (0.8 * diameter) ** 2
    ax.scatter(
        row.x[products], y[products], s=size, c=crosses, marker="x", linewidths=line, zorder=4
    )
