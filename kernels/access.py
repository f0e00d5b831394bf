"""memory.random, .random_update, .write.partial, and reads by width and alignment: declarations and references for
access.cu.

Bytes are those that the threads ask for. A sector is an aligned 32 bytes, the least that L2 fetches (Nsight Compute,
Profiling Guide); a miss may fetch more (cudaLimitMaxL2FetchGranularity, which stays as found), and memory with ECC may
have to read the rest of a sector of which a part is stored.

memory.random: 32-byte sectors at random places of nearly the whole memory. Reads per second are its bytes over 32.

memory.random_update: one update is a 64-bit word at a random place read, changed by exclusive or, and written back;
1 GUPS (giga-updates per second) is 1 GOP/s here. That is the update of HPC Challenge's RandomAccess (Table[ran &
(TableSize - 1)] ^= ran; HPCC 1.5.0, RandomAccess/core_single_cpu.c), with these differences: RandomAccess fills half of
the memory with a power of two of words, makes four updates per word, draws them from a shift register over GF(2), and
lets up to 1 % of them be lost to races; here the table is any size, one update is made per 512 bytes and pass, the
stream is a hash of a counter, and no update is lost, because each is atomic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import L2_FOOTPRINT_BYTES
from .cycle import mixed
from .declare import VECTOR_ARCHITECTURES, MemoryKernel
from .memory import Read, Write, cuda_pattern

THREADS = 512
RANDOM_CHUNK_BYTES = 256 * 1024
SECTOR_BYTES = 32
READS = 8 * THREADS // 2  # sectors a chunk: eight loads of 16 bytes a thread, two to a sector
WIDE_ARCHITECTURES = ("sm_100", "sm_103", "sm_120")


def places(
    numbers: NDArray[np.uint64], seed: int, array_chunks: int, place_bytes: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(places, hashes): where accesses `numbers` of a launch go, in units of `place_bytes` from the array's start."""
    per_chunk = RANDOM_CHUNK_BYTES // place_bytes
    hashes = mixed(numbers + np.array([seed], dtype=np.uint64))  # arrays wrap silently, scalars warn
    chunk = ((hashes >> np.uint64(32)) * np.uint64(array_chunks)) >> np.uint64(32)
    return chunk * np.uint64(per_chunk) + (hashes & np.uint64(per_chunk - 1)), hashes


@dataclass(frozen=True)
class RandomRead(MemoryKernel):
    """Sums all words of sectors at random places, modulo 2^32."""

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """A fresh seed."""
        return np.uint64(rng.integers(2**64, dtype=np.uint64))

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact: unsigned sums wrap alike in any order."""
        chunks = words * 4 // self.chunk_bytes
        sectors, _ = places(np.arange(chunks * passes * READS, dtype=np.uint64), int(parameter), chunks, SECTOR_BYTES)
        of_sector = inputs[0].reshape(-1, SECTOR_BYTES // 4).sum(axis=1, dtype=np.uint32)
        return np.array([of_sector[sectors].sum(dtype=np.uint32)]), 0.0


@dataclass(frozen=True)
class RandomUpdate(MemoryKernel):
    """Changes 64-bit words at random places by exclusive or."""

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """A fresh seed."""
        return np.uint64(rng.integers(2**64, dtype=np.uint64))

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact: exclusive or gives the same in any order."""
        chunks = words * 8 // self.chunk_bytes
        numbers = np.arange(chunks * passes * self.threads, dtype=np.uint64)
        at, hashes = places(numbers, int(parameter), chunks, 8)
        table = np.zeros(words, dtype=np.uint64)
        np.bitwise_xor.at(table, at, hashes)
        return table, 0.0


@dataclass(frozen=True)
class PartialWrite(Write):
    """Stores the first 16 bytes of every sector; the pattern is that of memory.write."""

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact; what is not stored is still all ones, as the check begins."""
        expected = np.full((words // 8, 2, 4), 0xFFFFFFFF, dtype=np.uint32)
        expected[:, 0] = cuda_pattern(words // 2, int(parameter), self.threads, self.chunk_bytes // 32).reshape(-1, 4)
        return expected.ravel(), 0.0


_ACCESS: dict[str, Any] = {
    "toolchain": "cuda c++",
    "source": "access.cu",
    "architectures": VECTOR_ARCHITECTURES,
    "threads": THREADS,
    "blocks_per_sm": 2,
    "work_unit": "B",
    "work_per_iteration": 65536,
}
_OPCODES = {4: "LDG.E", 8: "LDG.E.64", 16: "LDG.E.128", 32: "LDG.E.ENL2.256"}


def _read(level: str, variant: str, width: int, shift: int = 0) -> Read:
    """`level`.read.`variant`: loads of `width` bytes a thread, from `shift` words of that width on."""
    rest: dict[str, Any] = {"footprint_bytes": L2_FOOTPRINT_BYTES} if level == "l2" else {}
    if width == 32:
        rest |= {"requires": "loads of 32 bytes exist from compute capability 10.0"}
    return Read(
        metric=f"{level}.read.{variant}",
        symbol=f"{level}_read_{variant}",
        instructions={_OPCODES[width]: 128 // width},
        macros={"WIDTH": width, "SHIFT": shift, "PAST_L1": int(level == "l2")},
        chunk_bytes=65536,
        input_arrays=1,
        output_is_sum=True,
        **_ACCESS | rest | ({"architectures": WIDE_ARCHITECTURES} if width == 32 else {}),
    )


ACCESS_KERNELS: tuple[MemoryKernel, ...] = (
    RandomRead(
        metric="memory.random",
        symbol="memory_random",
        instructions={"LDG.E.128": 8},
        chunk_bytes=RANDOM_CHUNK_BYTES,
        input_arrays=1,
        output_is_sum=True,
        whole_memory=True,
        **_ACCESS,
    ),
    RandomUpdate(
        metric="memory.random_update",
        symbol="memory_random_update",
        instructions={"REDG.E.XOR.64.STRONG.GPU": 1},
        instructions_on={name: {"RED.E.XOR.64.STRONG.GPU": 1} for name in ("sm_80", "sm_86", "sm_89")},
        word=np.uint64,
        chunk_bytes=RANDOM_CHUNK_BYTES,
        output_from_zero=True,
        whole_memory=True,
        **_ACCESS | {"work_unit": "OP", "work_per_iteration": THREADS},
    ),
    PartialWrite(
        metric="memory.write.partial",
        symbol="memory_write_partial",
        instructions={"STG.E.128": 8},
        chunk_bytes=2 * 65536,
        **_ACCESS,
    ),
    *(
        _read(level, variant, width, shift)
        for level in ("memory", "l2")
        for variant, width, shift in (
            ("width4", 4, 0),
            ("width8", 8, 0),
            ("width32", 32, 0),
            ("offset4", 4, 1),
            ("offset16", 16, 1),
        )
    ),
)
