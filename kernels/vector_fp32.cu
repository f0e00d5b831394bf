// vector.fp32: fused multiply-add on FP32 registers.
//
// Work per block and iteration: 1024 threads x 16 chains x 32 FMAs x 2 FLOP = 1,048,576 FLOP.
// SASS: 512 FFMA in the loop body. 16 independent chains hide FFMA's latency of 4 cycles; the shared
// coefficients a and b come from the operand reuse cache, because three different source registers per FFMA
// would conflict on the register file's ports. 512 FFMA to one loop branch keep the loop's own instructions
// (they take issue slots too) at about 0.6 %.
//
// `#pragma unroll 1`: without it ptxas unrolls the counted loop itself, with a remainder.
#include "stamp.cuh"

constexpr int threads = 1024, chains = 16, unroll = 32;

// input: a, b, then chains x threads starting values. output: blocks x chains x threads.
extern "C" __global__ void __launch_bounds__(threads, 1)
vector_fp32(Stamp *stamps, const float *input, float *output, int iterations) {
    const float a = input[0], b = input[1];
    float x[chains];
#pragma unroll
    for (int chain = 0; chain < chains; ++chain) x[chain] = input[2 + chain * threads + threadIdx.x];

    Stamp stamp;
    stamp_start(stamp);
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
        for (int step = 0; step < unroll; ++step)
#pragma unroll
            for (int chain = 0; chain < chains; ++chain) x[chain] = fmaf(x[chain], a, b);
    }
    stamp_stop(stamp, iterations, stamps);

#pragma unroll
    for (int chain = 0; chain < chains; ++chain)
        output[(blockIdx.x * chains + chain) * threads + threadIdx.x] = x[chain];
}
