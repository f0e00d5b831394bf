// The vector, special-function and conversion rates: one operation per compilation, chosen with -DKERNEL=<name>.
//
// All share one shape. 1024 threads each hold `width` 32- or 64-bit words in registers, and one step does the
// operation on all of them; `steps` steps are written out in the loop body, so that the loop's own instructions
// (they take issue slots too) stay under 1 %. What a step does is below, one struct each, and vector.py declares the
// work. Rules that each keeps:
//   - every operand is loaded, per thread: nothing is a constant, and nothing is uniform across the warp;
//   - each result is needed by a later step in a way that does not shorten: mostly word i takes in word i + 1;
//   - at least 8 independent operations between dependent ones, and 8 warps per scheduler, hide the latency;
//   - a, b are read by every instruction, so they come from the operand reuse cache: three different registers per
//     full-rate instruction would conflict on the register file's ports;
//   - where the data needs a second instruction to stay alive, it runs on another pipe than the one measured and
//     leaves issue slots free; the struct says which.
// The inline PTX keeps the front end from rewriting chains; what ptxas makes of it, the census counts.
//
// `#pragma unroll 1`: without it ptxas unrolls the counted loop itself, with a remainder.
#include "stamp.cuh"

constexpr int threads = 1024;

#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < count; ++i)

namespace operation {

// -- floating point: x = a x + b --------------------------------------------------------------------------------

struct vector_fp32 {
    using Word = float;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(float (&x)[width], float a, float b) {
        EACH(i, width) x[i] = fmaf(x[i], a, b);
    }
};

struct vector_fp64 {
    using Word = double;
    static constexpr int width = 8, steps = 32;
    static __device__ void step(double (&x)[width], double a, double b) {
        EACH(i, width) x[i] = fma(x[i], a, b);
    }
};

struct vector_fp16 {  // two FP16 values to a word
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned b) {
        EACH(i, width) asm volatile("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(x[i]) : "r"(a), "r"(b));
    }
};

struct vector_bf16 {  // two BF16 values to a word
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned b) {
        EACH(i, width) asm volatile("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(x[i]) : "r"(a), "r"(b));
    }
};

// -- integer, all modulo 2^32 -----------------------------------------------------------------------------------

struct vector_int32 {
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned b) {
        EACH(i, width) asm volatile("mad.lo.u32 %0, %0, %1, %2;" : "+r"(x[i]) : "r"(a), "r"(b));
    }
};

// Three addends: for two, ptxas spreads the work over IADD3 and IMAD (x * 1 + y), and the rate would be that of two
// pipes.
struct vector_int32_add {
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned) {
        EACH(i, width)
        asm volatile("{ .reg .u32 t; add.u32 t, %0, %1; add.u32 %0, t, %2; }"
                     : "+r"(x[i]) : "r"(x[(i + 1) % width]), "r"(a));
    }
};

struct vector_logic {  // 0x96 is the truth table of x ^ y ^ z; exclusive or loses no information, so bits stay alive
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned) {
        EACH(i, width)
        asm volatile("lop3.b32 %0, %0, %1, %2, 0x96;" : "+r"(x[i]) : "r"(x[(i + 1) % width]), "r"(a));
    }
};

struct vector_shift {  // the words of a thread are a ring of 512 bits, rotated by a bits
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned) {
        const unsigned first = x[0];
        EACH(i, width)
        asm volatile("shf.l.wrap.b32 %0, %1, %0, %2;" : "+r"(x[i]) : "r"(i + 1 < width ? x[i + 1] : first), "r"(a));
    }
};

struct vector_dp4a {  // x += four signed 8-bit products
    using Word = unsigned;
    static constexpr int width = 16, steps = 32;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned) {
        EACH(i, width)
        asm volatile("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(x[i]) : "r"(x[(i + 1) % width]), "r"(a));
    }
};

struct vector_popc {  // beside each POPC one IMAD, on a pipe four times as fast
    using Word = unsigned;
    static constexpr int width = 8, steps = 16;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned) {
        EACH(i, width) {
            unsigned ones;
            asm volatile("popc.b32 %0, %1;" : "=r"(ones) : "r"(x[(i + 1) % width]));
            asm volatile("mad.lo.u32 %0, %0, %1, %2;" : "+r"(x[i]) : "r"(a), "r"(ones));
        }
    }
};

struct vector_shuffle {  // a: the lane to read from, a permutation of the warp
    using Word = unsigned;
    static constexpr int width = 8, steps = 16;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned) {
        EACH(i, width) asm volatile("shfl.sync.idx.b32 %0, %0, %1, 0x1f, 0xffffffff;" : "+r"(x[i]) : "r"(a));
    }
};

// -- special functions ------------------------------------------------------------------------------------------

// x[0..7] are arguments that alternate between x and a - x, x[8..15] sums of results. Beside each MUFU two FADD
// (and for the sine one FMUL, which scales its argument), on a pipe at least four times as fast. `.ftz` leaves out
// the instructions that scale denormal arguments; there are none.
#define SPECIAL_FUNCTION(name, ptx)                                            \
    struct name {                                                              \
        using Word = float;                                                    \
        static constexpr int width = 16, steps = 16;                           \
        static __device__ void step(float (&x)[width], float a, float) {       \
            EACH(i, width / 2) {                                               \
                float y;                                                       \
                asm volatile(ptx " %0, %1;" : "=f"(y) : "f"(x[i]));            \
                x[width / 2 + i] += y;                                         \
                x[i] = a - x[i];                                               \
            }                                                                  \
        }                                                                      \
    }
SPECIAL_FUNCTION(sfu_ex2, "ex2.approx.ftz.f32");
SPECIAL_FUNCTION(sfu_lg2, "lg2.approx.ftz.f32");
SPECIAL_FUNCTION(sfu_rcp, "rcp.approx.ftz.f32");
SPECIAL_FUNCTION(sfu_rsqrt, "rsqrt.approx.ftz.f32");
SPECIAL_FUNCTION(sfu_sin, "sin.approx.ftz.f32");
SPECIAL_FUNCTION(sfu_tanh, "tanh.approx.f32");

// -- conversions ------------------------------------------------------------------------------------------------

// Two results to an instruction. The word that holds BF16(x[i + 1]) above BF16(x[i]) is taken as a float again: with
// positive values its lower half is less than half a unit of the upper one, so the next conversion rounds down to
// x[i + 1]'s own BF16, for ever. 15 words: the ring is back where it began only after 15 steps.
struct convert_f32_bf16 {
    using Word = unsigned;
    static constexpr int width = 15, steps = 34;
    static __device__ void step(unsigned (&x)[width], unsigned, unsigned) {
        const unsigned first = x[0];
        EACH(i, width)
        asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;"
                     : "=r"(x[i])
                     : "f"(__uint_as_float(i + 1 < width ? x[i + 1] : first)), "f"(__uint_as_float(x[i])));
    }
};

// Two results to an instruction, E4M3. x[0..3] are arguments that alternate between x and a - x, x[4..11] mix the
// results. The 16 conversions of a step take the 16 ordered pairs of arguments (equal ones would be computed once).
// Beside them 8 IMAD and 4 FADD, on other pipes: 28 issue slots, of the 32 that pass while 16 conversions run at
// 64 lanes per clock.
struct convert_f32_fp8 {
    using Word = unsigned;
    static constexpr int width = 12, steps = 16;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned b) {
        EACH(i, 8) {
            const int first = 2 * i, second = 2 * i + 1;
            unsigned word;
            asm volatile("{ .reg .b16 low, high;\n"
                         "cvt.rn.satfinite.e4m3x2.f32 low, %1, %2;\n"
                         "cvt.rn.satfinite.e4m3x2.f32 high, %3, %4;\n"
                         "mov.b32 %0, {low, high}; }"
                         : "=r"(word)
                         : "f"(__uint_as_float(x[first / 4])), "f"(__uint_as_float(x[first % 4])),
                           "f"(__uint_as_float(x[second / 4])), "f"(__uint_as_float(x[second % 4])));
            asm volatile("mad.lo.u32 %0, %0, %1, %2;" : "+r"(x[4 + i]) : "r"(b), "r"(word));
        }
        EACH(i, 4) x[i] = __float_as_uint(__uint_as_float(a) - __uint_as_float(x[i]));
    }
};

// The bits of the float are the next integer. Left alone they would settle on one value: after two conversions one
// IMAD, on another pipe, mixes them.
struct convert_i32_f32 {
    using Word = unsigned;
    static constexpr int width = 16, steps = 16;
    static __device__ void step(unsigned (&x)[width], unsigned a, unsigned b) {
        EACH(i, width) {
            asm volatile("{ .reg .f32 f;\n"
                         "cvt.rn.f32.s32 f, %0; mov.b32 %0, f;\n"
                         "cvt.rn.f32.s32 f, %0; mov.b32 %0, f; }"
                         : "+r"(x[i]));
            asm volatile("mad.lo.u32 %0, %0, %1, %2;" : "+r"(x[i]) : "r"(a), "r"(b));
        }
    }
};

}  // namespace operation

using Operation = operation::KERNEL;
using Word = Operation::Word;

// input: a and b for each thread, then width x threads starting values. output: blocks x width x threads.
extern "C" __global__ void __launch_bounds__(threads, 1)
KERNEL(Stamp *stamps, const Word *input, Word *output, int iterations) {
    constexpr int width = Operation::width;
    const Word a = input[threadIdx.x], b = input[threads + threadIdx.x];
    Word x[width];
    EACH(i, width) x[i] = input[(2 + i) * threads + threadIdx.x];

    Stamp stamp;
    stamp_start(stamp);
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
        EACH(step, Operation::steps) Operation::step(x, a, b);
    }
    stamp_stop(stamp, iterations, stamps);

    EACH(i, width) output[(blockIdx.x * width + i) * threads + threadIdx.x] = x[i];
}
