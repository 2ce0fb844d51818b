/* The three primitives of kanfast/reference.py on a CPU: blocks of rows and inputs, over threads.
 *
 * Only k + 1 of the G + k splines are not zero at a point, so the sums run over k + 2 rows of coefficients instead of
 * G + k + 1. What a block adds up, and in which order, depends on the shapes alone, never on the number of threads. */

#pragma once

#include <cmath>

#include "narrow.h"
#include "tiles.h"

namespace {

constexpr int64_t FEW_ROWS = 512;     // of a batch for which coefficients are packed tile by tile; see forward_few
constexpr int64_t SINGLE_ROWS = 4;    // of a batch for which coefficients of a layer are not packed at all; see forward_single
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
    const bool residual = p.activation != NONE, narrow = is_narrow<T>(p, K), few = !narrow && p.rows <= FEW_ROWS;
    const int64_t row_step = p.by_column.d_x ? 1 : p.inputs, column_step = p.by_column.d_x ? p.rows : 1;
    const bool both = p.layer.d_x && p.layer.trained() && (narrow || few);  // d_x comes with the weights' gradients
    const Knots<T, K> knots{p, both};

    void prepare_knots() const {
        if (!knots.unequal) return;
#pragma omp for
        for (int64_t i = 0; i < p.inputs; ++i) knots.prepare(i);
    }

    int64_t inputs_of(int64_t i0) const { return min(INPUTS, p.inputs - i0); }
    int rows_of(int64_t block) const { return int(min(ROWS, p.rows - block * ROWS)); }

    void evaluate_inputs(int64_t block, int64_t i0, Block<T, K> *blocks) const {
        for (int i = 0; i < inputs_of(i0); ++i) evaluate<T, K>(knots, block * ROWS, rows_of(block), i0 + i, blocks[i]);
    }

    /* Coefficients of a block of inputs, [J, I, O] or those of a layer, into a tile of `contract.h` whose zeros are there. */
    template <int V> void pack_tile(int64_t i0, int64_t o, T *tile) const {
        constexpr int W = V * L;
        const int64_t inputs = inputs_of(i0);
        if (p.layer.weight) return pack_layer<W>(i0, o, tile);
        for (int64_t i = 0; i < inputs; ++i, tile += c_rows * W) {
            const T *from = static_cast<const T *>(p.c) + (i0 + i) * p.outputs;
            for (int64_t j = 0; j < splines + residual; ++j)
                row_to_tile<T, W>(from + j * p.inputs * p.outputs, o, p.outputs, tile + (j < splines ? K + j : c_rows - 1) * W);
        }
    }

    /* Whether outputs o .. o + 3 exist, and their coefficients can be taken four by four. */
    bool has_four(int64_t o) const { return o + 4 <= p.outputs && splines >= 4; }

    template <int W> void pack_layer(int64_t i0, int64_t o, T *tile) const {
        using F = Four<T>;
        auto of = [](const void *t) { return static_cast<const T *>(t); };
        const T *weight = of(p.layer.weight), *scaler = of(p.layer.scaler), *base = of(p.layer.base);
        const int64_t inputs = inputs_of(i0), row = p.inputs * splines;  // of weight
        for (int64_t l = 0; l < W && o + l < p.outputs; l += 4)
            for (int64_t i = 0; i < inputs; ++i) {
                const int64_t edge = (o + l) * p.inputs + i0 + i;
                const T *w = weight + edge * splines;
                for (int q = 0; q < 4; ++q) __builtin_prefetch(w + q * row + 2 * INPUTS * splines);
                T *to = tile + i * c_rows * W + l, *last = to + (c_rows - 1) * W;
                if (has_four(o + l)) {
                    typename F::vec scale[4];
                    for (int q = 0; q < 4; ++q) scale[q] = (scaler ? scaler[edge + q * p.inputs] : T(1)) - typename F::vec{};
                    for (int64_t j = 0; j < splines; j += 4) {
                        const int64_t from = min(j, splines - 4);
                        typename F::vec v[4];
                        for (int q = 0; q < 4; ++q) v[q] = F::load(w + q * row + from) * scale[q];
                        F::transpose(v);
                        for (int q = 0; q < 4; ++q) F::store(to + (K + from + q) * W, v[q]);
                    }
                    for (int q = 0; residual && q < 4; ++q) last[q] = base[edge + q * p.inputs];
                    continue;
                }
                for (int64_t q = 0; q < min(4, p.outputs - o - l); ++q) {
                    const T scale = scaler ? scaler[edge + q * p.inputs] : T(1);
                    for (int64_t j = 0; j < splines; ++j) to[(K + j) * W + q] = w[q * row + j] * scale;
                    if (residual) last[q] = base[edge + q * p.inputs];
                }
            }
    }

    /* All of them for a block of inputs, at [O / W][I][c_rows][W]; and tables of edges, [inputs][outputs], which follow. */
    void pack(int64_t i0, T *c) const {
        const int64_t inputs = inputs_of(i0);
        for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
            T *tile = c + (o * p.inputs + i0 * v.value * L) * c_rows;
            memset(tile, 0, inputs * c_rows * v.value * L * sizeof(T));
            pack_tile<v.value>(i0, o, tile);
        });
        T *tables = c + p.inputs * c_rows * width;
        for (int64_t i = i0; narrow && i < i0 + inputs; ++i)
            for (int64_t o = 0; o < p.outputs; ++o)
                to_table<T>(c + i * c_rows * width, c_rows, o, tables + (i * p.outputs + o) * table_size<T>());
    }

    void pack_all(T *c) const {
#pragma omp for
        for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) pack(i0, c);
    }

    int64_t packed_size() const {
        return p.inputs * (c_rows * width + (narrow ? p.outputs * table_size<T>() : 0));
    }

    const T *tables(const T *c, int64_t i) const { return c + p.inputs * c_rows * width + i * p.outputs * table_size<T>(); }

    /* One thread has no memory: all of them do nothing. */
    static void fail(bool &failed) {
#pragma omp atomic write
        failed = true;
    }

    int forward() const {
        if (few && p.rows <= SINGLE_ROWS && p.layer.weight && splines >= WINDOW) return forward_single();
        if (few) return forward_few();
        const Buffer<T> c(packed_size());
        bool failed = knots.failed() || !c;
        in_threads(threads, [&] {
            const Buffer<T> y(ROWS * width);
            const Buffer<Block<T, K>> blocks(min(INPUTS, p.inputs));
            if (!y || !blocks) fail(failed);
#pragma omp barrier
            if (!failed) {
                prepare_knots();
                pack_all(c);
#pragma omp for schedule(dynamic)
                for (int64_t block = 0; block < row_blocks; ++block) forward_rows(block, c, blocks, y);
            }
        });
        return failed;
    }

    static constexpr int WINDOW = (K + 4) / 4 * 4;  // splines side by side, of which K + 1 are not zero

    /* Where the living splines of a row begin among those of an input, and their values, each row's for all inputs. */
    struct Windows {
        Buffer<T> values, residuals;  // [rows][I][WINDOW], [rows][I]
        Buffer<int32_t> starts;       // [rows][I]
        Windows(int64_t rows, int64_t inputs) : values(rows * inputs * WINDOW), residuals(rows * inputs), starts(rows * inputs) {}
        bool failed() const { return !values || !residuals || !starts; }
    };

    /* For a row or a handful: from the parameters as they lie, output by output. */
    int forward_single() const {
        const Windows windows(p.rows, p.inputs);
        bool failed = knots.failed() || windows.failed();
        in_threads(threads, [&] {
            const Buffer<Block<T, K>> block(1);
            if (!block) fail(failed);
#pragma omp barrier
            if (!failed) {
                prepare_knots();
#pragma omp for
                for (int64_t i = 0; i < p.inputs; ++i) make_windows(i, *block.data, windows);
#pragma omp for
                for (int64_t o = 0; o < p.outputs; ++o)
                    for (int64_t b = 0; b < p.rows; ++b) static_cast<T *>(p.out)[b * p.outputs + o] = sum_of_edges(o, b, windows);
            }
        });
        return failed;
    }

    void make_windows(int64_t i, Block<T, K> &block, const Windows &to) const {
        evaluate<T, K>(knots, 0, int(p.rows), i, block);
        for (int64_t b = 0; b < p.rows; ++b) {
            const int64_t at = b * p.inputs + i, first = block.cells[b] - K, start = min(first > 0 ? first : 0, splines - WINDOW);
            T *values = to.values + at * WINDOW;
            for (int64_t n = 0; n < WINDOW; ++n) {
                const int64_t r = start + n - first;
                values[n] = r >= 0 && r <= K ? block.values[r * ROWS + b] : T(0);
            }
            to.starts[at] = int32_t(start);
            to.residuals[at] = block.values[(K + 1) * ROWS + b];
        }
    }

    /* In blocks of inputs that begin at zero, as in forward_tile. */
    T sum_of_edges(int64_t o, int64_t b, const Windows &from) const {
        using F = Four<T>;
        auto of = [&](const void *t) { return t ? static_cast<const T *>(t) + o * p.inputs : nullptr; };
        const T *weight = static_cast<const T *>(p.layer.weight) + o * p.inputs * splines, *scaler = of(p.layer.scaler), *base = of(p.layer.base);
        const int64_t row = b * p.inputs;
        typename F::vec total = {};
        for (int64_t i0 = 0; i0 < p.inputs; i0 += 8 * INPUTS) {
            typename F::vec sum[4] = {};
            T residuals = 0;
            const int64_t end = min(i0 + 8 * INPUTS, p.inputs);
            for (int64_t i = i0; i < end; ++i) {
                const T *w = weight + i * splines + from.starts[row + i], *f = from.values + (row + i) * WINDOW;
                typename F::vec value = F::load(w) * F::load(f);
                for (int n = 4; n < WINDOW; n += 4) value += F::load(w + n) * F::load(f + n);
                sum[i & 3] += scaler ? value * scaler[i] : value;
            }
            if (residual) {
                typename F::vec part = {};
                int64_t i = i0;
                for (; i + 4 <= end; i += 4) part += F::load(base + i) * F::load(from.residuals + row + i);
                for (; i < end; ++i) residuals += base[i] * from.residuals[row + i];
                sum[0] += part;
            }
            sum[0][0] += residuals;
            total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
        return (total[0] + total[1]) + (total[2] + total[3]);
    }

    /* The same sums in the same order for so few rows that packing would take most of the time. Coefficients are read once,
     * where they lie; each tile is used for all rows while it is in the first-level cache. */
    int forward_few() const {
        const int64_t tiles = count_tiles<TILE, T>(width);
        const Buffer<Block<T, K>> blocks(row_blocks * p.inputs);
        bool failed = knots.failed() || !blocks;
        in_threads(threads, [&] {
            const Buffer<T> c(min(INPUTS, p.inputs) * c_rows * TILE * L), y(row_blocks * ROWS * TILE * L);
            if (!c || !y) fail(failed);
#pragma omp barrier
            if (!failed) {
                prepare_knots();
#pragma omp for
                for (int64_t work = 0; work < row_blocks * input_blocks; ++work) {
                    const int64_t block = work / input_blocks, i0 = work % input_blocks * INPUTS;
                    evaluate_inputs(block, i0, blocks + block * p.inputs + i0);
                }
#pragma omp for schedule(dynamic)
                for (int64_t tile = 0; tile < tiles; ++tile)
                    for_tile<TILE, T>(width, tile, [&](int64_t o, auto v) { forward_few_tile<v.value>(o, blocks, c, y); });
            }
        });
        return failed;
    }

    template <int V> void forward_few_tile(int64_t o, const Block<T, K> *blocks, T *c, T *y) const {
        constexpr int W = V * L;
        memset(c, 0, min(INPUTS, p.inputs) * c_rows * W * sizeof(T));
        memset(y, 0, row_blocks * ROWS * W * sizeof(T));
        for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
            pack_tile<V>(i0, o, c);
            for (int64_t n = 0; n < row_blocks; ++n)
                forward_tile<T, K, V>(rows_of(n), int(inputs_of(i0)), blocks + n * p.inputs + i0, residual, c, c_rows, y + n * ROWS * W);
        }
        for (int64_t b = 0; b < p.rows; ++b) tile_to_row<T, W>(y + b * W, o, p.outputs, static_cast<T *>(p.out) + b * p.outputs);
    }

    void forward_rows(int64_t block, const T *c, Block<T, K> *blocks, T *y) const {
        const int rows = rows_of(block);
        memset(y, 0, ROWS * (narrow ? p.outputs : width) * sizeof(T));
        for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
            const int inputs = int(inputs_of(i0));
            evaluate_inputs(block, i0, blocks);
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
        if (few) return backward_few(p.out, false);
        const Buffer<T> c(packed_size());
        bool failed = knots.failed() || !c;
        in_threads(threads, [&] {
            const Buffer<T> g(ROWS * width), dx(ROWS * INPUTS);
            const Buffer<Block<T, K>> blocks(min(INPUTS, p.inputs));
            if (!g || !dx || !blocks) fail(failed);
#pragma omp barrier
            if (!failed) {
                prepare_knots();
                pack_all(c);
#pragma omp for schedule(dynamic)
                for (int64_t block = 0; block < row_blocks; ++block) input_grad_rows(block, c, blocks, g, dx);
            }
        });
        return failed;
    }

    void input_grad_rows(int64_t block, const T *c, Block<T, K> *blocks, T *g, T *dx) const {
        const int rows = rows_of(block);
        const T *from = static_cast<const T *>(p.g) + block * ROWS * p.outputs;
        if (narrow)
            columns(block, rows, g);
        else
            for_tiles<TILE, T>(width, [&](int64_t o, auto v) {
                constexpr int W = v.value * L;
                for (int b = 0; b < rows; ++b) row_to_tile<T, W>(from + b * p.outputs, o, p.outputs, g + o * ROWS + b * W);
            });
        for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
            const int inputs = int(inputs_of(i0));
            evaluate_inputs(block, i0, blocks);
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
        if (few) return backward_few(both ? p.layer.d_x : nullptr, true);
        const int64_t parts = min(ceil_div(PARTS_OF_WORK, input_blocks), ceil_div(p.rows, PART_ROWS));
        const int64_t part_blocks = ceil_div(row_blocks, parts), size = min(INPUTS, p.inputs) * c_rows * width;
        const bool shared = parts > 1;
        const Buffer<T> sums(shared ? parts * input_blocks * size : 0), c(both ? packed_size() : 0);
        bool failed = knots.failed() || !sums || !c;
        in_threads(threads, [&] {
            const Buffer<T> g(ROWS * (narrow ? p.outputs + splines + residual : width)), own(shared ? 0 : size);
            const Buffer<Block<T, K>> blocks(2);
            const Buffer<int32_t> sorted(ROWS + cells + 2);
            if (!g || !own || !blocks || !sorted) fail(failed);
#pragma omp barrier
            if (!failed) {
                prepare_knots();
                if (both) pack_all(c);
#pragma omp for schedule(dynamic)
                for (int64_t work = 0; work < parts * input_blocks; ++work) {
                    const int64_t part = work / input_blocks, i0 = work % input_blocks * INPUTS;
                    T *to = shared ? sums + work * size : own;
                    weight_grad_part(part * part_blocks, min((part + 1) * part_blocks, row_blocks), i0, c, blocks, sorted, g, to);
                    if (!shared) unpack(i0, to);
                }
                if (shared) {
#pragma omp for
                    for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
                        T *total = sums + i0 / INPUTS * size;
                        for (int64_t part = 1; part < parts; ++part)
                            for (int64_t l = 0; l < size; ++l) total[l] += total[part * input_blocks * size + l];
                        unpack(i0, total);
                    }
                }
            }
        });
        return failed;
    }

    /* Of a block of inputs, at [O / W][inputs][c_rows][W]. */
    void weight_grad_part(int64_t from, int64_t to, int64_t i0, const T *c, Block<T, K> *blocks, int32_t *sorted, T *g_buffer, T *sums) const {
        const int64_t inputs = inputs_of(i0);
        Block<T, K> &block = blocks[0], *slopes = both ? blocks + 1 : nullptr;
        int32_t *order = sorted, *start = sorted + ROWS;
        memset(sums, 0, min(INPUTS, p.inputs) * c_rows * width * sizeof(T));
        for (int64_t n = from; n < to; ++n) {
            const int rows = rows_of(n);
            const T *g = static_cast<const T *>(p.g) + n * ROWS * p.outputs;
            if (narrow) {
                columns(n, rows, g_buffer);
            } else if (width != p.outputs) {
                for (int b = 0; b < rows; ++b)
                    for (int64_t o = 0; o < width; ++o) g_buffer[b * width + o] = o < p.outputs ? g[b * p.outputs + o] : 0;
                g = g_buffer;
            }
            for (int64_t i = i0; i < i0 + inputs; ++i) {
                evaluate<T, K>(knots, n * ROWS, rows, i, block, slopes);
                if (slopes)
                    input_grad_narrow<T, K>(rows, 1, p.outputs, slopes, tables(c, i), g_buffer, d_x(p.layer.d_x, n, i), row_step, column_step);
                if (!narrow) sort_by_cell(block, rows, int(cells), start, order);
                const bool nan = has_nan(block.values, rows);
                for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) {
                    constexpr int V = v.value;
                    T *dc = sums + (o * inputs + (i - i0) * V * L) * c_rows;
                    if (nan) spread_nan<V>(dc);
                    if (narrow)
                        weight_grad_narrow<T, K>(block, rows, residual, int(splines), p.outputs, g_buffer, g_buffer + ROWS * p.outputs, dc, c_rows);
                    else
                        weight_grad_tile<T, K, V>(block, residual, int(cells), start, order, g + o, width, dc, c_rows);
                });
            }
        }
    }

    /* In one spline it is in all of them. */
    template <int V> void spread_nan(T *dc) const {
        for (int64_t l = K * V * L; l < (K + splines) * V * L; ++l) dc[l] = T(NAN);
    }

    /* Gradients of few rows, of the inputs, of the weights, or both: each tile of coefficients is read once, and each tile of
     * their gradients made in the first-level cache and written once. */
    int backward_few(void *d_inputs, bool trained) const {
        const int64_t block_inputs = min(INPUTS, p.inputs), count = row_blocks * block_inputs, places = ROWS + cells + 2;
        const Buffer<T> g(row_blocks * ROWS * width);
        bool failed = knots.failed() || !g;
        in_threads(threads, [&] {
            const Buffer<Block<T, K>> blocks(count), slopes(both ? count : 0);
            const Buffer<T> c(d_inputs ? block_inputs * c_rows * TILE * L : 0), dc(trained ? block_inputs * c_rows * TILE * L : 0);
            const Buffer<T> dx(d_inputs ? row_blocks * ROWS * INPUTS : 0);
            const Buffer<int32_t> sorted(trained ? count * places : 0);
            if (!blocks || !slopes || !c || !dc || !dx || !sorted) fail(failed);
#pragma omp barrier
            if (!failed) {
                prepare_knots();
#pragma omp for
                for (int64_t n = 0; n < row_blocks; ++n) {
                    const T *from = static_cast<const T *>(p.g) + n * ROWS * p.outputs;
                    for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) {
                        constexpr int W = v.value * L;
                        T *to = g + o * row_blocks * ROWS + n * ROWS * W;
                        for (int b = 0; b < rows_of(n); ++b) row_to_tile<T, W>(from + b * p.outputs, o, p.outputs, to + b * W);
                    });
                }
#pragma omp for schedule(dynamic)
                for (int64_t i0 = 0; i0 < p.inputs; i0 += INPUTS) {
                    const int64_t inputs = inputs_of(i0);
                    for (int64_t n = 0; n < row_blocks; ++n)
                        for (int64_t i = 0; i < inputs; ++i) {
                            const int64_t at = n * block_inputs + i;
                            evaluate<T, K>(knots, n * ROWS, rows_of(n), i0 + i, blocks[at], both ? slopes + at : nullptr);
                            int32_t *order = sorted + at * places;
                            if (trained) sort_by_cell(blocks[at], rows_of(n), int(cells), order + ROWS, order);
                        }
                    if (d_inputs) memset(dx, 0, row_blocks * ROWS * INPUTS * sizeof(T));
                    for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) {
                        constexpr int V = v.value, W = V * L;
                        const T *g_tile = g + o * row_blocks * ROWS;
                        if (d_inputs) {
                            memset(c, 0, inputs * c_rows * W * sizeof(T));
                            pack_tile<V>(i0, o, c);
                            for (int64_t n = 0; n < row_blocks; ++n)
                                input_grad_tile<T, K, V>(rows_of(n), int(inputs), (both ? slopes : blocks) + n * block_inputs, residual, c, c_rows, g_tile + n * ROWS * W, dx + n * ROWS * INPUTS);
                        }
                        if (!trained) return;
                        memset(dc, 0, inputs * c_rows * W * sizeof(T));
                        for (int64_t n = 0; n < row_blocks; ++n)
                            for (int64_t i = 0; i < inputs; ++i) {
                                const int64_t at = n * block_inputs + i;
                                const int32_t *order = sorted + at * places;
                                T *to = dc + i * c_rows * W;
                                if (has_nan(blocks[at].values, rows_of(n))) spread_nan<V>(to);
                                weight_grad_tile<T, K, V>(blocks[at], residual, int(cells), order + ROWS, order, g_tile + n * ROWS * W, W, to, c_rows);
                            }
                        unpack_tile<V>(i0, o, dc);
                    });
                    for (int64_t n = 0; d_inputs && n < row_blocks; ++n) {
                        T *out = d_x(d_inputs, n, i0);
                        for (int b = 0; b < rows_of(n); ++b)
                            for (int64_t i = 0; i < inputs; ++i) out[b * row_step + i * column_step] = dx[(n * ROWS + b) * INPUTS + i];
                    }
                }
            }
        });
        return failed;
    }

    /* The gradients of a block of inputs, at [O / W][inputs][c_rows][W], to where they belong in [J, I, O] or in a layer's. */
    void unpack(int64_t i0, const T *sums) const {
        for_tiles<WEIGHT_GRAD_TILE, T>(width, [&](int64_t o, auto v) { unpack_tile<v.value>(i0, o, sums + o * inputs_of(i0) * c_rows); });
    }

    template <int V> void unpack_tile(int64_t i0, int64_t o, const T *tile) const {
        constexpr int W = V * L;
        const int64_t inputs = inputs_of(i0);
        if (p.layer.weight) return unpack_layer<W>(i0, o, tile);
        for (int64_t i = 0; i < inputs; ++i, tile += c_rows * W)
            for (int64_t j = 0; j < splines + residual; ++j)
                tile_to_row<T, W>(tile + (j < splines ? K + j : c_rows - 1) * W, o, p.outputs, static_cast<T *>(p.out) + (j * p.inputs + i0 + i) * p.outputs);
    }

    template <int W> void unpack_layer(int64_t i0, int64_t o, const T *tile) const {
        using F = Four<T>;
        auto of = [](void *t) { return static_cast<T *>(t); };
        const T *weight = static_cast<const T *>(p.layer.weight), *scaler = static_cast<const T *>(p.layer.scaler);
        T *d_weight = of(p.layer.d_weight), *d_base = of(p.layer.d_base), *d_scaler = of(p.layer.d_scaler);
        const int64_t inputs = inputs_of(i0), row = p.inputs * splines;
        for (int64_t l = 0; l < W && o + l < p.outputs; l += 4)
            for (int64_t i = 0; i < inputs; ++i) {
                const int64_t edge = (o + l) * p.inputs + i0 + i, at = edge * splines, count = min(4, p.outputs - o - l);
                const T *d = tile + (i * c_rows + K) * W + l, *last = tile + (i * c_rows + c_rows - 1) * W + l;
                T scale[4] = {};
                for (int64_t q = 0; q < count; ++q) scale[q] = scaler ? scaler[edge + q * p.inputs] : T(1);
                for (int64_t q = 0; d_base && q < count; ++q) d_base[edge + q * p.inputs] = last[q];
                if (has_four(o + l)) {
                    typename F::vec products[4] = {};
                    for (int64_t j = 0; (d_weight || d_scaler) && j < splines; j += 4) {
                        const int64_t from = min(j, splines - 4);
                        typename F::vec v[4];
                        for (int q = 0; q < 4; ++q) v[q] = F::load(d + (from + q) * W);
                        F::transpose(v);
                        for (int q = 0; d_scaler && q < 4; ++q)
                            products[q] += F::without(v[q] * F::load(weight + at + q * row + from), int(j - from));
                        for (int q = 0; d_weight && q < 4; ++q) F::store(d_weight + at + q * row + from, v[q] * scale[q]);
                    }
                    F::transpose(products);
                    const typename F::vec total = (products[0] + products[1]) + (products[2] + products[3]);
                    for (int q = 0; d_scaler && q < 4; ++q) d_scaler[edge + q * p.inputs] = total[q];
                    continue;
                }
                for (int64_t q = 0; q < count; ++q) {
                    T total = 0;
                    for (int64_t j = 0; d_scaler && j < splines; ++j) total += d[j * W + q] * weight[at + q * row + j];
                    if (d_scaler) d_scaler[edge + q * p.inputs] = total;
                    for (int64_t j = 0; d_weight && j < splines; ++j) d_weight[at + q * row + j] = d[j * W + q] * scale[q];
                }
            }
    }
};

}  // namespace
