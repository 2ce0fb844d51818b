"""Sums over parts of the batch, in a fixed order: no atomics."""

import contextlib

import torch
import triton
import triton.language as tl

from . import runtime


@triton.jit
def reduce_kernel(
    partial_ptr,  # [SPLIT, N]
    out_ptr,  # [N]
    N,
    SPLIT,
    BLOCK: tl.constexpr,
):
    """out[n] = sum of partial[s, n] for s = 0, 1, ...: always in this order."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    acc = tl.load(partial_ptr + n, mask=mask, other=0.0)
    for s in range(1, SPLIT):
        acc += tl.load(partial_ptr + tl.cast(s, tl.int64) * N + n, mask=mask, other=0.0)
    tl.store(out_ptr + n, acc.to(out_ptr.dtype.element_ty), mask=mask)


@contextlib.contextmanager
def over(out, split, dtype):
    """Where a kernel writes `split` parts of out, [split, *out.shape]; they are added at the end.

    A single part is out itself.
    """
    if split == 1:
        yield out
        return
    partial = torch.empty(split, *out.shape, dtype=dtype, device=out.device)
    yield partial
    reduce_kernel[(triton.cdiv(out.numel(), 1024),)](
        partial, out, out.numel(), split, BLOCK=1024, **runtime.OPTIONS
    )
