/* What the loops over tiles need: buffers, rows to tiles and back, threads. */

#pragma once

#include <cstdlib>

#include "vector.h"

namespace {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

/* Of this size and not of whole cache lines, so that a sanitizer knows the end; null where memory ran out. */
inline char *allocate(int64_t bytes) {
    void *memory = nullptr;
    return posix_memalign(&memory, 64, bytes ? bytes : 64) ? nullptr : static_cast<char *>(memory);
}

/* Memory of a thread for the buffers of a call, which end in the opposite order of their beginning. An allocation takes as
 * long as a few rows, and the stack of a thread may be small. */
struct Arena {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    static constexpr int64_t size = 0;  // so that every buffer has bounds of its own
#else
    static constexpr int64_t size = 1 << 17;
#endif
    char *memory = nullptr;
    int64_t used = 0;
    ~Arena() { free(memory); }

    /* Null where there is not enough left. */
    char *take(int64_t bytes) {
        if (bytes > size - used) return nullptr;
        if (!memory) memory = allocate(size);
        if (!memory) return nullptr;
        used += bytes;
        return memory + used - bytes;
    }
};

thread_local Arena arena;

/* Aligned memory until the end of the scope, in the thread that made it; null where memory ran out. */
template <typename T> struct Buffer {
    const int64_t bytes;
    char *const taken;
    T *const data;
    explicit Buffer(int64_t size)
        : bytes(ceil_div(size * int64_t(sizeof(T)), 64) * 64), taken(arena.take(bytes)),
          data(reinterpret_cast<T *>(taken ? taken : allocate(size * int64_t(sizeof(T))))) {}
    ~Buffer() {
        if (taken)
            arena.used -= bytes;
        else
            free(data);
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

/* How many tiles these are, and run for one of them. */
template <int WIDEST, typename T> inline int64_t count_tiles(int64_t width) {
    int64_t count = 0;
    for_tiles<WIDEST, T>(width, [&](int64_t, auto) { ++count; });
    return count;
}

template <int WIDEST, typename T, typename Run> inline void for_tile(int64_t width, int64_t number, Run run) {
    int64_t count = 0;
    for_tiles<WIDEST, T>(width, [&](int64_t o, auto v) {
        if (count++ == number) run(o, v);
    });
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
