/* Faults on purpose, one of each kind: a sanitizer that says nothing about them looks at nothing. */
#include <climits>
#include <cstdlib>

/* kind: 0 none, 1 a read beyond the end of memory, 2 an overflow of int, 3 a race between threads. Returns a number. */
extern "C" __attribute__((visibility("default"))) int kanfast_fault(int kind) {
    const int threads = 4;
    volatile int *numbers = static_cast<volatile int *>(calloc(threads, sizeof(int)));
    volatile int largest = INT_MAX - 1;
    int sum = numbers[kind == 1 ? threads : 0] - (largest + (kind == 2 ? 2 : 1));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int n = 0; n < threads; ++n) numbers[kind == 3 ? 0 : n] = n;
#pragma omp for schedule(dynamic)
        for (int n = 0; n < threads; ++n) numbers[n] += 1;
    }
    sum += numbers[0];
    free(const_cast<int *>(numbers));
    return sum;
}
