"""B-splines on arbitrary knots, by Cox-de Boor within one cell (kernels/README.md, "General knots").

Of all bases only k + 1 differ from zero at x: those of the cell m with t_m <= x < t_{m+1}, numbers m-k..m. `start`
finds the cell by bisection and makes these values once for a tile of x; `value` picks for each basis j
the one it has there, or zero. No denominator can vanish inside a cell, so repeated knots need no care.
"""

import triton
import triton.language as tl

from . import tables


@triton.jit
def _knot(row, m, mask, TYPE: tl.constexpr, LAST: tl.constexpr):
    """t_m of every element's input; the index is kept inside the array, where the values are not used."""
    return tl.load(row + tl.minimum(tl.maximum(m, 0), LAST), mask=mask, other=0.0).to(TYPE)


@triton.jit
def _cell(x, row, mask, KNOTS: tl.constexpr):
    """The largest m with t_m <= x (-1 where there is none, or x is NaN), by bisection."""
    m = tl.full(x.shape, -1, tl.int32)
    for bit in tl.static_range(tables.bits(KNOTS)):
        probe = m + (1 << (tables.bits(KNOTS) - 1 - bit))
        t = _knot(row, probe, mask, x.dtype, KNOTS - 1)
        m = tl.where((probe < KNOTS) & (x >= t), probe, m)
    return m


@triton.jit
def start(x, i, mask, grid_ptr, j0, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State of the sweep from basis j0: (m - j0, N_{m-k}, .., N_m), the values at x of the cell's bases.

    The last DERIV levels of the recursion are those of the derivative:
    N^(r)_{j,d} = d (N^(r-1)_{j,d-1} / (t_{j+d} - t_j) - N^(r-1)_{j+1,d-1} / (t_{j+d+1} - t_{j+1})).
    """
    KNOTS: tl.constexpr = G + 2 * DEGREE + 1
    row = grid_ptr + i.to(tl.int64) * KNOTS
    mask = tl.broadcast_to(mask, x.shape)
    m = _cell(x, row, mask, KNOTS)
    inside = (m >= 0) & (m < KNOTS - 1)
    knots = ()
    for n in tl.static_range(2 * DEGREE):  # t_{m-k+1} .. t_{m+k}
        knots = knots + (_knot(row, m + (n - DEGREE + 1), mask, x.dtype, KNOTS - 1),)
    values = (tl.where(inside, 1.0, 0.0).to(x.dtype),)
    for d in tl.static_range(1, DEGREE + 1):
        carried = tl.zeros_like(x)
        raised = ()
        for r in tl.static_range(d):
            left, right = knots[DEGREE + r - d], knots[DEGREE + r]
            width = right - left
            part = values[r] / tl.where(width > 0.0, width, 1.0)
            if d > DEGREE - DERIV:
                raised = raised + (carried - d * part,)
                carried = d * part
            else:
                raised = raised + (carried + (right - x) * part,)
                carried = (x - left) * part
        values = raised + (carried,)
    return (m - j0,) + values


@triton.jit
def value(state, STEP: tl.constexpr, DEGREE: tl.constexpr):
    """The basis STEP after the sweep's start: the value of number k - distance in its cell, else zero."""
    distance = state[0] - STEP
    f = tl.where(distance == 0, state[DEGREE + 1], 0.0)
    for d in tl.static_range(1, DEGREE + 1):
        f = tl.where(distance == d, state[DEGREE + 1 - d], f)
    return f
