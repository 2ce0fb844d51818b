"""The picture of a training: what the history of `KAN.fit` holds, over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_COLUMNS = 3
# Values that span more than this factor are drawn on a logarithmic scale.
_LOG_SPAN = 10.0
_SPLITS = {"train": "training", "test": "test"}


def history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the curves of a training over its steps.

    Names such as train_loss and test_loss share a panel; any other name has its own. A panel of
    positive values that span more than a factor of 10 is logarithmic. A regularisation ("reg") of
    zeros is left out, as it was not used.

    Args:
        history: Lists of numbers, one a step, by name, as `KAN.fit` returns them. Values that are
            not finite leave a gap.

    Returns:
        The figure. Nothing is shown, and pyplot does not know of it.

    Raises:
        ValueError: No values, or something else than a list of numbers under a name.
    """
    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, given in history.items():
        values = np.asarray([float(value) for value in given], dtype=np.float64)
        if name == "reg" and not values.any():
            continue
        split, _, what = name.partition("_")
        if split not in _SPLITS or not what:
            split, what = "", {"reg": "regularisation"}.get(name, name)
        if values.size:
            panels.setdefault(what, {})[split] = np.where(np.isfinite(values), values, np.nan)
    if not panels:
        raise ValueError(
            f"the history must hold a list of numbers under some name, got {dict(history)}"
        )
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(max(4.5, 4 * columns), 3.2 * rows), layout="constrained", facecolor="white"
    )
    for index, (what, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for split, values in curves.items():
            steps = np.arange(1, len(values) + 1)
            # A single step would be an invisible line.
            marker = "o" if len(values) == 1 else ""
            label = _SPLITS.get(split, what)
            style = "--" if split == "test" else "-"
            axes.plot(steps, values, style, marker=marker, label=label)
        axes.set(xlabel="step", ylabel=what.replace("_", " "))
        if _is_wide(np.concatenate(list(curves.values()))):
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize="small")
    return figure


def _is_wide(values: NDArray[np.float64]) -> bool:
    """Whether values belong on a logarithmic scale."""
    known = values[np.isfinite(values)]
    if not known.size or known.min() <= 0:
        return False
    return bool(known.max() > _LOG_SPAN * known.min())
