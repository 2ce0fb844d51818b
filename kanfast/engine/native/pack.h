/* Coefficients from the layout of parameters, [O, I, G + k], to that of the kernels, [J, I, O], and their gradients back. */
#pragma once

#include <cstdint>

namespace {

constexpr int64_t PACK_OUTPUTS = 16;  // rows of weights that are read side by side

/* Shapes and tensors: scaler and base [O, I] may be null, and so may be any of the gradients. */
template <typename T> struct Packing {
    int64_t inputs, outputs, splines;
    int threads;
    const T *weight, *scaler, *base;

    void pack(T *c) const {
        const int64_t all = inputs * outputs;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t i = 0; i < inputs; ++i)
            for (int64_t first = 0; first < outputs; first += PACK_OUTPUTS) {
                const int64_t last = first + PACK_OUTPUTS < outputs ? first + PACK_OUTPUTS : outputs;
                for (int64_t j = 0; j < splines; ++j)
                    for (int64_t o = first; o < last; ++o) {
                        const T w = weight[(o * inputs + i) * splines + j];
                        c[j * all + i * outputs + o] = scaler ? w * scaler[o * inputs + i] : w;
                    }
                for (int64_t o = first; base && o < last; ++o) c[splines * all + i * outputs + o] = base[o * inputs + i];
            }
    }

    void unpack(const T *dc, T *d_weight, T *d_scaler, T *d_base) const {
        const int64_t all = inputs * outputs;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t i = 0; i < inputs; ++i) {
                const int64_t edge = o * inputs + i;
                const T *from = dc + i * outputs + o, *w = weight + edge * splines;
                const T scale = scaler ? scaler[edge] : T(1);
                T total = 0;
                for (int64_t j = 0; j < splines; ++j) {
                    const T d = from[j * all];
                    if (d_weight) d_weight[edge * splines + j] = d * scale;
                    total += d * w[j];
                }
                if (d_scaler) d_scaler[edge] = total;
                if (d_base) d_base[edge] = from[splines * all];
            }
    }
};

template <typename T> void run_packing(const int64_t *sizes, void *const *t) {
    auto in = [&](int n) { return static_cast<const T *>(t[n]); };
    auto out = [&](int n) { return static_cast<T *>(t[n]); };
    const Packing<T> packing{sizes[0], sizes[1], sizes[2], int(sizes[3]), in(0), in(1), in(2)};
    if (sizes[4])
        packing.unpack(in(3), out(4), out(5), out(6));
    else
        packing.pack(out(3));
}

}  // namespace

struct Pack {
    int64_t sizes[5];  // I, O, G + k, threads, whether to unpack
    void *tensors[7];  // weight, scaler, base, c; or weight, scaler, null, dc and the gradients of weight, scaler, base
};

extern "C" __attribute__((visibility("default"))) void kanfast_pack(int is_float64, const Pack *p) {
    is_float64 ? run_packing<double>(p->sizes, p->tensors) : run_packing<float>(p->sizes, p->tensors);
}
