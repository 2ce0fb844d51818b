"""A basis is a sweep: `start` prepares a tile of x for the bases from j0 on, `advance` gives them
one by one.

The functions here are the only place that knows which families exist. A tile x may be [B, I] or
[I, B]: the input indices i broadcast against it. A state is a tuple with the latest basis in
front. What all bases share is left out of them: the true f_j^(n) is `constant` times
`input_factor` times the sweep's value.
"""

import triton
import triton.language as tl

from . import activation, general, tables, uniform


@triton.jit
def start(
    x, i, mask, grid_ptr, j0, I,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
):  # fmt: skip
    """State of the sweep just before basis j0. grid_ptr: the grid, or general.make_table's table
    of it."""
    if UNIFORM:
        return uniform.start(x, i, mask, grid_ptr, G, DEGREE)
    else:
        return general.start(x, i, mask, grid_ptr, j0, I, DEGREE, DERIV)


@triton.jit
def advance(
    state, j, i, mask, grid_ptr, I,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
):  # fmt: skip
    """The state whose front is basis j; to be called for j0, j0 + 1, .. in order."""
    if UNIFORM:
        return uniform.advance(state, j, G, DEGREE, DERIV)
    else:
        return general.advance(state, j, i, mask, grid_ptr, I, DEGREE, DERIV)


@triton.jit
def argument(
    state, x, i, mask, grid_ptr,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
):  # fmt: skip
    """(tile, origin), whose sum is x: of what the state holds, where x itself would take registers.

    Where it cannot be had back, on general knots far from all of them, only the residual itself
    needs x: its derivatives do not change there any more.
    """
    if UNIFORM:
        return state[1], uniform.middle(i, mask, grid_ptr, state[1].dtype, G, DEGREE)
    else:
        return (x if DERIV == 0 else state[1]), tl.zeros(i.shape, x.dtype)


@triton.jit
def laid_out_like(tile, state, always):
    """The state, spread over the threads as the tile is.

    `always` is true, which Triton does not see and the compiler after it does: no instruction is
    left of the choice, but it makes Triton evaluate the bases where their factor is, instead of
    moving every value through shared memory.
    """
    return (state[0], tl.where(always, state[1], tile)) + state[2:]


@triton.constexpr_function
def constant(UNIFORM, DEGREE, DERIV):
    """The number that all bases of all inputs share."""
    if DERIV > DEGREE:
        return 1.0
    return tables.peak(DEGREE, DERIV) if UNIFORM else tables.falling(DEGREE, DERIV)


@triton.jit
def input_factor(
    i, mask, grid_ptr, dtype: tl.constexpr,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
):  # fmt: skip
    """The factor that all bases of an input share, in the shape of i; 1 where there is none."""
    if UNIFORM and DERIV > 0:
        return uniform.input_factor(i, mask, grid_ptr, dtype, G, DEGREE, DERIV)
    else:
        return tl.full(i.shape, 1.0, dtype)


@triton.jit
def residual(x, ACTIVATION: tl.constexpr, DERIV: tl.constexpr):
    """The residual activation's DERIV-th derivative."""
    return activation.value(x, ACTIVATION, DERIV)
