"""Layers and normal equations of many networks on CPUs in C++: see `kanfast.engine.normal`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kanfast.engine import native

LAYER, GRAM = range(2)
# struct Layer, struct Gram and struct Block in normal.h.
_LAYER, _GRAM, _BLOCK = struct.Struct("13q"), struct.Struct("12q"), struct.Struct("6q")
_SPARE = 8  # columns beyond the last one, which windows of zeros may reach


class Splines(NamedTuple):
    """The splines of a layer at its inputs.

    Attributes:
        y: [S, B, O], their sums.
        first: int32 [S, B, I], the first spline of a window that holds those that live there;
            this and the others are None unless slopes are wanted.
        values: [S, B, I, width], the values of the splines in the window.
        slopes: [S, B, O, I], of the edges by the inputs.
    """

    y: Tensor
    first: Tensor | None = None
    values: Tensor | None = None
    slopes: Tensor | None = None


class Block(NamedTuple):
    """The columns of the Jacobian that belong to the splines of a layer.

    Attributes:
        first, values: As in `Splines`.
        delta: [S, B, Q, O], slopes of the Q residuals of a row by the sums of the layer.
        splines: How many an edge has.
    """

    first: Tensor
    values: Tensor
    delta: Tensor
    splines: int


def layer(x: Tensor, knots: Tensor, c: Tensor, *, slopes: bool) -> Splines:
    """See `kanfast.engine.normal.layer`."""
    (starts, rows, inputs), outputs = x.shape, c.shape[1]
    degree = knots.shape[-1] - 1 - c.shape[-1]
    y = x.new_empty(starts, rows, outputs)
    made: list[Tensor] = []
    if slopes:
        made = [
            x.new_empty(x.shape, dtype=torch.int32),
            x.new_empty(*x.shape, degree + 1),
            x.new_empty(starts, rows, outputs, inputs),
        ]
    tensors = [x.contiguous(), knots.contiguous(), c.contiguous(), y, *made]
    addresses = [t.data_ptr() for t in tensors] + [0] * (3 - len(made))
    work = x.numel() * (16 + outputs)
    threads = torch.get_num_threads() if work > native.SERIAL_WORK else 1
    sizes = (starts, rows, inputs, outputs, c.shape[-1] - degree, threads)
    _run(LAYER, degree, _LAYER.pack(*sizes, *addresses))
    return Splines(y, *made)


def gram(blocks: Sequence[Block], dense: Tensor) -> tuple[Tensor, Tensor]:
    """Upper triangle [S, P, P] of the splines' part of J^T J, and that times `dense`, [S, P, D].

    Args:
        blocks: Of the layers.
        dense: Further columns [S, B, Q, D].
    """
    starts, rows, residuals, columns = dense.shape
    width = max(block.values.shape[-1] for block in blocks)
    held, packed, count, edges = [], [], 0, 0
    for block in blocks:
        pad = (0, width - block.values.shape[-1])
        values = torch.nn.functional.pad(block.values, pad) if pad[1] else block.values
        inputs, outputs = values.shape[2], block.delta.shape[-1]
        tensors = [t.contiguous() for t in (block.first, values, block.delta)]
        held.append(tensors)
        packed.append((inputs, outputs, block.splines, *(t.data_ptr() for t in tensors)))
        edges += inputs * outputs
        count += inputs * outputs * block.splines
    stride, dense_stride = count + _SPARE, -(-columns // 8) * 8
    dense = torch.nn.functional.pad(dense, (0, dense_stride - columns)).contiguous()
    whole = dense.new_zeros(starts, stride, stride)
    mixed = dense.new_zeros(starts, stride, dense_stride)
    work = starts * rows * residuals * edges * (edges * width + dense_stride)
    threads = torch.get_num_threads() if work > native.SERIAL_WORK else 1
    layers = bytearray().join(_BLOCK.pack(*entry) for entry in packed)
    table = torch.frombuffer(layers, dtype=torch.uint8)
    sizes = (starts, rows, residuals, len(blocks), columns, threads, stride, dense_stride)
    addresses = [t.data_ptr() for t in (table, dense, whole, mixed)]
    _run(GRAM, width - 1, _GRAM.pack(*sizes, *addresses))
    return whole[:, :count, :count], mixed[:, :count, :columns]


def _run(op: int, degree: int, call: bytes) -> None:
    if native._library().kanfast_normal(op, degree, call):
        raise MemoryError("kanfast.native needs buffers for the normal equations, got no memory")
