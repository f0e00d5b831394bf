"""atomic.*: declarations and references for atomic.cu, which says what an operation and a pattern is.

Work is counted in operations that threads ask for: 32 to an instruction of a warp, whatever unit does them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import L2_FOOTPRINT_BYTES
from .cycle import mixed
from .declare import VECTOR_ARCHITECTURES, ArithmeticKernel, MemoryKernel

# By pattern, what is left of the number of a thread's word.
MASKS = {"one": 0, "warp": 0xFFFFFFE0, "spread": 0xFFFFFFFF}
SHARED_OPERATIONS = 16  # a thread and iteration


@dataclass(frozen=True)
class SharedAtomic(ArithmeticKernel):
    """Each thread works at one word of its block's table, of `threads` words; see atomic.cu."""

    mask: int = 0

    @property
    def outputs_per_block(self) -> int:
        """One a thread."""
        return self.threads

    @property
    def places(self) -> NDArray[np.int64]:
        """For each thread the word where it works."""
        return np.arange(self.threads) & self.mask

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[Any]:
        """The places, then each thread's value. Floats are whole and small, so that sums are exact in any order."""
        dtype: Any = self.output
        if np.dtype(dtype).kind == "f":
            values = rng.integers(1, 5, self.threads) * rng.choice([-1, 1], self.threads)
        else:
            values = rng.integers(1, np.iinfo(dtype).max, self.threads, dtype=dtype)
        return np.concatenate([self.places.astype(dtype), values.astype(dtype)])


class SharedAdd(SharedAtomic):
    """The table begins with zeros; every operation adds the thread's value."""

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[Any], float]:
        """The table. Exact: integers wrap, and floats stay below 2^24 (1024 threads x 32 operations x 4 at most)."""
        table = np.zeros(self.threads, dtype=self.output)
        added = inputs[self.threads :] * np.array([iterations * SHARED_OPERATIONS], dtype=self.output)
        np.add.at(table, self.places, added)
        return table, 0.0


class SharedSwap(SharedAtomic):
    """The table begins with the threads' values, which stay; each thread sums what it finds."""

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[Any], float]:
        """The sums; exact."""
        found = inputs[self.threads :][self.places]
        return found * np.array([iterations * SHARED_OPERATIONS], dtype=self.output), 0.0


@dataclass(frozen=True)
class GlobalAdd(MemoryKernel):
    """Every operation adds a random value to a word of the table."""

    mask: int = 0

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """A fresh seed above the mask."""
        return np.uint64(int(rng.integers(2**32)) << 32 | self.mask)

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """The table. Exact: integers wrap, and floats are even numbers whose sums stay below 2^24 in a check (257
        chunks x 2 passes x 4096 additions x 4 = 8.4 million at most)."""
        in_chunk = self.chunk_bytes // 4
        chunks = words // in_chunk
        vectors = np.arange(in_chunk // self.threads, dtype=np.uint32)[:, None]
        threads = np.arange(self.threads, dtype=np.uint64)
        table = np.zeros(words, dtype=self.word)
        for chunk in range(chunks * passes):
            seeds = (np.uint64(int(parameter) >> 32) ^ threads) | np.uint64(chunk << 32)
            h = mixed(seeds).astype(np.uint32)
            if np.dtype(self.word).kind == "f":
                values = ((h << vectors) & np.uint32(0x80800000) | np.uint32(0x40000000)).view(np.float32)
            else:
                values = h ^ vectors * np.uint32(0x9E3779B1)
            at = (chunk % chunks * in_chunk + np.arange(in_chunk)) & self.mask
            np.add.at(table, at, values.ravel())
        return table, 0.0


@dataclass(frozen=True)
class GlobalSwap(MemoryKernel):
    """Pairs of compare-and-swap, which leave the table as it is; the sum of all that they find."""

    mask: int = 0

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """The mask."""
        return np.uint32(self.mask)

    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """Exact, modulo 2^64: each word's place is asked twice a pass."""
        found = inputs[0][np.arange(words) & self.mask].sum(dtype=self.word)
        return np.array([found]) * np.array([2 * passes], dtype=self.word), 0.0


_OLD = ("sm_80", "sm_86", "sm_89")  # where the disassembler has RED for REDG
_ANY: dict[str, Any] = {
    "toolchain": "cuda c++",
    "source": "atomic.cu",
    "architectures": VECTOR_ARCHITECTURES,
    "work_unit": "OP",
}


def _shared(
    make: type[SharedAtomic], operation: str, word: str, output: type[np.generic], opcode: str
) -> list[SharedAtomic]:
    return [
        make(
            metric=f"atomic.shared.{operation}.{pattern}",
            symbol=f"atomic_shared_{operation}",
            threads=1024,
            blocks_per_sm=1,
            work_per_iteration=1024 * SHARED_OPERATIONS,
            instructions={opcode: SHARED_OPERATIONS},
            retried=opcode == "ATOMS.CAST.SPIN",
            macros={"SHARED": 1, "WORD": word, "SWAP": int(make is SharedSwap)},
            output=output,
            mask=mask,
            **_ANY,
        )
        for pattern, mask in MASKS.items()
    ]


def _global(
    make: type[GlobalAdd] | type[GlobalSwap], operation: str, word: str, dtype: type[np.generic], opcode: str
) -> list[MemoryKernel]:
    swaps = make is GlobalSwap
    old = {} if swaps else {name: {opcode.replace("REDG", "RED"): 8} for name in _OLD}
    return [
        make(
            metric=f"atomic.global.{operation}.{pattern}",
            symbol=f"atomic_global_{operation}",
            threads=512,
            blocks_per_sm=2,
            work_per_iteration=512 * 8,
            instructions={opcode: 8},
            instructions_on=old,
            macros={"SHARED": 0, "WORD": word, "SWAP": int(swaps)},
            word=dtype,
            chunk_bytes=16 * 1024,
            input_arrays=int(swaps),
            output_is_sum=swaps,
            output_from_zero=not swaps,
            footprint_bytes=L2_FOOTPRINT_BYTES,
            mask=mask,
            **_ANY,
        )
        for pattern, mask in MASKS.items()
    ]


ATOMIC_KERNELS: tuple[ArithmeticKernel | MemoryKernel, ...] = (
    *_shared(SharedAdd, "add_u32", "unsigned", np.uint32, "ATOMS.ADD"),
    *_shared(SharedAdd, "add_f32", "float", np.float32, "ATOMS.CAST.SPIN"),
    *_shared(SharedSwap, "cas_u64", "unsigned long long", np.uint64, "ATOMS.CAS.64"),
    *_global(GlobalAdd, "add_u32", "unsigned", np.uint32, "REDG.E.ADD.STRONG.GPU"),
    *_global(GlobalAdd, "add_f32", "float", np.float32, "REDG.E.ADD.F32.FTZ.RN.STRONG.GPU"),
    *_global(GlobalSwap, "cas_u64", "unsigned long long", np.uint64, "ATOMG.E.CAS.64.STRONG.GPU"),
)
