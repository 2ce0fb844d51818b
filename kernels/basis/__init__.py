"""A basis is a sweep: `start` prepares a tile of x for the bases from j0 on, `value` gives them one by one.

The functions here are the only place that knows which families exist. A tile x may be [B, I] or
[I, B]: the input indices i broadcast against it.
"""

import triton
import triton.language as tl

from . import activation, general, uniform


@triton.jit
def start(
    x, i, mask, grid_ptr, j0,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
):  # fmt: skip
    """State of the sweep from basis j0. grid_ptr: [I, G + 2k + 1], the knots of every input."""
    if UNIFORM:
        return uniform.start(x, i, mask, grid_ptr, j0, G, DEGREE)
    else:
        return general.start(x, i, mask, grid_ptr, j0, G, DEGREE, DERIV)


@triton.jit
def value(state, STEP: tl.constexpr, UNIFORM: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """f_j^(n)(x) for j = j0 + STEP."""
    if UNIFORM:
        return uniform.value(state, STEP, DEGREE, DERIV)
    else:
        return general.value(state, STEP, DEGREE)


@triton.jit
def residual(x, ACTIVATION: tl.constexpr, DERIV: tl.constexpr):
    """The residual activation's DERIV-th derivative."""
    return activation.value(x, ACTIVATION, DERIV)
