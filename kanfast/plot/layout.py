"""Where the nodes and boxes of a network are drawn, in inches from the lower left corner.

Nodes stand in rows, inputs at the bottom; between two rows stand the boxes of the edges from the
lower to the upper one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]

# The boxes of a row share this width, unless that makes cells larger or smaller than this.
_BOXES_WIDTH, _LARGEST_CELL, _SMALLEST_CELL = 8.0, 0.8, 0.16
# With room for numbers beside them.
_TICK_BOXES_WIDTH, _LARGEST_TICK_CELL, _SMALLEST_TICK_CELL = 12.0, 1.15, 0.75
_NODE_CELL, _LEAST_WIDTH = 0.16, 2.0
_LARGEST_FACTOR_CELL = 0.8
# Share of a cell that is taken by its box.
_FILL, _TICK_FILL = 0.82, 0.6

MAX_WIDTH = 30.0


@dataclass(frozen=True)
class Frame:
    """The part of a picture that rows may fill, beside the labels."""

    left: float
    right: float
    bottom: float
    top: float


@dataclass(frozen=True)
class Row:
    """The drawn nodes of a layer of nodes, from left to right, and the subnodes they are made of.

    Each subnode has a cell of this width, and a node is in the middle of those of its subnodes. The
    factors of a product stand below it; any other subnode is where its node is.
    """

    nodes: tuple[int, ...]
    x: Positions
    y: float
    cell: float
    subnodes: tuple[int, ...]
    subnode_x: Positions
    owner: NDArray[np.int64]
    """For each subnode, the place of its node in `nodes`."""
    drop: float
    """How far factors are below their product."""

    @property
    def is_factor(self) -> NDArray[np.bool_]:
        """Which subnodes are factors of a product."""
        return self.is_product[self.owner]

    @property
    def is_product(self) -> NDArray[np.bool_]:
        """Which nodes are products."""
        return np.bincount(self.owner, minlength=len(self.nodes)) > 1

    @property
    def subnode_y(self) -> Positions:
        """Heights of the subnodes."""
        return np.where(self.is_factor, self.y - self.drop, self.y)


@dataclass(frozen=True)
class Boxes:
    """The boxes of a layer of edges, from left to right: centres, and the size of a box.

    A box and the numbers beside it, if there are any, take no more than `cell`.
    """

    x: Positions
    y: float
    size: float
    cell: float


@dataclass(frozen=True)
class Layout:
    """Rows of nodes, and the boxes between row l and row l + 1."""

    rows: tuple[Row, ...]
    boxes: tuple[Boxes, ...]


def natural_width(nodes: Sequence[int], edges: Sequence[int], *, tick: bool) -> float:
    """Width at which so many nodes and edges in each row are well visible."""
    width, largest, smallest = (
        (_TICK_BOXES_WIDTH, _LARGEST_TICK_CELL, _SMALLEST_TICK_CELL)
        if tick
        else (_BOXES_WIDTH, _LARGEST_CELL, _SMALLEST_CELL)
    )
    boxes = (min(max(width, smallest * count), largest * count) for count in edges)
    return min(MAX_WIDTH, max(*boxes, *(_NODE_CELL * count for count in nodes), _LEAST_WIDTH))


def natural_height(width: float, edges: Sequence[int], *, tick: bool) -> float:
    """Height of all rows at this width: boxes, and as much above and below as lines need."""
    gap = min(1.3, max(0.4, 0.085 * width))
    return sum(_size(width, count, tick) + 2 * gap for count in edges)


def arrange(
    nodes: Sequence[Sequence[int]],
    subnodes: Sequence[Mapping[int, Sequence[int]]],
    edges: Sequence[int],
    frame: Frame,
    *,
    tick: bool,
) -> Layout:
    """Spreads nodes and boxes evenly over a frame; boxes shrink where it is low.

    Args:
        nodes: The drawn nodes of each row.
        subnodes: For each row those of its nodes, by node.
        edges: Numbers of boxes between the rows.
        frame: The place for all of it.
        tick: Leave room for numbers.
    """
    width, height = frame.right - frame.left, frame.top - frame.bottom
    room = height / len(edges)
    sizes = [min(_size(width, count, tick), 0.5 * room) for count in edges]
    gap = (height - sum(sizes)) / (2 * len(edges))
    rows, boxes, y = [], [], frame.bottom
    for index, members in enumerate(nodes):
        rows.append(_row(members, subnodes[index], frame, y, 0.4 * gap))
        if index < len(edges):
            size = sizes[index]
            x, cell = _spread(edges[index], width)
            cell = min(cell, _LARGEST_TICK_CELL)
            # The numbers are to the left of their box.
            shift = (cell - size) / 2 if tick else 0
            boxes.append(Boxes(frame.left + x + shift, y + gap + size / 2, size, cell))
            y += size + 2 * gap
    return Layout(tuple(rows), tuple(boxes))


def _row(
    members: Sequence[int],
    subnodes: Mapping[int, Sequence[int]],
    frame: Frame,
    y: float,
    drop: float,
) -> Row:
    owner = np.repeat(np.arange(len(members)), [len(subnodes[node]) for node in members])
    cells, cell = _spread(len(owner), frame.right - frame.left)
    counts = np.bincount(owner, minlength=len(members))
    x = frame.left + np.bincount(owner, weights=cells, minlength=len(members)) / counts
    flat = tuple(subnode for node in members for subnode in subnodes[node])
    narrowed = min(1.0, _LARGEST_FACTOR_CELL / cell)  # factors stay near their product
    subnode_x = x[owner] + narrowed * (frame.left + cells - x[owner])
    return Row(tuple(members), x, y, cell, flat, subnode_x, owner, drop)


def _size(width: float, count: int, tick: bool) -> float:
    cell = width / max(1, count)
    if tick:
        return _TICK_FILL * min(cell, _LARGEST_TICK_CELL)
    return _FILL * min(cell, _LARGEST_CELL)


def _spread(count: int, width: float) -> tuple[Positions, float]:
    """Centres and width of so many equal cells."""
    cell = width / max(1, count)
    return (np.arange(count, dtype=np.float64) + 0.5) * np.float64(cell), cell
