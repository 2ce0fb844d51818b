/* Layers one after the other, from their parameters, and their gradients: an entry of the C interface each.
 *
 * What lies between two layers is written by column if the first one is narrow, as it is made, and wanted, that way. */
#pragma once

#include "run.h"

namespace {

/* What of a layer is not a tensor, as `kanfast.native.layers` packs it: 64 bits each. */
struct Shape {
    int64_t inputs, outputs, degree, grid_size, activation, grid_is_float64, has_scaler;
    int64_t narrow;  // what kanfast_is_narrow says
};

/* What follows are pointers: the inputs [B, I] of every layer, x and values of layers, which are null if nobody keeps them; the
 * layers' tensors, which are weight, base, scaler and grid, those that they have; on the way back the gradients of these, null
 * if they are not wanted. */
struct LayersCall {
    int64_t rows, threads;
    int64_t x_by_column, g_by_column;  // x and d_x; g only if the last layer is narrow
    void *y;                           // [B, O] of the last layer
    const void *g;                     // or its gradient
    void *d_x;                         // or null
    const double *slope;               // the polynomial of silu's derivative
    void *pointers[];
};

template <typename T> struct Layers {
    const LayersCall &call;
    const Shape *shapes;
    const int64_t count, last = count - 1;

    void *input(int64_t n) const { return call.pointers[n]; }
    bool by_column(int64_t n) const { return n ? shapes[n - 1].narrow : call.x_by_column; }  // the input of layer n

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
        p.grid_size = shape.grid_size, p.activation = shape.activation;
        p.threads = call.threads, p.grid = tensors[scaler + 1], p.grid_is_float64 = shape.grid_is_float64;
        p.x = input(n), p.by_column.x = by_column(n);
        p.layer.weight = tensors[0], p.layer.base = of(base, tensors + base), p.layer.scaler = of(shape.has_scaler, tensors + scaler);
        if (call.g == nullptr) return p;
        p.layer.d_weight = gradients[0], p.layer.d_base = of(base, gradients + base);
        p.layer.d_scaler = of(shape.has_scaler, gradients + scaler);
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
        const bool kept = last == 0 || input(1);
        const Buffer<T> even(kept ? 0 : largest()), odd(kept || last < 2 ? 0 : largest());
        if (!even || !odd) return 1;
        void *x = input(0);
        for (int64_t n = 0; n < count; ++n) {
            Problem p = problem(n);
            p.x = x;
            x = p.out = n == last ? call.y : kept ? input(n + 1) : static_cast<T *>(n % 2 ? odd : even);
            p.by_column.y = n < last && by_column(n + 1);
            if (run<T>(0, int(shapes[n].degree), p)) return 1;
        }
        return 0;
    }

    int backward() const {
        int64_t first = 0;  // layer with a gradient that is wanted
        while (first < last && !call.d_x && !problem(first).layer.trained()) ++first;
        const Buffer<T> even(last == first ? 0 : largest()), odd(last - first < 2 ? 0 : largest());
        if (!even || !odd) return 1;
        const void *g = call.g;
        for (int64_t n = last; n >= first; --n) {
            Problem p = problem(n);
            p.g = g, p.by_column.g = n < last ? by_column(n + 1) : call.g_by_column;
            p.layer.d_x = n == 0 ? call.d_x : n > first ? static_cast<T *>((last - n) % 2 ? odd : even) : nullptr;
            p.by_column.d_x = by_column(n);
            if (run<T>(3, int(shapes[n].degree), p)) return 1;
            g = p.layer.d_x;
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
