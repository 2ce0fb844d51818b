/* Layers one after the other, from their parameters, and their gradients: an entry of the C interface each.
 *
 * What lies between two layers is written by column if the first one is narrow, as it is made, and wanted, that way. */
#pragma once

#include "primitives.h"

namespace {

/* What of a layer is not a tensor, as `kanfast.native.layers` packs it: 64 bits each. */
struct Shape {
    int64_t inputs, outputs, degree, grid_size, uniform, activation, grid_is_float64, has_scaler;
    int64_t narrow;  // what kanfast_is_narrow says
};

/* What follows are pointers: the values [B, O] of every layer, which are null if nobody keeps them; its tensors, which are
 * weight, base, scaler and grid, those that it has; on the way back the gradients of these, null if they are not wanted. */
struct LayersCall {
    int64_t rows, threads;
    const void *x;           // [B, I] of the first layer
    int64_t x_by_column;     // and d_x
    const void *g;           // [B, O] of the last one
    int64_t g_by_column;     // only if that is narrow
    void *d_x;               // or null
    const double *slope;     // the polynomial of silu's derivative
    void *pointers[];
};

template <typename T> struct Layers {
    const LayersCall &call;
    const Shape *shapes;
    const int64_t count, last = count - 1;

    void *values(int64_t n) const { return call.pointers[n]; }
    bool values_by_column(int64_t n) const { return n < last && shapes[n].narrow; }

    int64_t tensors_of(int64_t n) const { return 2 + (shapes[n].activation != NONE) + shapes[n].has_scaler; }

    int64_t tensors_before(int64_t n) const {
        int64_t tensors = 0;
        for (int64_t m = 0; m < n; ++m) tensors += tensors_of(m);
        return tensors;
    }

    Problem problem(int64_t n) const {
        const Shape &shape = shapes[n];
        void *const *tensors = call.pointers + count + tensors_before(n);
        void *const *gradients = tensors + tensors_before(count);
        const int64_t base = shape.activation != NONE, scaler = base + shape.has_scaler;
        auto of = [](bool there, void *const *pointer) { return there ? *pointer : nullptr; };
        Problem p = {};
        p.rows = call.rows, p.inputs = shape.inputs, p.outputs = shape.outputs;
        p.grid_size = shape.grid_size, p.uniform = shape.uniform, p.activation = shape.activation;
        p.threads = call.threads, p.grid = tensors[scaler + 1], p.grid_is_float64 = shape.grid_is_float64;
        p.layer.weight = tensors[0], p.layer.base = of(base, tensors + base), p.layer.scaler = of(shape.has_scaler, tensors + scaler);
        if (call.g == nullptr) return p;
        p.layer.d_weight = gradients[0], p.layer.d_base = of(base, gradients + base);
        p.layer.d_scaler = of(shape.has_scaler, gradients + scaler);
        p.x = n ? values(n - 1) : call.x;
        p.by_column.x = n ? values_by_column(n - 1) : call.x_by_column;
        p.polynomial = call.slope;
        return p;
    }

    /* Numbers between two layers, at most. */
    int64_t largest() const {
        int64_t outputs = 0;
        for (int64_t n = 0; n < last; ++n) outputs = outputs > shapes[n].outputs ? outputs : shapes[n].outputs;
        return call.rows * outputs;
    }

    int forward() const {
        const bool kept = last == 0 || values(0);
        const Buffer<T> even(kept ? 0 : largest()), odd(kept || last < 2 ? 0 : largest());
        if (!even || !odd) return 1;
        const void *x = call.x;
        bool by_column = call.x_by_column;
        for (int64_t n = 0; n < count; ++n) {
            Problem p = problem(n);
            p.x = x, p.by_column.x = by_column;
            p.out = values(n) ? values(n) : static_cast<T *>(n % 2 ? odd : even);
            p.by_column.y = values_by_column(n);
            if (run<T>(0, int(shapes[n].degree), p)) return 1;
            x = p.out, by_column = p.by_column.y;
        }
        return 0;
    }

    int backward() const {
        int64_t first = 0;  // layer with a gradient that is wanted
        while (first < last && !call.d_x && !problem(first).layer.trained()) ++first;
        const Buffer<T> even(last == first ? 0 : largest()), odd(last - first < 2 ? 0 : largest());
        if (!even || !odd) return 1;
        const void *g = call.g;
        bool by_column = call.g_by_column;
        for (int64_t n = last; n >= first; --n) {
            Problem p = problem(n);
            p.g = g, p.by_column.g = by_column;
            p.layer.d_x = n == 0 ? call.d_x : n > first ? static_cast<T *>((last - n) % 2 ? odd : even) : nullptr;
            p.by_column.d_x = n ? values_by_column(n - 1) : call.x_by_column;
            if (run<T>(3, int(shapes[n].degree), p)) return 1;
            g = p.layer.d_x, by_column = p.by_column.d_x;
        }
        return 0;
    }
};

template <typename T> int run_layers(int64_t count, const Shape *shapes, const LayersCall &call) {
    const Layers<T> layers{call, shapes, count};
    return call.g ? layers.backward() : layers.forward();
}

}  // namespace

/* Forward without g, or else the gradients. Returns 0, or 1 where memory ran out. */
extern "C" __attribute__((visibility("default"))) int kanfast_layers(int is_float64, int count, const Shape *shapes, const LayersCall *call) {
    return is_float64 ? run_layers<double>(count, shapes, *call) : run_layers<float>(count, shapes, *call);
}

/* Whether the outputs of a layer had better lie by column. */
extern "C" __attribute__((visibility("default"))) int kanfast_is_narrow(int is_float64, int64_t outputs, int degree, int64_t grid_size) {
    Problem p = {};
    p.outputs = outputs, p.grid_size = grid_size;
    return is_float64 ? is_narrow<double>(p, degree) : is_narrow<float>(p, degree);
}
