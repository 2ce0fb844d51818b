/* A layer from its parameters, and its gradients: an entry of the C interface. */
#pragma once

#include "run.h"

/* As `engine.native.layer` packs it: 64 bits each. Tensors are contiguous; x and g may lie by column instead. Pointers are null
 * where a tensor is not there or not wanted. */
struct LayerCall {
    int64_t rows, inputs, outputs, grid_size, activation, threads, grid_is_float64;
    int64_t x_by_column, g_by_column;                // x and d_x; g of a layer with few outputs only
    const void *x, *weight, *base, *scaler, *grid;   // [B, I], [O, I, G + k], [O, I], [O, I], [I, G + 2k + 1]
    const void *residual, *residual_slope;           // [B, I], values of a residual function that is GIVEN, and of its derivative
    const double *slope;                             // the polynomial of silu's derivative
    void *y;                                         // [B, O]
    const void *g;                                   // the gradient of y, for those of the others
    void *d_x, *d_weight, *d_base, *d_scaler;
};

/* Forward without g, or else the gradients. Returns 0, or 1 where memory ran out. */
extern "C" __attribute__((visibility("default"))) int kanfast_layer(int is_float64, int degree, const LayerCall *call) {
    Problem p = {};
    p.rows = call->rows, p.inputs = call->inputs, p.outputs = call->outputs, p.grid_size = call->grid_size;
    p.activation = call->activation, p.threads = call->threads, p.grid_is_float64 = call->grid_is_float64;
    p.x = call->x, p.grid = call->grid, p.residual = call->residual, p.out = call->y;
    p.by_column.x = p.by_column.d_x = call->x_by_column, p.by_column.g = call->g_by_column;
    p.layer.weight = call->weight, p.layer.base = call->base, p.layer.scaler = call->scaler;
    if (call->g) {
        p.g = call->g, p.polynomial = call->slope, p.layer.residual_slope = call->residual_slope;
        p.layer.d_x = call->d_x, p.layer.d_weight = call->d_weight;
        p.layer.d_base = call->d_base, p.layer.d_scaler = call->d_scaler;
    }
    const int op = call->g ? 3 : 0;
    return is_float64 ? run<double>(op, degree, p) : run<float>(op, degree, p);
}

/* Whether the gradient of the outputs of a layer had better lie by column. */
extern "C" __attribute__((visibility("default"))) int kanfast_is_narrow(int is_float64, int64_t outputs, int degree, int64_t grid_size) {
    Problem p = {};
    p.outputs = outputs, p.grid_size = grid_size;
    return is_float64 ? is_narrow<double>(p, degree) : is_narrow<float>(p, degree);
}
