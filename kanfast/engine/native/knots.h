/* The knots of every input: on a line if they are equally spaced, or else the cells between them.
 *
 * It is the knots themselves that tell, anew in each call: whatever somebody noted about them before may be out of date. */
#pragma once

#include <cfloat>
#include <cmath>
#include <type_traits>

#include "problem.h"
#include "tiles.h"

namespace {

/* Equal steps: x is at x inverse + origin, in steps from the first knot. Each is given by two numbers, the second one being
 * what the first lacks, as on fine grids the place in a cell is all behind the digits of the first. */
template <typename T> struct Steps {
    T inverse, inverse_rest;
    T origin, origin_rest;
    T middle, step;  // of the domain, in the dtype of the grid
    int64_t cell;    // of unequal steps: where the input's cells are; or -1
};

/* Any knots: the splines of each cell as polynomials in u, -1 <= u <= 1 in the cell, made once for a call. In float64,
 * as powers lose some digits that the recursion keeps. */
template <int K> struct Cell {
    double middle, inverse;           // u = (x - middle) inverse
    double powers[(K + 1) * (K + 1)];  // [p][r]: coefficient of u^p of spline r
};

/* A register of float64 from the dtype of the grid. */
inline Vec<double> load_wide(const double *from) { return load(from); }

inline Vec<double> load_wide(const float *from) {
    typedef float half __attribute__((vector_size(REGISTER_BYTES / 2)));
    half v;
    memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, Vec<double>);
}

/* Whether knots are equally spaced as far as their dtype G can tell: `kanfast.grid.is_uniform`. */
template <typename G> bool equally_spaced(const G *knots, int64_t count, int64_t grid_size, int degree) {
    constexpr int L = Simd<double>::lanes;
    const double low = knots[degree], high = knots[degree + grid_size], step = (high - low) / double(grid_size);
    const double first = fabs(double(knots[0])), last = fabs(double(knots[count - 1]));
    const double tolerance = 2 * (sizeof(G) == 4 ? double(FLT_EPSILON) : DBL_EPSILON) * (first > last ? first : last);
    if (!(high > low)) return false;
    if (count < L) {
        for (int64_t q = 0; q < count; ++q)
            if (!(fabs(low + double(q - degree) * step - double(knots[q])) <= tolerance)) return false;
        return true;
    }
    double lane[L];
    for (int l = 0; l < L; ++l) lane[l] = l - degree;
    const Vec<double> numbers = load(lane);
    auto equal = Vec<double>{} == Vec<double>{};
    for (int64_t q = 0; q < count; q += L) {
        const int64_t from = q + L <= count ? q : count - L;  // the last ones again
        const Vec<double> off = low + (numbers + double(from)) * step - load_wide(knots + from);
        equal &= (off <= tolerance) & (off >= -tolerance);
    }
    for (int l = 0; l < L; ++l)
        if (!equal[l]) return false;
    return true;
}

template <typename T, int K> void cell_polynomials(const Problem &p, int64_t i, int64_t deriv, Cell<K> *cells) {
    const int64_t knots = p.grid_size + 2 * K + 1, splines = p.grid_size + K;
    for (int64_t m = 0; m + 1 < knots; ++m) {
        // The knots m - K .. m + K. Beyond the ends of the grid the outermost one is repeated: only splines that do not exist
        // stand on such knots.
        double t[2 * K + 2];
        for (int q = 0; q < 2 * K + 2; ++q) {
            const int64_t at = m - K + q, last = at < knots ? at : knots - 1;
            t[q] = double(T(p.knot(i, last > 0 ? last : 0, knots)));
        }
        const double half = (t[K + 1] - t[K]) / 2, middle = t[K] + half;
        Cell<K> &cell = cells[m];
        cell.middle = middle;
        cell.inverse = half > 0 ? 1 / half : 0;
        double n[K + 1][K + 2] = {};  // n[r][p], of the splines m - d + r
        n[0][0] = half > 0 && deriv <= K;
        for (int d = 1; d <= K; ++d)
            for (int r = d; r >= 0; --r) {
                double next[K + 2] = {};
                auto add = [&](const double *from, double c0, double c1) {
                    for (int q = 0; q <= K; ++q) {
                        next[q] += c0 * from[q];
                        next[q + 1] += c1 * from[q];
                    }
                };
                auto inverse = [](double width) { return width > 0 ? 1 / width : 0; };
                const bool rising = d <= K - deriv;
                if (r > 0) {
                    const double start = t[K - d + r], w = inverse(t[K + r] - start);
                    rising ? add(n[r - 1], (middle - start) * w, half * w) : add(n[r - 1], d * w, 0);
                }
                if (r < d) {
                    const double end = t[K + r + 1], w = inverse(end - t[K - d + r + 1]);
                    rising ? add(n[r], (end - middle) * w, -half * w) : add(n[r], -d * w, 0);
                }
                memcpy(n[r], next, sizeof next);
            }
        for (int r = 0; r <= K; ++r) {
            const bool exists = m - K + r >= 0 && m - K + r < splines;
            for (int q = 0; q <= K; ++q) cell.powers[q * (K + 1) + r] = exists ? n[r][q] : 0;
        }
    }
}

template <typename T, int K> struct Knots {
    const Problem &p;
    const int64_t cells = p.grid_size + 2 * K;
    const Buffer<Steps<T>> steps{p.inputs};
    const int64_t unequal = steps ? look() : 0;   // inputs
    const Buffer<Cell<K>> values{unequal * cells};  // of the derivative of order p.deriv
    const Buffer<Cell<K>> slopes;                   // of the next one

    Knots(const Problem &p, bool with_slopes) : p(p), slopes(with_slopes ? unequal * cells : 0) {}
    bool failed() const { return !steps || !values || !slopes; }

    /* Cells of input i, if it has any; for each input before it is evaluated. */
    void prepare(int64_t i) const {
        const int64_t cell = steps[i].cell;
        if (cell < 0) return;
        cell_polynomials<T, K>(p, i, p.deriv, values + cell);
        if (slopes.bytes) cell_polynomials<T, K>(p, i, p.deriv + 1, slopes + cell);
    }

  private:
    int64_t look() const {
        int64_t unequal = 0;
        for (int64_t i = 0; i < p.inputs; ++i) {
            const bool line = p.grid_is_float64 ? make_steps<double>(i) : make_steps<float>(i);
            steps[i].cell = line ? -1 : unequal++ * cells;
        }
        return unequal;
    }

    /* False where steps are not equal, or so small that their inverse is none. */
    template <typename G> bool make_steps(int64_t i) const {
        using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;
        const int64_t count = cells + 1;
        const G *knots = static_cast<const G *>(p.grid) + i * count, low = knots[K], high = knots[K + p.grid_size];
        if (!equally_spaced(knots, count, p.grid_size, K)) return false;
        const Wide inverse = Wide(p.grid_size) / (Wide(high) - Wide(low)), origin = Wide(K) - Wide(low) * inverse;
        Steps<T> &to = steps[i];
        to.inverse = T(inverse), to.inverse_rest = T(inverse - to.inverse);
        to.origin = T(floor(double(origin))), to.origin_rest = T(origin - to.origin);
        to.middle = T((low + high) / 2), to.step = T((high - low) / G(p.grid_size));
        return std::isfinite(to.inverse) && std::isfinite(to.origin);
    }
};

}  // namespace
