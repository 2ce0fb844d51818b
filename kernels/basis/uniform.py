"""B-splines on equally spaced knots, in closed form (kernels/README.md, "Uniform knots").

    N_j^(n)(x) = h^-n sigma sum_m (-1)^m C(k+1, m) r_m^p / p! * a_m^p,    p = k - n,   r_m =
    (k+1)/2 - m a_m = clamp(1 - |u| / r_m, 0, 1),   u = (x - mid)/h - (j - (G+k-1)/2),   sigma =
    (-sign u)^n

u is the distance to the centre of basis j in grid steps, so every term is taken from the nearer
end of the support and nothing cancels. Written with clamps, the add and the clamp are one
instruction on NVIDIA GPUs. All bases share h^-n and the largest coefficient: `advance` leaves them
out, and the p-th roots of the others go into the clamped terms.
"""

import triton
import triton.language as tl

from . import tables


@triton.jit
def start(x, i, mask, grid_ptr, G: tl.constexpr, DEGREE: tl.constexpr):
    """State of a sweep from any basis: (-, x - mid, 1/h).

    x: a tile; i, mask: input indices, broadcastable against x; grid_ptr: [I, G + 2k + 1].
    """
    lo, hi = _ends(i, mask, grid_ptr, x.dtype, G, DEGREE)
    return x, x - 0.5 * (lo + hi), G / (hi - lo)


@triton.jit
def split(x, i, mask, grid_ptr, G: tl.constexpr, DEGREE: tl.constexpr):
    """(distance, error, 1/h, step, step_error): x - mid = distance + error, h = step + step_error.

    For grids of so many steps that a rounded x - mid or h would cost digits. step has half the bits
    of its dtype, so its multiples up to 2^11 (2^25 in float64) are exact. x comes no farther from
    the grid than its width times k + 2, where no spline lives, so all is finite.
    """
    lo, hi = _ends(i, mask, grid_ptr, x.dtype, G, DEGREE)
    width, width_error = _sum(hi, -lo)
    total, total_error = _sum(lo, hi)
    x = tl.minimum(tl.maximum(x, lo - (DEGREE + 2) * width), hi + (DEGREE + 2) * width)
    distance, error = _sum(x, -0.5 * total)
    step = _leading_half(width / G)
    step_error = (width - G * step + width_error) / G
    return distance, error - 0.5 * total_error, G / width, step, step_error


@triton.jit
def _sum(a, b):
    """(a + b rounded, the rounding error), Knuth, *The Art of Computer Programming*, 4.2.2."""
    total = a + b
    right = total - a
    return total, (a - (total - right)) + (b - right)


@triton.jit
def _leading_half(t):
    """t without the lower half of its digits."""
    if t.dtype == tl.float64:
        return (t.to(tl.int64, bitcast=True) & -0x4000000).to(tl.float64, bitcast=True)
    else:
        return (t.to(tl.int32, bitcast=True) & -0x1000).to(tl.float32, bitcast=True)


@triton.jit
def middle(i, mask, grid_ptr, dtype: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr):
    """mid of the inputs i."""
    lo, hi = _ends(i, mask, grid_ptr, dtype, G, DEGREE)
    return 0.5 * (lo + hi)


@triton.jit
def _ends(i, mask, grid_ptr, dtype: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr):
    """The ends of the grid proper, t_k and t_{G+k}: nothing else is read."""
    row = grid_ptr + i.to(tl.int64) * (G + 2 * DEGREE + 1)
    lo = tl.load(row + DEGREE, mask=mask, other=0.0).to(dtype)
    return lo, tl.load(row + (DEGREE + G), mask=mask, other=1.0).to(dtype)


@triton.jit
def advance(state, j, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State with basis j in front. One fused multiply-add from x: fine grids lose nothing."""
    if DERIV == DEGREE or (DERIV > 0 and DEGREE > 5):
        f = _differences(state[1], state[2], j - (G + DEGREE - 1) * 0.5, DEGREE, DERIV)
    else:
        u = tl.fma(state[1], state[2], tl.cast((G + DEGREE - 1) * 0.5 - j, state[1].dtype))
        f = _spline(u, DEGREE, DERIV)
    return f, state[1], state[2]


@triton.jit
def input_factor(
    i,
    mask,
    grid_ptr,
    dtype: tl.constexpr,
    G: tl.constexpr,
    DEGREE: tl.constexpr,
    DERIV: tl.constexpr,
):
    """h^-n of the inputs i."""
    lo, hi = _ends(i, mask, grid_ptr, dtype, G, DEGREE)
    inv_h = G / (hi - lo)
    factor = inv_h
    for _ in tl.static_range(DERIV - 1):
        factor = factor * inv_h
    return factor


@triton.jit
def _spline(u, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """The DERIV-th derivative, continuous, of the B-spline of unit step centred at u = 0 over its
    largest coefficient."""
    HEIGHTS: tl.constexpr = tables.heights(DEGREE, DERIV)
    SLOPES: tl.constexpr = tables.slopes(DEGREE, DERIV)
    f = u
    for m in tl.static_range(DEGREE // 2 + 1):
        a = tl.clamp(HEIGHTS[m] - tl.abs(u) * SLOPES[m], 0.0, 1.0)
        power = a
        for _ in tl.static_range(DEGREE - DERIV - 1):
            power = power * a
        f = power if m == 0 else (f - power if m % 2 == 1 else f + power)
    return _against(f, u) if DERIV % 2 == 1 else f


@triton.jit
def _against(f, u):
    """-sign(u) f, in the sign bit."""
    if f.dtype == tl.float64:
        bits = f.to(tl.int64, bitcast=True) ^ ~u.to(tl.int64, bitcast=True) & -0x8000000000000000
        return bits.to(tl.float64, bitcast=True)
    else:
        bits = f.to(tl.int32, bitcast=True) ^ ~u.to(tl.int32, bitcast=True) & -0x80000000
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def _differences(x, inv_h, centre, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """The same as the DERIV-fold difference of splines of degree k - n.

    For n = k these are steps, right-continuous; for k > 5 the closed form of a derivative cancels.
    """
    P: tl.constexpr = DEGREE - DERIV
    WEIGHTS: tl.constexpr = tables.difference(DEGREE, DERIV)
    # Rounded once, as a fused multiply-add with zero: fused with the subtraction, the product would
    # be rounded anew for each step, and an x at a knot could be on two steps, or on none.
    place = tl.fma(x, inv_h, tl.zeros_like(x))
    f = x
    for i in tl.static_range(DERIV + 1):
        u = place - (centre + (i - DERIV * 0.5))
        if P == 0:
            term = tl.where((u >= -0.5) & (u < 0.5), WEIGHTS[i], 0.0).to(x.dtype)
        else:
            term = _spline(u, P, 0) * WEIGHTS[i]
        f = term if i == 0 else f + term
    return f
