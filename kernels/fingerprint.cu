// One MMA per vector: sum over k of a[k] b[k], plus c. Not a rate: the bits of the sum are what is asked for.
//
// All rows of A are one vector, and so are all columns of B, so that every element of D must be the same number. Block
// v computes vector v; 8 words of k each, whatever the format (16 x 16 bits or 32 x 8 bits).
//
// compile.py defines KERNEL, the symbol; audit/fingerprint_run.py, in front of this text:
//   INSTRUCTION   the PTX with its operand numbers: D as %0 to %3 (also the accumulator), A as %4 to %7, then B: %8 and
//                 %9, or with WGMMA its descriptor %8
//   WGMMA         1 for the warpgroup path (128 threads), 0 for mma.sync (32 threads)
__device__ __forceinline__ void mma(float (&d)[4], const unsigned *a, const unsigned *b) {
    const int lane = threadIdx.x % 4;  // fragment layouts: PTX ISA; in words they are one for 16 and 8 bits
    const unsigned low = a[lane], high = a[lane + 4];
#if WGMMA
    // Without swizzle, K-major: core matrices of 8 rows x 16 bytes, contiguous, the second 128 bytes after the first.
    __shared__ alignas(128) unsigned b_shared[64];
    if (threadIdx.x < 64) b_shared[threadIdx.x] = b[threadIdx.x / 32 * 4 + threadIdx.x % 4];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const unsigned long long address = __cvta_generic_to_shared(b_shared);
    const unsigned long long descriptor = (address & 0x3FFFF) >> 4 | (128ull >> 4) << 16 | (128ull >> 4) << 32;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile(INSTRUCTION
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(low), "r"(low), "r"(high), "r"(high), "l"(descriptor));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#else
    asm volatile(INSTRUCTION
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(low), "r"(low), "r"(high), "r"(high), "r"(b[lane]), "r"(b[lane + 4]));
#endif
}

// a, b: blocks x 8 words; c: one number a block; output: blocks x threads x 4 elements of D.
extern "C" __global__ void KERNEL(const unsigned *a, const unsigned *b, const float *c, float *output) {
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = c[blockIdx.x];
    mma(d, a + blockIdx.x * 8, b + blockIdx.x * 8);
    for (int i = 0; i < 4; ++i) output[(blockIdx.x * blockDim.x + threadIdx.x) * 4 + i] = d[i];
}
