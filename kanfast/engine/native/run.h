/* The primitive, the type and the degree that a call asks for: the C interface of kanfast.native. */

#pragma once

#include "primitives.h"

namespace {

/* Operations with whole registers for each thread: with less it is left asleep. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t SERIAL_WORK = 100;  // so that small calls have threads, too
#else
constexpr int64_t SERIAL_WORK = 100000;
#endif

/* Calls run(constant K) for a degree K, and returns what that does: 0, or 1 where memory ran out. */
template <typename Run> int with_degree(int degree, Run run) {
    switch (degree) {
    case 0: return run(Constant<0>{});
    case 1: return run(Constant<1>{});
    case 2: return run(Constant<2>{});
    case 3: return run(Constant<3>{});
    case 4: return run(Constant<4>{});
    case 5: return run(Constant<5>{});
    case 6: return run(Constant<6>{});
    case 7: return run(Constant<7>{});
    }
    return 2;
}

/* The primitives 0 forward, 1 input_grad, 2 weight_grad, and 3 for both gradients of a layer. */
template <typename T> int run(int op, int degree, Problem p) {
    const int64_t vectors = p.outputs * int64_t(sizeof(T)) * (degree + 2) / 64, coefficients = p.outputs * (p.grid_size + degree) / 4;
    p.threads = min(p.threads, 1 + p.inputs * (p.rows * (8 + vectors) + coefficients) / SERIAL_WORK);
    p.by_column.x |= p.inputs == 1, p.by_column.d_x |= p.inputs == 1;
    if (p.outputs == 1 && is_narrow<T>(p, degree)) p.by_column.y = p.by_column.g = true;
    return with_degree(degree, [&](auto k) -> int {
        Primitives<T, k.value> primitives{p};
        if (op == 3) {  // of a layer, whose polynomial is that of the next derivative
            Problem slope = p;
            slope.out = p.layer.d_x, slope.residual = p.layer.residual_slope;
            ++slope.deriv;
            return (slope.out && !primitives.both && Primitives<T, k.value>{slope}.input_grad()) || (p.layer.trained() && primitives.weight_grad());
        }
        return int(op == 0 ? primitives.forward() : op == 1 ? primitives.input_grad() : primitives.weight_grad());
    });
}

}  // namespace

/* op: 0 forward, 1 input_grad, 2 weight_grad. Returns 0, or 1 where memory ran out. */
extern "C" __attribute__((visibility("default"))) int kanfast_run(int op, int is_float64, int degree, const Call *call) {
    Problem p = {*call};
    p.by_column = {bool(call->x_by_column), bool(call->scale_by_column), false, bool(call->g_by_column), bool(call->x_by_column)};
    return is_float64 ? run<double>(op, degree, p) : run<float>(op, degree, p);
}
