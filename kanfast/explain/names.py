"""How a formula is written: its variables and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import Tensor

from kanfast.explain.batch import Batch
from kanfast.nn.network import Network
from kanfast.symbolic.expressions import expanded, simplest, snap
from kanfast.symbolic.formula import Formula, SymbolicLayer, compose

Moments = tuple[Tensor, Tensor]
"""Means and standard deviations."""

_SNAP = 1e-11  # what constants that are simple numbers are off by
_LARGEST = 1000.0


class Names:
    """Variables for the features a model takes, and the units of features and labels.

    A dataset holds (x - mean) / std and (y - mean) / std; formulas are of x and y.

    Attributes:
        features: means and deviations of all features; outputs: of the outputs.
        inputs: indices of the features that are inputs.

    Raises:
        ValueError: as `kanfast.symbolic.compose`.
    """

    def __init__(
        self,
        model: Network,
        var: Sequence[str | sympy.Symbol] | None,
        normalizer: Any,
        output_normalizer: Any,
    ) -> None:
        mask = model.input_mask
        count = model.width[0] if mask is None else len(mask)
        outputs = model.width[-1]
        self.inputs: list[int] = model.input_id.tolist()
        given = [_listed(moments) for moments in (normalizer, output_normalizer)]
        empty = SymbolicLayer(count, outputs, {})
        checked = compose([empty], var, normalizer=given[0], output_normalizer=given[1])
        self.var = checked.inputs
        self.features = _moments(given[0], count)
        self.outputs = _moments(given[1], outputs)

    @property
    def chosen(self) -> Moments:
        """Means and deviations of the inputs."""
        mean, std = self.features
        return mean[self.inputs], std[self.inputs]

    def formula(self, one: Batch) -> Formula:
        """The formula of a network (a batch of 1) in units, with simple numbers exact."""
        first, *others = one.layers(0)
        edges = {(o, self.inputs[i]): edge for (o, i), edge in first.edges.items()}
        first = SymbolicLayer(len(self.var), first.subnodes, edges, subnode_bias=first.subnode_bias)
        found = compose([first, *others], self.var)
        outputs = [_snapped(output) for output in found.outputs]
        shortest = tuple(simplest([output, expanded(output)]) for output in outputs)
        return Formula(shortest, found.inputs, found.functions)

    def evaluate(self, formula: Formula, x: Tensor) -> Tensor:
        """A formula at features of the dataset, in the labels' own units: float64."""
        mean, std = self.features
        return formula(x.detach().cpu().double() * std + mean)

    def labels(self, y: Tensor) -> Tensor:
        """Labels of the dataset in their own units: float64."""
        mean, std = self.outputs
        return y.detach().cpu().double() * std + mean


def _snapped(expr: sympy.Expr) -> sympy.Expr:
    """Simple numbers exact; large ones, whose neighbours are all near a fraction, as they are."""
    small = (value for value in expr.atoms(sympy.Float) if abs(value) < _LARGEST)
    return expr.xreplace({value: snap(value, _SNAP) for value in small})


def _listed(moments: Any) -> tuple[list[float], list[float]] | None:
    if moments is None:
        return None
    mean, std = (torch.as_tensor(m, dtype=torch.float64).flatten().tolist() for m in moments)
    return mean, std


def _moments(given: tuple[list[float], list[float]] | None, count: int) -> Moments:
    mean, std = given or ([0.0] * count, [1.0] * count)
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
