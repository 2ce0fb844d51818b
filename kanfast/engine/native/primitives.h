/* The three primitives of kanfast/reference.py on a CPU: blocks of rows and inputs, over threads.
 *
 * Only k + 1 of the G + k splines are not zero at a point, so the sums run over k + 2 rows of coefficients instead of
 * G + k + 1. What a block adds up, and in which order, depends on the shapes alone, never on the number of threads. */

#pragma once

#include <cmath>

#include "narrow.h"
#include "tiles.h"

namespace {

constexpr int64_t PART_ROWS = 4096;   // of a partial sum of weight_grad, at least
constexpr int64_t PARTS_OF_WORK = 32; // wanted by weight_grad

/* Of values up to whole registers. */
template <typename T> bool has_nan(const T *values, int rows) {
    Vec<T> seen = {};
    for (int b = 0; b < rows; b += Simd<T>::lanes) {
        const Vec<T> v = load(values + b);
        seen = v == v ? seen : all(T(1));
    }
    T lane[Simd<T>::lanes], any = 0;
    store(lane, seen);
    for (T each : lane) any += each;
    return any != 0;
}

template <typename T, int K> struct Primitives {
    static constexpr int L = Simd<T>::lanes, TILE = 4;
    // What fits into the registers beside the gradients and a factor.
    static constexpr int WEIGHT_GRAD_TILE = (K + 3) * 4 < REGISTERS ? 4 : (K + 3) * 2 < REGISTERS ? 2 : 1;

    const Problem &p;
    const int64_t width = padded_width<T>(p.outputs), c_rows = coefficient_rows(p, K);
    const int64_t splines = p.grid_size + K, cells = p.grid_size + 2 * K;
    const int64_t row_blocks = ceil_div(p.rows, ROWS), input_blocks = ceil_div(p.inputs, INPUTS);
    const int threads = int(p.threads);
    const bool residual = p.activation != NONE, narrow = is_narrow<T>(p, K);
    const int64_t row_step = p.by_column.d_x ? 1 : p.inputs, column_step = p.by_column.d_x ? p.rows : 1;
    const bool fused = p.layer.d_x && p.layer.trained() && narrow && p.uniform;  // d_x comes with the weights' gradients
    const Buffer<Cell<K>> table{p.uniform ? 0 : p.inputs * cells};  // of general knots

    void make_table() const {
        if (p.uniform) return;
#pragma omp for
        for (int64_t i = 0; i < p.inputs; ++i) cell_polynomials<T, K>(p, i, table + i * cells);
    }

    void evaluate_inputs(int64_t block, int rows, int64_t i0, int inputs, Block<T, K> *blocks) const {
        for (int i = 0; i < inputs; ++i) evaluate<T, K>(p, table, block * ROWS, rows, i0 + i, blocks[i]);
    }

    /* Coefficients of input i, [J, I, O] or those of a layer, into the tiles of `contract.h`. */
    void pack(int64_t i, T *to) const {
        const T *from = static_cast<const T *>(p.c) + i * p.outputs;
        for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int W = v.value * L;
            T *tile = to + o * p.inputs * c_rows + i * c_rows * W;
            memset(tile, 0, c_rows * W * sizeof(T));
            if (p.layer.weight) return pack_layer(i, o, W, tile);
            for (int64_t j = 0; j < splines + residual; ++j)
                row_to_tile<T, W>(from + j * p.inputs * p.outputs, o, p.outputs, tile + (j < splines ? K + j : c_rows - 1) * W);
        });
    }

    /* The same as tables of edges, [inputs][outputs], which follow the tiles. */
    void pack_narrow(int64_t i, T *c) const {
        T *tables = c + p.inputs * c_rows * width;
        for (int64_t o = 0; narrow && o < p.outputs; ++o)
            to_table<T>(c + i * c_rows * width, c_rows, o, tables + (i * p.outputs + o) * table_size<T>());
    }

    int64_t packed_size() const {
        return p.inputs * (c_rows * width + (narrow ? p.outputs * table_size<T>() : 0));
    }

    const T *tables(const T *c, int64_t i) const { return c + p.inputs * c_rows * width + i * p.outputs * table_size<T>(); }

    void pack_layer(int64_t i, int64_t o, int64_t W, T *tile) const {
        auto of = [](const void *t) { return static_cast<const T *>(t); };
        for (int64_t l = 0; l < min(W, p.outputs - o); ++l) {
            const int64_t edge = (o + l) * p.inputs + i;
            const T *w = of(p.layer.weight) + edge * splines, scale = p.layer.scaler ? of(p.layer.scaler)[edge] : T(1);
            for (int64_t j = 0; j < splines; ++j) tile[(K + j) * W + l] = w[j] * scale;
            if (residual) tile[(c_rows - 1) * W + l] = of(p.layer.base)[edge];
        }
    }

    int forward() const {
        const Buffer<T> c(packed_size());
        bool failed = !table || !c;
        in_threads(threads, [&] {
            const Buffer<T> y(ROWS * width);
            Block<T, K> blocks[INPUTS];
            if (!y) {
#pragma omp atomic write
                failed = true;
            }
#pragma omp barrier
            if (!failed) {
                make_table();
#pragma omp for
                for (int64_t i = 0; i < p.inputs; ++i) {
                    pack(i, c);
                    pack_narrow(i, c);
                }
#pragma omp for schedule(dynamic)
                for (int64_t block = 0; block < row_blocks; ++block) forward_rows(block, c, blocks, y);
            }
        });
        return failed;
    }

    void forward_rows(int64_t block, const T *c, Block<T, K> *blocks, T *y) const {
        const int rows = int(min(ROWS, p.rows - block * ROWS));
        memset(y, 0, ROWS * (narrow ? p.outputs : width) * sizeof(T));
        for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
            const int inputs = int(min(INPUTS, p.inputs - i0));
            evaluate_inputs(block, rows, i0, inputs, blocks);
            if (narrow) {
                forward_narrow<T, K>(rows, inputs, p.outputs, blocks, tables(c, i0), y);
                continue;
            }
            for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
                const T *tile = c + o * p.inputs * c_rows + i0 * c_rows * v.value * L;
                forward_tile<T, K, v.value>(rows, inputs, blocks, residual, tile, c_rows, y + o * ROWS);
            });
        }
        if (p.by_column.y) {
            T *out = static_cast<T *>(p.out) + block * ROWS;
            for (int64_t o = 0; o < p.outputs; ++o) memcpy(out + o * p.rows, y + o * ROWS, rows * sizeof(T));
            return;
        }
        T *out = static_cast<T *>(p.out) + block * ROWS * p.outputs;
        if (narrow) return transpose(y, p.outputs, rows, out);
        for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int W = v.value * L;
            for (int b = 0; b < rows; ++b) tile_to_row<T, W>(y + o * ROWS + b * W, o, p.outputs, out + b * p.outputs);
        });
    }

    /* from [outputs][ROWS] to [rows][outputs]. */
    static void transpose(const T *from, int64_t outputs, int rows, T *to) {
        for (int64_t o = 0; o < outputs; ++o)
            for (int b = 0; b < rows; ++b) to[b * outputs + o] = from[o * ROWS + b];
    }

    /* g of a block of rows as [outputs][ROWS], with zeros up to whole registers. */
    void columns(int64_t block, int rows, T *to) const {
        const T *g = static_cast<const T *>(p.g);
        for (int64_t o = 0; o < p.outputs; ++o) p.column(g, p.outputs, p.by_column.g, block * ROWS, rows, o, to + o * ROWS);
    }

    /* Where the gradient of x at a row of a block and input i goes. */
    T *d_x(void *matrix, int64_t block, int64_t i) const { return static_cast<T *>(matrix) + block * ROWS * row_step + i * column_step; }

    int input_grad() const {
        const Buffer<T> c(packed_size());
        bool failed = !table || !c;
        in_threads(threads, [&] {
            const Buffer<T> g(ROWS * width), dx(ROWS * INPUTS);
            Block<T, K> blocks[INPUTS];
            if (!g || !dx) {
#pragma omp atomic write
                failed = true;
            }
#pragma omp barrier
            if (!failed) {
                make_table();
#pragma omp for
                for (int64_t i = 0; i < p.inputs; ++i) {
                    pack(i, c);
                    pack_narrow(i, c);
                }
#pragma omp for schedule(dynamic)
                for (int64_t block = 0; block < row_blocks; ++block) input_grad_rows(block, c, blocks, g, dx);
            }
        });
        return failed;
    }

    void input_grad_rows(int64_t block, const T *c, Block<T, K> *blocks, T *g, T *dx) const {
        const int rows = int(min(ROWS, p.rows - block * ROWS));
        const T *from = static_cast<const T *>(p.g) + block * ROWS * p.outputs;
        if (narrow)
            columns(block, rows, g);
        else
            for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
                constexpr int W = v.value * L;
                for (int b = 0; b < rows; ++b) row_to_tile<T, W>(from + b * p.outputs, o, p.outputs, g + o * ROWS + b * W);
            });
        for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
            const int inputs = int(min(INPUTS, p.inputs - i0));
            evaluate_inputs(block, rows, i0, inputs, blocks);
            T *out = d_x(p.out, block, i0);
            if (narrow) {
                input_grad_narrow<T, K>(rows, inputs, p.outputs, blocks, tables(c, i0), g, out, row_step, column_step);
                continue;
            }
            memset(dx, 0, ROWS * INPUTS * sizeof(T));
            for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
                const T *tile = c + o * p.inputs * c_rows + i0 * c_rows * v.value * L;
                input_grad_tile<T, K, v.value>(rows, inputs, blocks, residual, tile, c_rows, g + o * ROWS, dx);
            });
            for (int b = 0; b < rows; ++b)
                for (int i = 0; i < inputs; ++i) out[b * row_step + i * column_step] = dx[b * INPUTS + i];
        }
    }

    /* Work is split over blocks of inputs and, where these are few, parts of the rows, whose sums are added in order. */
    int weight_grad() const {
        const int64_t parts = min(ceil_div(PARTS_OF_WORK, input_blocks), ceil_div(p.rows, PART_ROWS));
        const int64_t part_blocks = ceil_div(row_blocks, parts), size = p.inputs * c_rows * width;
        const Buffer<T> sums(parts * size), c(fused ? packed_size() : 0);
        bool failed = !table || !sums || !c;
        in_threads(threads, [&] {
            const Buffer<T> g(ROWS * (narrow ? p.outputs + splines + residual : width));
            Block<T, K> blocks[2];
            const Buffer<int32_t> sorted(ROWS + cells + 2);
            if (!g || !sorted) {
#pragma omp atomic write
                failed = true;
            }
#pragma omp barrier
            if (!failed) {
                make_table();
#pragma omp for
                for (int64_t i = 0; i < (fused ? p.inputs : 0); ++i) {
                    pack(i, c);
                    pack_narrow(i, c);
                }
#pragma omp for schedule(dynamic)
                for (int64_t work = 0; work < parts * input_blocks; ++work) {
                    const int64_t part = work / input_blocks, i0 = work % input_blocks * INPUTS;
                    weight_grad_part(part * part_blocks, min((part + 1) * part_blocks, row_blocks), i0, c, blocks, sorted, g, sums + part * size);
                }
#pragma omp for
                for (int64_t i = 0; i < p.inputs; ++i) unpack(i, parts, sums, size);
            }
        });
        return failed;
    }

    void weight_grad_part(int64_t from, int64_t to, int64_t i0, const T *c, Block<T, K> *blocks, int32_t *sorted, T *g_buffer, T *sums) const {
        const int64_t inputs = min(INPUTS, p.inputs - i0);
        Block<T, K> &block = blocks[0], *slopes = fused ? blocks + 1 : nullptr;
        int32_t *order = sorted, *start = sorted + ROWS;
        for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int W = v.value * L;
            memset(sums + o * p.inputs * c_rows + i0 * c_rows * W, 0, inputs * c_rows * W * sizeof(T));
        });
        for (int64_t n = from; n < to; ++n) {
            const int rows = int(min(ROWS, p.rows - n * ROWS));
            const T *g = static_cast<const T *>(p.g) + n * ROWS * p.outputs;
            if (narrow) {
                columns(n, rows, g_buffer);
            } else if (width != p.outputs) {
                for (int b = 0; b < rows; ++b)
                    for (int64_t o = 0; o < width; ++o) g_buffer[b * width + o] = o < p.outputs ? g[b * p.outputs + o] : 0;
                g = g_buffer;
            }
            for (int64_t i = i0; i < i0 + inputs; ++i) {
                evaluate<T, K>(p, table, n * ROWS, rows, i, block, slopes);
                if (slopes)
                    input_grad_narrow<T, K>(rows, 1, p.outputs, slopes, tables(c, i), g_buffer, d_x(p.layer.d_x, n, i), row_step, column_step);
                if (!narrow) sort_by_cell(block, rows, int(cells), start, order);
                const bool nan = has_nan(block.values, rows);
                for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) {
                    constexpr int W = v.value * L;
                    T *dc = sums + o * p.inputs * c_rows + i * c_rows * W;
                    if (nan)  // in one spline it is in all of them
                        for (int64_t l = K * W; l < (K + splines) * W; ++l) dc[l] = T(NAN);
                    if (narrow)
                        weight_grad_narrow<T, K>(block, rows, residual, int(splines), p.outputs, g_buffer, g_buffer + ROWS * p.outputs, dc, c_rows);
                    else
                        weight_grad_tile<T, K, v.value>(block, residual, int(cells), start, order, g + o, width, dc, c_rows);
                });
            }
        }
    }

    /* The sum of the parts for input i, to where it belongs in [J, I, O] or in a layer's gradients. */
    void unpack(int64_t i, int64_t parts, T *sums, int64_t size) const {
        for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) {
            constexpr int W = v.value * L;
            T *tile = sums + o * p.inputs * c_rows + i * c_rows * W;
            for (int64_t j = 0; j < splines + residual; ++j) {
                T *total = tile + (j < splines ? K + j : c_rows - 1) * W;
                for (int64_t part = 1; part < parts; ++part)
                    for (int l = 0; l < W; ++l) total[l] += total[part * size + l];
                if (!p.layer.weight)
                    tile_to_row<T, W>(total, o, p.outputs, static_cast<T *>(p.out) + (j * p.inputs + i) * p.outputs);
            }
            if (p.layer.weight) unpack_layer(i, o, W, tile);
        });
    }

    void unpack_layer(int64_t i, int64_t o, int64_t W, const T *tile) const {
        const Layer &layer = p.layer;
        for (int64_t l = 0; l < min(W, p.outputs - o); ++l) {
            const int64_t edge = (o + l) * p.inputs + i;
            const T scale = layer.scaler ? static_cast<const T *>(layer.scaler)[edge] : T(1);
            const T *w = static_cast<const T *>(layer.weight) + edge * splines, *d = tile + K * W + l;
            T total = 0;
            for (int64_t j = 0; layer.d_scaler && j < splines; ++j) total += d[j * W] * w[j];
            if (layer.d_scaler) static_cast<T *>(layer.d_scaler)[edge] = total;
            for (int64_t j = 0; layer.d_weight && j < splines; ++j)
                static_cast<T *>(layer.d_weight)[edge * splines + j] = d[j * W] * scale;
            if (layer.d_base) static_cast<T *>(layer.d_base)[edge] = tile[(c_rows - 1) * W + l];
        }
    }
};

}  // namespace
