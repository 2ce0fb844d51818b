/* Normal equations of many KANs of one shape: layers with the k + 1 living splines of every input, and J^T J from them. */
#pragma once

#include "run.h"

namespace normal {

/* As `engine.native.normal` packs it: 64 bits each. Everything is float64 and contiguous; S starts, each with its own numbers. */
struct Layer {
    int64_t starts, rows, inputs, outputs, grid_size, threads;
    const double *x, *knots, *c;   // [S, B, I], [S, I, G + 2k + 1], [S, O, I, G + k]
    double *y;                     // [S, B, O]
    int32_t *first;                // [S, B, I]: of the k + 1 splines whose values follow; null if not wanted
    double *values, *slopes;       // [S, B, I, k + 1]; [S, B, O, I], of the edges
};

/* One layer of a network in `Gram`. Windows are `width` wide in all layers, with zeros behind the last of their splines. */
struct Block {
    int64_t inputs, outputs, splines;
    const int32_t *first;          // [S, B, I]
    const double *values, *delta;  // [S, B, I, width]; [S, B, Q, O], slopes of the Q residuals by the layer's outputs
};

struct Gram {
    int64_t starts, rows, residuals, layers, columns, threads, stride, dense_stride;
    const Block *blocks;
    const double *dense;           // [S, B, Q, dense_stride]: other columns of the Jacobian
    double *gram, *mixed;          // [S, stride, stride], upper triangle; [S, stride, dense_stride]
};

/* The place in the knots t of x, t[m] <= x < t[m + 1], or -1 if there is none. */
inline int64_t interval(const double *t, int64_t count, double x) {
    if (!(x >= t[0] && x < t[count - 1])) return -1;
    const double guess = (x - t[0]) / (t[count - 1] - t[0]) * double(count - 1);
    int64_t m = guess < double(count - 2) ? int64_t(guess) : count - 2;
    while (x < t[m]) --m;
    while (x >= t[m + 1]) ++m;
    return m;
}

/* Values and slopes of the K splines of degree K - 1 that live at x, by de Boor's recursion; knots t[-K + 2 .. K - 1] around x. */
template <int K> inline void living(const double *t, double x, double *value, double *slope) {
    double lower[K];
    value[0] = 1;
    for (int d = 1; d < K; ++d) {
        memcpy(lower, value, d * sizeof(double));
        value[0] = 0;
        for (int j = 0; j < d; ++j) {
            const double width = t[j + 1] - t[j + 1 - d], share = width > 0 ? lower[j] / width : 0;
            value[j] += (t[j + 1] - x) * share;
            value[j + 1] = (x - t[j + 1 - d]) * share;
        }
    }
    for (int j = 0; j < K; ++j) slope[j] = 0;
    for (int j = 0; j + 1 < K; ++j) {
        const double width = t[j + 1] - t[j + 2 - K], share = width > 0 ? (K - 1) * lower[j] / width : 0;
        slope[j] -= share;
        slope[j + 1] += share;
    }
}

template <int K> int layer(const Layer &call) {
    constexpr int64_t k = K - 1, BLOCK = 64;
    const int64_t I = call.inputs, O = call.outputs, B = call.rows, N = call.grid_size + k, count = N + k + 1;
    const int64_t blocks = ceil_div(B, BLOCK);
    int failed = 0;
#pragma omp parallel for num_threads(call.threads) schedule(static)
    for (int64_t task = 0; task < call.starts * blocks; ++task) {
        const int64_t s = task / blocks, begin = task % blocks * BLOCK, end = min(begin + BLOCK, B);
        const Buffer<double> padded{count + 2 * k};
        if (!padded.data) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        for (int64_t b = begin; b < end; ++b)
            for (int64_t o = 0; o < O; ++o) call.y[(s * B + b) * O + o] = 0;
        for (int64_t i = 0; i < I; ++i) {
            const double *t = call.knots + (s * I + i) * count;
            memcpy(padded.data + k, t, count * sizeof(double));
            for (int j = 1; j <= k; ++j) {  // of splines that are not there
                padded.data[k - j] = t[0] - j * (t[1] - t[0]);
                padded.data[k + count - 1 + j] = t[count - 1] + j * (t[count - 1] - t[count - 2]);
            }
            for (int64_t b = begin; b < end; ++b) {
                const int64_t row = s * B + b;
                const double x = call.x[row * I + i];
                const int64_t m = interval(t, count, x), start = m < k ? 0 : m - k < call.grid_size - 1 ? m - k : call.grid_size - 1;
                double value[K] = {}, slope[K] = {};
                if (m >= 0) {
                    double own[K], own_slope[K];
                    living<K>(padded.data + k + m, x, own, own_slope);
                    for (int j = 0; j < K; ++j) {
                        const int64_t at = start + j - (m - k);
                        if (at >= 0 && at < K) value[j] = own[at], slope[j] = own_slope[at];
                    }
                } else if (x != x) {
                    value[0] = slope[0] = x;
                }
                for (int64_t o = 0; o < O; ++o) {
                    const double *c = call.c + ((s * O + o) * I + i) * N + start;
                    double sum = 0, rise = 0;
                    for (int j = 0; j < K; ++j) sum += c[j] * value[j], rise += c[j] * slope[j];
                    call.y[row * O + o] += sum;
                    if (call.first) call.slopes[(row * O + o) * I + i] = rise;
                }
                if (!call.first) continue;
                call.first[row * I + i] = int32_t(start);
                memcpy(call.values + (row * I + i) * K, value, sizeof value);
            }
        }
    }
    return failed;
}

/* Adds a b^T to K rows of K numbers. */
template <int K> inline void outer(const double *a, const double *b, double *to, int64_t stride) {
    if constexpr ((K & (K - 1)) == 0) {
        typedef double vec __attribute__((vector_size(K * sizeof(double))));
        vec right, sum;
        memcpy(&right, b, sizeof right);
        for (int j = 0; j < K; ++j) {
            memcpy(&sum, to + j * stride, sizeof sum);
            sum += a[j] * right;
            memcpy(to + j * stride, &sum, sizeof sum);
        }
    } else {
        for (int j = 0; j < K; ++j)
            for (int n = 0; n < K; ++n) to[j * stride + n] += a[j] * b[n];
    }
}

/* Every element is summed by one thread in the order of the rows, so results do not depend on how many there are. */
template <int K> int gram(const Gram &call) {
    constexpr int64_t BLOCK = 32;
    const int64_t B = call.rows, Q = call.residuals, D = call.dense_stride, ld = call.stride;
    int64_t edges = 0;
    for (int64_t l = 0; l < call.layers; ++l) edges += call.blocks[l].inputs * call.blocks[l].outputs;
    const int64_t parts = call.starts < call.threads ? ceil_div(call.threads, call.starts) : 1;
    int failed = 0;
#pragma omp parallel for num_threads(call.threads) schedule(static)
    for (int64_t task = 0; task < call.starts * parts; ++task) {
        const int64_t s = task / parts, part = task % parts;
        double *gram = call.gram + s * ld * ld, *mixed = call.mixed + s * ld * D;
        const Buffer<double> values{BLOCK * edges * K};
        const Buffer<int32_t> first{BLOCK * edges};
        if (!values.data || !first.data) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        for (int64_t begin = 0; begin < B * Q; begin += BLOCK) {
            const int64_t rows = min(BLOCK, B * Q - begin);
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t row = s * B * Q + begin + r, b = row / Q;
                int64_t e = r * edges, offset = 0;
                for (int64_t l = 0; l < call.layers; ++l) {
                    const Block &block = call.blocks[l];
                    for (int64_t o = 0; o < block.outputs; ++o) {
                        const double delta = block.delta[row * block.outputs + o];
                        for (int64_t i = 0; i < block.inputs; ++i, ++e, offset += block.splines) {
                            first[e] = int32_t(offset) + block.first[b * block.inputs + i];
                            const double *from = block.values + (b * block.inputs + i) * K;
                            for (int j = 0; j < K; ++j) values[e * K + j] = delta * from[j];
                        }
                    }
                }
            }
            for (int64_t e = part; e < edges; e += parts) {
                for (int64_t r = 0; r < rows; ++r) {
                    const double *v = values.data + r * edges * K;
                    const int32_t *at = first.data + r * edges;
                    double a[K], size = 0;
                    for (int j = 0; j < K; ++j) a[j] = v[e * K + j], size += a[j] * a[j];
                    if (size == 0) continue;
                    double *strip = gram + at[e] * ld;
                    for (int64_t f = e; f < edges; ++f) outer<K>(a, v + f * K, strip + at[f], ld);
                    const double *dense = call.dense + (s * B * Q + begin + r) * D;
                    for (int j = 0; j < K; ++j) {
                        double *to = mixed + (at[e] + j) * D;
                        for (int64_t d = 0; d < D; ++d) to[d] += a[j] * dense[d];
                    }
                }
            }
        }
    }
    return failed;
}

}  // namespace normal

/* op: 0 a layer, 1 the Gram matrix of the Jacobian. Returns 0, or 1 where memory ran out. */
extern "C" __attribute__((visibility("default"))) int kanfast_normal(int op, int degree, const void *call) {
    return with_degree(degree, [&](auto k) -> int {
        constexpr int K = k.value + 1;
        return op == 0 ? normal::layer<K>(*static_cast<const normal::Layer *>(call)) : normal::gram<K>(*static_cast<const normal::Gram *>(call));
    });
}
