"""B-splines on arbitrary knots, by Cox-de Boor (kernels/README.md, "General knots").

    N_{m,0} = [t_m <= x < t_{m+1}]
    N_{m,d} = (x - t_m) r_{m+d,d} N_{m,d-1} + (t_{m+d+1} - x) r_{m+d+1,d} N_{m+1,d-1}
    derivatives: the last n levels are  d * (r_{m+d,d} N_{m,d-1} - r_{m+d+1,d} N_{m+1,d-1})
    r_{m,d} = 1 / (t_m - t_{m-d}),  0 where the two knots coincide (0/0 := 0)

The sweep over the bases goes from left to right and keeps one tile a level, so that each basis costs k
combinations rather than k(k+1)/2. Knots and reciprocals come from a table made once per launch.
"""

import triton
import triton.language as tl


@triton.jit
def table_kernel(
    grid_ptr,  # [I, M] knots of every input, M = G + 2k + 1
    table_ptr,  # [k + 1, M, I]: row 0 the knots, row d the reciprocals r_{., d}
    I,
    M,
    DEGREE: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """table[0, m, i] = t_m,  table[d, m, i] = r_{m,d}. One program: one knot of BLOCK_I inputs."""
    m = tl.program_id(0)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    mask = i < I
    row = i.to(tl.int64) * M
    t = tl.load(grid_ptr + row + m, mask=mask, other=0.0).to(table_ptr.dtype.element_ty)
    level = tl.cast(M, tl.int64) * I
    out = table_ptr + tl.cast(m, tl.int64) * I + i
    tl.store(out, t, mask=mask)
    for d in tl.static_range(1, DEGREE + 1):
        left = tl.load(grid_ptr + row + tl.maximum(m - d, 0), mask=mask, other=0.0).to(t.dtype)
        width = t - left  # of no meaning for m < d, and never read
        tl.store(out + d * level, tl.where(width > 0.0, 1.0 / tl.where(width > 0.0, width, 1.0), 0.0), mask=mask)


@triton.jit
def _combine(x, i, mask, table_ptr, I, m, below, current, D: tl.constexpr, KNOTS: tl.constexpr, DERIVE: tl.constexpr):
    """N_{m-D, D} from below = N_{m-D, D-1} and current = N_{m-D+1, D-1}, at the sweep's interval m."""
    r = table_ptr + D * tl.cast(KNOTS, tl.int64) * I + m * I + i
    left = tl.load(r, mask=mask, other=0.0)
    right = tl.load(r + I, mask=mask, other=0.0)
    if DERIVE:
        return (below * left - current * right) * D
    near = tl.load(table_ptr + (m - D) * I + i, mask=mask, other=0.0)
    far = tl.load(table_ptr + (m + 1) * I + i, mask=mask, other=0.0)
    return (x - near) * left * below + (far - x) * right * current


@triton.jit
def _advance(x, i, mask, table_ptr, I, m, levels, READY: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """Move to the interval m: (N_{m,0}, N_{m-1,1}, .., N_{m-READY,READY}), READY <= DEGREE levels known."""
    KNOTS: tl.constexpr = G + 2 * DEGREE + 1
    t0 = tl.load(table_ptr + m * I + i, mask=mask, other=0.0)
    t1 = tl.load(table_ptr + (m + 1) * I + i, mask=mask, other=0.0)
    current = tl.where((x >= t0) & (x < t1), 1.0, 0.0).to(x.dtype)
    new = (current,)
    for d in tl.static_range(1, READY + 1):
        current = _combine(x, i, mask, table_ptr, I, m, levels[d - 1], current, d, KNOTS, d > DEGREE - DERIV)
        new = new + (current,)
    return new


@triton.jit
def start(x, i, mask, table_ptr, I, j0, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State of the sweep over bases from j0: the levels N_{j0+k-1, 0} .. N_{j0, k-1}."""
    levels = ()
    for m in tl.static_range(DEGREE):
        levels = _advance(x, i, mask, table_ptr, I, j0 + m, levels, m, G, DEGREE, DERIV)
    return levels


@triton.jit
def following(x, i, mask, table_ptr, I, j, levels, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """Levels after the interval j + k; the last one is the basis j."""
    return _advance(x, i, mask, table_ptr, I, j + DEGREE, levels, DEGREE, G, DEGREE, DERIV)
