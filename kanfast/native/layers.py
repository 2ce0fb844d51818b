"""Layers one after the other, from their parameters to their outputs and back, in one call each."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanfast import native
from kanfast.basis import Basis

SHAPE = struct.Struct("9q")  # struct Shape in layers.h


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
    sizes: tuple[tuple[int, ...], ...]  # of its tensors
    dtypes: tuple[torch.dtype, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        key = (self.basis, self.outputs, self.inputs, self.dtype, self.grid_dtype, self.has_scaler)
        return shape, key

    @property
    def has_base(self) -> bool:
        """Whether there is a residual activation."""
        return self.basis.activation != "none"

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
    sizes = (outputs, basis.degree, basis.grid_size)
    narrow = native._library().kanfast_is_narrow(dtype == torch.float64, *sizes)
    matrices = (basis.activation != "none") + has_scaler
    return Shape(
        *(basis, outputs, inputs, dtype, grid_dtype, has_scaler, bool(narrow)),
        sizes=sizes_of_tensors(basis, outputs, inputs, has_scaler),
        dtypes=(dtype,) * (1 + matrices) + (grid_dtype,),
    )


def sizes_of_tensors(
    basis: Basis, outputs: int, inputs: int, has_scaler: bool
) -> tuple[tuple[int, ...], ...]:
    """Those of a `Shape`."""
    matrices = ((outputs, inputs),) * ((basis.activation != "none") + has_scaler)
    return (outputs, inputs, basis.num_splines), *matrices, (inputs, basis.num_knots)


class Chain:
    """Layers of these shapes, one after the other. Nothing in it changes."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(shapes)
        self.count = len(self.shapes)
        self.is_float64 = self.shapes[0].dtype == torch.float64
        self.narrow = self.shapes[-1].narrow
        self.counts = tuple(len(its.sizes) for its in self.shapes)  # of each layer's tensors
        self.starts = (0, *itertools.accumulate(self.counts[:-1]))  # and where they begin
        tensors = sum(self.counts)
        self.forward = struct.Struct(f"{8 + self.count + tensors}q")  # struct LayersCall
        self.backward = struct.Struct(f"{8 + self.count + 2 * tensors}q")
        self.unkept = (0,) * (self.count - 1)  # values
        self.packed = b"".join(
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

    def run(self, call: bytes) -> None:
        """Calls the library."""
        if native._library().kanfast_layers(self.is_float64, self.count, self.packed, call):
            sizes = " and ".join(
                f"{its.inputs} inputs, {its.outputs} outputs" for its in self.shapes
            )
            raise MemoryError(
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
    rows = x.shape[0]
    y = x.new_empty(rows, chain.shapes[-1].outputs)
    _forward(chain, rows, x, (*chain.unkept, y.data_ptr()), tensors)
    return y


def all_values(chain: Chain, x: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The values of all layers; see `forward`.

    Those between layers are contiguous or, if that is faster, transposes of contiguous matrices.
    """
    rows, (*before, last) = x.shape[0], chain.shapes
    values = [x.new_empty_strided((rows, its.outputs), its.steps(rows)) for its in before]
    values.append(x.new_empty(rows, last.outputs))
    _forward(chain, rows, x, [y.data_ptr() for y in values], tensors)
    return values


def _forward(
    chain: Chain, rows: int, x: Tensor, values: Sequence[int], tensors: Sequence[Tensor]
) -> None:
    call = chain.forward.pack(
        *(rows, torch.get_num_threads(), x.data_ptr(), 0, 0, 0, 0, 0),
        *values,
        *[t.data_ptr() for t in tensors],
    )
    chain.run(call)


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
    rows, x = x.shape[0], _matrix(x)
    values = [_as_made(y, its) for y, its in zip(values, chain.shapes, strict=False)]
    g = _matrix(g) if chain.narrow else g.contiguous()
    grads = [
        torch.empty_like(t) if need else None for t, need in zip((x, *tensors), needs, strict=True)
    ]
    d_x, *addresses = [0 if t is None else t.data_ptr() for t in grads]
    call = chain.backward.pack(
        rows,
        torch.get_num_threads(),
        x.data_ptr(),
        not x.is_contiguous(),
        g.data_ptr(),
        not g.is_contiguous(),
        d_x,
        native.SILU_SLOPE_POWERS,
        *[y.data_ptr() for y in values],
        0,
        *[t.data_ptr() for t in tensors],
        *addresses,
    )
    if rows:
        chain.run(call)
    else:
        for d in grads:
            if d is not None:
                d.zero_()
    return grads


def _as_made(values: Tensor, shape: Shape) -> Tensor:
    """Values between layers as `all_values` made them, of which hooks may have saved a copy."""
    steps = shape.steps(len(values))
    if values.stride() == steps:
        return values
    return values.new_empty_strided(values.shape, steps).copy_(values)


def _matrix(t: Tensor) -> Tensor:
    """t as it is if it, or its transpose, is contiguous."""
    return t if t.is_contiguous() or t.stride() == (1, t.shape[0]) else t.contiguous()
