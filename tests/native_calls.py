"""Random calls of every entry of the native library, and what plain torch makes of them.

Shapes, strides, dtypes, knots and numbers are what the entries take, the strange ones above all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from cases import ACTIVATIONS
from torch import Tensor

from kanfast import Basis
from kanfast.engine import chunked, native, reference, unfused
from kanfast.engine.native import layer as native_layer
from kanfast.engine.native import statistics as native_statistics

ROWS = (0, 1, 2, 4, 5, 9, 127, 128, 129, 300, 520, 700)
INPUTS = (1, 2, 7, 8, 9, 17)
OUTPUTS = (1, 2, 3, 5, 8, 9, 16, 17, 33, 70)
GRID_SIZES = (1, 2, 3, 5, 8, 13, 40)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
THREADS = (1, 2, 3, 4)
KNOTS = ("equal", "unequal", "repeated", "all the same", "tiny", "huge")
POINTS = ("near", "at knots", "far", "the largest", "infinite", "not numbers")
LAYOUTS = ("plain", "by column", "one row", "one column", "end", "every other", "minus")


class Call(NamedTuple):
    """One entry: native code and plain torch, which take nothing and give tensors or None."""

    entry: str
    native: Callable[[], Sequence[Tensor | None]]
    plain: Callable[[], Sequence[Tensor | None]]


class RandomCalls:
    """The calls that a seed stands for, and what they have in common."""

    def __init__(
        self,
        seed: int,
        shape: tuple[int, int, int] | None = None,
        degree: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        pick = self.random.choice
        self.rows, self.inputs, self.outputs = shape or (pick(ROWS), pick(INPUTS), pick(OUTPUTS))
        self.dtype, self.threads = dtype or pick(DTYPES), pick(THREADS)
        self.wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.knots, self.points = pick(KNOTS), pick(POINTS)
        degree, activation = pick(range(8)) if degree is None else degree, pick(ACTIVATIONS)
        self.basis = Basis(pick(GRID_SIZES), degree, activation, uniform=True)
        self.deriv = pick(range(degree + 3))
        self.grid = self._make_grid()
        self.x = self._make_x()

    @property
    def tame(self) -> bool:
        """Whether rounding errors are a small share of the largest result."""
        knots = self.knots in ("equal", "unequal") and self.deriv < self.basis.degree
        return knots and self.points == "near" and self.dtype == torch.float64

    @property
    def overflows(self) -> bool:
        """Whether x holds what makes sums that are not finite, in one order of terms or another."""
        return self.points in ("the largest", "infinite", "not numbers")

    def normal(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        t = torch.randn(size, generator=self.generator, dtype=torch.float64)
        return self._laid_out(t.to(dtype or self.dtype))

    def calls(self) -> list[Call]:
        return [*self._primitives(), *self._layer(), *self._packing(), *self._statistics()]

    def _make_grid(self) -> Tensor:
        basis = self.basis
        knots = torch.linspace(-1, 1, basis.num_knots, dtype=torch.float64)
        knots = knots.repeat(self.inputs, 1)
        if self.knots not in ("equal", "tiny", "huge"):
            shift = torch.rand(knots.shape, generator=self.generator, dtype=torch.float64)
            knots = (knots + shift / basis.num_knots).sort(dim=1).values
        if self.knots == "repeated":
            at = self.random.randrange(basis.num_knots)
            knots[:, at : at + basis.degree + 1] = knots[:, at : at + 1]
        if self.knots == "all the same":
            knots[:] = 0.5
        scale = {"tiny": 1e-35, "huge": 1e35}.get(self.knots, 1)
        dtype = self.random.choice((torch.float64, torch.float32))
        return self._laid_out((knots * scale).to(dtype))

    def _make_x(self) -> Tensor:
        x = torch.rand(self.rows, self.inputs, generator=self.generator, dtype=torch.float64)
        x, random = 3 * x - 1.5, self.random
        largest = torch.finfo(self.dtype).max
        strange = {
            "near": lambda i: x[0, i],
            "at knots": lambda i: self.grid[i, random.randrange(self.basis.num_knots)],
            "far": lambda _: random.choice((-1e4, 1e4, 1e-30)),
            "the largest": lambda _: random.choice((-largest, largest)),
            "infinite": lambda _: random.choice((-torch.inf, torch.inf)),
            "not numbers": lambda _: torch.nan,
        }[self.points]
        for _ in range(x.numel() // 3):
            i = random.randrange(self.inputs)
            x[random.randrange(self.rows), i] = strange(i)
        return self._laid_out(x.to(self.dtype))

    def _laid_out(self, t: Tensor) -> Tensor:
        """The same numbers or some of them, with other strides or elsewhere in their storage."""
        layout = self.random.choice(LAYOUTS)
        if not t.numel() or layout == "plain":
            return t
        if layout == "by column":
            return t.mT.contiguous().mT
        if layout == "one row":
            return t[:1].expand(t.shape)
        if layout == "one column":
            return t[:, :1].expand(t.shape)
        if layout == "minus":
            return torch._neg_view(-t)
        if layout == "every other":
            wide = t.new_empty(*t.shape[:-1], 2 * t.shape[-1] - 1)
            wide[..., ::2] = t
            return wide[..., ::2]
        storage = t.new_empty(t.numel() + self.random.randrange(1, 20))
        return storage[-t.numel() :].view(t.shape).copy_(t)

    def _primitives(self) -> list[Call]:
        basis, deriv = self.basis, self.deriv
        c = self.normal(basis.num_functions, self.inputs, self.outputs)
        g = self.normal(self.rows, self.outputs)
        s = self.random.choice((None, self.normal(self.rows, self.inputs)))
        x, grid = self.x, self.grid
        precision = "float64" if self.dtype == torch.float64 else "ieee"
        options: dict[str, Any] = {
            "basis": basis,
            "deriv": deriv,
            "precision": precision,
            "out_dtype": self.random.choice((self.dtype, self.wide)),
        }
        every = {
            "forward": (x, c, s, grid),
            "input_grad": (g, x, c, grid),
            "weight_grad": (g, x, s, grid),
        }

        def call(module: Any, name: str) -> list[Tensor]:
            return [getattr(module, name)(*every[name], **options)]

        return [
            Call(name, *(partial(call, m, name) for m in (native, reference))) for name in every
        ]

    def _parameters(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        edges = (self.outputs, self.inputs)
        weight = self.normal(*edges, self.basis.num_splines, dtype=self.wide)
        base = self.normal(*edges, dtype=self.wide) if self.basis.activation != "none" else None
        scaler = self.random.choice((None, self.normal(*edges, dtype=self.wide)))
        return weight, base, scaler

    def _layer(self) -> list[Call]:
        parameters = self._parameters()
        x, g = self.x.to(self.wide), self.normal(self.rows, self.outputs, dtype=self.wide)
        needs = [self.random.random() < 0.7 for _ in range(4)]
        needs[2] &= parameters[1] is not None
        needs[3] &= parameters[2] is not None
        options: dict[str, Any] = {"basis": self.basis, "precision": str(self.wide)[6:]}
        if self.wide == torch.float32:
            options["precision"] = "ieee"

        def forward(function: Callable[..., Tensor]) -> list[Tensor]:
            return [function(x, *parameters, self.grid, **options, out_dtype=self.wide)]

        def grad(function: Callable[..., list[Tensor | None]]) -> list[Tensor | None]:
            return function(g, x, *parameters, self.grid, [*needs, False], **options)

        plain = partial(unfused.layer_forward, reference), partial(unfused.layer_grad, reference)
        return [
            Call("layer", partial(forward, native_layer.layer_forward), partial(forward, plain[0])),
            Call("layer_grad", partial(grad, native_layer.layer_grad), partial(grad, plain[1])),
        ]

    def _packing(self) -> list[Call]:
        weight, base, scaler = self._parameters()
        dc = self.normal(self.basis.num_functions, self.inputs, self.outputs, dtype=self.wide)
        needs = (self.random.random() < 0.7, base is not None, scaler is not None)

        def pack(module: Any) -> list[Tensor]:
            return [module.pack(weight, base, scaler)]

        return [
            Call("pack", partial(pack, native), partial(pack, reference)),
            Call(
                "unpack",
                lambda: native.unpack(dc, weight, scaler, needs),
                lambda: reference.unpack(dc, weight, base, scaler, needs),
            ),
        ]

    def _statistics(self) -> list[Call]:
        """Of one row or more."""
        x = self.x.to(self.wide) if self.rows else self.normal(1, self.inputs, dtype=self.wide)
        residual, basis = None, self.basis
        if self.random.random() < 0.3:
            basis = Basis(basis.grid_size, basis.degree, "none")
            residual = self.normal(*x.shape, dtype=self.wide)
        functions = basis.num_functions + (residual is not None)
        c = self.normal(functions, self.inputs, self.outputs, dtype=self.wide)
        edges = (self.outputs, self.inputs)
        gradients = [
            self.normal(*edges, dtype=self.wide) if self.random.random() < 0.7 else None
            for _ in range(5)
        ]
        needs = [self.random.random() < 0.7 for _ in range(3)]
        needs[2] &= residual is not None
        arguments = (x, c, residual, self.grid)

        def forward(module: Any) -> Sequence[Tensor]:
            return module.edge_statistics(*arguments, basis=basis)

        def grad(module: Any) -> Sequence[Tensor | None]:
            statistics = chunked.edge_statistics(*arguments, basis=basis)
            return module.edge_statistics_grad(
                *arguments, statistics, gradients, needs, basis=basis
            )

        return [
            Call("statistics", partial(forward, native_statistics), partial(forward, chunked)),
            Call("statistics_grad", partial(grad, native_statistics), partial(grad, chunked)),
        ]


def every_size() -> Iterator[RandomCalls]:
    """Calls of each degree and dtype of the arithmetic, by each of the ways that shapes select."""
    shapes = ((2, 9, 5), (130, 9, 3), (130, 9, 70), (700, 9, 3), (700, 9, 70))
    for seed, (degree, dtype, shape) in enumerate(product(range(8), DTYPES[:2], shapes)):
        yield RandomCalls(seed, shape, degree, dtype)
