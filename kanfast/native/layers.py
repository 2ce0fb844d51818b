"""Layers one after the other, from their parameters to their outputs and back, in one call each."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kanfast import native
from kanfast.basis import Basis

SHAPE = struct.Struct("9q")  # struct Shape in layers.h

_address = Tensor.data_ptr

# Of weight, of base and scaler, and of the grid.
Sizes: TypeAlias = tuple[tuple[int, int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Shape:
    """What of a layer is not a tensor.

    Its tensors are weight [O, I, G + k], base [O, I], scaler [O, I] and grid [I, G + 2k + 1], but
    no base if the activation is "none" instead of "silu". They are contiguous and of one dtype,
    float32 or float64; only grids may be of either.
    """

    basis: Basis
    outputs: int
    inputs: int
    dtype: torch.dtype
    grid_dtype: torch.dtype
    has_scaler: bool
    narrow: bool  # its outputs had better lie by column
    has_base: bool = field(init=False)
    sizes: Sizes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_base", self.basis.activation != "none")
        edges = (self.outputs, self.inputs)
        sizes = ((*edges, self.basis.num_splines), edges, (self.inputs, self.basis.num_knots))
        object.__setattr__(self, "sizes", sizes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a layer looks for its own

    def steps(self, rows: int) -> tuple[int, int]:
        """Strides of its outputs where another layer follows."""
        return (1, rows) if self.narrow else (self.outputs, 1)


@functools.cache
def shape(
    basis: Basis,
    outputs: int,
    inputs: int,
    dtype: torch.dtype,
    grid_dtype: torch.dtype,
    has_scaler: bool,
) -> Shape:
    """The only `Shape` with these properties."""
    narrow = native._is_narrow(dtype, outputs, basis.degree, basis.grid_size)
    return Shape(basis, outputs, inputs, dtype, grid_dtype, has_scaler, narrow)


class Chain:
    """Layers of these shapes, one after the other. Nothing in it changes."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(shapes)
        self.count = len(self.shapes)
        is_float64 = self.shapes[0].dtype == torch.float64
        self.narrow = self.shapes[-1].narrow
        self.counts = [2 + its.has_base + its.has_scaler for its in self.shapes]  # of tensors
        self.starts = [0, *itertools.accumulate(self.counts[:-1])]  # where those of a layer begin
        tensors = sum(self.counts)
        self.forward = struct.Struct(f"{8 + self.count + tensors}q")  # struct LayersCall
        self.backward = struct.Struct(f"{8 + self.count + 2 * tensors}q")
        self.unkept = (0,) * (self.count - 1)  # values
        packed = b"".join(
            SHAPE.pack(
                its.inputs,
                its.outputs,
                its.basis.degree,
                its.basis.grid_size,
                its.basis.uniform,
                native.SILU if its.has_base else native.NO_ACTIVATION,
                its.grid_dtype == torch.float64,
                its.has_scaler,
                its.narrow,
            )
            for its in self.shapes
        )

        library = native._library()
        self.run = functools.partial(library.kanfast_layers, is_float64, self.count, packed)

    def no_memory(self) -> MemoryError:
        """What to raise where `run` returns 1."""
        sizes = " and ".join(f"{its.inputs} inputs, {its.outputs} outputs" for its in self.shapes)
        return MemoryError(
            f"kanfast.native needs buffers for layers of {sizes}, got no memory for them: use "
            'backend="reference", which needs less'
        )


@functools.cache
def chain(*shapes: Shape) -> Chain:
    """The `Chain` of these; eager networks ask for theirs in every call."""
    return Chain(shapes)


def forward(chain: Chain, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The values [B, O] of the last layer over x [B, I], contiguous.

    tensors are those of the first layer, then those of the second one, and so on.
    """
    y = x.new_empty(x.shape[0], chain.shapes[-1].outputs)
    _forward(chain, x, (*chain.unkept, y.data_ptr()), tensors)
    return y


def all_values(chain: Chain, x: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The values of all layers; see `forward`.

    Those between layers are contiguous or, if that is faster, transposes of contiguous matrices.
    """
    rows, values = x.shape[0], []
    *before, last = chain.shapes
    for its in before:
        values.append(x.new_empty_strided((rows, its.outputs), its.steps(rows)))
    values.append(x.new_empty(rows, last.outputs))
    _forward(chain, x, map(_address, values), tensors)
    return values


def _forward(chain: Chain, x: Tensor, values: Iterable[int], tensors: Sequence[Tensor]) -> None:
    addresses = map(_address, tensors)
    head = (x.shape[0], torch.get_num_threads(), x.data_ptr(), 0, 0, 0, 0, 0)
    if chain.run(chain.forward.pack(*head, *values, *addresses)):
        raise chain.no_memory()


def backward(
    chain: Chain,
    g: Tensor,
    x: Tensor,
    values: Sequence[Tensor],
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x and of tensors, those that are needed.

    Args:
        chain, x, tensors: Those of `forward`.
        g: [B, O], that of the last layer's values.
        values: Those of all layers but the last one.
        needs: Whether the gradients of x and of tensors are needed; those of grids are not.
    """
    rows, x = x.shape[0], native._matrix(x, x.dtype)
    values = [*map(_as_made, values, chain.shapes)]
    g = native._matrix(g, g.dtype) if chain.narrow else g.contiguous()
    given = zip((x, *tensors), needs, strict=True)
    grads = [torch.empty_like(t) if need else None for t, need in given]
    d_x, *addresses = [0 if t is None else t.data_ptr() for t in grads]
    call = chain.backward.pack(
        rows,
        torch.get_num_threads(),
        x.data_ptr(),
        not x.is_contiguous(),
        g.data_ptr(),
        not g.is_contiguous(),
        d_x,
        native._silu_address(1),
        *map(_address, values),
        0,
        *map(_address, tensors),
        *addresses,
    )
    if not rows:
        for d in grads:
            if d is not None:
                d.zero_()
    elif chain.run(call):
        raise chain.no_memory()
    return grads


def _as_made(values: Tensor, shape: Shape) -> Tensor:
    """Values between layers as `all_values` made them, of which hooks may have saved a copy."""
    steps = shape.steps(values.shape[0])
    if values.stride() == steps:
        return values
    return values.new_empty_strided(values.shape, steps).copy_(values)
