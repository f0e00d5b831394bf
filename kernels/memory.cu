// memory.read, memory.write, memory.copy, memory.triad, memory.mix3: device memory far beyond L2.
//
// One iteration is one chunk: 512 threads x 8 vectors x 16 bytes = 64 KiB of each array. Blocks take chunks from
// an atomic counter: SMs differ in their distance to memory, and with a static grid stride the far ones finish
// last (measured on an H100: read 94 % of nominal with the counter, 91 % without). Work per block and iteration:
//   read  65,536 B (8 LDG.128)      write  65,536 B (8 STG.128)
//   copy 131,072 B (8 LDG + 8 STG)  triad 196,608 B (16 LDG + 8 STG; no write-allocate is counted)
//   mix3 262,144 B (24 LDG + 8 STG)
#include "chunks.cuh"
#include "stamp.cuh"

constexpr int threads = 512, vectors = 8;
constexpr unsigned chunk_vectors = threads * vectors;

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_read(ARGUMENTS, const uint4 *source, unsigned *sum) {
    unsigned total = 0;  // the sum of all 32-bit words modulo 2^32 proves that each was read, exactly once per pass
    CHUNK_LOOP({
        uint4 value[vectors];
        EACH_VECTOR value[v] = source[start + v * threads];
        EACH_VECTOR total += value[v].x + value[v].y + value[v].z + value[v].w;
    });
    atomicAdd(sum, total);
}

// Arrays smaller than a chunk: 16 KiB, passed over four times. ptxas joins loads of one address; so an address is the one
// before it plus blockDim.x vectors, which it cannot know to be half of the 16 KiB.
extern "C" __global__ void __launch_bounds__(threads, 2)
memory_read_little(ARGUMENTS, const uint4 *source, unsigned *sum) {
    constexpr unsigned chunk_vectors = 2 * threads;
    unsigned total = 0;
    CHUNK_LOOP({
        const uint4 *from = source + (start - threadIdx.x);
        uint4 value[vectors];
        unsigned within = threadIdx.x;
        EACH_VECTOR {
            value[v] = from[within];
            within = (within + blockDim.x) % chunk_vectors;
        }
        EACH_VECTOR total += value[v].x + value[v].y + value[v].z + value[v].w;
    });
    atomicAdd(sum, total);
}

// memory_read past L1 (.cg), for arrays that L2 holds.
extern "C" __global__ void __launch_bounds__(threads, 2)
memory_read_l2(ARGUMENTS, const uint4 *source, unsigned *sum) {
    unsigned total = 0;
    CHUNK_LOOP({
        uint4 value[vectors];
        EACH_VECTOR value[v] = __ldcg(source + start + v * threads);
        EACH_VECTOR total += value[v].x + value[v].y + value[v].z + value[v].w;
    });
    atomicAdd(sum, total);
}

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_write(ARGUMENTS, uint4 *target, unsigned seed) {
    CHUNK_LOOP({
        const unsigned word = random_word(start, seed);  // one hash per thread and chunk: arithmetic must not limit
        EACH_VECTOR {
            const unsigned mixed = word ^ v * 0x00111111u;
            target[start + v * threads] = make_uint4(mixed, mixed ^ 0x1B8735u, mixed ^ 0x52DCE7u, mixed ^ 0x7F4A9Bu);
        }
    });
}

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_copy(ARGUMENTS, const uint4 *source, uint4 *target) {
    CHUNK_LOOP({
        uint4 value[vectors];
        EACH_VECTOR value[v] = source[start + v * threads];
        EACH_VECTOR target[start + v * threads] = value[v];
    });
}

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_triad(ARGUMENTS, const float4 *b, const float4 *c, float4 *a, float scalar) {
    CHUNK_LOOP({
        float4 left[vectors];
        float4 right[vectors];
        EACH_VECTOR left[v] = b[start + v * threads];
        EACH_VECTOR right[v] = c[start + v * threads];
        EACH_VECTOR a[start + v * threads] =
            make_float4(fmaf(scalar, right[v].x, left[v].x), fmaf(scalar, right[v].y, left[v].y),
                        fmaf(scalar, right[v].z, left[v].z), fmaf(scalar, right[v].w, left[v].w));
    });
}

// Three arrays read to one written: with a block to an SM and up to 128 registers all 24 loads are under way at once.
extern "C" __global__ void __launch_bounds__(threads, 1)
memory_mix3(ARGUMENTS, const uint4 *b, const uint4 *c, const uint4 *d, uint4 *a) {
    CHUNK_LOOP({
        uint4 one[vectors];
        uint4 two[vectors];
        uint4 three[vectors];
        EACH_VECTOR one[v] = b[start + v * threads];
        EACH_VECTOR two[v] = c[start + v * threads];
        EACH_VECTOR three[v] = d[start + v * threads];
        EACH_VECTOR a[start + v * threads] =
            make_uint4(one[v].x + two[v].x + three[v].x, one[v].y + two[v].y + three[v].y,
                       one[v].z + two[v].z + three[v].z, one[v].w + two[v].w + three[v].w);
    });
}
