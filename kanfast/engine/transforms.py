"""The rule of torch.func.vmap for the primitives, as ops and as differentiable functions.

A batched x (with its g and s) is more rows; coefficients or output gradients that are batched alone
are more outputs. Both are one call. Anything else is a call for each element of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def batched(
    contract: Callable[..., Tensor],
    size: int,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    grid: Tensor,
    g: Tensor | None,
    s: Tensor | None,
    c: Tensor | None,
    missing: str,
    *rest: Any,
) -> tuple[Tensor, int]:
    """The primitive that leaves out a factor, of a batch: (result, its batch dimension).

    Args:
        contract: What evaluates one element of the batch, from the arguments that follow.
        size: The size of the batch.
        in_dims: The dimension in which each argument is batched, or None.
    """
    names = ("x", "grid", "g", "s", "c")
    dims = dict(zip(names, in_dims, strict=False))
    which = {name for name, dim in dims.items() if dim is not None}
    if missing != "c" and which <= {"x", "g", "s"}:
        g, s = (
            None if t is None else _rows(t, dims[name], size) for name, t in (("g", g), ("s", s))
        )
        y = contract(_rows(x, dims["x"], size), grid, g, s, c, missing, *rest)
        return y.unflatten(0, (size, y.shape[0] // size)), 0
    if missing == "g" and which == {"c"} and c is not None:
        y = contract(x, grid, g, s, _outputs(c, dims["c"]), missing, *rest)
        return y.unflatten(1, (size, y.shape[1] // size)), 1
    if missing == "c" and which == {"g"} and g is not None:
        w = contract(x, grid, _outputs(g, dims["g"]), s, c, missing, *rest)
        return w.unflatten(2, (size, w.shape[2] // size)), 2
    results = []
    for v in range(size):
        tensors = [
            t if t is None or dims[name] is None else t.select(dims[name], v)  # type: ignore[arg-type]
            for name, t in zip(names, (x, grid, g, s, c), strict=True)
        ]
        results.append(contract(*tensors, missing, *rest))
    return torch.stack(results), 0


def _rows(t: Tensor, dim: int | None, size: int) -> Tensor:
    """[V, B, n] as [V * B, n]; without a batch dimension the same rows V times."""
    t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.reshape(size * t.shape[1], t.shape[2])


def _outputs(t: Tensor, dim: int | None) -> Tensor:
    """[V, ..., O] as [..., V * O]."""
    return t.movedim(dim or 0, -2).flatten(-2)
