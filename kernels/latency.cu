// latency.*: one thread follows a chain of pointers; each load's result is the next load's address, so nothing
// overlaps and cycles / loads is the latency. One iteration is 32 loads: the loop's own counting and branch are
// issued while a load is under way.
//
// A slot holds the address itself, not an index: between two loads stands no arithmetic. Each block goes on where it
// stopped in the launch before (`cursor`); starting over would find in L2 what the launch before has fetched.
#include "cycle.cuh"
#include "stamp.cuh"

using address = unsigned long long;
constexpr int loads = 32;

#define CHASE(LOAD)                                                             \
    Stamp stamp;                                                                \
    stamp_start(stamp);                                                         \
    _Pragma("unroll 1") for (unsigned i = 0; i < iterations; ++i) {             \
        _Pragma("unroll") for (int step = 0; step < loads; ++step) LOAD;        \
    }                                                                           \
    cursor[blockIdx.x] = at; /* waits for the last load, so the clock does */   \
    stamp_stop(stamp, iterations, stamps)

#define GLOBAL_CHASE(NAME, OPERATION)                                                                             \
    extern "C" __global__ void __launch_bounds__(1) NAME(Stamp *stamps, address *cursor, unsigned iterations) {   \
        address at = cursor[blockIdx.x];                                                                          \
        if (!at) return; /* also waits for it to arrive, before the clock starts */                               \
        CHASE(asm volatile(OPERATION ".u64 %0, [%0];" : "+l"(at)));                                               \
    }

GLOBAL_CHASE(latency_cached, "ld.global.ca")  // in L1 where it fits
GLOBAL_CHASE(latency_uncached, "ld.global.cg")  // in L2 only

// Shared memory: `cycle` has byte offsets; the block makes addresses of them. `cursor` holds an offset between launches.
constexpr int shared_slots = 256, shared_words = 4;  // a slot every 16 bytes: 4 KiB

#define FILL(BASE)                                                                                             \
    __shared__ __align__(16) unsigned slot[shared_slots * shared_words];                                       \
    const unsigned own = (unsigned)__cvta_generic_to_shared(slot);                                             \
    const unsigned base = BASE;                                                                                \
    for (int i = 0; i < shared_slots; ++i) slot[i * shared_words] = base + cycle[i]

#define SHARED_CHASE(OPERATION)                                        \
    unsigned at = base + (unsigned)cursor[blockIdx.x];                 \
    CHASE(asm volatile(OPERATION ".u32 %0, [%0];" : "+r"(at)));        \
    cursor[blockIdx.x] = at - base

extern "C" __global__ void __launch_bounds__(1)
latency_shared(Stamp *stamps, address *cursor, unsigned iterations, const unsigned *cycle) {
    FILL(own);
    SHARED_CHASE("ld.shared");
}

#if __CUDA_ARCH__ >= 900
// Both blocks of a pair follow the chain in the other's shared memory: filled by its owner with addresses as the
// other one sees them.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(1)
latency_cluster(Stamp *stamps, address *cursor, unsigned iterations, const unsigned *cycle) {
    unsigned rank, mine, theirs;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    FILL(own);
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mine) : "r"(own), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(own), "r"(rank ^ 1));
    for (int i = 0; i < shared_slots; ++i) slot[i * shared_words] += mine - own;
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
    {
        const unsigned base = theirs;
        SHARED_CHASE("ld.shared::cluster");
    }
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
#endif

// Writes the cycle of n slots at `base` and gives each of `blocks` blocks a place on it, evenly apart.
extern "C" __global__ void latency_cycle(address base, address n, int half_bits, address stride_bytes, address seed,
                                         address *cursor, unsigned blocks) {
    const address first = (address)blockIdx.x * blockDim.x + threadIdx.x, step = (address)gridDim.x * blockDim.x;
    for (address i = first; i < n; i += step) {
        const address here = placed(permuted(i, n, half_bits, seed), stride_bytes);
        const address next = placed(permuted(i + 1 == n ? 0 : i + 1, n, half_bits, seed), stride_bytes);
        *(address *)(base + here) = base + next;
    }
    if (first < blocks) cursor[first] = base + placed(permuted(first * n / blocks, n, half_bits, seed), stride_bytes);
}
