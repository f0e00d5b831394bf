"""Too little memory: the largest footprint that fits, said so; out of memory midway: freed, recorded, gone on."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpuassay
from gpuassay.cuda import CudaDevice
from gpuassay.cuda_workload import LARGEST_ARRAY_BYTES, RESERVE, WARM_UP_S, CudaWorkload, warm_up_time_s
from gpuassay.device import DeviceError, Mark
from gpuassay.kernels import Check, kernels_for

GIB = 2**30


class OutOfMemoryError(MemoryError):
    """As CuPy's: a MemoryError."""


class Array:
    """So many bytes of the stand-in's memory, given back when nobody holds it."""

    def __init__(self, device: StandIn, nbytes: int) -> None:
        if nbytes > device.refuse_bytes - device.held_bytes:
            raise OutOfMemoryError(f"{nbytes} B")
        device.held_bytes += nbytes
        self.nbytes = nbytes
        weakref.finalize(self, device.give_back, nbytes)


class StandIn(CudaDevice):
    """CudaDevice on a device with so much memory free, which refuses to give more than `refuse_bytes` of it."""

    def __init__(self, free_bytes: int, refuse_bytes: int = 2**62) -> None:
        self.held_bytes, self.refuse_bytes = 0, refuse_bytes
        self.sm_count, self.compute_capability, self.marks = 4, "9.0", []
        self._rng = np.random.default_rng(1)
        runtime = SimpleNamespace(memGetInfo=lambda: (free_bytes - self.held_bytes, 80 * GIB))
        self._cupy: Any = SimpleNamespace(
            cuda=SimpleNamespace(runtime=runtime),
            zeros=lambda shape, dtype: Array(self, 8),
            get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
        )

    def give_back(self, nbytes: int) -> None:
        self.held_bytes -= nbytes

    def load(self, kernel: Any, architecture: str) -> Any:
        return None, SimpleNamespace(cubin=b"", sha256="", compiler="")

    def _workload(self, kernel: Any, architecture: str, sms: int | None) -> Any:
        return Workload(self, kernel, architecture, self.sm_count)


class Workload(CudaWorkload):
    """Without launches."""

    def run_check(self, rng: Any) -> Check:
        return Check(True, 0.0, "")

    def _random_array(self, words: int, dtype: Any, rng: Any) -> Any:
        return Array(self._device, words * np.dtype(dtype).itemsize)  # type: ignore[arg-type]

    def size_and_warm_up(self, round_s: float | None) -> None:
        pass


def test_an_empty_device_gives_what_is_wanted() -> None:
    found = StandIn(80 * GIB).prepare(kernels_for("memory.read")[0])
    assert found.footprint_bytes == found.wanted_bytes == LARGEST_ARRAY_BYTES


def test_a_full_device_gives_what_fits() -> None:
    found = StandIn(6 * GIB).prepare(kernels_for("memory.triad")[0])
    assert found.wanted_bytes == 3 * LARGEST_ARRAY_BYTES
    assert found.footprint_bytes == pytest.approx(6 * GIB * RESERVE, rel=0.01)


def test_a_point_of_a_curve_reaches_beyond_the_usual_size_and_is_refused_where_half_does_not_fit() -> None:
    kernel = kernels_for("memory.read")[0]
    found = StandIn(80 * GIB).prepare(kernel, footprint_bytes=64 * GIB)
    assert found.footprint_bytes == pytest.approx(64 * GIB, rel=0.01)
    with pytest.raises(DeviceError, match=r"needs 137438953472 B of device memory"):
        StandIn(70 * GIB).prepare(kernel, footprint_bytes=128 * GIB)


def test_out_of_memory_in_the_middle_is_freed_and_named() -> None:
    """The second of the triad's three arrays is refused."""
    device = StandIn(80 * GIB, refuse_bytes=20 * GIB)
    gc.disable()  # what was taken must be free at once, not when somebody collects
    try:
        with pytest.raises(DeviceError, match="out of memory, what was taken is free again") as refusal:
            device.prepare(kernels_for("memory.triad")[0])
        assert device.held_bytes == 0
    finally:
        gc.enable()
    assert isinstance(refusal.value.__cause__, OutOfMemoryError)


@pytest.fixture(scope="module")
def crowded(fake_run: Callable[..., Path]) -> gpuassay.Record:
    """A part most of whose memory somebody else holds."""
    return gpuassay.read(fake_run("quick", free_bytes=10 * GIB))


def test_a_run_on_a_crowded_device_says_so(crowded: gpuassay.Record) -> None:
    said = {f["metric"]: f["text"] for f in crowded.findings if f["code"] == "largest-footprint"}
    assert said.keys() == {"memory.read", "memory.write", "memory.copy", "memory.triad"}
    fits = int(0.8 * 10 * GIB)
    assert said["memory.read"] == (
        f"memory.read: {32 * GIB} B were asked for; measured over {fits} B, the most that the free memory holds"
    )
    rounds = crowded.rounds()
    assert set(rounds[rounds["metric"] == "memory.read"]["footprint_bytes"]) == {fits}
    assert crowded.complete


def test_a_part_that_was_at_work_a_moment_ago_is_warm() -> None:
    now = time.monotonic()
    assert warm_up_time_s([]) == warm_up_time_s([Mark(0.0, now - 10 * WARM_UP_S)]) == WARM_UP_S
    assert warm_up_time_s([Mark(0.0, now - 10 * WARM_UP_S), Mark(1.0, now)]) == 0.0
