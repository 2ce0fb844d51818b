"""B-splines on equally spaced knots, in closed form (kernels/README.md, "Uniform knots").

    N_p(u) = sum_m (-1)^m C(p+1, m) r_m^p / p! * a_m^p,   r_m = (p+1)/2 - m,   a_m = clamp(1 - |u| / r_m, 0, 1)
    N_j^(n)(x) = h^-n sum_i (-1)^i C(n, i) N_{k-n}(u_j - i + n/2),   u_j = (x - mid)/h - (j - (G+k-1)/2)

u_j is the distance to the centre of basis j in grid steps, so every term is taken from the nearer end of
the support and nothing cancels. Written with clamps, the add and the clamp are one instruction on NVIDIA GPUs.
All bases share the factor h^-n and N_p's largest coefficient: `value` leaves them out, and the others' p-th
roots go into the clamped terms.
"""

import triton
import triton.language as tl

from . import tables


@triton.jit
def start(x, i, mask, grid_ptr, j0, G: tl.constexpr, DEGREE: tl.constexpr):
    """State of the sweep from basis j0: (-, x - mid, 1/h, grid steps from mid to the centre of basis j0).

    x: a tile; i, mask: input indices, broadcastable against x; grid_ptr: [I, G + 2k + 1], of which only
    the ends of the grid proper, t_k and t_{G+k}, are read.
    """
    row = i.to(tl.int64) * (G + 2 * DEGREE + 1)
    lo = tl.load(grid_ptr + row + DEGREE, mask=mask, other=0.0).to(x.dtype)
    hi = tl.load(grid_ptr + row + (DEGREE + G), mask=mask, other=1.0).to(x.dtype)
    return x, x - 0.5 * (lo + hi), G / (hi - lo), j0 - (G + DEGREE - 1) * 0.5


@triton.jit
def advance(state, STEP: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """State with the basis STEP after the sweep's start in front: a difference of splines of lower degree.

    Neighbouring bases share these, and the compiler sees it. Each distance is one fused multiply-add from x,
    so fine grids lose nothing.
    """
    WEIGHTS: tl.constexpr = tables.difference(DERIV)
    f = state[1]
    for i in tl.static_range(DERIV + 1):
        u = state[1] * state[2] - (state[3] + (STEP + i - DERIV * 0.5))
        spline = _spline(u, DEGREE - DERIV)
        f = spline if i == 0 else f + WEIGHTS[i] * spline
    return f, state[1], state[2], state[3]


@triton.jit
def input_factor(i, mask, grid_ptr, dtype: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """h^-n of the inputs i."""
    row = i.to(tl.int64) * (G + 2 * DEGREE + 1)
    lo = tl.load(grid_ptr + row + DEGREE, mask=mask, other=0.0).to(dtype)
    hi = tl.load(grid_ptr + row + (DEGREE + G), mask=mask, other=1.0).to(dtype)
    inv_h = G / (hi - lo)
    factor = inv_h
    for _ in tl.static_range(DERIV - 1):
        factor = factor * inv_h
    return factor


@triton.jit
def _spline(u, DEGREE: tl.constexpr):
    """The B-spline of unit step centred at u = 0 over its largest coefficient; the shape of u."""
    if DEGREE == 0:  # right-continuous
        return tl.where((u >= -0.5) & (u < 0.5), 1.0, 0.0).to(u.dtype)
    HEIGHTS: tl.constexpr = tables.heights(DEGREE)
    SLOPES: tl.constexpr = tables.slopes(DEGREE)
    f = u
    for m in tl.static_range(DEGREE // 2 + 1):
        a = tl.clamp(HEIGHTS[m] - tl.abs(u) * SLOPES[m], 0.0, 1.0)
        power = a
        for _ in tl.static_range(DEGREE - 1):
            power = power * a
        f = power if m == 0 else (f - power if m % 2 == 1 else f + power)
    return f
