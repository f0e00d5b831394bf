"""cuda_mapped.py from check to close, on a stand-in for CuPy whose kernels follow the addresses they are given."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from device_array import Array

from gpuassay.cuda_mapped import MappedWorkload
from gpuassay.device import ITERATIONS, Mark
from gpuassay.kernels import MemoryKernel, kernels_for
from gpuassay.kernels.compile import MachineCode
from gpuassay.kernels.links import MAPPED_BYTES
from gpuassay.kernels.memory import cuda_pattern

LINK_BYTES_PER_S = 50e9


class StandIn:
    """What MappedWorkload asks of CudaDevice and of CuPy."""

    def __init__(self, fault: str = "") -> None:
        self.sm_count, self.marks, self.now_s, self.fault = 4, [], 0.0, fault
        self.pinned: list[int] = []
        pool = SimpleNamespace(free_all_blocks=lambda: None)
        self._cupy = SimpleNamespace(
            zeros=lambda shape, dtype: np.zeros(shape, dtype).view(Array),
            asarray=None,  # nothing large is put on the device
            get_default_memory_pool=lambda: pool,
            get_default_pinned_memory_pool=lambda: pool,
            cuda=SimpleNamespace(alloc_pinned_memory=self.pin, runtime=SimpleNamespace(deviceSynchronize=lambda: None)),
        )

    def pin(self, size: int) -> bytearray:
        self.pinned.append(size)
        return bytearray(size)

    def mark(self) -> float:
        self.marks.append(Mark(self.now_s, self.now_s))
        return self.now_s

    def load(self, kernel: MemoryKernel, architecture: str) -> tuple[Any, MachineCode]:
        return getattr(self, kernel.symbol), MachineCode(b"", "stand-in", "")

    def done(self, stamps: Any, chunks: np.uint32, total: np.uint32, passes_bytes: int) -> None:
        stamps[:] = 0
        stamps[0, ITERATIONS] = total
        self.now_s += int(total) * 65536 / LINK_BYTES_PER_S

    def memory_read(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
        stamps, _, chunks, total, source, output = arguments
        assert (grid, block, type(source)) == ((8,), (512,), np.uint64)
        words = at(source, int(chunks) * 16384)
        with np.errstate(over="ignore"):
            once = words.sum(dtype=np.uint32) - (words[-1] if self.fault == "short" else np.uint32(0))
            output += once * np.uint32(int(total) // int(chunks))
        self.done(stamps, chunks, total, words.nbytes)

    def memory_write(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
        stamps, _, chunks, total, target, seed = arguments
        assert (grid, block, type(target), type(seed)) == ((8,), (512,), np.uint64, np.uint32)
        words = int(chunks) * 16384
        there = at(target, words)
        there[:] = cuda_pattern(words, int(seed), 512, 4096)
        if self.fault == "short":
            there[-1] = 0xFFFFFFFF
        if self.fault == "beyond":
            at(target, words + 1)[-1] = 0
        self.done(stamps, chunks, total, there.nbytes)


def at(address: Any, words: int) -> Any:
    return np.frombuffer((ctypes.c_uint32 * words).from_address(int(address)), np.uint32)


def prepared(device: StandIn, metric: str) -> MappedWorkload:
    """The steps of CudaDevice.prepare."""
    (kernel,) = kernels_for(metric)
    workload = MappedWorkload(device, kernel, "sm_90", device.sm_count)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    workload.check = workload.run_check(rng)
    if workload.check.passed:
        workload.allocate(rng, "random", 2**23)
        workload.size_and_warm_up(None)
    return workload


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuassay.cuda_workload.WARM_UP_S", 0.0)


@pytest.mark.parametrize("metric", ["pcie.h2d.mapped", "pcie.d2h.mapped"])
def test_a_mapped_kernel_from_check_to_close(metric: str) -> None:
    device = StandIn()
    workload = prepared(device, metric)
    assert workload.check.passed, workload.check
    assert workload.footprint_bytes == 2**23
    assert device.pinned[-1] == 2**23
    before = device.now_s
    workload.launch()
    moved = workload.stamps(0)[:, ITERATIONS].sum() * 65536
    assert moved % 2**23 == 0  # whole passes
    assert device.now_s - before == pytest.approx(0.02, rel=0.2)
    workload.close()


@pytest.mark.parametrize(
    ("metric", "fault"), [("pcie.h2d.mapped", "short"), ("pcie.d2h.mapped", "short"), ("pcie.d2h.mapped", "beyond")]
)
def test_a_wrong_word_fails_the_check(metric: str, fault: str) -> None:
    """One word not read, one not written over its poison, one beyond the end."""
    check = prepared(StandIn(fault), metric).check
    assert not check.passed
    assert ("beyond" in check.where) == (fault == "beyond")


def test_the_usual_size_is_twice_every_l2() -> None:
    assert all(k.footprint_bytes == MAPPED_BYTES for k in kernels_for("pcie.h2d.mapped"))  # type: ignore[attr-defined]
    assert MAPPED_BYTES >= 2 * 128 * 2**20


def test_every_name_that_is_asked_of_cupy_exists() -> None:
    cupy = pytest.importorskip("cupy")
    for name in ("cuda.alloc_pinned_memory", "get_default_pinned_memory_pool", "cuda.runtime.deviceSynchronize"):
        found: Any = cupy
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
