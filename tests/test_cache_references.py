"""Kernels of cache.cu: their references against emulations in Python's integers, and how they are launched."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from device_array import Array

from gpuassay.cuda_workload import CudaWorkload
from gpuassay.kernels import ArithmeticKernel, Check, kernels_for
from gpuassay.kernels.compile import MachineCode

MASK = 2**32 - 1
ACCESSES, PLACES = 16, 2
METRICS = ["shared.read", "l1.read", "shared.write", "dsmem.read"]


def kernel_of(metric: str) -> ArithmeticKernel:
    (kernel,) = kernels_for(metric)
    assert isinstance(kernel, ArithmeticKernel)
    return kernel


def emulated(metric: str, inputs: Any, threads: int, rank: int, iterations: int, whose: int | None = None) -> list[int]:
    """What a block of that rank leaves, thread by thread, from cache.cu; `whose` memory it reads (dsmem.read)."""
    words = [int(word) for word in inputs]
    if metric == "shared.write":
        return [(word + iterations) & MASK for word in words]
    if metric == "dsmem.read":
        words = [(word + (rank ^ 1 if whose is None else whose)) & MASK for word in words]
    left = []
    for thread in range(threads):
        total, offset = 0, thread * 16
        for _ in range(iterations * ACCESSES):
            total = (total + sum(words[offset // 4 : offset // 4 + 4])) & MASK
            offset = (offset + threads * 16) & (PLACES * threads * 16 - 1)
        left.append(total)
    return left


@pytest.mark.parametrize("metric", METRICS)
def test_a_reference_is_what_an_emulation_leaves(metric: str) -> None:
    kernel = replace(kernel_of(metric), threads=8)
    inputs = kernel.inputs(np.random.default_rng(2), timed=False)
    expected, bound = kernel.reference(inputs, 3)
    blocks = [emulated(metric, inputs, 8, rank, 3) for rank in range(kernel.cluster)]
    right = np.array(blocks, np.uint32).ravel()
    assert Check.compare(right, expected, bound).passed
    short = [emulated(metric, inputs, 8, rank, 2) for rank in range(kernel.cluster)]
    assert not Check.compare(np.array(short, np.uint32).ravel(), expected, bound).passed


class StandIn:
    """What CudaWorkload asks of CudaDevice and of CuPy for a kernel with resident operands; seven SMs."""

    def __init__(self, metric: str, own: bool = False) -> None:
        self.metric, self.own, self.launched = metric, own, []  # type: ignore[var-annotated]
        runtime = SimpleNamespace(
            deviceSynchronize=lambda: None,
            cudaDevAttrMaxSharedMemoryPerBlockOptin=97,
            deviceGetAttribute=lambda attribute, ordinal: 227 * 1024,
        )
        self._cupy = SimpleNamespace(
            zeros=lambda shape, dtype: np.zeros(shape, dtype).view(Array),
            empty=lambda shape, dtype: np.empty(shape, dtype).view(Array),
            asarray=lambda array: array.view(Array),
            cuda=SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0)),
        )

    def load(self, kernel: ArithmeticKernel, architecture: str) -> tuple[Any, MachineCode]:
        self.function = Function(self, kernel)
        return self.function, MachineCode(b"", "stand-in", "")


class Function:
    def __init__(self, device: StandIn, kernel: ArithmeticKernel) -> None:
        self.device, self.kernel = device, kernel

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
        _, inputs, output, iterations = arguments
        self.device.launched.append((grid[0], shared_mem))
        rows = output.reshape(grid[0], -1)
        for number in range(grid[0]):
            rank = number % self.kernel.cluster
            whose = rank if self.device.own else None
            rows[number] = emulated(self.kernel.metric, inputs, self.kernel.threads, rank, int(iterations), whose)


def checked(device: StandIn) -> Check:
    kernel = replace(kernel_of(device.metric), threads=32)
    workload = CudaWorkload(device, kernel, "sm_90", 7)  # type: ignore[arg-type]
    return workload.run_check(np.random.default_rng(4))


@pytest.mark.parametrize("metric", METRICS)
def test_every_block_is_checked(metric: str) -> None:
    device = StandIn(metric)
    assert checked(device).passed
    clusters = metric == "dsmem.read"
    # An odd number of SMs leaves one without a partner; the neighbour must be another SM's block.
    assert device.launched == [(6, 227 * 1024) if clusters else (7, 0)]
    assert getattr(device.function, "max_dynamic_shared_size_bytes", 0) == (227 * 1024 if clusters else 0)


def test_a_block_that_reads_its_own_memory_fails() -> None:
    check = checked(StandIn("dsmem.read", own=True))
    assert not check.passed
