// The tensor rates of the warp-level path: D += A B^T by mma.sync (or mma.sp), one source for every format and shape.
//
// Work per block and iteration: WARPS x 4 steps x TILES_A x TILES_B instructions of 2 x M x 8 x K operations. SASS:
// 4 x TILES_A x TILES_B instructions in the loop body: HMMA, QMMA (FP8), IMMA, BMMA or DMMA by format. Two A and four
// B fragments give eight independent accumulator tiles, the way a GEMM's inner loop uses them. On Hopper this path
// cannot reach the tensor limit (0.62-0.67 of wgmma was measured on an H100 in BF16); the ratio of the two paths is
// itself evidence. FP64 has no other path.
//
// compile.py defines KERNEL, the symbol; tensor.py, in front of this text:
//   INSTRUCTION      the PTX with its operand numbers, such as "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
//                    {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
//   M                rows of one instruction: 16, or 8 in the FP64 shape of compute capability 8.x and 10.0
//   WORD, WORD_CONSTRAINT   what a register of A or B holds: unsigned (32 bits of packed elements) or double
//   A_WORDS, B_WORDS        registers of A and of B per thread and instruction
//   SPARSE           1 where A holds two of four elements (TF32: one of two) and metadata says which
//   ACCUMULATOR, ACCUMULATORS, CONSTRAINT   type, number per thread and asm constraint of D's registers
//   PACKED           columns that one accumulator register holds: 2 for FP16, else 1
//   WARPS, TILES_A, TILES_B
#include "stamp.cuh"

constexpr int n = 8, steps = 4;
constexpr int a_rows = M / 8;                     // registers of A for one column of words
constexpr int a_row_words = A_WORDS / a_rows * 4, b_row_words = B_WORDS * 4;  // k, as stored, in words

#define D_2 CONSTRAINT(d[0]), CONSTRAINT(d[1])
#define D_4 D_2, CONSTRAINT(d[2]), CONSTRAINT(d[3])
#define A_1 WORD_CONSTRAINT(a[0])
#define A_4 A_1, WORD_CONSTRAINT(a[1]), WORD_CONSTRAINT(a[2]), WORD_CONSTRAINT(a[3])
#define A_8 A_4, WORD_CONSTRAINT(a[4]), WORD_CONSTRAINT(a[5]), WORD_CONSTRAINT(a[6]), WORD_CONSTRAINT(a[7])
#define B_1 WORD_CONSTRAINT(b[0])
#define B_2 B_1, WORD_CONSTRAINT(b[1])
#define B_4 B_2, WORD_CONSTRAINT(b[2]), WORD_CONSTRAINT(b[3])
#define JOIN_(left, right) left##right
#define JOIN(left, right) JOIN_(left, right)

__device__ __forceinline__ void mma(ACCUMULATOR (&d)[ACCUMULATORS], const WORD (&a)[A_WORDS],
                                    const WORD (&b)[B_WORDS], unsigned metadata) {
#if SPARSE
    asm volatile(INSTRUCTION : JOIN(D_, ACCUMULATORS) : JOIN(A_, A_WORDS), JOIN(B_, B_WORDS), "r"(metadata));
#else
    asm volatile(INSTRUCTION : JOIN(D_, ACCUMULATORS) : JOIN(A_, A_WORDS), JOIN(B_, B_WORDS));
#endif
}

// input: A as WARPS x TILES_A x M rows, B as WARPS x TILES_B x 8 rows (k runs fastest in both), then, where A is
// sparse, one word of metadata per warp and A tile. output: blocks x WARPS x TILES_A x TILES_B x M x 8 values of D.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
KERNEL(Stamp *stamps, const WORD *input, ACCUMULATOR *output, int iterations) {
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
    // Fragment layouts: PTX ISA, "Matrix fragments for mma". Counted in words they are one for all formats.
    constexpr int a_tile = M * a_row_words, b_tile = n * b_row_words;
    const WORD *a_matrix = input + warp * TILES_A * a_tile;
    const WORD *b_matrix = input + WARPS * TILES_A * a_tile + warp * TILES_B * b_tile;
    WORD a[TILES_A][A_WORDS], b[TILES_B][B_WORDS];
    unsigned metadata[TILES_A] = {};
#pragma unroll
    for (int row = 0; row < TILES_A; ++row)
#pragma unroll
        for (int part = 0; part < A_WORDS; ++part)
            a[row][part] =
                a_matrix[row * a_tile + (group + part % a_rows * 8) * a_row_words + lane + part / a_rows * 4];
#pragma unroll
    for (int column = 0; column < TILES_B; ++column)
#pragma unroll
        for (int part = 0; part < B_WORDS; ++part)
            b[column][part] = b_matrix[column * b_tile + group * b_row_words + lane + part * 4];
#if SPARSE
#pragma unroll
    for (int row = 0; row < TILES_A; ++row)
        metadata[row] = input[WARPS * (TILES_A * a_tile + TILES_B * b_tile) + warp * TILES_A + row];
#endif
    ACCUMULATOR d[TILES_A][TILES_B][ACCUMULATORS] = {};

    Stamp stamp;
    stamp_start(stamp);
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
        for (int step = 0; step < steps; ++step)
#pragma unroll
            for (int row = 0; row < TILES_A; ++row)
#pragma unroll
                for (int column = 0; column < TILES_B; ++column) mma(d[row][column], a[row], b[column], metadata[row]);
    }
    stamp_stop(stamp, iterations, stamps);

    // A register holds PACKED columns; two columns beside each other, then the same two eight rows below.
    constexpr int pair = 2 / PACKED;  // registers for two columns
    ACCUMULATOR *tile = output + (blockIdx.x * WARPS + warp) * TILES_A * TILES_B * M * (n / PACKED);
#pragma unroll
    for (int row = 0; row < TILES_A; ++row)
#pragma unroll
        for (int column = 0; column < TILES_B; ++column)
#pragma unroll
            for (int part = 0; part < ACCUMULATORS; ++part)
                tile[((row * TILES_B + column) * M + group + part / pair * 8) * (n / PACKED) + lane * pair +
                     part % pair] = d[row][column][part];
}
