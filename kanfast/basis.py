"""The family of functions on a KAN edge: the B-splines of a grid and the residual activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "tanh", "sigmoid", "relu", "identity", "none"]


@dataclass(frozen=True)
class Basis:
    """A basis shared by all edges of a layer: G + k B-splines and, last, the residual activation."""

    grid_size: int
    degree: int
    activation: Activation = "silu"
    uniform: bool = True

    @property
    def num_splines(self) -> int:
        return self.grid_size + self.degree

    @property
    def num_functions(self) -> int:
        return self.num_splines + (self.activation != "none")
