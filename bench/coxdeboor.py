"""KAN layers by the Cox-de Boor recursion, all bases of all inputs at once.

This is the formulation of efficient-kan, and of most KAN libraries since: tensors
[B, I, G + k] at every level of the recursion, then one matrix product for the splines and one for
the residual. In float64 it is also what every other provider is checked against.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cox_de_boor(x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Values of the B-splines (de Boor, A Practical Guide to Splines, chapter IX, equation 14).

    x [B, I] and knots [I, G + 2k + 1], strictly ascending -> [B, I, G + k].
    """
    x = x.unsqueeze(-1)
    values = ((knots[:, :-1] <= x) & (x < knots[:, 1:])).to(x.dtype)
    for d in range(1, degree + 1):
        rising = (x - knots[:, : -d - 1]) / (knots[:, d:-1] - knots[:, : -d - 1])
        falling = (knots[:, d + 1 :] - x) / (knots[:, d + 1 :] - knots[:, 1:-d])
        values = rising * values[..., :-1] + falling * values[..., 1:]
    return values


class CoxDeBoorLinear(nn.Module):
    """One layer, with efficient-kan's parameters."""

    def __init__(self, inputs: int, outputs: int, grid_size: int, degree: int) -> None:
        super().__init__()
        self.degree = degree
        knots = torch.arange(-degree, grid_size + degree + 1, dtype=torch.float64)
        knots = (knots * (2 / grid_size) - 1).to(torch.get_default_dtype())
        self.register_buffer("knots", knots.repeat(inputs, 1))
        self.base_weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.spline_weight = nn.Parameter(torch.zeros(outputs, inputs, grid_size + degree))
        self.spline_scaler = nn.Parameter(torch.ones(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        values = cox_de_boor(x, self.knots, self.degree)
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        base = F.linear(F.silu(x), self.base_weight)
        return base + F.linear(values.flatten(1), weight.flatten(1))


class CoxDeBoorKAN(nn.Module):
    """A stack of layers on [-1, 1]."""

    def __init__(self, widths: tuple[int, ...], grid_size: int, degree: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CoxDeBoorLinear(inputs, outputs, grid_size, degree)
            for inputs, outputs in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
