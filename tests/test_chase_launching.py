"""cuda_chase.py from check to close, on a stand-in for CuPy that follows the pointers as the kernels would."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuassay.cuda_chase import CHASE_ROUND_S, ChaseWorkload
from gpuassay.device import ITERATIONS, DeviceError, Mark
from gpuassay.kernels import ChaseKernel
from gpuassay.kernels.compile import MachineCode
from gpuassay.kernels.cycle import order, placed, successors
from gpuassay.kernels.latency import LATENCY_KERNELS

LOAD_S = 1e-6
CUDA_KERNELS = [kernel for kernel in LATENCY_KERNELS if kernel.toolchain == "cuda c++"]


class OutOfMemoryError(Exception):
    pass


class Array(np.ndarray):
    """A NumPy array that answers where CuPy's is asked for its memory."""

    def get(self) -> np.ndarray:
        return np.asarray(self).copy()

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class StandIn:
    """A device with so much free memory, and what ChaseWorkload asks of CudaDevice and of CuPy."""

    def __init__(self, free_bytes: int = 2**26, refuse_bytes: int = 2**62, fault: str = "") -> None:
        self.sm_count, self.marks, self.now_s = 12, [], 0.0
        self.free_bytes, self.refuse_bytes, self.fault = free_bytes, refuse_bytes, fault
        self.launched: list[Any] = []
        runtime = SimpleNamespace(
            memGetInfo=lambda: (self.free_bytes, 2 * self.free_bytes),
            deviceSynchronize=lambda: None,
            cudaDevAttrMaxSharedMemoryPerBlockOptin=97,
            deviceGetAttribute=lambda attribute, ordinal: 227 * 1024,
        )
        self._cupy = SimpleNamespace(
            zeros=lambda shape, dtype: self.empty(shape, dtype, 0),
            empty=lambda shape, dtype: self.empty(shape, dtype, 0xFF),
            asarray=lambda array: array.view(Array),
            get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
            cuda=SimpleNamespace(
                runtime=runtime, memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError), Device=lambda: _ORDINAL
            ),
        )

    def empty(self, shape: Any, dtype: Any, byte: int) -> Array:
        array = np.empty(shape, dtype)
        if array.nbytes > self.refuse_bytes:
            raise OutOfMemoryError
        array.view(np.uint8)[...] = byte
        return array.view(Array)

    def mark(self) -> float:
        self.marks.append(Mark(self.now_s, time.monotonic()))
        return self.now_s

    def load(self, kernel: ChaseKernel, architecture: str) -> tuple[Any, MachineCode]:
        return Function(self, kernel), MachineCode(b"", "stand-in", "")

    def function_beside(self, kernel: ChaseKernel, architecture: str, symbol: str) -> Any:
        assert symbol == "latency_cycle"
        return self.build

    def build(self, grid: Any, block: Any, arguments: Any) -> None:
        base, n, half, stride, seed, cursor, blocks = arguments
        assert [type(a) for a in (base, n, half, stride, seed)] == [np.uint64, np.uint64, np.int32] + [np.uint64] * 2
        assert grid[0] * block[0] >= blocks
        slots, stride, seed = int(n), int(stride), int(seed)
        self.words = words(int(base), slots * stride)
        every = np.arange(slots, dtype=np.uint64)
        at = (placed(every, stride) // np.uint64(8)).astype(np.int64)
        self.words[at] = base + placed(successors(slots, seed), stride)
        if self.fault == "pointer":
            self.words[at[slots // 2]] += np.uint64(128)
        cursor[:] = base + placed(order(slots, seed), stride)[np.arange(blocks) * slots // blocks]


_ORDINAL = SimpleNamespace(id=0)


def words(address: int, size_bytes: int) -> Any:
    import ctypes

    return np.frombuffer((ctypes.c_uint64 * (size_bytes // 8)).from_address(address), np.uint64)


class Function:
    """A kernel of latency.cu: follows the chain, stamps."""

    def __init__(self, device: StandIn, kernel: ChaseKernel) -> None:
        self.device, self.kernel = device, kernel

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
        stamps, cursor, iterations, *rest = arguments
        assert isinstance(iterations, np.uint32)
        assert (grid, block) == ((len(cursor),), (1,))
        self.device.launched.append((grid[0], shared_mem))
        loads = int(iterations) * self.kernel.work_per_iteration
        for number in range(len(cursor)):
            at = int(cursor[number])
            for _ in range(loads - (self.device.fault == "short")):
                at = int(rest[0][at // 16]) if rest else int(words(at, 8)[0])
            cursor[number] = at
        stamps[:] = 0
        stamps[:, 0], stamps[:, 5] = np.arange(len(cursor)), iterations
        self.device.now_s += loads * LOAD_S


def prepared(device: StandIn, kernel: ChaseKernel, footprint_bytes: int | None = None) -> ChaseWorkload:
    """The steps of CudaDevice.prepare."""
    workload = ChaseWorkload(device, kernel, "sm_90")  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    workload.check = workload.run_check(rng)
    if workload.check.passed:
        workload.allocate(rng, "random", footprint_bytes)
        workload.size_and_warm_up(None)
    return workload


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuassay.cuda_workload.WARM_UP_S", 0.0)


@pytest.mark.parametrize("kernel", CUDA_KERNELS, ids=[kernel.metric for kernel in CUDA_KERNELS])
def test_a_chase_from_check_to_close(kernel: ChaseKernel) -> None:
    device = StandIn()
    footprint = None if kernel.space == "shared" else 8 * kernel.stride_bytes
    workload = prepared(device, kernel, footprint)
    assert workload.check.passed, workload.check
    assert workload.footprint_bytes == (footprint or 0)
    before = device.now_s
    workload.launch()
    assert device.now_s - before == pytest.approx(CHASE_ROUND_S, rel=0.1)
    blocks = kernel.blocks or device.sm_count
    assert workload.stamps(0).shape == (blocks, 6)
    assert (workload.stamps(0)[:, ITERATIONS] > 0).all()
    # Where there are several, each takes more than half of an SM's shared memory, so that no two share an SM.
    assert device.launched[-1] == (blocks, 219 * 1024 if blocks > 1 else 0)
    workload.close()


def test_a_launch_goes_on_where_the_last_one_stopped() -> None:
    """Starting over would find in L2 what the launch before has fetched."""
    device = StandIn()
    workload = prepared(device, kernel_of("latency.memory"), 2**20)
    places = []
    for _ in range(4):
        places.append(int(workload._cursor[0]))
        workload.launch()
    assert len(set(places)) == 4


def kernel_of(metric: str) -> ChaseKernel:
    return next(kernel for kernel in CUDA_KERNELS if kernel.metric == metric)


@pytest.mark.parametrize("fault", ["pointer", "short"])
@pytest.mark.parametrize("metric", ["latency.memory", "latency.shared", "latency.tlb"])
def test_a_wrong_chain_or_a_load_too_few_fails_the_check(fault: str, metric: str) -> None:
    if fault == "pointer" and metric == "latency.shared":
        pytest.skip("its pointers are not written by the device")
    workload = prepared(StandIn(fault=fault), kernel_of(metric), 8 * kernel_of(metric).stride_bytes)
    assert not workload.check.passed


def test_the_largest_footprint_that_fits_is_taken() -> None:
    device = StandIn(free_bytes=2**20)
    workload = prepared(device, kernel_of("latency.memory"), 2**20)
    assert workload.footprint_bytes == int(0.8 * 2**20) // 128 * 128


def test_far_too_little_memory_names_the_bytes() -> None:
    with pytest.raises(DeviceError, match=r"needs 8388608 B of device memory; 1048576 B are free"):
        prepared(StandIn(free_bytes=2**20), kernel_of("latency.memory"), 2**23)


def test_out_of_memory_names_the_bytes() -> None:
    with pytest.raises(DeviceError, match=r"out of memory: 4194304 B were refused"):
        prepared(StandIn(refuse_bytes=2**21), kernel_of("latency.memory"), 2**22)


def test_a_small_cycle_is_walked_once_before_it_is_timed() -> None:
    device = StandIn()
    kernel = replace(kernel_of("latency.l2"), usual_footprint_bytes=2**17)
    workload = prepared(device, kernel)
    walked = round(device.now_s / LOAD_S)
    assert walked >= workload.footprint_bytes // kernel.stride_bytes
