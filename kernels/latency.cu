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

GLOBAL_CHASE(latency_cached, "ld.global")  // in L1 where it fits
GLOBAL_CHASE(latency_uncached, "ld.global.cg")  // in L2 only

// Shared memory: `cycle` has byte offsets, of which the block makes addresses; `cursor` has an offset between launches.
constexpr int shared_slots = 256, shared_bytes = 16;  // per slot

#define FILL(WORD, BASE)                                                            \
    __shared__ __align__(16) unsigned char slot[shared_slots * shared_bytes];       \
    _Pragma("unroll 8") for (int i = 0; i < shared_slots; ++i)                      \
        *(WORD *)(slot + i * shared_bytes) = (BASE) + cycle[i]

extern "C" __global__ void __launch_bounds__(1)
latency_shared(Stamp *stamps, address *cursor, unsigned iterations, const unsigned *cycle) {
    const auto base = [](const void *p) { return (unsigned)__cvta_generic_to_shared(p); };
    FILL(unsigned, base(slot));
    unsigned at = base(slot) + (unsigned)cursor[blockIdx.x];
    CHASE(asm volatile("ld.shared.u32 %0, [%0];" : "+r"(at)));
    cursor[blockIdx.x] = at - base(slot);
}

#if __CUDA_ARCH__ >= 900
// Both blocks of a pair follow the chain in the other's shared memory; each fills its own with the addresses that both
// use for it. Generic ones: machine code has no other way to a neighbour's shared memory, and makes them of narrower
// ones by two moves per load.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(1)
latency_cluster(Stamp *stamps, address *cursor, unsigned iterations, const unsigned *cycle) {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    const auto of_rank = [](const void *p, unsigned r) {
        address mapped;
        asm volatile("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(p), "r"(r));
        return mapped;
    };
    FILL(address, of_rank(slot, rank));
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");
    const address base = of_rank(slot, rank ^ 1);
    address at = base + cursor[blockIdx.x];
    CHASE(asm volatile("ld.u64 %0, [%0];" : "+l"(at)));
    cursor[blockIdx.x] = at - base;
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");  // nobody leaves a reader behind
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
