// Every kernel stamps itself: one Stamp per block, written by thread 0.
//
// From a launch's stamps the host derives which SMs worked, how much each did, the SM clock *during* the
// kernel (cycles over nanoseconds), and the kernel's duration on the device's own timer. Nothing here trusts
// the driver: %smid, %clock64 and %globaltimer are read by the measured code itself.
#pragma once

struct Stamp {                        // six 64-bit words; the host reads them as a (blocks, 6) array
    unsigned long long smid;          // physical SM that ran this block
    unsigned long long clock_start;   // SM clock cycles; comparable between blocks of one SM only
    unsigned long long clock_stop;
    unsigned long long time_start_ns; // device-wide nanoseconds, coarse steps (measured, not assumed)
    unsigned long long time_stop_ns;
    unsigned long long iterations;    // how often this block ran the counted loop body
};

__device__ __forceinline__ unsigned long long read_smid() {
    unsigned value;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(value));
    return value;
}

// The "memory" clobber keeps loads and stores of the measured loop on their side of the stamp.
__device__ __forceinline__ unsigned long long read_clock() {
    unsigned long long value;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(value)::"memory");
    return value;
}

__device__ __forceinline__ unsigned long long read_globaltimer_ns() {
    unsigned long long value;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value)::"memory");
    return value;
}

__device__ __forceinline__ void stamp_start(Stamp &stamp) {
    __syncthreads();  // no warp starts before thread 0 has read the clocks ...
    stamp.smid = read_smid();
    stamp.time_start_ns = read_globaltimer_ns();
    stamp.clock_start = read_clock();
    __syncthreads();
}

__device__ __forceinline__ void stamp_stop(Stamp &stamp, unsigned long long iterations, Stamp *stamps) {
    __syncthreads();  // ... and the clocks stop only after the slowest warp has arrived
    stamp.clock_stop = read_clock();
    stamp.time_stop_ns = read_globaltimer_ns();
    stamp.iterations = iterations;
    if (threadIdx.x == 0) stamps[blockIdx.x] = stamp;
}
