// memory.read_tma: memory.read once more, through the bulk copies of the tensor memory accelerator. In a file of its own,
// since a compiler older than PTX ISA 8.6 (CUDA 12.7) refuses the copy, and with it whatever else stands in the file.
//
// Two stages of shared memory take turns: thread 0 asks for a chunk (16 KiB) and has it copied into a free stage while
// all threads sum the words of the other. A stage's barrier completes a phase when all bytes of its chunk have arrived;
// phases of one stage alternate in parity. Chunks come from an atomic counter as in memory.cu.
#include "stamp.cuh"

constexpr int threads = 256, vectors = 4, stages = 2;
constexpr unsigned chunk_bytes = threads * vectors * 16;

__device__ __forceinline__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void bulk_copy(void *stage, const char *source, unsigned long long *arrived) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(shared_address(arrived)), "r"(chunk_bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(stage)), "l"(source), "r"(chunk_bytes), "r"(shared_address(arrived)) : "memory");
}

__device__ __forceinline__ void wait_for(unsigned long long *arrived, unsigned parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }" ::"r"(shared_address(arrived)), "r"(parity) : "memory");
}

extern "C" __global__ void __launch_bounds__(threads, 4)
memory_read_tma(Stamp *stamps, unsigned *counter, unsigned array_chunks, unsigned total_chunks, const char *source,
                unsigned *sum) {
    __shared__ alignas(128) uint4 stage[stages][threads * vectors];
    __shared__ unsigned long long arrived[stages];
    const bool asks = threadIdx.x == 0;
    unsigned following = 0, pending = 0;  // of thread 0: the chunk in the other stage, and the one after that
    const auto ask = [&] {  // each block is refused once, so that the counter is zero again at the end
        return pending < total_chunks ? atomicInc(counter, total_chunks + gridDim.x - 1) : total_chunks;
    };
    const auto fill = [&](int s, unsigned chunk) {
        if (chunk < total_chunks) bulk_copy(stage[s], source + (size_t)(chunk % array_chunks) * chunk_bytes, arrived + s);
    };
    if (asks) {
        for (int s = 0; s < stages; ++s)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrived + s)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");  // before the copies see the barriers
    }
    Stamp stamp;
    stamp_start(stamp);
    bool first = false;
    if (asks) {
        fill(0, pending = ask());
        first = pending < total_chunks;
        fill(1, following = pending = ask());
        pending = ask();
    }
    unsigned total = 0, taken = 0, s = 0, parity = 0;
    bool more = __syncthreads_or(first);
    _Pragma("unroll 1") while (more) {
        wait_for(arrived + s, parity);
        uint4 value[vectors];
        _Pragma("unroll") for (int v = 0; v < vectors; ++v) value[v] = stage[s][threadIdx.x + v * threads];
        _Pragma("unroll") for (int v = 0; v < vectors; ++v)
            total += value[v].x + value[v].y + value[v].z + value[v].w;
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // these loads before the copy that overwrites
        more = __syncthreads_or(asks && following < total_chunks);
        if (asks) {
            fill(s, following = pending);
            pending = ask();
        }
        ++taken;
        s ^= 1;
        parity ^= s == 0;
    }
    stamp_stop(stamp, taken, stamps);
    atomicAdd(sum, total);
}
