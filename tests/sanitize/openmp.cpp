/* OpenMP's run time, as far as kanfast.engine.native needs it, on std::thread.
 *
 * ThreadSanitizer sees no synchronisation in GCC's own run time, which sleeps and wakes by system calls, and takes every parallel
 * loop for a race. It knows the locks of the C++ library. So the code that GCC makes of `#pragma omp` calls these functions
 * instead, under GCC's names. A function that lacks here is an error of the linker.
 */
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

struct Team {
    const int size;
    std::mutex mutex;
    std::condition_variable all_here;
    int waiting = 0;
    long generation = 0;  // of the barrier
    bool loop_begun = false;
    std::atomic<long> next{0};
    long end = 0, count = 0;  // of the loop, and of what a thread takes at a time

    explicit Team(int size) : size(size) {}

    /* The last one to come ends the loop that the team was in. */
    void barrier() {
        std::unique_lock<std::mutex> lock(mutex);
        const long mine = generation;
        if (++waiting == size) {
            waiting = 0, loop_begun = false, ++generation;
            all_here.notify_all();
        } else {
            all_here.wait(lock, [&] { return generation != mine; });
        }
    }

    /* No lock, which would put the threads' work in an order that OpenMP does not promise. */
    bool take(long *first, long *last) {
        *first = next.fetch_add(count, std::memory_order_relaxed);
        *last = *first + count < end ? *first + count : end;
        return *first < end;
    }
};

thread_local Team alone(1);  // outside of parallel regions
thread_local Team *team = &alone;
thread_local int number = 0;

}  // namespace

extern "C" {

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned) {
    Team all(threads ? int(threads) : 1);
    Team *const outer_team = team;
    const int outer_number = number;
    std::vector<std::thread> others;
    for (int n = 1; n < all.size; ++n)
        others.emplace_back([&all, n, body, data] {
            team = &all, number = n;
            body(data);
        });
    team = &all, number = 0;
    body(data);
    for (std::thread &each : others) each.join();
    team = outer_team, number = outer_number;
}

void GOMP_barrier() { team->barrier(); }

/* Of an ascending loop, which all loops of kanfast.engine.native are. */
bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *first, long *last) {
    {
        std::lock_guard<std::mutex> lock(team->mutex);
        if (!team->loop_begun) team->loop_begun = true, team->next = start, team->end = end, team->count = chunk * step;
    }
    return team->take(first, last);
}

bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last) { return team->take(first, last); }

void GOMP_loop_end() { team->barrier(); }

/* Of the last loop of a parallel region, whose end is a barrier. */
void GOMP_loop_end_nowait() {}

int omp_get_num_threads() { return team->size; }

int omp_get_thread_num() { return number; }

}
