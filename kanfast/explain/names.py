"""How a formula is written: its variables and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import Tensor

from kanfast.explain.batch import Batch
from kanfast.explain.scaling import Moments
from kanfast.nn.network import Network
from kanfast.symbolic.expressions import expanded, simplest
from kanfast.symbolic.formula import Formula, SymbolicLayer, compose


class Names:
    """Variables for the features a model takes, and the units of features and labels.

    A dataset holds (x - mean) / std and (y - mean) / std; formulas are of x and y.

    Args:
        model: takes the features.
        var: their names or symbols.
        normalizer, output_normalizer: means and deviations, or None.
        rows: [N, features] of the dataset: variables are real, and those of positive values
            positive, when expressions are simplified.

    Attributes:
        var: the symbols.
        features: means and deviations of all features; outputs: of the outputs.

    Raises:
        ValueError: as `kanfast.symbolic.compose`.
    """

    def __init__(
        self,
        model: Network,
        var: Sequence[str | sympy.Symbol] | None,
        normalizer: Any,
        output_normalizer: Any,
        rows: Tensor,
    ) -> None:
        mask = model.input_mask
        count = model.width[0] if mask is None else len(mask)
        outputs = model.width[-1]
        given = [_listed(moments) for moments in (normalizer, output_normalizer)]
        empty = SymbolicLayer(count, outputs, {})
        checked = compose([empty], var, normalizer=given[0], output_normalizer=given[1])
        self.var = checked.inputs
        self.features = _moments(given[0], count)
        self.outputs = _moments(given[1], outputs)
        positive = (self.in_units(rows) > 0).all(0).tolist()
        self._declared = [
            sympy.Dummy(f"x_{k}", real=True, positive=above or None)
            for k, above in enumerate(positive)
        ]

    def formula(self, one: Batch, inputs: Sequence[int]) -> Formula:
        """The formula of a network (a batch of 1) in the formula's units.

        Args:
            one: the network.
            inputs: the features that are its inputs.
        """
        first, *others = one.layers(0)
        edges = {(o, inputs[i]): edge for (o, i), edge in first.edges.items()}
        first = SymbolicLayer(len(self.var), first.subnodes, edges, subnode_bias=first.subnode_bias)
        made = compose([first, *others], self._declared)
        back = dict(zip(self._declared, self.var, strict=True))
        outputs = tuple(_shortest(output).xreplace(back) for output in made.outputs)
        return Formula(outputs, self.var, made.functions)

    def in_units(self, x: Tensor) -> Tensor:
        """Features of the dataset in their own units: float64, on the CPU."""
        mean, std = self.features
        return x.detach().cpu().double() * std + mean

    def evaluate(self, formula: Formula, x: Tensor) -> Tensor:
        """A formula at features of the dataset, in the labels' own units: float64."""
        return formula(self.in_units(x))

    def labels(self, y: Tensor) -> Tensor:
        """Labels of the dataset in their own units: float64, on the CPU."""
        mean, std = self.outputs
        return y.detach().cpu().double() * std + mean


def _shortest(expr: sympy.Expr) -> sympy.Expr:
    """The shortest of some equal forms."""
    return simplest([expr, expanded(expr), expanded(sympy.expand_log(expr))])


def _listed(moments: Any) -> tuple[list[float], list[float]] | None:
    if moments is None:
        return None
    mean, std = (torch.as_tensor(m, dtype=torch.float64).flatten().tolist() for m in moments)
    return mean, std


def _moments(given: tuple[list[float], list[float]] | None, count: int) -> Moments:
    mean, std = given or ([0.0] * count, [1.0] * count)
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
