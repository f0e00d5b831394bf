"""shared.read, shared.write, dsmem.read, l1.read, l2.read, l2.write: declarations and references for cache.cu, and for
the kernels of memory.cu on arrays that L2 holds.

Bytes per clock and SM: shared memory and L1 have 32 banks of 4 bytes (CUDA C++ Programming Guide, "Shared Memory" of
each compute capability); of L2 nothing is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .declare import CLUSTER_ARCHITECTURES, VECTOR_ARCHITECTURES, ArithmeticKernel, MemoryKernel
from .memory import STREAMING, Read, Write

PLACES, WORDS, ACCESSES = 2, 4, 16
L2_FOOTPRINT_BYTES = 12 * 2**20  # inside the L2 of every part from compute capability 8.0 on, and inside one partition


@dataclass(frozen=True)
class CacheRead(ArithmeticKernel):
    """Each thread reads its two places of 16 bytes in turn and sums the words modulo 2^32."""

    @property
    def outputs_per_block(self) -> int:
        """One sum a thread."""
        return self.threads

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[np.uint32]:
        """The words of both places of every thread."""
        return rng.integers(2**32, size=PLACES * self.threads * WORDS, dtype=np.uint32)

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[np.uint32], float]:
        """Exact: unsigned sums wrap alike in any order."""
        of_thread = inputs.reshape(PLACES, self.threads, WORDS).sum(axis=(0, 2), dtype=np.uint32)
        return of_thread * np.uint32(iterations * ACCESSES // PLACES), 0.0


@dataclass(frozen=True)
class SharedWrite(ArithmeticKernel):
    """Each thread stores to its two places in turn; the words stored count up with the iterations."""

    @property
    def outputs_per_block(self) -> int:
        """What is left in both places of every thread."""
        return PLACES * self.threads * WORDS

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[np.uint32]:
        """The words to count up from."""
        return rng.integers(2**32, size=self.outputs_per_block, dtype=np.uint32)

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[np.uint32], float]:
        """Exact."""
        return inputs + np.full_like(inputs, iterations), 0.0


@dataclass(frozen=True)
class ClusterRead(CacheRead):
    """As CacheRead, from the shared memory of the cluster's other block, whose words are the input plus its rank."""

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[np.uint32], float]:
        """Exact. The block of rank 0 reads what rank 1 filled in, and the other way round."""
        of_rank = [super(ClusterRead, self).reference(inputs + np.uint32(rank), iterations)[0] for rank in (1, 0)]
        return np.concatenate(of_rank), 0.0


_RESIDENT: dict[str, Any] = {
    "toolchain": "cuda c++",
    "source": "cache.cu",
    "architectures": VECTOR_ARCHITECTURES,
    "threads": 1024,
    "blocks_per_sm": 1,
    "work_unit": "B",
    "work_per_iteration": ACCESSES * 1024 * 16,
    "output": np.uint32,
}
_L2: dict[str, Any] = STREAMING | {"work_per_iteration": 65536, "footprint_bytes": L2_FOOTPRINT_BYTES}

CACHE_KERNELS: tuple[ArithmeticKernel | MemoryKernel, ...] = (
    CacheRead(metric="shared.read", symbol="shared_read", instructions={"LDS.128": ACCESSES}, **_RESIDENT),
    SharedWrite(metric="shared.write", symbol="shared_write", instructions={"STS.128": ACCESSES}, **_RESIDENT),
    ClusterRead(
        metric="dsmem.read",
        symbol="dsmem_read",
        instructions={"LD.E.128": ACCESSES},
        cluster=2,
        fills_sm=True,
        requires="clusters of blocks exist from compute capability 9.0",
        **_RESIDENT | {"architectures": CLUSTER_ARCHITECTURES},
    ),
    CacheRead(metric="l1.read", symbol="l1_read", instructions={"LDG.E.128": ACCESSES}, **_RESIDENT),
    Read(
        metric="l2.read",
        symbol="memory_read_l2",
        instructions={"LDG.E.128": 8},
        input_arrays=1,
        output_is_sum=True,
        **_L2,
    ),
    Write(metric="l2.write", symbol="memory_write", instructions={"STG.E.128": 8}, **_L2),
)
