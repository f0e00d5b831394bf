// What the kernels of access.cu, atomic.cu and memory.cu use of CUDA, for this machine's processor: a thread of CUDA is one of the
// host's, a block runs after the other. `unroll` and launch bounds say nothing here.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Dimensions {
    unsigned x;
};
static thread_local Dimensions threadIdx;
static Dimensions blockIdx, blockDim, gridDim;
static pthread_barrier_t barrier;
static std::mutex atomic;

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
struct float4 {
    float x, y, z, w;
};
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float fmaf(float a, float b, float c) { return a * b + c; }

static void __syncthreads() { pthread_barrier_wait(&barrier); }
template <typename T> static T __ldcg(const T *from) { return *from; }
static unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
static float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

template <typename T, typename F> static T changed(T *at, F change) {
    std::lock_guard<std::mutex> held(atomic);
    const T before = *at;
    *at = change(before);
    return before;
}
template <typename T> static T atomicAdd(T *at, T value) {
    return changed(at, [=](T old) { return old + value; });
}
template <typename T> static T atomicXor(T *at, T value) {
    return changed(at, [=](T old) { return old ^ value; });
}
template <typename T> static T atomicCAS(T *at, T compare, T value) {
    return changed(at, [=](T old) { return old == compare ? value : old; });
}
static unsigned atomicInc(unsigned *at, unsigned last) {
    return changed(at, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}

struct Stamp {
    unsigned long long smid, clock_start, clock_stop, time_start_ns, time_stop_ns, iterations;
};
static void stamp_start(Stamp &stamp) {
    stamp = {blockIdx.x, 1, 0, 1, 0, 0};
    __syncthreads();
}
static void stamp_stop(Stamp &stamp, unsigned long long iterations, Stamp *stamps) {
    __syncthreads();
    stamp.clock_stop = stamp.time_stop_ns = 2;
    stamp.iterations = iterations;
    if (threadIdx.x == 0) stamps[blockIdx.x] = stamp;
}

// Arguments as 64-bit words: pointers, or values from which each parameter takes its lower bits.
template <typename T> static T argument(uint64_t word) {
    if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(word);
    else return (T)word;
}
template <typename... T, size_t... n>
static void call(void (*kernel)(T...), const uint64_t *words, std::index_sequence<n...>) {
    kernel(argument<T>(words[n])...);
}
template <typename... T> static void launched(void (*kernel)(T...), unsigned blocks, unsigned count, const uint64_t *words) {
    gridDim.x = blocks, blockDim.x = count;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        pthread_barrier_init(&barrier, nullptr, count);
        std::vector<std::thread> all;
        for (unsigned n = 0; n < count; ++n)
            all.emplace_back([=] {
                threadIdx.x = n;
                call(kernel, words, std::index_sequence_for<T...>());
            });
        for (auto &one : all) one.join();
        pthread_barrier_destroy(&barrier);
    }
}
