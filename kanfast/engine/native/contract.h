/* The inner loops: a block of rows and inputs against V registers of outputs. */
#pragma once

#include "basis.h"

constexpr int INPUTS = 8;  // of a block

/* Outputs come in tiles of V registers, the last ones narrower, and matrices are stored tile by tile, each with its rows
 * one after the other: y and g as [rows][V], the coefficients as [inputs][c_rows][V].
 * The c_rows of an input are K of zeros, the G + k splines, K of zeros, the residual. So the splines of every cell are
 * K + 1 rows that follow one another. */
inline int64_t coefficient_rows(const Problem &p, int degree) { return p.grid_size + 3 * degree + 1; }

/* y[b] += sum over inputs of values times coefficients. Several rows at once keep both multipliers busy. The sum of a
 * block begins at zero, so that rounding grows with the number of blocks and not with that of the terms. */
template <typename T, int K, int V>
void forward_tile(int64_t rows, int inputs, const Block<T, K> *blocks, bool residual, const T *c, int64_t c_rows, T *y) {
    constexpr int L = Simd<T>::lanes, W = V * L, R = REGISTERS / 2 / V < 8 ? REGISTERS / 2 / V : 8;
    for (int64_t b = 0; b < rows; b += R) {
        Vec<T> sum[R][V] = {};
        const T *base = c;
        for (int i = 0; i < inputs; ++i, base += c_rows * W) {
            const T *values = blocks[i].values + b;
            const int32_t *cells = blocks[i].cells + b;
            const T *last = base + (c_rows - 1) * W;
            const T *row[R];
            for (int q = 0; q < R; ++q) row[q] = base + cells[q] * W;
#pragma GCC unroll 8
            for (int r = 0; r <= K; ++r)
#pragma GCC unroll 8
                for (int q = 0; q < R; ++q)
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) sum[q][v] += values[r * ROWS + q] * load(row[q] + r * W + v * L);
            if (!residual) continue;
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                const Vec<T> weights = load(last + v * L);
#pragma GCC unroll 8
                for (int q = 0; q < R; ++q) sum[q][v] += values[(K + 1) * ROWS + q] * weights;
            }
        }
        for (int q = 0; q < R; ++q)
            for (int v = 0; v < V; ++v) {
                T *to = y + (b + q) * W + v * L;
                store(to, load(to) + sum[q][v]);
            }
    }
}

/* dx[b][i] += the product of g[b] with the sum of values times coefficients for input i. */
template <typename T, int K, int V>
void input_grad_tile(int64_t rows, int inputs, const Block<T, K> *blocks, bool residual, const T *c, int64_t c_rows, const T *g, T *dx) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    Vec<T> products[INPUTS] = {};
    for (int64_t b = 0; b < rows; ++b) {
        Vec<T> gradient[V];
        for (int v = 0; v < V; ++v) gradient[v] = load(g + b * W + v * L);
        const T *base = c;
        for (int i = 0; i < inputs; ++i, base += c_rows * W) {
            const T *values = blocks[i].values + b;
            const T *row = base + blocks[i].cells[b] * W, *last = base + (c_rows - 1) * W;
            Vec<T> sum[V] = {};
#pragma GCC unroll 8
            for (int r = 0; r <= K; ++r) {
                const T f = values[r * ROWS];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sum[v] += f * load(row + r * W + v * L);
            }
            if (residual) {
                const T f = values[(K + 1) * ROWS];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sum[v] += f * load(last + v * L);
            }
            Vec<T> product = sum[0] * gradient[0];
#pragma GCC unroll 8
            for (int v = 1; v < V; ++v) product += sum[v] * gradient[v];
            products[i] = product;
        }
        add_sums<T>(products, dx + b * INPUTS);
    }
}

/* Rows sorted by cell, in their order within each: those of cell m are order[start[m]] to order[start[m + 1] - 1]. */
template <typename T, int K> void sort_by_cell(const Block<T, K> &block, int rows, int cells, int32_t *start, int32_t *order) {
    for (int m = 0; m <= cells + 1; ++m) start[m] = 0;
    for (int b = 0; b < rows; ++b) ++start[block.cells[b] + 2];
    for (int m = 2; m <= cells; ++m) start[m] += start[m - 1];
    for (int b = 0; b < rows; ++b) order[start[block.cells[b] + 1]++] = b;
}

/* dc += values times g[b]. The rows of a cell add to the same coefficients, whose sums, from zero for each block, stay in
 * registers meanwhile. */
template <typename T, int K, int V>
void weight_grad_tile(const Block<T, K> &block, bool residual, int cells, const int32_t *start, const int32_t *order, const T *g, int64_t g_width, T *dc, int64_t c_rows) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    T *last = dc + (c_rows - 1) * W;
    Vec<T> base[V] = {};
    for (int m = 0; m < cells; ++m) {
        if (start[m] == start[m + 1]) continue;
        T *row = dc + m * W;
        Vec<T> sum[K + 1][V] = {};
        for (int q = start[m]; q < start[m + 1]; ++q) {
            const int64_t b = order[q];
            const T *values = block.values + b;
            Vec<T> gradient[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) gradient[v] = load(g + b * g_width + v * L);
#pragma GCC unroll 8
            for (int r = 0; r <= K; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sum[r][v] += values[r * ROWS] * gradient[v];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) base[v] += values[(K + 1) * ROWS] * gradient[v];
        }
        for (int r = 0; r <= K; ++r)
            for (int v = 0; v < V; ++v) store(row + r * W + v * L, load(row + r * W + v * L) + sum[r][v]);
    }
    if (residual)
        for (int v = 0; v < V; ++v) store(last + v * L, load(last + v * L) + base[v]);
}
