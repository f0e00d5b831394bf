// mma_sync.bf16: warp-level tensor path, mma.sync m16n8k16, BF16 inputs, FP32 accumulators.
//
// Work per block and iteration: 16 warps x 4 steps x 8 products x 2 x 16 x 8 x 16 FLOP = 2,097,152 FLOP.
// SASS: 32 HMMA.16816.F32.BF16 in the loop body. Two A and four B fragments give eight independent
// accumulator tiles, the way a GEMM's inner loop uses them. On Hopper this path cannot reach the tensor limit
// (0.62-0.67 of wgmma was measured on an H100); the ratio of the two paths is itself evidence.
#include "stamp.cuh"

constexpr int warps = 16, rows = 2, columns = 4, steps = 4;

__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// input (BF16 pairs): A as warps x rows x 16 x 16, then B as warps x columns x 8 x 16 (k runs fastest in both).
// output: blocks x warps x rows x columns x 16 x 8 floats.
extern "C" __global__ void __launch_bounds__(warps * 32, 1)
mma_sync_bf16(Stamp *stamps, const unsigned *input, float *output, int iterations) {
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
    // Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16".
    const unsigned *a_matrix = input + warp * rows * 128;
    const unsigned *b_matrix = input + warps * rows * 128 + warp * columns * 64;
    unsigned a[rows][4], b[columns][2];
#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
        for (int part = 0; part < 4; ++part)
            a[row][part] = a_matrix[row * 128 + (group + part % 2 * 8) * 8 + lane + part / 2 * 4];
#pragma unroll
    for (int column = 0; column < columns; ++column)
#pragma unroll
        for (int part = 0; part < 2; ++part) b[column][part] = b_matrix[column * 64 + group * 8 + lane + part * 4];
    float d[rows][columns][4] = {};

    Stamp stamp;
    stamp_start(stamp);
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
        for (int step = 0; step < steps; ++step)
#pragma unroll
            for (int row = 0; row < rows; ++row)
#pragma unroll
                for (int column = 0; column < columns; ++column) mma(d[row][column], a[row], b[column]);
    }
    stamp_stop(stamp, iterations, stamps);

    float *tile = output + (blockIdx.x * warps + warp) * rows * columns * 128;
#pragma unroll
    for (int row = 0; row < rows; ++row)
#pragma unroll
        for (int column = 0; column < columns; ++column)
#pragma unroll
            for (int part = 0; part < 4; ++part)
                tile[(row * columns + column) * 128 + (group + part / 2 * 8) * 8 + lane * 2 + part % 2] =
                    d[row][column][part];
}
