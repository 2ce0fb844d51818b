/* One SIMD register of T as GCC and Clang know it without intrinsics; its width follows the flags of the compiler. */
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int REGISTER_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int REGISTER_BYTES = 16, REGISTERS = 32;
#else
constexpr int REGISTER_BYTES = 16, REGISTERS = 16;
#endif

template <typename T> struct Simd;

template <> struct Simd<float> {
    static constexpr int lanes = REGISTER_BYTES / 4;
    typedef float vec __attribute__((vector_size(REGISTER_BYTES)));
    typedef uint32_t bits __attribute__((vector_size(REGISTER_BYTES)));
    typedef int32_t index __attribute__((vector_size(REGISTER_BYTES)));
    static constexpr int mantissa = 23, bias = 127, taylor = 7;
    static constexpr float lowest_exponent = -87, round = 12582912;  // 1.5 * 2^23
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};

template <> struct Simd<double> {
    static constexpr int lanes = REGISTER_BYTES / 8;
    typedef double vec __attribute__((vector_size(REGISTER_BYTES)));
    typedef uint64_t bits __attribute__((vector_size(REGISTER_BYTES)));
    typedef int32_t index __attribute__((vector_size(REGISTER_BYTES / 2)));
    static constexpr int mantissa = 52, bias = 1023, taylor = 13;
    static constexpr double lowest_exponent = -708, round = 6755399441055744;  // 1.5 * 2^52
    static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
};

template <typename T> using Vec = typename Simd<T>::vec;

template <typename T> inline Vec<T> load(const T *from) {
    Vec<T> v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <typename T> inline void store(T *to, Vec<T> v) { memcpy(to, &v, sizeof v); }

template <typename T> inline Vec<T> all(T value) { return value - Vec<T>{}; }

/* Lane l of the result: l of `a` where bit W of l is 0 and `l ^ flip` of `b` where it is 1; for W-step sums of lanes. */
template <typename T, int W, bool CROSS, int... l> inline Vec<T> mix(Vec<T> a, Vec<T> b, std::integer_sequence<int, l...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, ((l & W ? sizeof...(l) + l : l) ^ (CROSS ? W : 0))...);
#else
    return __builtin_shuffle(a, b, typename Simd<T>::bits{((l & W ? sizeof...(l) + l : l) ^ (CROSS ? W : 0))...});
#endif
}

/* Vectors a, b with W-fold partial sums in their lanes as one with 2W-fold ones: a's where bit W of the lane is 0. */
template <typename T, int W> inline Vec<T> fold(Vec<T> a, Vec<T> b) {
    using Lanes = std::make_integer_sequence<int, Simd<T>::lanes>;
    return mix<T, W, false>(a, b, Lanes{}) + mix<T, W, true>(a, b, Lanes{});
}

/* The sums of the lanes of eight vectors, added to out[0 .. 7]. */
template <typename T> inline void add_sums(const Vec<T> *v, T *out) {
    constexpr int L = Simd<T>::lanes;
    if constexpr (L >= 8) {
        const Vec<T> low = fold<T, 2>(fold<T, 1>(v[0], v[1]), fold<T, 1>(v[2], v[3]));
        const Vec<T> high = fold<T, 2>(fold<T, 1>(v[4], v[5]), fold<T, 1>(v[6], v[7]));
        T lane[L];
        store(lane, fold<T, 4>(low, high));
        for (int i = 0; i < 8; ++i) out[i] += L == 16 ? lane[i] + lane[i + 8 < L ? i + 8 : i] : lane[i];
    } else if constexpr (L == 4) {
        for (int i = 0; i < 8; i += 4)
            store(out + i, load(out + i) + fold<T, 2>(fold<T, 1>(v[i], v[i + 1]), fold<T, 1>(v[i + 2], v[i + 3])));
    } else {
        for (int i = 0; i < 8; i += 2) store(out + i, load(out + i) + fold<T, 1>(v[i], v[i + 1]));
    }
}

/* Four numbers, whatever the registers are. */
template <typename T> struct Four {
    typedef T vec __attribute__((vector_size(4 * sizeof(T))));
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    typedef Bits bits __attribute__((vector_size(4 * sizeof(T))));

    static vec load(const T *from) {
        vec v;
        memcpy(&v, from, sizeof v);
        return v;
    }

    static void store(T *to, vec v) { memcpy(to, &v, sizeof v); }

    /* Those of these numbers among the eight of a and b. */
    template <int n0, int n1, int n2, int n3> static vec pick(vec a, vec b) {
#if defined(__clang__)
        return __builtin_shufflevector(a, b, n0, n1, n2, n3);
#else
        return __builtin_shuffle(a, b, bits{n0, n1, n2, n3});
#endif
    }

    /* v with zeros in its first lanes. */
    static vec without(vec v, int lanes) { return bits{0, 1, 2, 3} >= bits{} + Bits(lanes) ? v : vec{}; }

    /* Four rows become four columns. */
    static void transpose(vec *v) {
        const vec a = pick<0, 4, 1, 5>(v[0], v[1]), b = pick<2, 6, 3, 7>(v[0], v[1]);
        const vec c = pick<0, 4, 1, 5>(v[2], v[3]), d = pick<2, 6, 3, 7>(v[2], v[3]);
        v[0] = pick<0, 1, 4, 5>(a, c), v[1] = pick<2, 3, 6, 7>(a, c);
        v[2] = pick<0, 1, 4, 5>(b, d), v[3] = pick<2, 3, 6, 7>(b, d);
    }
};

/* e^x for x <= 0, to an ulp or two; below the smallest normal number that one. NaN stays NaN. */
template <typename T> inline Vec<T> exp_of_negative(Vec<T> x) {
    using S = Simd<T>;
    x = x < S::lowest_exponent ? all(S::lowest_exponent) : x;
    const Vec<T> shifted = x * T(1.4426950408889634) + S::round;
    const Vec<T> n = shifted - S::round;
    const Vec<T> r = (x - n * S::ln2_high) - n * S::ln2_low;
    Vec<T> e = all(T(1));
    for (int j = S::taylor; j; --j) e = e * r * (T(1) / j) + 1;
    typename S::bits power;
    memcpy(&power, &shifted, sizeof power);
    power = (power + S::bias) << S::mantissa;  // n sits in the low bits of `shifted`
    Vec<T> scale;
    memcpy(&scale, &power, sizeof scale);
    return e * scale;
}
