"""Numba twins: the same questions through a second compiler.

A result that depends on the compiler is not a result about the part, so the twins must agree with the CUDA C++
kernels (the report says by how much). What a loop needs here to reach the limit differs: a body that is not
unrolled spends its issue slots on the loop's own instructions, and Numba's array arguments hide from the compiler
that loads and stores do not overlap, so loads are named one by one before the first store.

This module imports Numba and is loaded only where a kernel is compiled or launched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import cuda, float32, float64, int32, types, uint32, uint64
from numba.cuda.extending import intrinsic


def _special_register(name: str, bits: int) -> Callable[[], Any]:
    """A device function that reads one PTX special register; volatile, so it stays where it is written."""

    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = ir.FunctionType(ir.IntType(bits), [])
            assembly = f"mov.u{bits} $0, %{name};"
            output = "=l" if bits == 64 else "=r"
            # The memory clobber keeps the measured loads and stores on their side of the stamp.
            call = ir.InlineAsm(function, assembly, output + ",~{memory}", side_effect=True)
            return builder.call(call, [])

        return (types.uint64 if bits == 64 else types.uint32)(), codegen

    return read  # type: ignore[no-any-return]


smid = _special_register("smid", 32)
clock64 = _special_register("clock64", 64)
globaltimer = _special_register("globaltimer", 64)


@cuda.jit(device=True, inline="always")
def stamp_stop(stamps, clock_start, time_start_ns, iterations):  # type: ignore[no-untyped-def]
    """Second half of a Stamp (stamp.cuh); the first half is read by the kernel itself."""
    cuda.syncthreads()
    clock_stop = clock64()
    time_stop_ns = globaltimer()
    if cuda.threadIdx.x == 0:
        first = cuda.blockIdx.x * 6
        stamps[first] = uint64(smid())
        stamps[first + 1] = clock_start
        stamps[first + 2] = clock_stop
        stamps[first + 3] = time_start_ns
        stamps[first + 4] = time_stop_ns
        stamps[first + 5] = uint64(iterations)


# Unrolled by composition: whether NVVM unrolls a loop of constant length depends on its version and the architecture.


@cuda.jit(device=True, inline="always")
def step(x0, x1, x2, x3, x4, x5, x6, x7, a, b):  # type: ignore[no-untyped-def]
    """x = a x + b on eight chains."""
    return (
        cuda.fma(x0, a, b),
        cuda.fma(x1, a, b),
        cuda.fma(x2, a, b),
        cuda.fma(x3, a, b),
        cuda.fma(x4, a, b),
        cuda.fma(x5, a, b),
        cuda.fma(x6, a, b),
        cuda.fma(x7, a, b),
    )


@cuda.jit(device=True, inline="always")
def four_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b):  # type: ignore[no-untyped-def]
    """`step` four times."""
    x0, x1, x2, x3, x4, x5, x6, x7 = step(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    x0, x1, x2, x3, x4, x5, x6, x7 = step(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    x0, x1, x2, x3, x4, x5, x6, x7 = step(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    return step(x0, x1, x2, x3, x4, x5, x6, x7, a, b)


@cuda.jit(device=True, inline="always")
def sixteen_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b):  # type: ignore[no-untyped-def]
    """`step` sixteen times."""
    x0, x1, x2, x3, x4, x5, x6, x7 = four_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    x0, x1, x2, x3, x4, x5, x6, x7 = four_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    x0, x1, x2, x3, x4, x5, x6, x7 = four_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    return four_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)


@cuda.jit(device=True, inline="always")
def random_words(place, seed):  # type: ignore[no-untyped-def]
    """Two random floats in [1, 2), a function of place and seed (memory.py: numba_pattern)."""
    h = (place + uint64(seed)) * uint64(0x9E3779B97F4A7C15)
    h ^= h >> uint64(29)
    return uint64(0x3F8000003F800000) | (h & uint64(0x007FFFFF007FFFFF))


def vector_fp32(stamps, input, output, iterations):  # type: ignore[no-untyped-def]
    """Eight chains, 64 steps unrolled: 512 FFMA per iteration, like vector_fp32.cu."""
    a, b = input[0], input[1]
    thread = cuda.threadIdx.x
    x0, x1 = input[2 + thread], input[1026 + thread]
    x2, x3 = input[2050 + thread], input[3074 + thread]
    x4, x5 = input[4098 + thread], input[5122 + thread]
    x6, x7 = input[6146 + thread], input[7170 + thread]

    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    cuda.syncthreads()
    for _ in range(iterations):
        x0, x1, x2, x3, x4, x5, x6, x7 = sixteen_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
        x0, x1, x2, x3, x4, x5, x6, x7 = sixteen_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
        x0, x1, x2, x3, x4, x5, x6, x7 = sixteen_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
        x0, x1, x2, x3, x4, x5, x6, x7 = sixteen_steps(x0, x1, x2, x3, x4, x5, x6, x7, a, b)
    stamp_stop(stamps, clock_start, time_start_ns, iterations)

    first = cuda.blockIdx.x * 8192 + thread
    output[first], output[first + 1024] = x0, x1
    output[first + 2048], output[first + 3072] = x2, x3
    output[first + 4096], output[first + 5120] = x4, x5
    output[first + 6144], output[first + 7168] = x6, x7


# The memory kernels share one shape (memory.cu explains the chunk counter): 512 threads x 8 words of 8 bytes. The
# shape is written out in each, because Numba offers no macro and a callback would hide the loop from the census.


def memory_read(stamps, counter, array_chunks, total_chunks, source, result):  # type: ignore[no-untyped-def]
    """Sum of all 64-bit words modulo 2^64."""
    next_chunk = cuda.shared.array(2, uint32)
    thread = uint64(cuda.threadIdx.x)
    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    if cuda.threadIdx.x == 0:
        next_chunk[0] = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
    cuda.syncthreads()
    chunk = next_chunk[0]
    taken = uint32(0)
    pending = uint32(0)
    total = uint64(0)
    while chunk < total_chunks:
        if cuda.threadIdx.x == 0:
            pending = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
        taken += uint32(1)
        i = uint64(chunk % array_chunks) * uint64(4096) + thread
        v0, v1, v2, v3 = source[i], source[i + 512], source[i + 1024], source[i + 1536]
        v4, v5, v6, v7 = source[i + 2048], source[i + 2560], source[i + 3072], source[i + 3584]
        total += v0 + v1 + v2 + v3 + v4 + v5 + v6 + v7
        if cuda.threadIdx.x == 0:
            next_chunk[taken & uint32(1)] = pending
        cuda.syncthreads()
        chunk = next_chunk[taken & uint32(1)]
    stamp_stop(stamps, clock_start, time_start_ns, taken)
    cuda.atomic.add(result, 0, total)


def memory_write(stamps, counter, array_chunks, total_chunks, target, seed):  # type: ignore[no-untyped-def]
    """Random floats in [1, 2), a function of place and seed."""
    next_chunk = cuda.shared.array(2, uint32)
    thread = uint64(cuda.threadIdx.x)
    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    if cuda.threadIdx.x == 0:
        next_chunk[0] = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
    cuda.syncthreads()
    chunk = next_chunk[0]
    taken = uint32(0)
    pending = uint32(0)
    while chunk < total_chunks:
        if cuda.threadIdx.x == 0:
            pending = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
        taken += uint32(1)
        i = uint64(chunk % array_chunks) * uint64(4096) + thread
        target[i] = random_words(i, seed)
        target[i + 512] = random_words(i + uint64(512), seed)
        target[i + 1024] = random_words(i + uint64(1024), seed)
        target[i + 1536] = random_words(i + uint64(1536), seed)
        target[i + 2048] = random_words(i + uint64(2048), seed)
        target[i + 2560] = random_words(i + uint64(2560), seed)
        target[i + 3072] = random_words(i + uint64(3072), seed)
        target[i + 3584] = random_words(i + uint64(3584), seed)
        if cuda.threadIdx.x == 0:
            next_chunk[taken & uint32(1)] = pending
        cuda.syncthreads()
        chunk = next_chunk[taken & uint32(1)]
    stamp_stop(stamps, clock_start, time_start_ns, taken)


def memory_copy(stamps, counter, array_chunks, total_chunks, source, target):  # type: ignore[no-untyped-def]
    """All eight loads are named before the first store."""
    next_chunk = cuda.shared.array(2, uint32)
    thread = uint64(cuda.threadIdx.x)
    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    if cuda.threadIdx.x == 0:
        next_chunk[0] = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
    cuda.syncthreads()
    chunk = next_chunk[0]
    taken = uint32(0)
    pending = uint32(0)
    while chunk < total_chunks:
        if cuda.threadIdx.x == 0:
            pending = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
        taken += uint32(1)
        i = uint64(chunk % array_chunks) * uint64(4096) + thread
        v0, v1, v2, v3 = source[i], source[i + 512], source[i + 1024], source[i + 1536]
        v4, v5, v6, v7 = source[i + 2048], source[i + 2560], source[i + 3072], source[i + 3584]
        target[i], target[i + 512], target[i + 1024], target[i + 1536] = v0, v1, v2, v3
        target[i + 2048], target[i + 2560], target[i + 3072], target[i + 3584] = v4, v5, v6, v7
        if cuda.threadIdx.x == 0:
            next_chunk[taken & uint32(1)] = pending
        cuda.syncthreads()
        chunk = next_chunk[taken & uint32(1)]
    stamp_stop(stamps, clock_start, time_start_ns, taken)


def memory_triad(stamps, counter, array_chunks, total_chunks, b, c, a, scalar):  # type: ignore[no-untyped-def]
    """a = b + scalar c in FP64: the same bytes as in FP32, by 8-byte words."""
    next_chunk = cuda.shared.array(2, uint32)
    thread = uint64(cuda.threadIdx.x)
    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    if cuda.threadIdx.x == 0:
        next_chunk[0] = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
    cuda.syncthreads()
    chunk = next_chunk[0]
    taken = uint32(0)
    pending = uint32(0)
    while chunk < total_chunks:
        if cuda.threadIdx.x == 0:
            pending = cuda.atomic.inc(counter, 0, total_chunks + uint32(cuda.gridDim.x) - uint32(1))
        taken += uint32(1)
        i = uint64(chunk % array_chunks) * uint64(4096) + thread
        b0, b1, b2, b3 = b[i], b[i + 512], b[i + 1024], b[i + 1536]
        b4, b5, b6, b7 = b[i + 2048], b[i + 2560], b[i + 3072], b[i + 3584]
        c0, c1, c2, c3 = c[i], c[i + 512], c[i + 1024], c[i + 1536]
        c4, c5, c6, c7 = c[i + 2048], c[i + 2560], c[i + 3072], c[i + 3584]
        a[i] = cuda.fma(scalar, c0, b0)
        a[i + 512] = cuda.fma(scalar, c1, b1)
        a[i + 1024] = cuda.fma(scalar, c2, b2)
        a[i + 1536] = cuda.fma(scalar, c3, b3)
        a[i + 2048] = cuda.fma(scalar, c4, b4)
        a[i + 2560] = cuda.fma(scalar, c5, b5)
        a[i + 3072] = cuda.fma(scalar, c6, b6)
        a[i + 3584] = cuda.fma(scalar, c7, b7)
        if cuda.threadIdx.x == 0:
            next_chunk[taken & uint32(1)] = pending
        cuda.syncthreads()
        chunk = next_chunk[taken & uint32(1)]
    stamp_stop(stamps, clock_start, time_start_ns, taken)


_HEAD = (uint64[::1], uint32[::1], uint32, uint32)  # stamps, counter, array_chunks, total_chunks
_WORDS, _DOUBLES = uint64[::1], float64[::1]

# (function, argument types) by symbol; explicit types, so that what the census compiles is what is launched.
TWINS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "vector_fp32": (vector_fp32, (uint64[::1], float32[::1], float32[::1], int32)),
    "memory_read": (memory_read, (*_HEAD, _WORDS, _WORDS)),
    "memory_write": (memory_write, (*_HEAD, _WORDS, uint32)),
    "memory_copy": (memory_copy, (*_HEAD, _WORDS, _WORDS)),
    "memory_triad": (memory_triad, (*_HEAD, _DOUBLES, _DOUBLES, _DOUBLES, float64)),
}
