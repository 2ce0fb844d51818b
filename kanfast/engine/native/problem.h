/* A call's arguments. */
#pragma once

#include <cstdint>
#include <cstring>

constexpr int ROWS = 128;  // of a block: a multiple of every register's lanes

enum Activation : int64_t { NONE, GIVEN, SILU };

/* As `kanfast.native` packs them: 64 bits each. Tensors are of the dtype of the call and contiguous; matrices with one row for
 * each of the batch may lie by column instead. */
struct Call {
    int64_t rows, inputs, outputs;                      // B, I, O
    int64_t grid_size, deriv, activation;               // degree is a template argument
    int64_t threads, grid_is_float64;
    const void *x, *scale, *c, *g, *residual, *grid;    // scale [B, I] or null
    const double *polynomial;                           // of silu: n + 1 powers, then n
    void *out;
    int64_t x_by_column, scale_by_column, g_by_column;  // g of narrow layers only; what input_grad writes lies as x
};

/* A layer's parameters [O, I, G + k], [O, I], [O, I] in the place of c, and the gradients that are wanted; all may be null
 * but the weight. */
struct Layer {
    const void *weight, *base, *scaler;
    const void *residual_slope;                      // [B, I], as the residual in `Call`
    void *d_x, *d_weight, *d_base, *d_scaler;
    bool trained() const { return d_weight || d_base || d_scaler; }
};

/* Which matrices lie in memory column by column. */
struct Columns {
    bool x, scale, y, g, d_x;  // y and g of narrow layers only
};

struct Problem : Call {
    Layer layer;                                        // null pointers where c [J, I, O] is given
    Columns by_column;

    double knot(int64_t i, int64_t q, int64_t knots) const {
        return grid_is_float64 ? static_cast<const double *>(grid)[i * knots + q]
                               : static_cast<const float *>(grid)[i * knots + q];
    }

    /* Column i of a matrix of this width, the rows from `first` on, with zeros up to whole registers; how many in all. */
    template <typename T> int column(const T *matrix, int64_t width, bool by_column, int64_t first, int count, int64_t i, T *out) const {
        const int padded = (count + 15) / 16 * 16;
        if (by_column)
            memcpy(out, matrix + i * rows + first, count * sizeof(T));
        else
            for (int b = 0; b < count; ++b) out[b] = matrix[(first + b) * width + i];
        for (int b = count; b < padded; ++b) out[b] = 0;
        return padded;
    }
};
