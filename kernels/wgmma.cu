// The tensor rates of Hopper's warpgroup path: D += A B^T by wgmma m64nNkK, one source for every format and shape.
//
// Work per block and iteration: WARPGROUPS x STEPS x REPEATS instructions of 2 x 64 x N x K operations. The headline
// kernels use m64n256, two warpgroups and 8 instructions. SASS: STEPS x REPEATS instructions in the loop body, HGMMA,
// QGMMA (FP8), IGMMA or BGMMA by format. What reaches the limit (measured on an H100: 0.998 of 4096 FLOP per clock
// and SM in BF16): one block per SM, two warpgroups with an n256 tile each (one alone leaves gaps), eight wgmma to a
// commit group, operands resident. Dense A may come from shared memory or from registers; 2:4 sparse A must come from
// registers (from shared memory only 0.886 was reached).
//
// Two traps. With a compiler of that time ptxas dropped a wgmma whose shared memory was never written; NVRTC 13.5
// keeps all eight. The operands are real data either way, and the census counts. And ptxas serialises wgmma when
// accumulators are touched between issue and wait; it then says C7510 or C7517 in the log, which compile.py treats as
// an error.
//
// compile.py defines KERNEL, the symbol; tensor.py, in front of this text:
//   INSTRUCTION      the PTX with its operand numbers, such as "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16
//                    {%0, ..., %127}, %128, %129, 1, 1, 1, 0, 0;" (accumulators, A, B, scales and transpositions)
//   N                columns of one warpgroup's tile
//   STEP_BYTES       bytes of one row of B that an instruction takes: 32, or 64 where A is sparse
//   REPEATS          how often an iteration passes over the resident operands
//   WARPGROUPS, BLOCKS_PER_SM
//   A_IN_REGISTERS   1 or 0
//   SPARSE           1 where A holds two of four elements (TF32: one of two) and metadata says which
//   ACCUMULATOR, ACCUMULATORS, CONSTRAINT   type, number per thread and asm constraint of D's registers
//   PACKED           columns that one accumulator register holds: 2 for FP16, else 1
#include "stamp.cuh"

constexpr int m = 64, row_bytes = 128;            // 128 bytes of k are resident: exactly one swizzle row
constexpr int steps = row_bytes / STEP_BYTES;     // instructions that pass over them
constexpr int a_row_bytes = SPARSE ? row_bytes / 2 : row_bytes;  // as stored: a sparse A leaves out its zeros

// Shared-memory matrix descriptor (PTX ISA, "Matrix descriptor", asynchronous warpgroup level): K-major,
// 128-byte swizzle, groups of eight rows 1024 bytes apart. The leading dimension is unused with this swizzle.
__device__ __forceinline__ unsigned long long descriptor(const void *shared) {
    const unsigned long long address = __cvta_generic_to_shared(shared);
    return (address & 0x3FFFF) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// One row-major matrix of `rows` x 128 bytes into swizzled shared memory: within each row of eight 16-byte
// units, unit u of row r goes to place u ^ (r % 8).
__device__ __forceinline__ void load_swizzled(uint4 *shared, const uint4 *global, int rows) {
    for (int unit = threadIdx.x; unit < rows * 8; unit += blockDim.x) {
        const int row = unit / 8;
        shared[row * 8 + (unit % 8 ^ row % 8)] = global[unit];
    }
}

#define D_2(i) CONSTRAINT(d[i]), CONSTRAINT(d[i + 1])
#define D_4(i) D_2(i), D_2(i + 2)
#define D_8(i) D_4(i), D_4(i + 4)
#define D_16(i) D_8(i), D_8(i + 8)
#define D_32(i) D_16(i), D_16(i + 16)
#define D_64(i) D_32(i), D_32(i + 32)
#define D_128(i) D_64(i), D_64(i + 64)
#define D_ALL_(count) D_##count(0)
#define D_ALL(count) D_ALL_(count)

// A's part of one instruction: four registers, and one of metadata where A is sparse.
struct Fragment {
    unsigned word[4], metadata;
};

// d += A B^T for one step of k; neither operand negated nor transposed.
__device__ __forceinline__ void wgmma(ACCUMULATOR (&d)[ACCUMULATORS], const Fragment &a, unsigned long long a_shared,
                                      unsigned long long b) {
#if SPARSE
    asm volatile(INSTRUCTION
                 : D_ALL(ACCUMULATORS)
                 : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "l"(b), "r"(a.metadata));
#elif A_IN_REGISTERS
    asm volatile(INSTRUCTION
                 : D_ALL(ACCUMULATORS)
                 : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "l"(b));
#else
    asm volatile(INSTRUCTION : D_ALL(ACCUMULATORS) : "l"(a_shared), "l"(b));
#endif
}

// input: A as WARPGROUPS x 64 rows of a_row_bytes, B as N rows of 128 bytes (k runs fastest in both), then, where A
// is sparse, one word of metadata per warp and step. output: blocks x WARPGROUPS x 64 x N values of D.
extern "C" __global__ void __launch_bounds__(WARPGROUPS * 128, BLOCKS_PER_SM)
KERNEL(Stamp *stamps, const uint4 *input, ACCUMULATOR *output, int iterations) {
    constexpr int a_units = m * a_row_bytes / 16, b_units = N * row_bytes / 16;
    const uint4 *b_global = input + WARPGROUPS * a_units;
    __shared__ alignas(1024) uint4 b_shared[b_units];
    load_swizzled(b_shared, b_global, N);
#if !A_IN_REGISTERS
    __shared__ alignas(1024) uint4 a_shared[WARPGROUPS * a_units];
    load_swizzled(a_shared, input, WARPGROUPS * m);
#endif
    // wgmma reads shared memory through the asynchronous proxy: ordinary stores need this fence, then a barrier.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();

    const int warpgroup = threadIdx.x / 128;
    const int warp = threadIdx.x % 128 / 32, group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
    const unsigned long long b = descriptor(b_shared);
    Fragment a[steps] = {};
    unsigned long long a_descriptor = 0;
#if A_IN_REGISTERS
    // Fragment layout: PTX ISA, "Register fragments" of wgmma. Counted in 32-bit words it is one for all formats.
    const unsigned *words = reinterpret_cast<const unsigned *>(input + warpgroup * a_units);
    const unsigned *metadata = reinterpret_cast<const unsigned *>(b_global + b_units) + threadIdx.x / 32 * steps;
#pragma unroll
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int part = 0; part < 4; ++part)
            a[step].word[part] =
                words[(warp * 16 + group + part % 2 * 8) * (a_row_bytes / 4) + step * 8 + lane + part / 2 * 4];
        if (SPARSE) a[step].metadata = metadata[step];
    }
#else
    a_descriptor = descriptor(a_shared + warpgroup * a_units);
#endif
    ACCUMULATOR d[ACCUMULATORS] = {};

    Stamp stamp;
    stamp_start(stamp);
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int repeat = 0; repeat < REPEATS; ++repeat)
#pragma unroll
            for (int step = 0; step < steps; ++step)  // a descriptor counts in units of 16 bytes
                wgmma(d, a[step], a_descriptor + step * 2, b + step * (STEP_BYTES / 16));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    stamp_stop(stamp, iterations, stamps);

    // Accumulator layout: PTX ISA, "WGMMA matrix fragments", D of m64nNkK. A register holds PACKED columns; two
    // columns beside each other, then the same two eight rows below, then the next eight columns.
    ACCUMULATOR *tile = output + (blockIdx.x * WARPGROUPS + warpgroup) * m * (N / PACKED);
    constexpr int pair = 2 / PACKED;  // registers for two columns
#pragma unroll
    for (int i = 0; i < ACCUMULATORS; ++i)
        tile[(warp * 16 + group + i / pair % 2 * 8) * (N / PACKED) + i / (2 * pair) * (8 / PACKED) + lane * pair +
             i % pair] = d[i];
}
