// tensor.bf16: dense BF16 tensor rate through Hopper's warpgroup path, wgmma m64n256k16, FP32 accumulators.
//
// Work per block and iteration: 2 warpgroups x 8 wgmma x 2 x 64 x 256 x 16 FLOP = 8,388,608 FLOP.
// SASS: 8 HGMMA.64x256x16.F32.BF16 in the loop body. What reaches the limit (measured on an H100: 0.998 of
// 4096 FLOP per clock and SM): one block per SM, two warpgroups with an n256 tile each (one alone leaves gaps),
// eight wgmma to a commit group, operands resident in shared memory.
//
// Two traps. ptxas drops a wgmma whose shared memory was never written, so the operands are real data. And it
// serialises wgmma when accumulators are touched between issue and wait; it then says C7510 or C7517 in the
// log, which compile.py treats as an error.
#include "stamp.cuh"

constexpr int warpgroups = 2, m = 64, n = 256, depth = 64;  // depth: the resident part of k, 4 steps of 16
constexpr int repeats = 2;                                   // 2 x 4 k-steps = 8 wgmma per commit group
constexpr int row_bytes = depth * 2;                         // 128 bytes: exactly one swizzle row

// Shared-memory matrix descriptor (PTX ISA, "Matrix descriptor", asynchronous warpgroup level): K-major,
// 128-byte swizzle, groups of eight rows 1024 bytes apart. The leading dimension is unused with this swizzle.
__device__ __forceinline__ unsigned long long descriptor(const void *shared) {
    const unsigned long long address = __cvta_generic_to_shared(shared);
    return (address & 0x3FFFF) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// One row-major matrix of `rows` x 64 BF16 into swizzled shared memory: within each row of eight 16-byte
// units, unit u of row r goes to place u ^ (r % 8).
__device__ __forceinline__ void load_swizzled(uint4 *shared, const uint4 *global, int rows) {
    for (int unit = threadIdx.x; unit < rows * 8; unit += blockDim.x) {
        const int row = unit / 8;
        shared[row * 8 + (unit % 8 ^ row % 8)] = global[unit];
    }
}

#define EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
    "+f"(d[i + 6]), "+f"(d[i + 7])
#define THIRTY_TWO(i) EIGHT(i), EIGHT(i + 8), EIGHT(i + 16), EIGHT(i + 24)

// d += A x B with both operands in shared memory, neither negated nor transposed.
__device__ __forceinline__ void wgmma(float (&d)[128], unsigned long long a, unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, 1, 1, 1, 0, 0;"
        : THIRTY_TWO(0), THIRTY_TWO(32), THIRTY_TWO(64), THIRTY_TWO(96)
        : "l"(a), "l"(b));
}

// input (BF16): A as warpgroups x 64 x 64, then B as 256 x 64 (k runs fastest in both).
// output: blocks x warpgroups x 64 x 256 floats.
extern "C" __global__ void __launch_bounds__(warpgroups * 128, 1)
wgmma_bf16(Stamp *stamps, const uint4 *input, float *output, int iterations) {
    __shared__ alignas(1024) uint4 a_shared[warpgroups * m * row_bytes / 16];
    __shared__ alignas(1024) uint4 b_shared[n * row_bytes / 16];
    load_swizzled(a_shared, input, warpgroups * m);
    load_swizzled(b_shared, input + warpgroups * m * row_bytes / 16, n);
    // wgmma reads shared memory through the asynchronous proxy: ordinary stores need this fence, then a barrier.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();

    const int warpgroup = threadIdx.x / 128;
    const unsigned long long a = descriptor(a_shared + warpgroup * m * row_bytes / 16);
    const unsigned long long b = descriptor(b_shared);
    float d[128] = {};

    Stamp stamp;
    stamp_start(stamp);
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int repeat = 0; repeat < repeats; ++repeat)
#pragma unroll
            for (int k = 0; k < depth / 16; ++k) wgmma(d, a + 2 * k, b + 2 * k);  // 16 BF16 = 2 units of 16 bytes
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    stamp_stop(stamp, iterations, stamps);

    // Accumulator layout: PTX ISA, "WGMMA matrix fragments", D of m64nNk16.
    const int warp = threadIdx.x % 128 / 32, group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
    float *tile = output + (blockIdx.x * warpgroups + warpgroup) * m * n;
#pragma unroll
    for (int i = 0; i < 128; ++i)
        tile[(warp * 16 + group + i / 2 % 2 * 8) * n + i / 4 * 8 + lane * 2 + i % 2] = d[i];
}
