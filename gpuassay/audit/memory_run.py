"""The capacity test's memory on a GPU, and the driver's error counters around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import Row, Word
from .launch import load
from .memory import ONES, WORD_BYTES, Errors, capacity_row, inversions, inversions_row, run_passes

SOURCE = "audit_memory.cu"
KINDS = ("fill", "verify", "invert")
THREADS = 256
BLOCKS = 4096
CHUNKS_BYTES = (2**30, 2**25)  # plain allocations: large ones first, then the rest in small ones
RESERVE_BYTES = 2**26  # left to the driver, for launches
SMS = 1024  # places for %smid; the largest part so far has 188 SMs
REPEATED_S = 20.0


def prelude(kind: str) -> str:
    """The macros of audit_memory.cu."""
    chosen = {"FILL": kind == "fill", "VERIFY": kind == "verify", "INVERT": kind == "invert"}
    return "".join(f"#define {name} {int(value)}\n" for name, value in (chosen | {"SMS": SMS}).items())


Chunk = tuple[Any, int, int]
"""A plain allocation, the number of its first word, and how many words it has."""


def allocate() -> list[Chunk]:
    """Nearly all that the current CUDA device has free. The memory lives as long as the list does."""
    import cupy

    runtime = cupy.cuda.runtime
    chunks: list[Chunk] = []
    first = 0
    for size in CHUNKS_BYTES:
        while runtime.memGetInfo()[0] > size + RESERVE_BYTES:
            try:
                memory = cupy.cuda.Memory(size)
            except (runtime.CUDARuntimeError, MemoryError):
                break
            chunks.append((memory, first, size // WORD_BYTES))
            first += size // WORD_BYTES
    return chunks


class CudaMemory:
    """Nearly all free memory of the current CUDA device, by plain allocations; see memory.Memory."""

    def __init__(self, compute_capability: str) -> None:
        import cupy

        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        cupy.get_default_memory_pool().free_all_blocks()
        self._kernels = {kind: load(SOURCE, f"audit_{kind}", compute_capability, prelude(kind)) for kind in KINDS}
        self._found = cupy.zeros(3 + SMS, dtype=np.uint64)
        self.free_bytes, self.total_bytes = (int(size) for size in self._runtime.memGetInfo())
        self._chunks = allocate()
        self.words = sum(words for _, _, words in self._chunks)
        self._holds: tuple[tuple[int, int], int] = ((0, 0), 0)

    def close(self) -> None:
        """Gives the memory back."""
        self._chunks = []

    def fill(self, key: tuple[int, int], flip: int) -> None:
        """See memory.Memory."""
        for chunk in self._chunks:
            self._launch("fill", chunk, key, flip)
        self._holds = (key, flip)

    def verify(self, key: tuple[int, int], flip: int, *, invert: bool = False) -> Errors:
        """See memory.Memory. All chunks are read before the counts come back."""
        self._found.set(np.array([0, ONES, 0] + [0] * SMS, np.uint64))
        for chunk in reversed(self._chunks):
            self._launch("invert" if invert else "verify", chunk, key, flip)
        if invert:
            self._holds = (key, flip ^ ONES)
        count, first, bits, *of_sms = (int(value) for value in self._found.get())
        return Errors(count, first if count else None, bits, {sm: n for sm, n in enumerate(of_sms) if n})

    def poke(self, index: int, value: int) -> None:
        """See memory.Memory."""
        self._copy(index, np.array([value], np.uint64), self._runtime.memcpyHostToDevice)

    def peek(self, index: int) -> int:
        """See memory.Memory."""
        word = np.zeros(1, np.uint64)
        self._copy(index, word, self._runtime.memcpyDeviceToHost)
        return int(word[0])

    def flush(self) -> None:
        """See memory.Memory: other words are read, far more than any L2 holds (at most 128 MiB so far)."""
        for chunk in self._chunks[:2] + self._chunks[-2:]:
            self._launch("verify", chunk, *self._holds)  # of what is there: a wrong word costs atomics
        self._runtime.deviceSynchronize()

    def _launch(self, kind: str, chunk: Chunk, key: tuple[int, int], flip: int) -> None:
        memory, first, words = chunk
        numbers = (np.uint64(value) for value in (words, first, *key, flip))
        self._kernels[kind]((BLOCKS,), (THREADS,), (np.uint64(memory.ptr), *numbers, self._found))

    def _copy(self, index: int, word: Any, kind: int) -> None:
        memory, first, _ = next(c for c in self._chunks if c[1] <= index < c[1] + c[2])
        device = memory.ptr + (index - first) * WORD_BYTES
        to_device = kind == self._runtime.memcpyHostToDevice
        pair = (device, word.ctypes.data) if to_device else (word.ctypes.data, device)
        self._runtime.memcpy(*pair, WORD_BYTES, kind)


def run(
    compute_capability: str,
    nvml: Any = None,
    handle: Any = None,
    seconds: float = REPEATED_S,
    temperature_c: Callable[[], float | None] = lambda: None,
) -> list[Row]:
    """Capacity; moving inversions again and again for so long; and the error counters before and after both, where NVML
    can be asked."""
    before = counters(nvml, handle) if nvml else {}
    memory = CudaMemory(compute_capability)
    try:
        if not memory.words:
            text = "No memory could be allocated; another process holds it."
            return [Row("memory.capacity", "not tested", text)]
        rows = [capacity_row(run_passes(memory), memory.free_bytes, memory.total_bytes)]
        temperatures_c = [temperature_c()]
        end = time.monotonic() + seconds
        passes = inversions(memory, lambda: time.monotonic() < end)
        rows.append(inversions_row(memory.words, passes, [*temperatures_c, temperature_c()]))
    except Exception as error:
        if "ECC" not in str(error).upper():
            raise
        text = f"The memory failed under the test: {error}."  # cudaErrorECCUncorrectable, from whichever call met it
        rows = [Row("memory.capacity", "inconsistent", text, memory.total_bytes, unit="B")]
    finally:
        memory.close()
    return [*rows, counters_row(before, counters(nvml, handle) if nvml else {})]


# -- error counters -------------------------------------------------------------------------------------------

CORRECTED, UNCORRECTED, PENDING, FAILED = "corrected", "uncorrected", "remap.pending", "remap.failure"


def counters(nvml: Any, handle: Any) -> dict[str, int | str]:
    """NVML's error counters; a text, "CALL: why", where the driver gives none."""
    found: dict[str, int | str] = {}

    def ask(names: tuple[str, ...], call: str, *arguments: Any) -> None:
        try:
            answer = getattr(nvml, call)(handle, *arguments)
        except (nvml.NVMLError, AttributeError) as error:
            found.update(dict.fromkeys(names, f"{call}: {error}"))
            return
        values = answer if isinstance(answer, list | tuple) and len(names) > 1 else [answer]
        for name, value in zip(names, values, strict=False):
            found[name] = len(value) if isinstance(value, list | tuple) else int(value)

    volatile = getattr(nvml, "NVML_VOLATILE_ECC", 0)
    ask((CORRECTED,), "nvmlDeviceGetTotalEccErrors", getattr(nvml, "NVML_MEMORY_ERROR_TYPE_CORRECTED", 0), volatile)
    ask((UNCORRECTED,), "nvmlDeviceGetTotalEccErrors", getattr(nvml, "NVML_MEMORY_ERROR_TYPE_UNCORRECTED", 1), volatile)
    ask(("remap.corrected", "remap.uncorrected", PENDING, FAILED), "nvmlDeviceGetRemappedRows")
    cause = getattr(nvml, "NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR", 1)
    ask(("retired.pages",), "nvmlDeviceGetRetiredPages", cause)
    return found


def counters_row(before: dict[str, int | str], after: dict[str, int | str]) -> Row:
    """The row memory.errors: nothing may have grown, nothing may be pending. Corrected errors alone are said only."""
    grown = {
        name: int(value) - int(before[name])
        for name, value in after.items()
        if isinstance(value, int) and isinstance(before.get(name), int) and value > int(before[name])
    }
    silent = {name: value for name, value in after.items() if isinstance(value, str)}
    details: dict[str, Any] = {"before": before, "after": after}
    if not after or len(silent) == len(after):
        word: Word = "not permitted" if "ermission" in str(silent) else "not supported"
        said = "; ".join(dict.fromkeys(silent.values())) or "NVML"
        return Row("memory.errors", word, f"No error counter was given: {said}.", details=details)
    bad = [name for name in grown if name != CORRECTED] + [name for name in (PENDING, FAILED) if after.get(name) == 1]
    text = "Error counters and remapped rows before and after the capacity test"
    if grown:
        text += "; grown: " + ", ".join(f"{name} by {by}" for name, by in grown.items())
        text += " (a corrected error alone is a warning)" if set(grown) == {CORRECTED} else ""
    if bad:
        text += "; the memory is failing: " + ", ".join(dict.fromkeys(bad))
    if silent:
        text += "; not given: " + ", ".join(dict.fromkeys(silent.values()))
    counted = sum(grown.values())
    return Row("memory.errors", "inconsistent" if bad else "consistent", text + ".", 0, counted, 0.0, "1", details)
