"""Layers one after the other, from their parameters to their outputs and back, in one call each."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from torch import Tensor

from kanfast.engine import native
from kanfast.engine.activations import Activation
from kanfast.engine.basis import Basis, shared_basis

SHAPE = struct.Struct("8q")  # struct Shape in layers.h

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

    def steps(self, rows: int) -> tuple[int, int]:
        """Strides of its outputs where another layer follows."""
        return (1, rows) if self.narrow else (self.outputs, 1)


@functools.cache
def shape(
    grid_size: int,
    degree: int,
    activation: Activation,
    uniform: bool,
    outputs: int,
    inputs: int,
    dtype: torch.dtype,
    grid_dtype: torch.dtype,
    has_scaler: bool,
) -> Shape:
    """The only `Shape` with these properties."""
    basis = shared_basis(grid_size, degree, activation, uniform)
    narrow = native._is_narrow(dtype, outputs, degree, grid_size)
    return Shape(basis, outputs, inputs, dtype, grid_dtype, has_scaler, narrow)


class Chain:
    """Layers of these shapes, one after the other. Nothing in it changes."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(shapes)
        self.count = len(self.shapes)
        is_float64 = self.shapes[0].dtype == torch.float64
        self.before, last = self.shapes[:-1], self.shapes[-1]
        self.outputs, self.narrow = last.outputs, last.narrow
        self.counts = [2 + its.has_base + its.has_scaler for its in self.shapes]  # of tensors
        self.starts = [0, *itertools.accumulate(self.counts[:-1])]  # where those of a layer begin
        tensors = sum(self.counts)
        self.forward = struct.Struct(f"{8 + self.count + tensors}q")  # struct LayersCall
        self.backward = struct.Struct(f"{8 + self.count + 2 * tensors}q")
        self.unkept = (0,) * (self.count - 1)  # the addresses of values between layers
        packed = b"".join(
            SHAPE.pack(
                its.inputs,
                its.outputs,
                its.basis.degree,
                its.basis.grid_size,
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


def describe(basis: Basis, weight: Tensor, grid: Tensor, has_scaler: bool) -> str:
    """A layer for `described_chain`: what a graph of torch.compile keeps of it."""
    outputs, inputs, _ = weight.shape
    return (
        f"{basis.grid_size} {basis.degree} {basis.activation} {basis.uniform:d} {outputs} {inputs} "
        f"{weight.dtype} {grid.dtype} {has_scaler:d}"
    )


@functools.cache
def described_chain(text: str) -> Chain:
    """The `Chain` of layers that `describe` described, with semicolons between them."""
    shapes = []
    for layer in text.split(";"):
        grid_size, degree, activation, uniform, outputs, inputs, *dtypes, scaled = layer.split()
        dtype, grid_dtype = (getattr(torch, name.removeprefix("torch.")) for name in dtypes)
        described = (int(grid_size), int(degree), cast(Activation, activation), uniform == "1")
        sizes = int(outputs), int(inputs)
        shapes.append(shape(*described, *sizes, dtype, grid_dtype, scaled == "1"))
    return chain(*shapes)


def forward(chain: Chain, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The values [B, O] of the last layer over x [B, I], contiguous.

    tensors are those of the first layer, then those of the second one, and so on.
    """
    y = x.new_empty(x.shape[0], chain.outputs)
    _forward(chain, y, (x.data_ptr(), *chain.unkept, *map(_address, tensors)))
    return y


def all_values(chain: Chain, x: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """x and the values of all layers; see `forward`.

    Values between layers are contiguous or, if that is faster, transposes of contiguous matrices.
    """
    *hidden, y = new_values(chain, x)
    _forward(chain, y, map(_address, (x, *hidden, *tensors)))
    return [x, *hidden, y]


def new_values(chain: Chain, x: Tensor) -> list[Tensor]:
    """Memory for the values of all layers over x."""
    rows = x.shape[0]
    hidden = [x.new_empty_strided((rows, its.outputs), its.steps(rows)) for its in chain.before]
    return [*hidden, x.new_empty(rows, chain.outputs)]


def _forward(chain: Chain, y: Tensor, addresses: Iterable[int]) -> None:
    head = (y.shape[0], torch.get_num_threads(), 0, 0, y.data_ptr(), 0, 0, 0)
    if chain.run(chain.forward.pack(*head, *addresses)):
        raise chain.no_memory()


def backward(
    chain: Chain, g: Tensor, given: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x and of the layers' tensors, those that are needed.

    Args:
        chain: That of `forward`.
        g: [B, O], that of the last layer's values.
        given: What goes into each layer, x and the values of all but the last one, then the layers'
            tensors.
        needs: Whether the gradients of x and of tensors are needed; those of grids are not.
    """
    x, *given = given
    x, rows = native._matrix(x, x.dtype), x.shape[0]
    g = native._matrix(g, g.dtype) if chain.narrow else g.contiguous()
    for n, its in enumerate(chain.before):
        if given[n].stride() != its.steps(rows):
            given[n] = _as_made(given[n], its)
    wanted = zip((x, *given[chain.count - 1 :]), needs, strict=True)
    grads = [torch.empty_like(t) if need else None for t, need in wanted]
    d_x, *others = [0 if t is None else t.data_ptr() for t in grads]
    call = chain.backward.pack(
        rows,
        torch.get_num_threads(),
        not x.is_contiguous(),
        not g.is_contiguous(),
        0,
        g.data_ptr(),
        d_x,
        native._silu_address(1),
        x.data_ptr(),
        *map(_address, given),
        *others,
    )
    if not rows:
        for d in grads:
            if d is not None:
                d.zero_()
    elif chain.run(call):
        raise chain.no_memory()
    return grads


def _as_made(values: Tensor, shape: Shape) -> Tensor:
    """Values between layers as `all_values` made them, if a hook of saved tensors did not."""
    steps = shape.steps(values.shape[0])
    return values.new_empty_strided(values.shape, steps).copy_(values)


def layer_forward(
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    *,
    basis: Basis,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """See `engine.reference.layer_forward`."""
    outputs, inputs, _ = weight.shape
    which = shape(
        basis.grid_size,
        basis.degree,
        basis.activation,
        basis.uniform,
        outputs,
        inputs,
        x.dtype,
        grid.dtype,
        scaler is not None,
    )
    tensors = [t.contiguous() for t in (weight, base, scaler, grid) if t is not None]
    return forward(chain(which), x.contiguous(), tensors)


def layer_grad(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    needs: Sequence[bool],
    *,
    basis: Basis,
    precision: str,
) -> list[Tensor | None]:
    """See `engine.reference.layer_grad`."""
    outputs, inputs, _ = weight.shape
    which = shape(
        basis.grid_size,
        basis.degree,
        basis.activation,
        basis.uniform,
        outputs,
        inputs,
        x.dtype,
        grid.dtype,
        scaler is not None,
    )
    given = (weight, base, scaler, grid)
    tensors = [t.contiguous() for t in given if t is not None]
    wanted = [needs[0], *[need for t, need in zip(given, needs[1:]) if t is not None]]
    grads = iter(backward(chain(which), g, (x, *tensors), wanted))
    return [next(grads), *[None if t is None else next(grads) for t in given]]
