"""A basis is a sweep: `start` at basis j0, then `following` gives f_j^(n)(x) for j = j0, j0 + 1, ...

The two functions here are the only place that knows which families exist. A tile x may be [B, I] or
[I, B]: the input indices i broadcast against it.
"""

import triton
import triton.language as tl

from . import activation, general, uniform


@triton.jit
def start(x, i, mask, knots_ptr, I, j0, UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State before basis j0. knots_ptr: the grid [I, M] when UNIFORM, else general.table_kernel's table."""
    if UNIFORM:
        return uniform.start(x, i, mask, knots_ptr, j0, G, DEGREE)
    else:
        return general.start(x, i, mask, knots_ptr, I, j0, G, DEGREE, DERIV)


@triton.jit
def following(state, x, i, mask, knots_ptr, I, j0, STEP: tl.constexpr, UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """(f_j^(n)(x), state after j) for j = j0 + STEP."""
    if UNIFORM:
        return uniform.following(state, STEP, DEGREE, DERIV), state
    else:
        levels = general.following(x, i, mask, knots_ptr, I, j0 + STEP, state, G, DEGREE, DERIV)
        return levels[DEGREE], levels


@triton.jit
def residual(x, ACTIVATION: tl.constexpr, DERIV: tl.constexpr):
    """The residual activation's DERIV-th derivative."""
    return activation.value(x, ACTIVATION, DERIV)
