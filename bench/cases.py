"""What is measured: networks, batches and dtypes. A case says nothing of who computes it or how."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

# "tf32" is float32 with torch.set_float32_matmul_precision("high"); the 16-bit ones are autocast.
DTYPES = ("float64", "float32", "tf32", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """A KAN of these widths, with G intervals and splines of degree k, on a batch of rows."""

    widths: tuple[int, ...]
    batch: int
    grid_size: int = 5
    degree: int = 3
    dtype: str = "float32"

    def __str__(self) -> str:
        widths = ",".join(map(str, self.widths))
        text = f"[{widths}] B={self.batch}"
        if (self.grid_size, self.degree) != (5, 3):
            text += f" G={self.grid_size} k={self.degree}"
        return text if self.dtype == "float32" else f"{text} {self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of parameters and input."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def arithmetic(self, device: str) -> AbstractContextManager[object]:
        """The context that calls run in."""
        if self.dtype in ("bfloat16", "float16"):
            return torch.autocast(device, dtype=getattr(torch, self.dtype))
        return nullcontext()


@dataclass(frozen=True)
class Data:
    """Rows of input x [B, I], gradient g and target [B, O], and B * O of the whole batch."""

    x: Tensor
    g: Tensor
    target: Tensor
    count: int

    def split(self, rows: int) -> list[Data]:
        """Batches of at most so many rows of the same whole."""
        parts = zip(*(t.split(rows) for t in (self.x, self.g, self.target)), strict=True)
        return [Data(*part, self.count) for part in parts]

    def to(self, device: str, dtype: torch.dtype) -> Data:
        x, g, target = (t.to(device, dtype) for t in (self.x, self.g, self.target))
        return Data(x, g, target, self.count)


Weights = list[tuple[Tensor, Tensor]]


def make_data(case: Case) -> Data:
    """Inputs all over the grid, float64 on the CPU. They are exact in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(case.batch, case.widths[0], generator=generator) * 2 - 1
    g, target = (torch.randn(case.batch, case.widths[-1], generator=generator) for _ in range(2))
    return Data(x.double(), g.double(), target.double(), case.batch * case.widths[-1])


def make_weights(case: Case) -> Weights:
    """Of each layer the coefficients [O, I, G + k] and residual weights [O, I], float64.

    Of a size that keeps hidden values around the grid, some outside of it.
    """
    generator = torch.Generator().manual_seed(1)
    weights = []
    for inputs, outputs in pairwise(case.widths):
        splines = case.grid_size + case.degree
        c = torch.randn(outputs, inputs, splines, generator=generator) / inputs**0.5
        base = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        weights.append((c.double(), base.double()))
    return weights


NARROW = (Case((2, 5, 1), 1000), Case((10, 10, 10, 1), 100_000))
MIDDLE = (Case((64, 64), 8192), Case((784, 64, 10), 1024), Case((256, 256), 4096))
WIDE = Case((512, 512, 512), 65_536)


def sweep(base: Case) -> tuple[Case, ...]:
    """The base case with one thing changed at a time."""
    inner = base.widths[0]
    cases = [replace(base, batch=base.batch * n // 4) for n in (1, 2, 8, 16)]
    cases += [replace(base, widths=(n, inner)) for n in (inner // 4, inner * 4)]
    cases += [replace(base, widths=(inner, n)) for n in (inner // 4, inner * 4)]
    cases += [replace(base, grid_size=n) for n in (3, 10, 20, 50)]
    cases += [replace(base, degree=n) for n in (1, 2, 4, 5)]
    return tuple(cases)


def sets(device: str) -> dict[str, tuple[Case, ...]]:
    """The cases by name of the set; "quick" takes seconds."""
    on_gpu = device != "cpu"
    base = Case((512, 512), 65_536) if on_gpu else MIDDLE[0]
    dtypes = DTYPES if on_gpu else ("float64", "bfloat16")
    return {
        "quick": (Case((2, 5, 1), 1000), Case((16, 16), 512)),
        "middle": MIDDLE,
        "core": MIDDLE + NARROW + ((WIDE,) if on_gpu else ()),
        "sweep": sweep(base),
        "dtypes": tuple(replace(base, dtype=dtype) for dtype in dtypes if dtype != "float32"),
    }
