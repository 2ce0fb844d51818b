/* What the loops over tiles need: buffers, rows to tiles and back, threads. */

#pragma once

#include <cstdlib>

#include "vector.h"

namespace {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

/* Aligned memory until the end of the scope: of the stack if it is little, as an allocation takes as long as a few rows. */
template <typename T> struct Buffer {
    alignas(64) char little[8192];
    T *data;
    explicit Buffer(int64_t size) {
        const int64_t bytes = size * int64_t(sizeof(T));
        data = reinterpret_cast<T *>(bytes <= int64_t(sizeof little) ? little : aligned_alloc(64, ceil_div(bytes, 64) * 64));
    }
    ~Buffer() {
        if (static_cast<void *>(data) != little) free(data);
    }
    Buffer(const Buffer &) = delete;
    operator T *() const { return data; }
};

template <int N> struct Constant {
    static constexpr int value = N;
};

/* Calls run(first output, constant V) for the tiles that make up `width` outputs: WIDEST registers, then fewer. */
template <int WIDEST, typename T, typename Run> inline void for_tiles(int64_t width, Run run) {
    constexpr int L = Simd<T>::lanes;
    int64_t o = 0;
    for (; width - o >= WIDEST * L; o += WIDEST * L) run(o, Constant<WIDEST>{});
    if constexpr (WIDEST > 1)
        if (o < width) for_tiles<WIDEST / 2, T>(width - o, [&](int64_t rest, auto v) { run(o + rest, v); });
}

template <typename T> inline int64_t padded_width(int64_t outputs) {
    return ceil_div(outputs, Simd<T>::lanes) * Simd<T>::lanes;
}

/* A row of outputs to or from a row of a tile that begins at output o, and has zeros after the last one. */
template <typename T, int W> inline void row_to_tile(const T *row, int64_t o, int64_t outputs, T *tile) {
    const int64_t count = min(W, outputs - o);
    for (int64_t l = 0; l < count; ++l) tile[l] = row[o + l];
    for (int64_t l = count; l < W; ++l) tile[l] = 0;
}

template <typename T, int W> inline void tile_to_row(const T *tile, int64_t o, int64_t outputs, T *row) {
    const int64_t count = min(W, outputs - o);
    for (int64_t l = 0; l < count; ++l) row[o + l] = tile[l];
}

/* Runs `body` in so many threads. One alone is the caller's, for which no team has to be made. */
template <typename Body> inline void in_threads(int threads, const Body &body) {
    if (threads == 1) return body();
#pragma omp parallel num_threads(threads)
    body();
}

}  // namespace
