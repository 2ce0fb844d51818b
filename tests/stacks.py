"""Stacks of plain layers, and what they are compared with: their layers called one by one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanfast import KAN

WIDTHS = [3, 5, 4, 2]


def make(
    dtype: torch.dtype = torch.float64,
    rows: tuple[int, ...] = (40,),
    widths: Sequence[int] = WIDTHS,
    **options: Any,
) -> tuple[KAN, Tensor]:
    torch.manual_seed(0)
    model = KAN(widths, **{"grid_size": 4, "dtype": dtype, "backend": "native", **options})
    for part in model.kan_layers:
        nn.init.normal_(part.spline_weight, std=0.5)
    return model, torch.rand(*rows, widths[0], dtype=dtype) * 2 - 1


def one_by_one(model: KAN, x: Tensor) -> Tensor:
    for part in model.kan_layers:
        x = part(x)
    return x


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(y.sin().sum(), inputs))


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
