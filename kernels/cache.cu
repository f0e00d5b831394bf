// shared.read, shared.write, l1.read: 16-byte accesses of every thread to 32 KiB that each SM holds by itself.
// dsmem.read: the same loads from the shared memory of the other block of a cluster, on another SM.
//
// One iteration is 16 accesses a thread x 1024 threads x 16 bytes = 256 KiB. A warp's 512 bytes take four cycles at
// the nominal 128 bytes per clock and SM; sums and addresses take four integer instructions, on other pipes, and 32
// warps hide the latency. Each thread goes to and fro between two places. ptxas joins loads of one address, and takes
// out of the loop what is the same in each pass, volatile assembly or not; so an address is the one before it plus
// blockDim.x vectors, which it cannot know to be half of the 32 KiB. The sums prove that the values arrived.
#include "stamp.cuh"

constexpr int threads = 1024, accesses = 16, places = 2;
constexpr unsigned bytes = places * threads * 16;

#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < count; ++i)

namespace {

__device__ __forceinline__ void store_shared(unsigned address, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Groups of four: 16 registers in flight a thread, which 1024 threads of 64 registers can spare.
template <typename Load>
__device__ __forceinline__ unsigned sum_of(Load load, unsigned &offset, unsigned total) {
    EACH(group, accesses / 4) {
        uint4 v[4];
        EACH(i, 4) {
            v[i] = load(offset);
            offset = (offset + blockDim.x * 16) & (bytes - 1);
        }
        EACH(i, 4) total += v[i].x + v[i].y + v[i].z + v[i].w;
    }
    return total;
}

}  // namespace

#define ARGUMENTS Stamp *stamps, const uint4 *input, unsigned *output, int iterations

extern "C" __global__ void __launch_bounds__(threads, 1) shared_read(ARGUMENTS) {
    __shared__ uint4 data[places * threads];
    EACH(p, places) data[p * threads + threadIdx.x] = input[p * threads + threadIdx.x];
    unsigned total = 0, offset = threadIdx.x * 16;
    Stamp stamp;
    stamp_start(stamp);
    _Pragma("unroll 1") for (int it = 0; it < iterations; ++it)
        total = sum_of([&](unsigned at) { return *(const uint4 *)((const char *)data + at); }, offset, total);
    stamp_stop(stamp, iterations, stamps);
    output[blockIdx.x * threads + threadIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(threads, 1) l1_read(ARGUMENTS) {
    unsigned total = 0, offset = threadIdx.x * 16;
    Stamp stamp;
    stamp_start(stamp);
    _Pragma("unroll 1") for (int it = 0; it < iterations; ++it)
        total = sum_of([&](unsigned at) { return *(const uint4 *)((const char *)input + at); }, offset, total);
    stamp_stop(stamp, iterations, stamps);
    output[blockIdx.x * threads + threadIdx.x] = total;
}

// What is stored counts up with every iteration, so that the last values left behind prove that all ran.
extern "C" __global__ void __launch_bounds__(threads, 1) shared_write(ARGUMENTS) {
    __shared__ uint4 data[places * threads];
    uint4 value[places];
    EACH(p, places) value[p] = input[p * threads + threadIdx.x];
    const unsigned base = (unsigned)__cvta_generic_to_shared(data + threadIdx.x);
    Stamp stamp;
    stamp_start(stamp);
    _Pragma("unroll 1") for (int it = 0; it < iterations; ++it) {
        EACH(p, places) value[p] = {value[p].x + 1, value[p].y + 1, value[p].z + 1, value[p].w + 1};
        EACH(i, accesses) store_shared(base + (i % places) * threads * 16, value[i % places]);
    }
    stamp_stop(stamp, iterations, stamps);
    EACH(p, places) {
        const uint4 left = data[p * threads + threadIdx.x];
        unsigned *out = output + ((size_t)(blockIdx.x * places + p) * threads + threadIdx.x) * 4;
        out[0] = left.x, out[1] = left.y, out[2] = left.z, out[3] = left.w;
    }
}

#if __CUDA_ARCH__ >= 900
// Both blocks of a cluster read each other's shared memory at once. A block fills its own with words that depend on its
// rank, so that the sums tell whose were read. The address is a generic one: machine code has no other way to a
// neighbour's shared memory. All of the SM's shared memory is asked for at launch, so that the neighbour is on another.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(threads, 1) dsmem_read(ARGUMENTS) {
    extern __shared__ uint4 mine[];
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    EACH(p, places) {
        const uint4 v = input[p * threads + threadIdx.x];
        mine[p * threads + threadIdx.x] = {v.x + rank, v.y + rank, v.z + rank, v.w + rank};
    }
    const char *theirs;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank ^ 1));
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");
    unsigned total = 0, offset = threadIdx.x * 16;
    Stamp stamp;
    stamp_start(stamp);
    _Pragma("unroll 1") for (int it = 0; it < iterations; ++it)
        total = sum_of([&](unsigned at) { return *(const uint4 *)(theirs + at); }, offset, total);
    stamp_stop(stamp, iterations, stamps);
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");  // nobody leaves a reader behind
    output[blockIdx.x * threads + threadIdx.x] = total;
}
#endif
