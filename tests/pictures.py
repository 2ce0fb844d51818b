"""Models for pictures, what is in a picture, and the functions that should be there, by SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from torch import Tensor

from kanfast import KAN

Array = NDArray[np.float64]


def make(widths: list[int], dtype: torch.dtype = torch.float64, **options: Any) -> KAN:
    torch.manual_seed(0)
    return KAN(widths, dtype=dtype, **options)


def samples(rows: int, features: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 1.6 * torch.rand(rows, features, generator=generator, dtype=dtype) - 0.7


def kill(model: KAN, layer: int, *edges: tuple[int, int]) -> None:
    """Makes edges (o, i) zero."""
    its = model.kan_layers[layer]
    with torch.no_grad():
        for o, i in edges:
            its.spline_weight[o, i] = 0
            its.base_weight[o, i] = 0  # type: ignore[index]


def artist(figure: Figure, gid: str) -> Any:
    (found,) = figure.findobj(lambda candidate: candidate.get_gid() == gid)
    return found


def drawn(figure: Figure) -> list[int]:
    """Numbers of curves by layer."""
    found = figure.findobj(lambda a: (a.get_gid() or "").startswith("curves "))
    found.sort(key=lambda a: int(a.get_gid().split()[1]))
    return [len(curves.get_segments()) for curves in found]


def phi(model: KAN, layer: int, o: int, i: int, x: Array) -> Array:
    """The function of an edge by SciPy: splines that are zero outside of their knots, plus SiLU."""
    its = model.kan_layers[layer]
    knots = its.grid[i].double().numpy()
    weight = (its.spline_weight[o, i] * its.spline_scaler[o, i]).detach().double().numpy()
    k = its.spline_order
    base = its.base_weight[o, i].item()  # type: ignore[index]
    total = base * x / (1 + np.exp(-x))
    for j, c in enumerate(weight):
        element = BSpline.basis_element(knots[j : j + k + 2], extrapolate=False)
        total = total + c * np.nan_to_num(element(x))
    return total
