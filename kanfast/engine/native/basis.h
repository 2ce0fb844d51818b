/* The k + 1 splines that are not zero at x, and the residual function, for a block of rows of one input.
 *
 * In cell m, t_m <= x < t_m+1 of the extended grid, they are the splines m - k .. m. */
#pragma once

#include "knots.h"

/* Values of a block: values[r * ROWS + b] is spline cells[b] - K + r at row b for r <= K, and r = K + 1 the residual. */
template <typename T, int K> struct Block {
    static constexpr int functions = K + 2;
    T values[functions * ROWS];
    int32_t cells[ROWS];
};

/* One row's values where it is not in any cell: 0, or NaN if x is NaN; `inside` scales the others. */
template <typename T> inline Vec<T> liveness(Vec<T> x, decltype(Vec<T>{} < Vec<T>{}) inside, T scale) {
    return inside ? all(scale) : (x != x ? x : all(T(0)));
}

/* Equal steps: with t the fraction of the cell, degree d follows from d - 1 by
 * N_r = ((t + d - r) N_{r-1} + (r + 1 - t) N_r) / d, all terms positive, and each derivative is a difference. Here without
 * the division by (K - n)! and by the step. */
template <typename T, int K> inline void local_splines(Vec<T> t, int degree, Vec<T> *n) {
    n[0] = all(T(1));
    for (int d = 1; d <= K; ++d) {
        n[d] = all(T(0));
        if (d <= degree) {
            for (int r = d; r; --r) n[r] = (t + T(d - r)) * n[r - 1] + (T(r + 1) - t) * n[r];
            n[0] = (T(1) - t) * n[0];
        } else {
            for (int r = d; r; --r) n[r] = n[r - 1] - n[r];
            n[0] = -n[0];
        }
    }
}

/* The same for the usual degree, in half the operations. The inner ones are at least 1 / 6, so nothing cancels. */
template <typename T> inline void cubics(Vec<T> t, Vec<T> *n) {
    const Vec<T> s = T(1) - t;
    n[0] = s * s * s;
    n[1] = T(4) - t * t * (T(6) - T(3) * t);
    n[2] = T(4) - s * s * (T(6) - T(3) * s);
    n[3] = t * t * t;
}

/* And its first derivative. */
template <typename T> inline void cubic_slopes(Vec<T> t, Vec<T> *n) {
    const Vec<T> s = T(1) - t;
    n[0] = -(s * s);
    n[1] = t * (T(3) * t - T(4));
    n[2] = s * (T(4) - T(3) * s);
    n[3] = t * t;
}

/* Where x lies on equal steps: the cell, how far into it, and whether there is one. */
template <typename T> struct Place {
    Vec<T> cell, t;
    decltype(Vec<T>{} < Vec<T>{}) inside;
};

template <typename T> inline Vec<T> whole(Vec<T> position) {
    return __builtin_convertvector(__builtin_convertvector(position, typename Simd<T>::index), Vec<T>);
}

/* For splines without jumps, to a rounding of the place in the cell, however many cells there are. Products are fused with what
 * is added to them: the first two terms of t cancel. */
template <typename T> inline Place<T> place_of(Vec<T> x, const Steps<T> &steps, T cells) {
    const Vec<T> rest = x * steps.inverse_rest + steps.origin_rest, position = x * steps.inverse + steps.origin + rest;
    auto inside = (position >= T(0)) & (position < cells);
    Vec<T> cell = whole<T>(inside ? position : all(T(0)));
    Vec<T> t = x * steps.inverse + (steps.origin - cell) + rest;
    const Vec<T> shift = t < T(0) ? all(T(-1)) : t >= T(1) ? all(T(1)) : all(T(0));  // `position` was rounded
    cell += shift;
    t -= shift;
    inside &= (cell >= T(0)) & (cell < cells);
    return {inside ? cell : all(T(0)), inside ? t : all(T(0)), inside};
}

/* For steps, whose jumps are at the knots: as plain torch rounds the position, so that x at a knot is right of it. */
template <typename T> inline Place<T> step_of(Vec<T> x, const Steps<T> &steps, T start, T cells) {
    const Vec<T> z = (x - steps.middle) / steps.step, position = z - start;
    const auto inside = (position >= T(0)) & (position < cells);
    Vec<T> cell = whole<T>(inside ? position : all(T(0)));
    // The position may have been rounded to that of the next knot. z is more exact.
    cell += (z - (start + cell) < T(0)) & (cell > T(0)) ? all(T(-1)) : all(T(0));
    return {cell, all(T(0)), inside};
}

/* The derivatives of order p.deriv and, where `slopes` is not null, of the next order, too. */
template <typename T, int K>
void uniform_splines(const Problem &p, const Steps<T> &steps, const T *x, int rows, Block<T, K> &out, Block<T, K> *slopes) {
    constexpr int L = Simd<T>::lanes;
    const T start = -(T(p.grid_size) / 2 + K), cells = T(p.grid_size + 2 * K);
    auto scale_of = [&](int64_t deriv) {
        T scale = deriv > K ? 0 : 1;
        for (int64_t d = 2; d <= K - deriv; ++d) scale /= d;
        for (int64_t n = 0; n < deriv; ++n) scale /= steps.step;
        return scale;
    };
    const T scale = scale_of(p.deriv), slope_scale = slopes ? scale_of(p.deriv + 1) : T(0);
    for (int b = 0; b < rows; b += L) {
        const Vec<T> v = load(x + b);
        const Place<T> smooth = place_of<T>(v, steps, cells);
        auto put = [&](int64_t deriv, T factor, Block<T, K> &to) {
            const Place<T> place = deriv < K ? smooth : step_of<T>(v, steps, start, cells);
            const auto cell = __builtin_convertvector(place.cell, typename Simd<T>::index);
            Vec<T> n[K + 1];
            if (K == 3 && deriv < 2)
                deriv ? cubic_slopes<T>(place.t, n) : cubics<T>(place.t, n);
            else
                local_splines<T, K>(place.t, int(K - deriv), n);
            const Vec<T> live = liveness<T>(v, place.inside, factor);
            for (int r = 0; r <= K; ++r) store(to.values + r * ROWS + b, n[r] * live);
            memcpy(to.cells + b, &cell, sizeof cell);
        };
        put(p.deriv, scale, out);
        if (slopes) put(p.deriv + 1, slope_scale, *slopes);
    }
}

template <typename T, int K>
void general_splines(const Problem &p, const T *x, int rows, int64_t i, const Cell<K> *cells, Block<T, K> &out) {
    constexpr int L = Simd<T>::lanes;
    const int knots = p.grid_size + 2 * K + 1;
    for (int b = 0; b < rows; b += L) {  // the number of knots up to x, less one
        typename Simd<T>::index count = {};
        for (int q = 0; q < knots; ++q)
            count += __builtin_convertvector(load(x + b) >= T(p.knot(i, q, knots)), typename Simd<T>::index);
        count = -count - 1;
        memcpy(out.cells + b, &count, sizeof count);
    }
    for (int b = 0; b < rows; ++b) {
        const int m = out.cells[b];
        double f[K + 1];
        if (m < 0 || m + 1 >= knots) {
            out.cells[b] = 0;
            for (int r = 0; r <= K; ++r) f[r] = x[b] != x[b] ? double(x[b]) : 0;
        } else {
            const Cell<K> &cell = cells[m];
            const double u = (double(x[b]) - cell.middle) * cell.inverse;
            for (int r = 0; r <= K; ++r) f[r] = cell.powers[K * (K + 1) + r];
            for (int q = K - 1; q >= 0; --q)
                for (int r = 0; r <= K; ++r) f[r] = f[r] * u + cell.powers[q * (K + 1) + r];
        }
        for (int r = 0; r <= K; ++r) out.values[r * ROWS + b] = T(f[r]);
    }
}

/* The derivative of order n of SiLU, x S_n + n S_{n-1}, where S_n = Q_n(q) (r - s for even n > 0), of the sigmoid:
 * see kanfast/activations.py, whose polynomials these are. */
template <typename T> void silu(const Problem &p, const T *x, int rows, T *out, T *slopes) {
    for (int b = 0; b < rows; b += Simd<T>::lanes) {
        const Vec<T> v = load(x + b), e = exp_of_negative<T>(v < T(0) ? v : -v);
        const Vec<T> larger = T(1) / (T(1) + e), smaller = e * larger;
        const Vec<T> s = v < T(0) ? smaller : larger, q = larger * smaller;
        const Vec<T> tilt = (T(1) - e) * larger, slope = v < T(0) ? tilt : -tilt;  // r - s
        auto derivative = [&](int64_t n, const double *powers) {
            if (n == 0) return s;
            Vec<T> value = all(T(powers[n]));
            for (int64_t j = n - 1; j >= 0; --j) value = value * q + T(powers[j]);
            return n % 2 ? value : value * slope;
        };
        auto put = [&](int64_t n, T *to) {
            Vec<T> value = v * derivative(n, p.polynomial);
            if (n) value += T(n) * derivative(n - 1, p.polynomial + n + 1);
            store(to + b, value);
        };
        put(p.deriv, out);
        if (slopes) put(p.deriv + 1, slopes);
    }
}

/* All values of input i for the rows from `first` on, times the input's scale. Of a layer also the slopes, where these are not
 * null. */
template <typename T, int K>
void evaluate(const Knots<T, K> &knots, int64_t first, int rows, int64_t i, Block<T, K> &out, Block<T, K> *slopes = nullptr) {
    const Problem &p = knots.p;
    const Steps<T> &steps = knots.steps[i];
    alignas(64) T x[ROWS], scale[ROWS];
    const int padded = p.column(static_cast<const T *>(p.x), p.inputs, p.by_column.x, first, rows, i, x);
    if (steps.cell < 0) {
        uniform_splines<T, K>(p, steps, x, padded, out, slopes);
    } else {
        general_splines<T, K>(p, x, padded, i, knots.values + steps.cell, out);
        if (slopes) general_splines<T, K>(p, x, padded, i, knots.slopes + steps.cell, *slopes);
    }
    T *residual = out.values + (K + 1) * ROWS, *slope = slopes ? slopes->values + (K + 1) * ROWS : nullptr;
    if (p.activation == SILU) silu(p, x, padded, residual, slope);
    if (p.activation == GIVEN) p.column(static_cast<const T *>(p.residual), p.inputs, false, first, rows, i, residual);
    if (p.activation == GIVEN && slope) p.column(static_cast<const T *>(p.layer.residual_slope), p.inputs, false, first, rows, i, slope);
    if (p.activation == NONE) memset(residual, 0, ROWS * sizeof(T));
    if (p.activation == NONE && slope) memset(slope, 0, ROWS * sizeof(T));
    if (p.scale == nullptr) return;
    p.column(static_cast<const T *>(p.scale), p.inputs, p.by_column.scale, first, rows, i, scale);
    for (int r = 0; r < K + 2; ++r)
        for (int b = 0; b < padded; ++b) out.values[r * ROWS + b] *= scale[b];
}
