"""The k + 1 B-splines that are not zero at x, or their derivatives (kernels/README.md, "Local
support").

The cell q is the half-open interval t_q <= x < t_{q+1}; the splines that live there are the
q - k .. q. On equally spaced knots they are k + 1 polynomials in v, the distance from the middle of
the cell in grid steps; those of q - k + r and q - r mirror each other, so a pair shares its even
and its odd part. On general knots the cell is found by bisection, and de Boor's recursion runs
over the cell's neighbours (*A Practical Guide to Splines*, chapter X, BSPLVB): it divides by
intervals that contain the cell, so nothing is zero however often a knot is repeated.

Outside of the extended grid, and for NaN, q is a neighbour of the outermost cells, where no spline
lives: all that is promised is finite values.
"""

import triton
import triton.language as tl

from . import tables, uniform

# Cells a position may be off at either end.
MARGIN = tl.constexpr(2)


@triton.jit
def evaluate(
    x, i, mask, grid_ptr,
    UNIFORM: tl.constexpr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr,
):  # fmt: skip
    """(q, (f_{q-k}, .., f_q)) for a tile x of input i: true values, with nothing left out.

    -MARGIN <= q < G + 2k + MARGIN. grid_ptr: [I, G + 2k + 1].
    """
    if UNIFORM:
        return _uniform(x, i, mask, grid_ptr, G, DEGREE, DERIV)
    else:
        return _general(x, i, grid_ptr, G, DEGREE, DERIV)


@triton.jit
def _uniform(
    x, i, mask, grid_ptr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr
):  # fmt: skip
    MIDDLE: tl.constexpr = G * 0.5 + DEGREE  # steps from the first knot
    distance, error, inv_h, step, step_error = uniform.split(x, i, mask, grid_ptr, G, DEGREE)
    # In bounds for infinities, too; the minimum of NaN and a number is the number.
    place = tl.fma(distance, inv_h, tl.full(x.shape, MIDDLE, x.dtype))
    q = tl.floor(tl.minimum(tl.maximum(place, -1.0), G + 2.0 * DEGREE))
    # From the middle of the cell: as Cody and Waite reduce the arguments of a sine, the large part
    # is subtracted without rounding.
    n = q - (MIDDLE - 0.5)
    v = (distance - n * step + (error - n * step_error)) * inv_h
    # `place` was rounded at the size of the grid. Where a slope jumps, v decides about the cell;
    # where a value does, the distance from its middle, in the terms of the dense kernel's steps.
    if DERIV == DEGREE:
        u = tl.fma(distance, inv_h, tl.zeros_like(x)) - n
        q += tl.where(u >= 0.5, 1.0, tl.where(u < -0.5, -1.0, 0.0)).to(x.dtype)
    elif DERIV == DEGREE - 1:
        shift = tl.where(v >= 0.5, 1.0, tl.where(v < -0.5, -1.0, 0.0)).to(x.dtype)
        q, v = q + shift, v - shift
    v = tl.minimum(
        tl.maximum(v, -0.5), 0.5
    )  # for sm_90 no float64 `clamp` between -a and a compiles
    factor = inv_h
    for _ in tl.static_range(DERIV - 1):
        factor = factor * inv_h
    values = ()
    for r in tl.static_range(DEGREE + 1):
        f = _piece(v, tables.piece(DEGREE, DERIV, r), DERIV, r * 2 > DEGREE)
        values = values + (f * factor if DERIV > 0 else f,)
    return q.to(tl.int32), values


@triton.jit
def _piece(v, POLY: tl.constexpr, DERIV: tl.constexpr, MIRRORED: tl.constexpr):
    """sum_n POLY[n] v^n by its even and odd part, signed so that mirrored pieces share theirs."""
    if len(POLY) == 1:
        return tl.full(v.shape, POLY[0], v.dtype)
    SIGN: tl.constexpr = -1.0 if MIRRORED and DERIV % 2 == 1 else 1.0
    even = _half(v, POLY, SIGN, 0)
    odd = v * _half(v, POLY, -SIGN if MIRRORED else SIGN, 1)
    if not MIRRORED:
        return even + odd
    return (odd - even) if DERIV % 2 == 1 else (even - odd)


@triton.jit
def _half(v, POLY: tl.constexpr, SIGN: tl.constexpr, FIRST: tl.constexpr):
    """sum_n SIGN POLY[FIRST + 2n] v^2n."""
    COUNT: tl.constexpr = (len(POLY) - FIRST + 1) // 2
    square = v * v
    f = tl.full(v.shape, SIGN * POLY[FIRST + 2 * COUNT - 2], v.dtype)
    for n in tl.static_range(COUNT - 1):
        f = tl.fma(f, square, tl.full(v.shape, SIGN * POLY[FIRST + 2 * (COUNT - 2 - n)], v.dtype))
    return f


@triton.jit
def _general(x, i, grid_ptr, G: tl.constexpr, DEGREE: tl.constexpr, DERIV: tl.constexpr):
    KNOTS: tl.constexpr = G + 2 * DEGREE + 1
    row = grid_ptr + i.to(tl.int64) * KNOTS
    found = tl.zeros(x.shape, tl.int32)  # knots not above x
    for n in tl.static_range(tables.bits(KNOTS)):
        further = found + (1 << (tables.bits(KNOTS) - 1 - n))
        knot = tl.load(row + tl.minimum(further, KNOTS) - 1)
        found = tl.where((further <= KNOTS) & (knot <= x), further, found)
    q = found - 1
    inside = (q >= 0) & (q < KNOTS - 1)
    near = tl.minimum(tl.maximum(q, 0), KNOTS - 2)
    left, right = (), ()  # t_{q-n} and t_{q+1+n}: those that do not exist, no living spline needs
    for n in tl.static_range(DEGREE):
        left = left + (tl.load(row + tl.maximum(near - n, 0)),)
        right = right + (tl.load(row + tl.minimum(near + 1 + n, KNOTS - 1)),)
    values = (tl.where(inside, tables.falling(DEGREE, DERIV), 0.0).to(x.dtype),)
    for d in tl.static_range(1, DEGREE + 1):
        values = _raise(values, x, left, right, inside, d, d > DEGREE - DERIV)
    return q, values


@triton.jit
def _raise(values, x, left, right, inside, D: tl.constexpr, DIFFERENTIATE: tl.constexpr):
    """The splines of degree D that live in the cell from those of degree D - 1."""
    raised = ()
    carried = values[0]
    for r in tl.static_range(D):
        width = right[r] - left[D - 1 - r]
        part = values[r] / tl.where(inside, width, 1.0).to(x.dtype)
        if DIFFERENTIATE:
            down, up = -part, part
        else:
            down = tl.where(inside, right[r] - x, 0.0).to(x.dtype) * part
            up = tl.where(inside, x - left[D - 1 - r], 0.0).to(x.dtype) * part
        raised = raised + (down if r == 0 else carried + down,)
        carried = up
    return raised + (carried,)
