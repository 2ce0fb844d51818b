/* The inner loops for few outputs: rows in the lanes of a register, coefficients looked up in registers.
 *
 * A register of outputs, as in `contract.h`, would be mostly empty. Here the G + 3k coefficients of an edge, with the
 * zeros around them, are one or two registers, and a permutation fetches those of each row's cell. */
#pragma once

#include "contract.h"

constexpr int NARROW = 8;  // outputs

/* Clang has no permutation by a variable; shorter registers hold too few coefficients. */
#if defined(__clang__)
constexpr bool PERMUTES = false;
#else
constexpr bool PERMUTES = REGISTER_BYTES >= 32;
#endif

template <typename T> inline bool is_narrow(const Problem &p, int degree) {
    return PERMUTES && p.outputs <= NARROW && p.outputs <= Simd<T>::lanes && p.grid_size + 3 * degree <= 2 * Simd<T>::lanes;
}

/* Two registers of coefficients of an edge, of which `index` picks one for each lane. */
template <typename T> inline Vec<T> look_up(Vec<T> low, Vec<T> high, typename Simd<T>::bits index) {
#if defined(__clang__)
    return low;  // never called: see PERMUTES
#else
    return __builtin_shuffle(low, high, index);
#endif
}

template <typename T, int K> struct Row {  // lanes of rows of one input
    Vec<T> values[K + 2];
    typename Simd<T>::bits cell;

    Row(const Block<T, K> &block, int b) {
        typename Simd<T>::index cells;
        memcpy(&cells, block.cells + b, sizeof cells);
        cell = __builtin_convertvector(cells, typename Simd<T>::bits);
        for (int r = 0; r < K + 2; ++r) values[r] = load(block.values + r * ROWS + b);
    }

    /* The function of an edge, whose coefficients are two registers and that of the residual. */
    Vec<T> edge(const T *table) const {
        constexpr int L = Simd<T>::lanes;
        const Vec<T> low = load(table), high = load(table + L);
        Vec<T> sum = values[K + 1] * table[2 * L];
#pragma GCC unroll 8
        for (int r = 0; r <= K; ++r) sum += values[r] * look_up<T>(low, high, cell + r);
        return sum;
    }
};

/* Of an edge's table: the zeros and splines of a tile's rows, then the residual. */
template <typename T> constexpr int table_size() { return 3 * Simd<T>::lanes; }

/* Column o of input i's tile, [c_rows][lanes], as the table of an edge. */
template <typename T> void to_table(const T *tile, int64_t c_rows, int64_t o, T *table) {
    constexpr int L = Simd<T>::lanes;
    for (int r = 0; r < 2 * L; ++r) table[r] = r < c_rows - 1 ? tile[r * L + o] : 0;
    table[2 * L] = tile[(c_rows - 1) * L + o];
}

/* y[o][b] += sum over inputs, as forward_tile. tables [inputs][outputs]. */
template <typename T, int K>
void forward_narrow(int rows, int inputs, int64_t outputs, const Block<T, K> *blocks, const T *tables, T *y) {
    constexpr int L = Simd<T>::lanes;
    for (int b = 0; b < rows; b += L) {
        Vec<T> sum[NARROW] = {};
        for (int i = 0; i < inputs; ++i) {
            const Row<T, K> row(blocks[i], b);
            for (int o = 0; o < outputs; ++o) sum[o] += row.edge(tables + (i * outputs + o) * table_size<T>());
        }
        for (int o = 0; o < outputs; ++o) store(y + o * ROWS + b, load(y + o * ROWS + b) + sum[o]);
    }
}

/* dx[b][i], with steps between rows and between inputs, as input_grad_tile. g [outputs][ROWS]. */
template <typename T, int K>
void input_grad_narrow(int rows, int inputs, int64_t outputs, const Block<T, K> *blocks, const T *tables, const T *g, T *dx, int64_t row_step, int64_t step) {
    constexpr int L = Simd<T>::lanes;
    for (int b = 0; b < rows; b += L)
        for (int i = 0; i < inputs; ++i) {
            const Row<T, K> row(blocks[i], b);
            Vec<T> sum = {};
            for (int o = 0; o < outputs; ++o) sum += load(g + o * ROWS + b) * row.edge(tables + (i * outputs + o) * table_size<T>());
            T lane[L], *to = dx + b * row_step + i * step;
            if (row_step == 1 && b + L <= rows) {
                store(to, sum);
                continue;
            }
            store(lane, sum);
            for (int l = 0; l < L && b + l < rows; ++l) to[l * row_step] = lane[l];
        }
}

/* sums[q] = the products of the rows q of f with g, added up. */
template <typename T, int N> void dot(const T *f, const T *g, int rows, T *sums) {
    Vec<T> products[8] = {};
    for (int b = 0; b < rows; b += Simd<T>::lanes) {
        const Vec<T> gradient = load(g + b);
#pragma GCC unroll 8
        for (int q = 0; q < N; ++q) products[q] += load(f + q * ROWS + b) * gradient;
    }
    for (int q = 0; q < 8; ++q) sums[q] = 0;
    add_sums<T>(products, sums);
}

/* dc[j][o] += values times g, as weight_grad_tile, with all the functions of a row written out: dense [functions][ROWS]. */
template <typename T, int K>
void weight_grad_narrow(const Block<T, K> &block, int rows, bool residual, int splines, int64_t outputs, const T *g, T *dense, T *dc, int64_t c_rows) {
    constexpr int L = Simd<T>::lanes;
    for (int b = 0; b < rows; b += L) {
        const Row<T, K> row(block, b);
        auto which = K - row.cell;  // of the row's K + 1 values is that of spline j
        for (int j = 0; j < splines; ++j, which += 1) {
            Vec<T> f = {};
#pragma GCC unroll 8
            for (int r = 0; r <= K; ++r) f = which == typename Simd<T>::bits{} + r ? row.values[r] : f;
            store(dense + j * ROWS + b, f);
        }
        if (residual) store(dense + splines * ROWS + b, row.values[K + 1]);
    }
    const int functions = splines + residual;
    for (int64_t o = 0; o < outputs; ++o)
        for (int j = 0, count; j < functions; j += count) {
            const T *f = dense + j * ROWS, *gradient = g + o * ROWS;
            const int left = functions - j;
            T sums[8];
            count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            count == 8   ? dot<T, 8>(f, gradient, rows, sums)
            : count == 4 ? dot<T, 4>(f, gradient, rows, sums)
            : count == 2 ? dot<T, 2>(f, gradient, rows, sums)
                         : dot<T, 1>(f, gradient, rows, sums);
            for (int q = 0; q < count; ++q) dc[(j + q < splines ? K + j + q : c_rows - 1) * L + o] += sums[q];
        }
}
