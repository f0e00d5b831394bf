"""Numba twins: the same questions through a second compiler.

A result that depends on the compiler is not a result about the part, so the twins must agree with the CUDA C++
kernels (the report says by how much). What a loop needs here to reach the limit differs: a body that is not
unrolled spends its issue slots on the loop's own instructions, and Numba's array arguments hide from the compiler
that loads and stores do not overlap, so loads are named one by one before the first store.

This module imports Numba and is loaded only where a kernel is compiled or launched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
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


@intrinsic  # type: ignore[untyped-decorator]
def load_address(typing_context: Any, address: Any) -> Any:
    """The 64-bit word at a global address: `ld.global`, as a chase by array index would add arithmetic to each load."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.call(ir.InlineAsm(function, "ld.global.u64 $0, [$1];", "=l,l", side_effect=True), arguments)

    return types.uint64(types.uint64), codegen


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


@cuda.jit(device=True, inline="always")
def random_words(place, seed):  # type: ignore[no-untyped-def]
    """Two random floats in [1, 2), a function of place and seed (memory.py: numba_pattern)."""
    h = (place + uint64(seed)) * uint64(0x9E3779B97F4A7C15)
    h ^= h >> uint64(29)
    return uint64(0x3F8000003F800000) | (h & uint64(0x007FFFFF007FFFFF))


# The kernels are written by the templates below and compiled by `_define`: Numba has no macros, whether NVVM unrolls a
# loop of constant length depends on its version and the architecture, and nested device functions that it is told to
# inline take it twenty seconds where the steps written out take three.


def _define(name: str, arguments: str, template: str, **parts: str) -> Callable[..., None]:
    """The function `name` of this module whose body is `template` with `parts` in its places."""
    lines = [f"def {name}({arguments}):"]
    for line in template.strip("\n").splitlines():
        indent, place = len(line) - len(line.lstrip()), line.strip()
        text = parts[place[1:-1]] if place.startswith("<") else place
        lines += [" " * indent + part for part in text.splitlines()]
    exec(compile("\n".join(lines), f"<{name} of numba_twins.py>", "exec"), globals())
    return globals()[name]  # type: ignore[no-any-return]


def _each(text: str, count: int = 8) -> str:
    """`text` once for every i from 0, with {i} and the products {i_512}, {i_1024} filled in."""
    return "\n".join(text.format(i=i, i_512=i * 512, i_1024=i * 1024) for i in range(count))


# vector.*: like vector.cu, with eight words in named variables.
VECTOR = """
    thread = cuda.threadIdx.x
    a, b = input[thread], input[1024 + thread]
    <load>
    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    cuda.syncthreads()
    for _ in range(iterations):
        <steps>
    stamp_stop(stamps, clock_start, time_start_ns, iterations)
    first = cuda.blockIdx.x * 8192 + thread
    <store>
"""


def _vector(name: str, step: str, steps: int) -> Callable[..., None]:
    """A kernel that does `step` on each of eight words, `steps` times per iteration."""
    return _define(
        name,
        "stamps, input, output, iterations",
        VECTOR,
        load=_each("x{i} = input[2048 + {i_1024} + thread]"),
        steps="\n".join([_each("x{i} = " + reduce(lambda x, _: step.format(x=x), range(8), "x{i}"))] * (steps // 8)),
        store=_each("output[first + {i_1024}] = x{i}"),
    )


# memory.*: 512 threads x 8 words of 8 bytes per chunk; memory.cu explains the chunk counter.
MEMORY = """
    next_chunk = cuda.shared.array(2, uint32)
    thread = uint64(cuda.threadIdx.x)
    total = uint64(0)
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
        <work>
        if cuda.threadIdx.x == 0:
            next_chunk[taken & uint32(1)] = pending
        cuda.syncthreads()
        chunk = next_chunk[taken & uint32(1)]
    stamp_stop(stamps, clock_start, time_start_ns, taken)
    <end>
"""


def _memory(name: str, arguments: str, *work: str, end: str = "pass") -> Callable[..., None]:
    """A kernel that does each of `work` eight times per chunk; all of one before the next, so that loads are named
    before the first store."""
    return _define(
        name,
        f"stamps, counter, array_chunks, total_chunks, {arguments}",
        MEMORY,
        work="\n".join(_each(text) for text in work),
        end=end,
    )


# latency.memory: latency.cu explains the chase. The step, which NVVM cannot know to be one thread, keeps it from
# unrolling further.
CHASE = """
    at = cursor[cuda.blockIdx.x]
    if at == uint64(0):
        return
    cuda.syncthreads()
    time_start_ns = globaltimer()
    clock_start = clock64()
    cuda.syncthreads()
    done = uint32(0)
    while done != iterations:
        <loads>
        done += uint32(cuda.blockDim.x)
    cursor[cuda.blockIdx.x] = at
    stamp_stop(stamps, clock_start, time_start_ns, iterations)
"""

_HEAD = (uint64[::1], uint32[::1], uint32, uint32)  # stamps, counter, array_chunks, total_chunks
_WORDS, _DOUBLES = uint64[::1], float64[::1]


def _resident(word: Any) -> tuple[Any, ...]:
    """Arguments of the vector kernels: stamps, input, output, iterations."""
    return (uint64[::1], word[::1], word[::1], int32)


# (function, argument types) by symbol; explicit types, so that the census compiles for a run's arguments.
TWINS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "vector_fp32": (_vector("vector_fp32", "cuda.fma({x}, a, b)", 64), _resident(float32)),
    "vector_fp64": (_vector("vector_fp64", "cuda.fma({x}, a, b)", 32), _resident(float64)),
    "vector_int32": (_vector("vector_int32", "uint32({x} * a + b)", 32), _resident(uint32)),
    # The sum of all 64-bit words modulo 2^64.
    "memory_read": (
        _memory(
            "memory_read",
            "source, result",
            "v{i} = source[i + {i_512}]",
            "total += v{i}",
            end="cuda.atomic.add(result, 0, total)",
        ),
        (*_HEAD, _WORDS, _WORDS),
    ),
    # Random floats in [1, 2), a function of place and seed.
    "memory_write": (
        _memory("memory_write", "target, seed", "target[i + {i_512}] = random_words(i + uint64({i_512}), seed)"),
        (*_HEAD, _WORDS, uint32),
    ),
    "memory_copy": (
        _memory("memory_copy", "source, target", "v{i} = source[i + {i_512}]", "target[i + {i_512}] = v{i}"),
        (*_HEAD, _WORDS, _WORDS),
    ),
    # a = b + scalar c in FP64: the same bytes as in FP32, by 8-byte words.
    "memory_triad": (
        _memory(
            "memory_triad",
            "b, c, a, scalar",
            "b{i}, c{i} = b[i + {i_512}], c[i + {i_512}]",
            "a[i + {i_512}] = cuda.fma(scalar, c{i}, b{i})",
        ),
        (*_HEAD, _DOUBLES, _DOUBLES, _DOUBLES, float64),
    ),
    "latency_cached": (
        _define("latency_cached", "stamps, cursor, iterations", CHASE, loads=_each("at = load_address(at)", 32)),
        (uint64[::1], uint64[::1], uint32),
    ),
}
