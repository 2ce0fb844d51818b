"""B-splines on equally spaced knots, in closed form (kernels/README.md, "Uniform knots").

    N_j^(n)(x) = h^-n * sigma * sum_m (-1)^m C(k+1, m) r_m^p / p! * a_m^p,      p = k - n
    r_m = (k+1)/2 - m,   a_m = clamp(1 - |u| / r_m, 0, 1),   u = (x - mid)/h - (j - (G+k-1)/2)

u is the distance to the centre of basis j in grid steps, so every term is taken from the nearer end of
the support and nothing cancels. Written with clamps, the add and the clamp are one instruction on NVIDIA GPUs.
"""

import triton
import triton.language as tl

from . import tables


@triton.jit
def start(x, i, mask, grid_ptr, j0, G: tl.constexpr, DEGREE: tl.constexpr):
    """State of the sweep from basis j0: (x - mid, 1/h, grid steps from mid to the centre of basis j0).

    x: a tile; i, mask: input indices, broadcastable against x; grid_ptr: [I, G + 2k + 1], of which only
    the ends of the grid proper, t_k and t_{G+k}, are read.
    """
    row = i.to(tl.int64) * (G + 2 * DEGREE + 1)
    lo = tl.load(grid_ptr + row + DEGREE, mask=mask, other=0.0).to(x.dtype)
    hi = tl.load(grid_ptr + row + (DEGREE + G), mask=mask, other=1.0).to(x.dtype)
    return x - 0.5 * (lo + hi), G / (hi - lo), j0 - (G + DEGREE - 1) * 0.5


@triton.jit
def value(state, STEP: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """The basis STEP after the sweep's start. One fused multiply-add: exact for fine grids, too."""
    return centred(state[0] * state[1] - (state[2] + STEP), state[1], DEGREE, DERIV)


@triton.jit
def centred(u, inv_h, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    """The DERIV-th derivative of the B-spline of degree DEGREE centred at u = 0; the shape of u."""
    P: tl.constexpr = DEGREE - DERIV
    COEFFS: tl.constexpr = tables.uniform_coefficients(DEGREE, DERIV)
    INVERSE_RADII: tl.constexpr = tables.inverse_radii(DEGREE)
    f = u * 0.0
    if P == 0:  # piecewise constant, right-continuous at the knots
        for m in tl.static_range(DEGREE // 2 + 1):
            r = (DEGREE + 1) * 0.5 - m
            f += tl.where((u >= -r) & (u < r), COEFFS[m], 0.0).to(u.dtype)
        if DERIV % 2 == 1:
            f = tl.where(u < 0.0, f, -f)
    else:
        for m in tl.static_range(DEGREE // 2 + 1):
            a = tl.clamp(1.0 - tl.abs(u) * INVERSE_RADII[m], 0.0, 1.0)
            power = a
            for _ in tl.static_range(P - 1):
                power = power * a
            f = power * COEFFS[m] if m == 0 else f + power * COEFFS[m]
        if DERIV % 2 == 1:
            f = tl.where(u < 0.0, f, -f)
    for _ in tl.static_range(DERIV):
        f = f * inv_h
    return f
