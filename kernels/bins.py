"""Rows of the batch, for each input, in the order of the functions that live at them.

A block of BLOCK_J functions lives in BLOCK_J + k cells, the last k + 2 of which, with a cell of
margin on either side, it shares with the next block. So there are two kinds of bins, one after the
other: rows that two neighbouring blocks look at (even numbers), and rows of one block alone (odd
numbers); block n looks at the bins 2n, 2n + 1 and 2n + 2. A last bin has the rows outside of the
grid. The margin is for roundings: whoever looks at a row finds its cell anew.

The order is a stable counting sort: `count_kernel` numbers the rows' bins and counts them by blocks
of rows, the sums of these counts say where each block's rows of each bin go, and `order_kernel`
puts them there.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import runtime
from .basis import local as cells

ROWS = 1024  # of a block; a bin and a place in the block are sorted as one integer
WARPS = 4


class Order(NamedTuple):
    """The rows of every input by bins, and within a bin as they were."""

    rows: torch.Tensor  # [I, B], int32: indices into the batch
    x: torch.Tensor  # [I, B]: x at these rows
    ends: torch.Tensor  # [I, BINS + 1], int32: 0, then where each bin ends


@triton.jit
def count_kernel(
    x_ptr,  # [I, B]
    grid_ptr,  # [I, G + 2k + 1]
    bin_ptr,  # [I, B]
    count_ptr,  # [I, BLOCKS, BINS]
    B,
    BLOCKS,
    UNIFORM: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BINS: tl.constexpr,
    SLOTS: tl.constexpr,  # a power of two above BINS: rows beyond the batch are in the last one
    ROWS: tl.constexpr,
):
    """One program: ROWS rows of one input."""
    i, block = tl.program_id(0), tl.program_id(1)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    known = row < B
    x = tl.load(x_ptr + i.to(tl.int64) * B + row, mask=known, other=0.0).to(TYPE)
    q, _ = cells.evaluate(x, i, i >= 0, grid_ptr, UNIFORM, G, DEGREE, 0)
    # Blocks of functions from the one that has q - k - 1 to the one that has q + 1.
    first, last = (q - DEGREE - 1 + BLOCK_J) // BLOCK_J - 1, (q + 1) // BLOCK_J
    number = 2 * last + (first == last).to(tl.int32)
    knots = grid_ptr + i.to(tl.int64) * (G + 2 * DEGREE + 1)
    begin, end = tl.load(knots).to(TYPE), tl.load(knots + G + 2 * DEGREE).to(TYPE)
    margin = (end - begin) / (G + 2 * DEGREE)
    outside = (x < begin - margin) | (x > end + margin)  # not NaN, which no order may lose
    number = tl.where(outside, BINS - 1, tl.minimum(number, BINS - 2))
    tl.store(bin_ptr + i.to(tl.int64) * B + row, number.to(bin_ptr.dtype.element_ty), mask=known)
    counts = tl.histogram(tl.where(known, number, SLOTS - 1), SLOTS)
    slot = tl.arange(0, SLOTS)
    count = count_ptr + (i.to(tl.int64) * BLOCKS + block) * BINS + slot
    tl.store(count, counts, mask=slot < BINS)


@triton.jit
def order_kernel(
    x_ptr,  # [I, B]
    bin_ptr,  # [I, B]
    base_ptr,  # [I, BLOCKS, BINS]: where rows go, less their place among the block's sorted rows
    row_ptr,  # [I, B], out
    sorted_ptr,  # [I, B], out
    B,
    BLOCKS,
    BINS,
    ROWS: tl.constexpr,
):
    """One program: ROWS rows of one input go to their places."""
    i, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.arange(0, ROWS)
    first, own = block * ROWS, i * B
    number = tl.load(bin_ptr + own + first + place, mask=first + place < B, other=BINS)
    key = tl.sort(number.to(tl.int32) * ROWS + place)
    number, local = key // ROWS, key % ROWS
    known = number < BINS
    base = tl.load(base_ptr + (i * BLOCKS + block) * BINS + number, mask=known, other=0)
    x = tl.load(x_ptr + own + first + local, mask=known, other=0.0)
    target = own + base + place
    tl.store(row_ptr + target, (first + local).to(tl.int32), mask=known)
    tl.store(sorted_ptr + target, x, mask=known)


def number_of(basis, block_j):
    """Blocks of functions."""
    return triton.cdiv(basis.num_splines, block_j)


def sort(x, grid, basis, dtype, block_j):
    """The `Order` for x [I, B]; dtype is that of the arithmetic, grid [I, M] is contiguous."""
    inputs, rows = x.shape
    size = min(ROWS, max(32, triton.next_power_of_2(rows)))
    bins, blocks = 2 * number_of(basis, block_j) + 2, triton.cdiv(rows, size)
    numbers = x.new_empty(inputs, rows, dtype=torch.int16 if bins < 2**15 else torch.int32)
    counts = x.new_empty(inputs, blocks, bins, dtype=torch.int32)
    count_kernel[(inputs, blocks)](
        x, grid, numbers, counts, rows, blocks,
        UNIFORM=basis.uniform, G=basis.grid_size, DEGREE=basis.degree,
        TYPE=tl.float64 if dtype == torch.float64 else tl.float32,
        BLOCK_J=block_j, BINS=bins, SLOTS=triton.next_power_of_2(bins + 1), ROWS=size,
        num_warps=WARPS, **runtime.OPTIONS,
    )  # fmt: skip
    by_bin = counts.transpose(1, 2).flatten(1)
    ends = by_bin.cumsum(1, dtype=torch.int32)
    begins = (ends - by_bin).unflatten(1, (bins, blocks)).transpose(1, 2)
    base = begins - (counts.cumsum(2, dtype=torch.int32) - counts)
    order = Order(
        x.new_empty(inputs, rows, dtype=torch.int32),
        torch.empty_like(x),
        torch.nn.functional.pad(ends[:, blocks - 1 :: blocks], (1, 0)),
    )
    order_kernel[(inputs, blocks)](
        x, numbers, base.contiguous(), order.rows, order.x, rows, blocks, bins,
        ROWS=size, num_warps=WARPS, **runtime.OPTIONS,
    )  # fmt: skip
    return order
