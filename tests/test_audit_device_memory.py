"""CudaMemory's host side on a stand-in for CuPy that keeps "device memory" in the host's: chunks, numbering, pokes."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuassay.audit import memory_run
from gpuassay.audit.memory import keyed, run_passes

FREE = 300_000  # bytes; no multiple of any chunk


class Array(np.ndarray):  # type: ignore[type-arg]
    """An array with CuPy's set and get."""

    def set(self, values: Any) -> None:
        self[:] = values

    def get(self) -> Any:
        return np.array(self)


class StandIn:
    """The part of CuPy that memory_run uses; `fault` may change a chunk after each fill."""

    class OutOfMemory(Exception):
        pass

    def __init__(self) -> None:
        self.taken = 0
        self.fault: Any = None
        stand_in = self

        class Memory:
            def __init__(self, size: int) -> None:
                if stand_in.taken + size > FREE:
                    raise StandIn.OutOfMemory
                stand_in.taken += size
                self.array = np.zeros(size // 8, np.uint64)
                self.ptr = self.array.ctypes.data

        def memcpy(to: int, of: int, size: int, kind: int) -> None:
            ctypes.memmove(to, of, size)

        runtime = SimpleNamespace(
            memGetInfo=lambda: (FREE - self.taken, 2 * FREE),
            CUDARuntimeError=StandIn.OutOfMemory,
            memcpy=memcpy,
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            deviceSynchronize=lambda: None,
        )
        self.cuda = SimpleNamespace(runtime=runtime, Memory=Memory)

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: None)

    def zeros(self, count: int, dtype: Any) -> Any:
        return np.zeros(count, dtype).view(Array)

    def load(self, source: str, symbol: str, capability: str, prelude: str) -> Any:
        """What audit_memory.cu does, by its macros."""

        def launch(grid: Any, block: Any, arguments: Any) -> None:
            pointer, words, first, key0, key1, flip, found = arguments
            chunk = np.ctypeslib.as_array(ctypes.cast(int(pointer), ctypes.POINTER(ctypes.c_uint64)), (int(words),))
            numbers = np.arange(int(first), int(first) + int(words), dtype=np.uint64)
            expected = keyed(numbers, (int(key0), int(key1))) ^ flip
            if "#define FILL 1" in prelude:
                chunk[:] = expected
                if self.fault:
                    self.fault(chunk, int(first))
                return
            wrong = np.flatnonzero(chunk != expected)
            if len(wrong):
                found[0] += np.uint64(len(wrong))
                found[1] = min(found[1], numbers[wrong[0]])
                found[2] |= np.bitwise_or.reduce(chunk ^ expected)
                found[3 + 5] += np.uint64(len(wrong))  # as if SM 5 had read the whole chunk
            if "#define INVERT 1" in prelude:
                chunk[:] = ~expected

        return launch


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr(memory_run, "load", stand_in.load)
    monkeypatch.setattr(memory_run, "CHUNKS_BYTES", (65_536, 4_096))
    monkeypatch.setattr(memory_run, "RESERVE_BYTES", 4_096)
    return stand_in


def test_nearly_all_is_taken_in_large_and_small_chunks_and_passes(cupy: StandIn) -> None:
    (row, again, counters) = memory_run.run("9.0", seconds=0.0, temperature_c=lambda: 40.0)
    assert row.verdict == again.verdict == "consistent"
    assert again.details["passes"] == 2
    assert again.details["temperatures_c"] == [40.0, 40.0]
    assert row.measured > 0.95 * FREE
    assert row.details["untested_bytes"] == 2 * FREE - row.measured
    assert counters.verdict == "not supported"


def test_words_are_numbered_through_all_chunks(cupy: StandIn) -> None:
    memory = memory_run.CudaMemory("9.0")
    memory.fill((1, 2), 0)
    for index in (0, 8191, 8192, memory.words - 1):
        assert memory.peek(index) == int(keyed(np.array([index], np.uint64), (1, 2))[0])
    memory.poke(8192, 77)
    found = memory.verify((1, 2), 0)
    assert (found.count, found.first, found.by_sm) == (1, 8192, {5: 1})


def test_a_flush_meets_no_wrong_words_but_those_that_were_poked(cupy: StandIn) -> None:
    """Each costs atomics, and there are thousands of millions."""
    memory = memory_run.CudaMemory("9.0")
    memory.fill((1, 2), 0)
    memory.verify((1, 2), 0, invert=True)
    memory._found.set(np.zeros(len(memory._found), np.uint64))
    memory.flush()
    assert memory._found[0] == 0
    memory.poke(3, 77)
    memory.flush()
    assert memory._found[0] in (1, 2)


def test_a_wrong_bit_in_a_late_chunk_is_found_with_its_number(cupy: StandIn) -> None:
    def fault(chunk: Any, first: int) -> None:
        if first == 16_384:
            chunk[5] ^= np.uint64(1 << 9)

    cupy.fault = fault
    errors = run_passes(memory_run.CudaMemory("9.0")).passes["hash"]
    assert (errors.count, errors.first, errors.bits) == (1, 16_389, 1 << 9)


def test_memory_that_fails_by_an_ecc_error_is_inconsistent(cupy: StandIn) -> None:
    def fault(chunk: Any, first: int) -> None:
        raise RuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered")

    cupy.fault = fault
    assert memory_run.run("9.0")[0].verdict == "inconsistent"
