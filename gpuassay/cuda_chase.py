"""A pointer chase on a real GPU: the Workload of a ChaseKernel.

The life of one: compile -> load -> follow a short cycle and compare with NumPy's -> allocate the footprint, write its
cycle on the device -> walk it once, so that every cache holds what it can -> time.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cuda_workload import RESERVE, CudaWorkload, numba_kernel, refuse_half, warm_up_time_s
from .device import Data, DeviceError
from .kernels import ChaseKernel, Check
from .kernels.cycle import half_bits, order, placed, successors
from .kernels.latency import LOADS, SHARED_SLOT_BYTES, SHARED_SLOTS

if TYPE_CHECKING:
    from .cuda import CudaDevice

CHASE_ROUND_S = 0.004  # some 6,000 loads of memory, and launch cost (about 10 us) is 0.3 % of it
CHECK_SLOTS, CHECK_BYTES = 1009, 64 * 2**20  # a prime: the cycle is no power of two, and longer than the check's walk
CHECK_ITERATIONS = 3
STATIC_BYTES = 2 * SHARED_SLOTS * SHARED_SLOT_BYTES  # what a kernel's own shared memory needs, and to spare
WALK_SLOTS = 2**21  # a whole pass over 256 MiB of lines, twice the largest L2; beyond, no cache can hold the cycle
BUILD_THREADS, BUILD_BLOCKS = 256, 4096


class ChaseWorkload(CudaWorkload):
    """See device.Workload. One block follows the cycle; where the kernel says so, one on every SM."""

    def __init__(self, device: CudaDevice, kernel: ChaseKernel, architecture: str) -> None:
        super().__init__(device, kernel, architecture, kernel.blocks or device.sm_count)
        self._chase, self._seed = kernel, 0
        self._memory: Any = None
        self._cursor = self._cupy.zeros(self._blocks, dtype=np.uint64)
        if kernel.toolchain == "cuda c++":
            self._function.preferred_shared_memory_carveout = 0  # all of the SM's memory that may be L1 is L1
        if kernel.blocks != 1:  # no two blocks find room on one SM, not even those of a cluster
            self._shared_bytes = self._fill_sm(STATIC_BYTES)

    # -- correctness -------------------------------------------------------------------------------------

    def run_check(self, rng: np.random.Generator) -> Check:
        """Every pointer of a short cycle, and where the chase stands after CHECK_ITERATIONS."""
        kernel = self._chase
        slots = min(CHECK_SLOTS, CHECK_BYTES // kernel.stride_bytes)
        if kernel.space == "shared":
            slots = SHARED_SLOTS
        self._build(slots, rng)
        starts = np.arange(self._blocks) * slots // self._blocks
        if kernel.space == "shared":
            starts = np.zeros(self._blocks, dtype=np.int64)
        else:
            wrong = self._wrong_pointer(slots)
            if wrong is not None:
                return Check(False, float("inf"), f"pointer of slot {wrong}")
        self._run(CHECK_ITERATIONS)
        visited = order(slots, self._seed)
        expected = self._offsets(visited)[(starts + CHECK_ITERATIONS * kernel.work_per_iteration) % slots]
        result = self._cursor.get() - np.uint64(self._base)
        return Check.compare(result, expected, 0.0)

    def _wrong_pointer(self, slots: int) -> int | None:
        """The first slot of the cycle on the device that does not point where NumPy's does, or None."""
        every = np.arange(slots, dtype=np.uint64)
        words = self._memory.get()[(self._offsets(every) // np.uint64(8)).astype(np.int64)]
        expected = self._offsets(successors(slots, self._seed)) + np.uint64(self._base)
        wrong = np.flatnonzero(words != expected)
        return int(wrong[0]) if wrong.size else None

    def _offsets(self, slot: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Bytes from the beginning of the memory to each slot's pointer."""
        if self._chase.space == "shared":
            return slot * np.uint64(SHARED_SLOT_BYTES)
        return placed(slot, self._chase.stride_bytes)

    @property
    def _base(self) -> int:
        return 0 if self._chase.space == "shared" else int(self._memory.data.ptr)

    # -- the cycle ---------------------------------------------------------------------------------------

    def _build(self, slots: int, rng: np.random.Generator) -> None:
        """A fresh random cycle of so many slots, and a place on it for each block."""
        self._seed = int(rng.integers(2**63))
        if self._chase.space == "shared":
            offsets = np.empty(slots, dtype=np.uint32)
            offsets[:] = self._offsets(successors(slots, self._seed))
            self._cursor[:] = self._offsets(order(slots, self._seed))[0]
            self._arguments = (self._cursor, self._cupy.asarray(offsets))
            return
        self._numba_views.clear()
        words = slots * self._chase.stride_bytes // 8
        self._memory = self._cupy.empty(words, dtype=np.uint64)
        self._arguments = (self._cursor,)
        grid = min(BUILD_BLOCKS, -(-max(slots, self._blocks) // BUILD_THREADS))
        n, stride, seed = np.uint64(slots), np.uint64(self._chase.stride_bytes), np.uint64(self._seed)
        base, half = np.uint64(self._base), half_bits(slots)
        if self._chase.toolchain == "numba":
            memory, cursor = self._numba_view(self._memory), self._numba_view(self._cursor)
            arguments: tuple[Any, ...] = (
                memory,
                base,
                n,
                np.uint64(half),
                stride,
                seed,
                cursor,
                np.uint64(self._blocks),
            )
            _numba_build()[grid, BUILD_THREADS](*arguments)
        else:
            build = self._device.function_beside(self._chase, self.architecture, "latency_cycle")
            arguments = (base, n, np.int32(half), stride, seed, self._cursor, np.uint32(self._blocks))
            build((grid,), (BUILD_THREADS,), arguments)
        self._cupy.cuda.runtime.deviceSynchronize()

    # -- the timed launches ------------------------------------------------------------------------------

    def allocate(self, rng: np.random.Generator, data: Data, footprint_bytes: int | None = None) -> None:
        """The cycle that is timed. Raises DeviceError where less than half of `footprint_bytes` fits."""
        kernel = self._chase
        if kernel.space == "shared":
            return
        wanted = footprint_bytes or kernel.usual_footprint_bytes
        self._memory = None
        self._numba_views.clear()
        self._cupy.get_default_memory_pool().free_all_blocks()
        free_bytes, _ = self._cupy.cuda.runtime.memGetInfo()
        fits = int(free_bytes * RESERVE)
        refuse_half(wanted, free_bytes, fits)
        self.wanted_bytes = wanted
        slots = max(1, min(wanted, fits) // kernel.stride_bytes)
        try:
            self._build(slots, rng)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            self._memory = None
            self._cupy.get_default_memory_pool().free_all_blocks()
            raise DeviceError(f"out of memory: {slots * kernel.stride_bytes} B were refused") from error
        self.footprint_bytes = slots * kernel.stride_bytes

    def size_and_warm_up(self, round_s: float | None) -> None:
        """Chooses the iterations per launch; walks a cycle that a cache could hold once."""
        target_s = round_s or CHASE_ROUND_S
        warm_up_s = warm_up_time_s(self._device.marks)
        slots = self.footprint_bytes // self._chase.stride_bytes
        if slots <= WALK_SLOTS:
            self._run(-(-slots // self._chase.work_per_iteration))
        iterations, started = LOADS, time.monotonic()
        while True:
            before = self._device.mark()
            self._run(iterations)
            elapsed_s = self._device.mark() - before
            if time.monotonic() - started > warm_up_s and elapsed_s > target_s / 2:
                break
            growth = min(10.0, target_s / max(elapsed_s, 1e-6))
            iterations = max(1, round(iterations * growth))
        self._iterations = iterations
        self.launches.clear()
        self._make_views()

    def _start(self, iterations: int, place: int) -> None:
        cursor, *rest = self._arguments
        arguments = (self._stamps[place], cursor, np.uint32(iterations), *rest)
        if self._chase.toolchain == "numba":
            self._function[self._blocks, 1](*(self._numba_view(a) for a in arguments))
        else:
            self._function((self._blocks,), (1,), arguments, shared_mem=self._shared_bytes)

    def close(self) -> None:
        """See Workload.close."""
        self._memory = self._cursor = None
        super().close()


@cache
def _numba_build() -> Any:
    from .kernels.numba_cycle import SIGNATURE, latency_cycle

    return numba_kernel(latency_cycle, SIGNATURE)[0]
