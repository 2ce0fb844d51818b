"""Everything written around a network: names of inputs and outputs, notes, the title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from kanfast.plot.layout import MAX_WIDTH, Frame, Layout
from kanfast.plot.text import Vertical, draw_text, text_width

_TITLE_SIZE, _NAME_SIZE, _NOTE_SIZE = 13.0, 10.0, 8.0
# Inches: around everything, from a node to its name, and heights of lines of text.
_MARGIN, _NAME_GAP, _NAME_HEIGHT, _TITLE_HEIGHT = 0.12, 0.1, 0.22, 0.36
# Names side by side may widen the picture up to this width; beyond, they are turned.
_NAMES_WIDTH = 10.0


@dataclass(frozen=True)
class Labels:
    """Texts of a picture; a note that is "" is none."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    row_notes: Sequence[str]
    """To the right of each row of nodes."""
    box_notes: Sequence[str]
    """To the right of each row of boxes."""
    title: str

    @property
    def beside(self) -> float:
        """Width of what is beside the rows."""
        notes = max(text_width(note, _NOTE_SIZE) for note in (*self.row_notes, *self.box_notes))
        return 2 * _MARGIN + (notes + _MARGIN if notes else 0)

    def widened(self, width: float) -> float:
        """The width of rows that has room for the title and, if they are not too long, names."""
        for names in (self.inputs, self.outputs):
            wanted = _side_by_side(names)
            if wanted <= _NAMES_WIDTH:
                width = max(width, wanted)
        title = text_width(self.title, _TITLE_SIZE) + 2 * _MARGIN - self.beside
        return max(width, min(MAX_WIDTH, title))

    def heights(self, width: float) -> tuple[float, float]:
        """What is below and above rows of this width."""
        below, above = (
            _MARGIN + _NAME_GAP + (_longest(names) if _upright(names, width) else _NAME_HEIGHT)
            for names in (self.inputs, self.outputs)
        )
        return below, above + (_TITLE_HEIGHT if self.title else 0)

    def frame(self, width: float, height: float) -> Frame:
        """What a picture of this size leaves for the rows.

        Raises:
            ValueError: Nothing.
        """
        inner = width - self.beside
        below, above = self.heights(inner)
        if inner <= 0 or height <= below + above:
            raise ValueError(
                f"the axes of {width:.1f} by {height:.1f} inches are too small: the labels alone "
                f"take {self.beside:.1f} by {below + above:.1f}"
            )
        return Frame(_MARGIN, _MARGIN + inner, below, height - above)

    def draw(self, ax: Axes, layout: Layout, frame: Frame) -> None:
        """Writes them on axes whose unit is an inch."""
        width = frame.right - frame.left
        va: Vertical
        for row, names, va, gap in (
            (layout.rows[0], self.inputs, "top", -_NAME_GAP),
            (layout.rows[-1], self.outputs, "bottom", _NAME_GAP),
        ):
            upright = _upright(names, width)
            for x, name in zip(row.x, names, strict=True):
                draw_text(ax, x, row.y + gap, name, _NAME_SIZE, va=va, upright=upright)
        if self.title:
            top = frame.top + self.heights(width)[1] - _MARGIN
            draw_text(ax, frame.left + width / 2, top, self.title, _TITLE_SIZE, va="top")
        heights = [row.y for row in layout.rows] + [boxes.y for boxes in layout.boxes]
        for y, note in zip(heights, (*self.row_notes, *self.box_notes), strict=True):
            if note:
                draw_text(ax, frame.right + _MARGIN, y, note, _NOTE_SIZE, ha="left")


def _longest(names: Sequence[str]) -> float:
    return max((text_width(name, _NAME_SIZE) for name in names), default=0.0)


def _side_by_side(names: Sequence[str]) -> float:
    """Width of cells that have room for all of the names."""
    return (_longest(names) + 0.12) * len(names)


def _upright(names: Sequence[str], width: float) -> bool:
    return _side_by_side(names) > width + 1e-6
