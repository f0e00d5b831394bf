// How many blocks the cluster has that each block finds itself in: 1 where none was asked for. compile.py defines
// KERNEL, the symbol; audit/capabilities.py launches it in clusters of several sizes, and cooperatively.
extern "C" __global__ void KERNEL(unsigned *seen) {
    unsigned blocks = 1;
#if __CUDA_ARCH__ >= 900
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
#endif
    if (threadIdx.x == 0) seen[blockIdx.x] = blocks;
}
