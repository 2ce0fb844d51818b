/* Statistics of every edge over the rows, and their gradients, as kanfast/statistics.py defines them.
 *
 * The activations phi of a block of rows and a tile of outputs are made, used and forgotten in the L1 cache. What is added
 * up, and in which order, depends on the shapes alone: sums over a few rows in T, all beyond them in float64. */
#pragma once

#include "activations.h"
#include "run.h"

namespace {

constexpr int WINDOW_BLOCKS = 4;  // of rows, whose gradients of coefficients are added up in T

/* As `kanfast.native.statistics` packs it: 64 bits each, tensors contiguous. */
struct EdgeCall {
    int64_t rows, inputs, outputs, grid_size, activation, threads, grid_is_float64;
    const void *x, *c, *grid;
    const void *residual, *slope;        // of a given residual: its values and, unless they are no function of x, its slopes
    const double *polynomial;            // of silu's slope
    void *statistics[STATISTICS];        // [O, I]: mean, mean |phi|, deviation, min, max
    const void *gradients[STATISTICS];   // [O, I], or null
    void *grad_x, *grad_c, *grad_residual;  // or null

    Problem problem(int64_t deriv) const {
        Problem p = {};
        p.rows = rows, p.inputs = inputs, p.outputs = outputs;
        p.grid_size = grid_size, p.deriv = deriv;
        p.activation = deriv && activation == GIVEN && !slope ? NONE : activation;
        p.threads = threads, p.grid_is_float64 = grid_is_float64;
        p.x = x, p.grid = grid, p.residual = deriv ? slope : residual, p.polynomial = polynomial;
        return p;
    }
};

template <typename T, int K> struct EdgeStatistics {
    static constexpr int L = Simd<T>::lanes;
    static constexpr int TILE = (K + 3) * 4 < REGISTERS ? 4 : (K + 3) * 2 < REGISTERS ? 2 : 1;  // what weight_grad_tile takes
    static constexpr int64_t WEIGHTS = 6;  // of a Pull

    const EdgeCall &call;
    const Problem values = call.problem(0), slopes = call.problem(1);
    const int64_t outputs = call.outputs, width = padded_width<T>(outputs), c_rows = coefficient_rows(values, K);
    const int64_t splines = call.grid_size + K, cells = call.grid_size + 2 * K;
    const int64_t row_blocks = ceil_div(call.rows, ROWS), input_blocks = ceil_div(call.inputs, INPUTS);
    const int64_t parts = min(ceil_div(PARTS_OF_WORK, input_blocks), ceil_div(call.rows, PART_ROWS));
    const int64_t part_blocks = ceil_div(row_blocks, parts), works = parts * input_blocks;
    const int threads = int(call.threads);
    const bool residual = values.activation != NONE;
    const Knots<T, K> knots{values, false}, slope_knots{slopes, false};
    const Buffer<T> c{call.inputs * c_rows * width};

    const T *tile_of(const T *coefficients, int64_t o, int64_t i, int registers) const {
        return coefficients + (o * call.inputs + i * registers * L) * c_rows;
    }

    T *tile_of(T *coefficients, int64_t o, int64_t i, int registers) const {
        return coefficients + (o * call.inputs + i * registers * L) * c_rows;
    }

    /* Coefficients and knots of input i, as contract.h and basis.h want them. */
    void prepare(int64_t i) const {
        const T *from = static_cast<const T *>(call.c) + i * outputs;
        for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int W = v.value * L;
            T *tile = tile_of(c, o, i, v.value);
            memset(tile, 0, c_rows * W * sizeof(T));
            for (int64_t j = 0; j < splines + residual; ++j)
                row_to_tile<T, W>(from + j * call.inputs * outputs, o, outputs, tile + (j < splines ? K + j : c_rows - 1) * W);
        });
        knots.prepare(i);
        if (call.grad_x) slope_knots.prepare(i);
    }

    int64_t rows_of(int64_t block) const { return min(ROWS, call.rows - block * ROWS); }
    int64_t end_of(int64_t part) const { return min((part + 1) * part_blocks, row_blocks); }
    int64_t inputs_of(int64_t i0) const { return min(INPUTS, call.inputs - i0); }

    /* [parts][I][STATISTICS][width] */
    int forward() const {
        const int64_t size = STATISTICS * width;
        const Buffer<double> totals(parts * call.inputs * size);
        bool failed = knots.failed() || slope_knots.failed() || !c || !totals;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            const Buffer<Block<T, K>> block(1);
            if (!block) {
#pragma omp atomic write
                failed = true;
            }
#pragma omp barrier
            if (!failed) {
#pragma omp for
                for (int64_t i = 0; i < call.inputs; ++i) prepare(i);
#pragma omp for schedule(dynamic)
                for (int64_t work = 0; work < works; ++work) forward_part(work / input_blocks, work % input_blocks * INPUTS, *block.data, totals);
#pragma omp for
                for (int64_t i = 0; i < call.inputs; ++i) finish(i, totals);
            }
        }
        return failed;
    }

    void forward_part(int64_t part, int64_t i0, Block<T, K> &block, double *totals) const {
        const int64_t size = STATISTICS * width;
        double *first = totals + (part * call.inputs + i0) * size;
        for (int64_t l = 0; l < inputs_of(i0) * size; ++l) {
            const int64_t s = l % size / width;
            first[l] = s == LOW ? INFINITY : s == HIGH ? -INFINITY : 0;
        }
        alignas(64) T phi[CHUNK_ROWS * TILE * L];
        double found[STATISTICS * TILE * L];
        for (int64_t n = part * part_blocks; n < end_of(part); ++n)
            for (int64_t i = i0; i < i0 + inputs_of(i0); ++i) {
                const int rows = int(rows_of(n));
                evaluate<T, K>(knots, n * ROWS, rows, i, block);
                for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
                    constexpr int V = v.value, W = V * L;
                    double *total = first + (i - i0) * size + o;
                    for (int b = 0; b < rows; b += CHUNK_ROWS) {
                        const int count = int(min(CHUNK_ROWS, rows - b));
                        activations<T, K, V>(block, b, count, residual, tile_of(c, o, i, V), c_rows, phi);
                        chunk_statistics<T, V>(phi, count, found);
                        join(total, width, double((n - part * part_blocks) * ROWS + b), found, W, count, W);
                    }
                });
            }
    }

    /* Joins the parts of input i. */
    void finish(int64_t i, double *totals) const {
        double *total = totals + i * STATISTICS * width;
        for (int64_t part = 1; part < parts; ++part) {
            const int64_t before = part * part_blocks * ROWS, end = min(end_of(part) * ROWS, call.rows);
            join(total, width, double(before), total + part * call.inputs * STATISTICS * width, width, double(end - before), width);
        }
        for (int64_t o = 0; o < outputs; ++o) {
            const double *of = total + o, found[STATISTICS] = {
                of[MEAN * width], of[MEAN_ABS * width] / double(call.rows),
                sqrt(of[SPREAD * width] / double(call.rows > 1 ? call.rows - 1 : 1)), of[LOW * width], of[HIGH * width]};
            for (int s = 0; s < STATISTICS; ++s) static_cast<T *>(call.statistics[s])[o * call.inputs + i] = T(found[s]);
        }
    }

    int backward() const {
        const int64_t size = call.inputs * c_rows * width;
        const bool searches = call.gradients[LOW] || call.gradients[HIGH];
        const Buffer<double> totals(call.grad_c ? parts * size : 0);
        const Buffer<T> weights(call.inputs * WEIGHTS * width);
        const Buffer<int64_t> extremes(searches ? parts * call.inputs * 2 * width : 0);
        bool failed = knots.failed() || slope_knots.failed() || !c || !totals || !weights || !extremes;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            const Buffer<Block<T, K>> blocks(2);
            const Buffer<T> g(ROWS * TILE * L), window(call.grad_c ? INPUTS * c_rows * width : 0);
            const Buffer<int32_t> sorted(ROWS + cells + 2);
            if (!blocks || !g || !window || !sorted) {
#pragma omp atomic write
                failed = true;
            }
#pragma omp barrier
            if (!failed) {
#pragma omp for
                for (int64_t i = 0; i < call.inputs; ++i) {
                    prepare(i);
                    weigh(i, weights + i * WEIGHTS * width);
                }
                if (searches) {
#pragma omp for schedule(dynamic)
                    for (int64_t work = 0; work < works; ++work)
                        search_part(work / input_blocks, work % input_blocks * INPUTS, *blocks.data, g, extremes);
#pragma omp for
                    for (int64_t i = 0; i < call.inputs; ++i) first_of_parts(i, extremes);
                }
                memset(g.data, 0, ROWS * TILE * L * sizeof(T));  // rows beyond the last one are read, too
#pragma omp for schedule(dynamic)
                for (int64_t work = 0; work < works; ++work)
                    backward_part(work / input_blocks, work % input_blocks * INPUTS, blocks, sorted, g, weights, extremes, window, totals);
                if (call.grad_c) {
#pragma omp for
                    for (int64_t i = 0; i < call.inputs; ++i) unpack(i, totals);
                }
            }
        }
        return failed;
    }

    T given(const void *matrix, int64_t o, int64_t i) const {
        return matrix && o < outputs ? static_cast<const T *>(matrix)[o * call.inputs + i] : T(0);
    }

    /* The weights of input i, in the order of Pull. */
    void weigh(int64_t i, T *weights) const {
        for (int64_t o = 0; o < width; ++o) {
            const T std = given(call.statistics[SPREAD], o, i), n = T(call.rows), m = T(call.rows > 1 ? call.rows - 1 : 1);
            const T each[WEIGHTS] = {
                given(call.statistics[MEAN], o, i), given(call.gradients[MEAN], o, i) / n, given(call.gradients[MEAN_ABS], o, i) / n,
                (std > 0 ? given(call.gradients[SPREAD], o, i) / std : std * 0) / m,
                given(call.gradients[LOW], o, i), given(call.gradients[HIGH], o, i)};
            for (int w = 0; w < WEIGHTS; ++w) weights[w * width + o] = each[w];
        }
    }

    /* The first rows of a part where phi is the lowest and the highest of all, [parts][I][2][width]; -1 where it has none. */
    void search_part(int64_t part, int64_t i0, Block<T, K> &block, T *phi, int64_t *extremes) const {
        int64_t *first = extremes + (part * call.inputs + i0) * 2 * width;
        for (int64_t l = 0; l < inputs_of(i0) * 2 * width; ++l) first[l] = -1;
        for (int64_t n = part * part_blocks; n < end_of(part); ++n)
            for (int64_t i = i0; i < i0 + inputs_of(i0); ++i) {
                const int rows = int(rows_of(n));
                evaluate<T, K>(knots, n * ROWS, rows, i, block);
                for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
                    constexpr int V = v.value, W = V * L;
                    int64_t *found = first + (i - i0) * 2 * width + o;
                    activations<T, K, V>(block, 0, rows, residual, tile_of(c, o, i, V), c_rows, phi);
                    for (int end = 0; end < 2; ++end) {
                        T extreme[W];
                        for (int l = 0; l < W; ++l) extreme[l] = given(call.statistics[LOW + end], o + l, i);
                        first_rows<T, V>(phi, rows, extreme, n * ROWS, found + end * width);
                    }
                });
            }
    }

    /* Into the first part those of all, and row 0 where all is NaN. */
    void first_of_parts(int64_t i, int64_t *extremes) const {
        int64_t *first = extremes + i * 2 * width;
        for (int64_t l = 0; l < 2 * width; ++l) {
            for (int64_t part = 1; part < parts && first[l] < 0; ++part) first[l] = first[part * call.inputs * 2 * width + l];
            if (first[l] < 0) first[l] = 0;
        }
    }

    void backward_part(int64_t part, int64_t i0, Block<T, K> *blocks, int32_t *sorted, T *g, const T *weights, const int64_t *extremes, T *window, double *totals) const {
        const int64_t inputs = inputs_of(i0), from = part * part_blocks, to = end_of(part);
        const int64_t size = c_rows * width;  // of an input's coefficients
        double *total = totals + (part * call.inputs + i0) * size;
        if (call.grad_c) {
            for (int64_t l = 0; l < inputs * size; ++l) total[l] = 0;
            memset(window, 0, inputs * size * sizeof(T));
        }
        for (int64_t n = from; n < to; ++n) {
            for (int64_t i = i0; i < i0 + inputs; ++i) backward_block(n, i, blocks, sorted, g, weights + i * WEIGHTS * width, extremes + i * 2 * width, window + (i - i0) * size);
            if (call.grad_c && ((n + 1 - from) % WINDOW_BLOCKS == 0 || n + 1 == to))
                for (int64_t l = 0; l < inputs * size; ++l) {
                    total[l] += window[l];
                    window[l] = 0;
                }
        }
    }

    void backward_block(int64_t n, int64_t i, Block<T, K> *blocks, int32_t *sorted, T *g, const T *weights, const int64_t *extremes, T *dc) const {
        const int rows = int(rows_of(n));
        int32_t *order = sorted, *start = sorted + ROWS;
        evaluate<T, K>(knots, n * ROWS, rows, i, blocks[0]);
        if (call.grad_x) evaluate<T, K>(slope_knots, n * ROWS, rows, i, blocks[1]);
        if (call.grad_c) sort_by_cell(blocks[0], rows, int(cells), start, order);
        const bool nan = call.grad_c && has_nan(blocks[0].values, rows);
        const Pull<T> pull = {
            weights, weights + width, weights + 2 * width, weights + 3 * width,
            {call.gradients[LOW] ? weights + 4 * width : nullptr, call.gradients[HIGH] ? weights + 5 * width : nullptr},
            {extremes, extremes + width}};
        alignas(64) T dx[ROWS] = {}, d_residual[ROWS] = {};
        for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int V = v.value, W = V * L;
            const T *tile = tile_of(c, o, i, V);
            activations<T, K, V>(blocks[0], 0, rows, residual, tile, c_rows, g);
            pull_back<T, V>(pull, o, n * ROWS, rows, g);
            if (call.grad_x) input_gradient<T, K, V>(blocks[1], rows, slopes.activation != NONE, tile, c_rows, g, dx);
            if (call.grad_residual) residual_gradient<T, V>(rows, tile + (c_rows - 1) * W, g, d_residual);
            if (!call.grad_c) return;
            T *to = dc + o * c_rows;
            if (nan)  // in one spline it is in all of them
                for (int64_t l = K * W; l < (K + splines) * W; ++l) to[l] = T(NAN);
            weight_grad_tile<T, K, V>(blocks[0], residual, int(cells), start, order, g, W, to, c_rows);
        });
        for (int b = 0; b < rows; ++b) {
            const int64_t at = (n * ROWS + b) * call.inputs + i;
            if (call.grad_x) static_cast<T *>(call.grad_x)[at] = dx[b];
            if (call.grad_residual) static_cast<T *>(call.grad_residual)[at] = d_residual[b];
        }
    }

    /* The sum of the parts for input i, to where it belongs in [J, I, O]. */
    void unpack(int64_t i, const double *totals) const {
        const int64_t size = c_rows * width;
        for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int W = v.value * L;
            for (int64_t j = 0; j < splines + residual; ++j) {
                const double *from = totals + i * size + o * c_rows + (j < splines ? K + j : c_rows - 1) * W;
                T row[W];
                for (int l = 0; l < W; ++l) {
                    double sum = from[l];
                    for (int64_t part = 1; part < parts; ++part) sum += from[part * call.inputs * size + l];
                    row[l] = T(sum);
                }
                tile_to_row<T, W>(row, o, outputs, static_cast<T *>(call.grad_c) + (j * call.inputs + i) * outputs);
            }
        });
    }
};

template <typename T> int run_statistics(int backward, int degree, const EdgeCall &call) {
    return with_degree(degree, [&](auto k) {
        const EdgeStatistics<T, k.value> statistics{call};
        return backward ? statistics.backward() : statistics.forward();
    });
}

}  // namespace

/* Returns 0, or 1 where memory ran out. */
extern "C" __attribute__((visibility("default"))) int kanfast_statistics(int backward, int is_float64, int degree, const EdgeCall *call) {
    return is_float64 ? run_statistics<double>(backward, degree, *call) : run_statistics<float>(backward, degree, *call);
}
