/* The inner loops of the statistics: the activations phi of a block of rows, one input and V registers of outputs. */
#pragma once

#include "contract.h"

namespace {

constexpr int CHUNK_ROWS = 32;    // whose sums are taken in T

enum Statistic { MEAN, MEAN_ABS, SPREAD, LOW, HIGH, STATISTICS };  // spread: the sum of squares about the mean

/* phi[q] of the rows first + q of a block, [count][V]. Never inlined: wherever it is called it gives the same bits. */
template <typename T, int K, int V>
__attribute__((noinline)) void activations(const Block<T, K> &block, int first, int count, bool residual, const T *c, int64_t c_rows, T *phi) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    const T *last = c + (c_rows - 1) * W;
    for (int q = 0; q < count; ++q) {
        const T *values = block.values + first + q, *row = c + block.cells[first + q] * W;
        Vec<T> sum[V] = {};
#pragma GCC unroll 8
        for (int r = 0; r <= K; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[v] += values[r * ROWS] * load(row + r * W + v * L);
        if (residual)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[v] += values[(K + 1) * ROWS] * load(last + v * L);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(phi + q * W + v * L, sum[v]);
    }
}

/* Statistics of `count` rows of phi, [STATISTICS][V] in float64. MEAN_ABS is the sum. */
template <typename T, int V> void chunk_statistics(const T *phi, int count, double *out) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    T found[STATISTICS][W];
    for (int v = 0; v < V; ++v) {
        Vec<T> sum = {}, size = {}, spread = {}, low = all(T(INFINITY)), high = all(-T(INFINITY));
        for (int q = 0; q < count; ++q) {
            const Vec<T> f = load(phi + q * W + v * L);
            sum += f;
            size += f > -f ? f : -f;
            low = f < low ? f : low;
            high = f > high ? f : high;
        }
        const Vec<T> mean = sum / T(count);
        for (int q = 0; q < count; ++q) {
            const Vec<T> f = load(phi + q * W + v * L) - mean;
            spread += f * f;
        }
        // Comparisons pass over NaN, which the sum of sizes, where nothing cancels, has kept.
        low = size != size ? size : low;
        high = size != size ? size : high;
        const Vec<T> each[STATISTICS] = {mean, size, spread, low, high};
        for (int s = 0; s < STATISTICS; ++s) store(found[s] + v * L, each[s]);
    }
    for (int s = 0; s < STATISTICS; ++s)
        for (int l = 0; l < W; ++l) out[s * W + l] = found[s][l];
}

/* Joins the statistics of `count` further rows, [STATISTICS][width] at a stride, to those of `before` rows: Chan, Golub
 * and LeVeque, "Algorithms for computing the sample variance", 1983, eq. 2.1. */
inline void join(double *total, int64_t stride, double before, const double *other, int64_t other_stride, double count, int64_t width) {
    const double share = count / (before + count);
    for (int64_t l = 0; l < width; ++l) {
        const double shift = other[MEAN * other_stride + l] - total[MEAN * stride + l];
        total[MEAN * stride + l] += shift * share;
        total[MEAN_ABS * stride + l] += other[MEAN_ABS * other_stride + l];
        total[SPREAD * stride + l] += other[SPREAD * other_stride + l] + shift * shift * (before * share);
        const double low = other[LOW * other_stride + l], high = other[HIGH * other_stride + l];
        double &lowest = total[LOW * stride + l], &highest = total[HIGH * stride + l];
        lowest = low < lowest || low != low ? low : lowest;
        highest = high > highest || high != high ? high : highest;
    }
}

/* row[l] = first + the first b where phi[b][l] is extreme[l], if there is one and row[l] is negative. */
template <typename T, int V> void first_rows(const T *phi, int rows, const T *extreme, int64_t first, int64_t *row) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    T somewhere[W];
    for (int v = 0; v < V; ++v) {
        const Vec<T> wanted = load(extreme + v * L);
        Vec<T> seen = {};
        for (int b = 0; b < rows; ++b) seen = load(phi + b * W + v * L) == wanted ? all(T(1)) : seen;
        store(somewhere + v * L, seen);
    }
    for (int l = 0; l < W; ++l)
        for (int b = 0; somewhere[l] != 0 && row[l] < 0; ++b)
            if (phi[b * W + l] == extreme[l]) row[l] = first + b;
}

/* What a gradient of the statistics gives each activation of an input: all [outputs], padded. */
template <typename T> struct Pull {
    const T *mean, *constant, *sign, *deviation;  // constant + sign sgn(phi) + deviation (phi - mean)
    const T *extreme[2];                          // and this at one row, the first lowest or highest, or null
    const int64_t *row[2];
};

/* phi, [rows][V] from the row `first` of the batch and the output o on, becomes the gradient in phi. */
template <typename T, int V> void pull_back(const Pull<T> &pull, int64_t o, int64_t first, int rows, T *phi) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    for (int v = 0; v < V; ++v) {
        const int64_t at = o + v * L;
        const Vec<T> mean = load(pull.mean + at), constant = load(pull.constant + at), deviation = load(pull.deviation + at);
        const Vec<T> above = load(pull.sign + at), below = -above;
        for (int b = 0; b < rows; ++b) {
            const Vec<T> f = load(phi + b * W + v * L);
            const Vec<T> sign = f > T(0) ? above : f < T(0) ? below : all(T(0));
            store(phi + b * W + v * L, (constant + sign) + deviation * (f - mean));
        }
    }
    for (int end = 0; end < 2; ++end)
        for (int l = 0; pull.extreme[end] && l < W; ++l) {
            const int64_t b = pull.row[end][o + l] - first;
            if (b >= 0 && b < rows) phi[b * W + l] += pull.extreme[end][o + l];
        }
}

/* dx[b] += the product of g[b] with the sum of values times coefficients; eight rows, then their sums. */
template <typename T, int K, int V>
void input_gradient(const Block<T, K> &block, int rows, bool residual, const T *c, int64_t c_rows, const T *g, T *dx) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    const T *last = c + (c_rows - 1) * W;
    for (int b = 0; b < rows; b += 8) {
        Vec<T> products[8];
        for (int q = 0; q < 8; ++q) {
            const T *values = block.values + b + q, *row = c + block.cells[b + q] * W, *gradient = g + (b + q) * W;
            products[q] = Vec<T>{};
            for (int v = 0; v < V; ++v) {
                Vec<T> sum = {};
#pragma GCC unroll 8
                for (int r = 0; r <= K; ++r) sum += values[r * ROWS] * load(row + r * W + v * L);
                if (residual) sum += values[(K + 1) * ROWS] * load(last + v * L);
                products[q] += sum * load(gradient + v * L);
            }
        }
        add_sums<T>(products, dx + b);
    }
}

/* d_residual[b] += the product of g[b] with the coefficients of the residual. */
template <typename T, int V> void residual_gradient(int rows, const T *last, const T *g, T *out) {
    constexpr int L = Simd<T>::lanes, W = V * L;
    for (int b = 0; b < rows; b += 8) {
        Vec<T> products[8] = {};
        for (int q = 0; q < 8; ++q)
            for (int v = 0; v < V; ++v) products[q] += load(g + (b + q) * W + v * L) * load(last + v * L);
        add_sums<T>(products, out + b);
    }
}

}  // namespace
