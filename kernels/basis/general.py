"""B-splines on arbitrary knots: Cox-de Boor's recursion, one knot after the other
(kernels/README.md, "General knots").

The sweep goes through the knots t_q from left to right. At each one, with e = t_q - x and r_d =
1/(t_q - t_{q-d}), every degree d takes one step,

    N_{j,d} = (1 - w_old) N_{j,d-1} + w N_{j+1,d-1},    w = e r_d,    j = q - 1 - d,

of which w_old and N_{j,d-1} are those of the step before: one tile a degree is carried. Degree 1
is the difference of two ramps clamp(e r_1, 0, 1), which needs no comparison and is
right-continuous at a repeated knot. The r_d do not depend on x: `make_table` lays them out once
for a launch.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def table_kernel(grid_ptr, table_ptr, I, KNOTS, DEGREE: tl.constexpr, BLOCK: tl.constexpr):
    """Row q of the table: t_q, 1/(t_q - t_{q-1}), .., 1/(t_q - t_{q-k}), each for all inputs;
    nobody reads q < d.

    Where knots coincide the recursion's 0/0 is 0; r_1 is so large that the ramp is a jump, and so
    small that its product with the distance to the farthest x (`start` clamps it) is finite.
    """
    LARGEST: tl.constexpr = 1.0e20
    q = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = i < I
    row = grid_ptr + i.to(tl.int64) * KNOTS
    right = tl.load(row + q, mask=mask, other=0.0)
    out = table_ptr + q.to(tl.int64) * (DEGREE + 1) * I + i
    tl.store(out, right, mask=mask)
    for d in tl.static_range(1, DEGREE + 1):
        left = tl.load(row + tl.maximum(q - d, 0), mask=mask, other=0.0)
        width = right - left
        inverse = tl.minimum(1.0 / tl.where(width > 0.0, width, 1.0), LARGEST)
        inverse = tl.where(width > 0.0, inverse, LARGEST if d == 1 else 0.0)
        tl.store(out + d * I, inverse, mask=mask)


def make_table(grid, basis, dtype, options):
    """[G + 2k + 1, k + 1, I] from the grid [I, G + 2k + 1]: what the sweep reads, inputs side by
    side."""
    inputs, knots = grid.shape
    table = torch.empty(knots, basis.degree + 1, inputs, dtype=dtype, device=grid.device)
    table_kernel[(knots, triton.cdiv(inputs, 128))](
        grid.to(dtype).contiguous(), table, inputs, knots,
        DEGREE=basis.degree, BLOCK=128, **options,
    )  # fmt: skip
    return table


@triton.jit
def start(x, i, mask, table_ptr, j0, I, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State of the sweep just before basis j0: (-, x, the carried tile of every degree).

    x: a tile; i, mask: input indices, broadcastable against x. Far from all knots x is moved
    closer (and NaN, which the kernels carry past the basis, becomes a number): the recursion must
    not meet infinity.
    """
    # Not tl.clamp: between opposite bounds it becomes an instruction that float64 lacks.
    state = (x, tl.minimum(tl.maximum(x, -1.0e18), 1.0e18), tl.zeros_like(x))
    ABOVE: tl.constexpr = (
        0 if DERIV == DEGREE else 1
    )  # the degree of the ramps: the recursion starts there
    for _ in tl.static_range(DEGREE - ABOVE):
        state = state + (tl.zeros_like(x),)
    for step in tl.static_range(ABOVE, DEGREE + 1):
        state = _knot(state, i, mask, table_ptr, j0 + step, I, DEGREE, DERIV)
    return state


@triton.jit
def advance(state, j, i, mask, table_ptr, I, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State with basis j in front, without the factor k!/(k-n)!."""
    return _knot(state, i, mask, table_ptr, j + (DEGREE + 1), I, DEGREE, DERIV)


@triton.jit
def _knot(state, i, mask, table_ptr, q, I, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """The sweep past knot q. The last DERIV degrees are those of the derivative:
    N'_{j,d} = d (N_{j,d-1} / (t_{j+d} - t_j) - N_{j+1,d-1} / (t_{j+d+1} - t_{j+1}))."""
    x = state[1]
    row = table_ptr + tl.cast(q, tl.int64) * ((DEGREE + 1) * I) + i
    e = tl.load(row, mask=mask, other=0.0) - x
    if DERIV == DEGREE:  # degree 0: 1 from knot to knot
        ramp = tl.where(e > 0.0, 1.0, 0.0).to(x.dtype)
    else:
        ramp = tl.clamp(e * tl.load(row + I, mask=mask, other=0.0), 0.0, 1.0)
    f = ramp - state[2]
    carried = (ramp,)
    ABOVE: tl.constexpr = 0 if DERIV == DEGREE else 1
    for d in tl.static_range(ABOVE + 1, DEGREE + 1):
        r = tl.load(row + d * I, mask=mask, other=0.0)
        if d > DEGREE - DERIV:
            part = f * r
            f = state[2 + d - ABOVE] - part
            carried = carried + (part,)
        else:
            w = e * r
            part = f - w * f
            f = w * f + state[2 + d - ABOVE]
            carried = carried + (part,)
    return (f, x) + carried
