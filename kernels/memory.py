"""memory.read, .write, .copy, .triad, .mix3, .read_tma: declarations and references for memory.cu, memory_tma.cu and
the Numba twins.

Bytes are counted as sheets and STREAM count them: every byte read plus every byte written, no write-allocate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .declare import CLUSTER_ARCHITECTURES, VECTOR_ARCHITECTURES, MemoryKernel


@dataclass(frozen=True)
class Read(MemoryKernel):
    """Sums all words of one array, modulo the word's size."""

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact: unsigned sums wrap alike in any order."""
        total = np.array([inputs[0].sum(dtype=self.word)], dtype=self.word)
        return total * np.array([passes], dtype=self.word), 0.0  # arrays wrap silently, scalars warn


@dataclass(frozen=True)
class ReadAgain(Read):
    """As Read; each chunk is read four times an iteration."""

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact."""
        return super().reference(inputs, parameter, words, 4 * passes)


@dataclass(frozen=True)
class Write(MemoryKernel):
    """Fills one array with random floats in [1, 2), a function of place and seed."""

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """A fresh seed."""
        return np.uint32(rng.integers(2**32))

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """The same integer arithmetic in NumPy; exact."""
        if self.toolchain == "numba":
            return numba_pattern(np.arange(words, dtype=np.uint64), int(parameter)), 0.0
        return cuda_pattern(words, int(parameter), self.threads, self.chunk_bytes // 16), 0.0


@dataclass(frozen=True)
class Copy(MemoryKernel):
    """Copies one array into another."""

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """The input itself; exact."""
        return inputs[0], 0.0


@dataclass(frozen=True)
class Triad(MemoryKernel):
    """a = b + s c, the triad of STREAM (McCalpin), in the word's floating-point format."""

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """A fresh scalar s."""
        return self.word(rng.uniform(0.25, 4.0))

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """In a wider format. Bound: one fused rounding, or two where the compiler did not fuse; each at most half a
        unit in the last place of the larger of result and product (IEEE 754)."""
        wider: Any = np.float64 if self.word is np.float32 else np.longdouble
        b, c = (array.astype(wider) for array in inputs)
        product = wider(parameter) * c
        roundoff = 2.0**-24 if self.word is np.float32 else 2.0**-53
        # The reference itself is handed on as float64: half a unit of values up to 2 + 4 x 2 more.
        bound = roundoff * (np.abs(b + product) + np.abs(product)) + 2.0**-50
        return (b + product).astype(np.float64), bound.astype(np.float64)


@dataclass(frozen=True)
class Sum(MemoryKernel):
    """The sum of all input arrays, word by word."""

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact: modulo the word's size."""
        total: NDArray[Any] = np.sum(inputs, axis=0, dtype=self.word)
        return total, 0.0


def cuda_pattern(words: int, seed: int, threads: int, chunk_vectors: int) -> NDArray[np.uint32]:
    """What memory_write of memory.cu leaves in an array of `words` 32-bit words."""
    vector = np.arange(words // 4, dtype=np.uint64)
    within = vector % np.uint64(chunk_vectors)
    first = vector - within + within % np.uint64(threads)  # the thread's first vector in this chunk
    step = (within // np.uint64(threads)).astype(np.uint32)
    low = first.astype(np.uint32) * np.uint32(0x9E3779B1)
    h = low ^ (first >> np.uint64(32)).astype(np.uint32) ^ np.uint32(seed)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    word = np.uint32(0x3F800000) | ((h ^ (h >> np.uint32(13))) & np.uint32(0x007FFFFF))
    mixed = word ^ (step * np.uint32(0x00111111))
    flips = np.array([0, 0x1B8735, 0x52DCE7, 0x7F4A9B], dtype=np.uint32)
    pattern: NDArray[np.uint32] = (mixed[:, None] ^ flips).ravel()
    return pattern


def numba_pattern(index: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """What the Numba twin's memory_write leaves at the 64-bit words `index`."""
    h = (index + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(29)
    return np.uint64(0x3F8000003F800000) | (h & np.uint64(0x007FFFFF007FFFFF))


# Of every kernel in memory.cu that passes over arrays in chunks.
STREAMING: dict[str, Any] = {
    "toolchain": "cuda c++",
    "source": "memory.cu",
    "architectures": VECTOR_ARCHITECTURES,
    "threads": 512,
    "blocks_per_sm": 2,
    "work_unit": "B",
    "chunk_bytes": 512 * 8 * 16,
}
_NUMBA: dict[str, Any] = {
    "toolchain": "numba",
    "source": "numba_twins.py",
    "architectures": VECTOR_ARCHITECTURES,
    "threads": 512,
    "blocks_per_sm": 2,
    "work_unit": "B",
    "chunk_bytes": 512 * 8 * 8,
}

# Each word is read from shared memory once, where a bulk copy has put it: what the sum lacks was not copied.
_TMA: dict[str, Any] = STREAMING | {
    "source": "memory_tma.cu",
    "architectures": CLUSTER_ARCHITECTURES,
    "threads": 256,
    "blocks_per_sm": 4,
    "chunk_bytes": 256 * 4 * 16,
    "requires": "bulk copies (TMA) exist from compute capability 9.0",
}

MEMORY_KERNELS: tuple[MemoryKernel, ...] = (
    Sum(
        metric="memory.mix3",
        symbol="memory_mix3",
        work_per_iteration=4 * 65536,
        instructions={"LDG.E.128": 24, "STG.E.128": 8},
        input_arrays=3,
        **STREAMING | {"blocks_per_sm": 1},
    ),
    Read(
        metric="memory.read_tma",
        symbol="memory_read_tma",
        work_per_iteration=256 * 4 * 16,
        instructions={"LDS.128": 4},
        input_arrays=1,
        output_is_sum=True,
        **_TMA,
    ),
    Read(
        metric="memory.read",
        symbol="memory_read",
        work_per_iteration=65536,
        instructions={"LDG.E.128": 8},
        input_arrays=1,
        output_is_sum=True,
        **STREAMING,
    ),
    ReadAgain(  # the beginning of the curve over footprints
        metric="memory.read",
        symbol="memory_read_little",
        work_per_iteration=65536,
        instructions={"LDG.E.128": 8},
        input_arrays=1,
        output_is_sum=True,
        footprint_bytes=2 * 16384,
        **STREAMING | {"chunk_bytes": 16384},
    ),
    Write(
        metric="memory.write",
        symbol="memory_write",
        work_per_iteration=65536,
        instructions={"STG.E.128": 8},
        **STREAMING,
    ),
    Copy(
        metric="memory.copy",
        symbol="memory_copy",
        work_per_iteration=2 * 65536,
        instructions={"LDG.E.128": 8, "STG.E.128": 8},
        input_arrays=1,
        **STREAMING,
    ),
    Triad(
        metric="memory.triad",
        symbol="memory_triad",
        work_per_iteration=3 * 65536,
        instructions={"LDG.E.128": 16, "STG.E.128": 8},
        input_arrays=2,
        word=np.float32,
        **STREAMING,
    ),
    Read(
        metric="memory.read",
        symbol="memory_read",
        work_per_iteration=32768,
        instructions={"LDG.E.64": 8},
        input_arrays=1,
        output_is_sum=True,
        word=np.uint64,
        **_NUMBA,
    ),
    Write(
        metric="memory.write",
        symbol="memory_write",
        work_per_iteration=32768,
        instructions={"STG.E.64": 8},
        word=np.uint64,
        **_NUMBA,
    ),
    Copy(
        metric="memory.copy",
        symbol="memory_copy",
        work_per_iteration=2 * 32768,
        instructions={"LDG.E.64": 8, "STG.E.64": 8},
        input_arrays=1,
        word=np.uint64,
        **_NUMBA,
    ),
    Triad(
        metric="memory.triad",
        symbol="memory_triad",
        work_per_iteration=3 * 32768,
        instructions={"LDG.E.64": 16, "STG.E.64": 8},
        input_arrays=2,
        word=np.float64,
        **_NUMBA,
    ),
)
