"""The limiter hunt's trials on a GPU: the suites' own kernels, launch after launch, with their stamps and the driver's
reason bits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import Row
from .limiter import Series, Trial, design, hunt, row

if TYPE_CHECKING:
    from ..cuda import CudaDevice
    from ..device import Data, Workload
    from ..kernels import Kernel

# Every factor of these: matrix units, and the arithmetic of hashes.
METRICS = ("tensor.bf16", "vector.int32", "vector.fp32")
# Shapes of one instruction; sequential, random and page-strided addresses; other instructions.
OTHERS = (
    "tensor.bf16.n8",
    "tensor.bf16.n64",
    "tensor.fp8_e4m3",
    "tensor.int8",
    "memory.read",
    "latency.memory",
    "latency.tlb",
    "vector.fp64",
    "vector.logic",
    "sfu.ex2",
)
LONG = METRICS[:2]
LONG_S = (20.0, 900.0)  # LHR began after one to two minutes
LONG_LAUNCH_S = 0.05
REASONS_EVERY_S = 0.1
FOOTPRINT_BYTES = 4 * 2**30  # of memory kernels: far beyond L2, and written in a moment


def run(device: CudaDevice, seed: int, budget_s: float) -> Row:
    """The hunt on `device`, by the design of `seed`; the long trials share what the short ones leave of `budget_s`."""
    from ..device import DeviceError
    from ..kernels.compile import CompileError

    kernels = {m: kernel for m in (*METRICS, *OTHERS) if (kernel := _kernel(m, device.compute_capability))}
    metrics, others = ([m for m in names if m in kernels] for names in (METRICS, OTHERS))
    started = time.monotonic()

    def long_trials() -> list[Trial]:
        names = [m for m in LONG if m in kernels]
        left_s = (budget_s - (time.monotonic() - started)) / max(len(names), 1)
        duration_s = float(round(min(max(left_s, LONG_S[0]), LONG_S[1])))
        return [Trial(m, duration_s=duration_s, launch_s=LONG_LAUNCH_S) for m in names]

    try:
        with device.sensors() as sensors:
            # Of a kernel with two blocks to an SM, half the blocks spread over all SMs: another rate, and no limit.
            trials = [t for t in design(seed, metrics, others) if t.sms == 1 or kernels[t.metric].blocks_per_sm == 1]
            result = hunt(trials, lambda trial: observe(device, kernels, trial, sensors), seed, long_trials)
    except (DeviceError, CompileError) as error:
        return Row("limiters", "not tested", str(error))
    return row(result, seed)


def _kernel(metric: str, compute_capability: str) -> Kernel | None:
    from ..kernels import kernels_for

    fitting = (k for k in kernels_for(metric, "cuda c++") if k.architecture_for(compute_capability))
    return next(fitting, None)


def observe(device: CudaDevice, kernels: Mapping[str, Kernel], trial: Trial, sensors: Any) -> Series:
    """The rounds of one trial. Raises DeviceError, CompileError."""
    from ..device import DeviceError

    kernel = kernels[trial.metric]
    with contextlib.ExitStack() as open_workloads:

        def prepared(name: str, **how: Any) -> Workload:
            footprint_bytes = FOOTPRINT_BYTES if name.startswith("memory.") else None
            made = device.prepare(kernels[name], round_s=trial.launch_s, footprint_bytes=footprint_bytes, **how)
            open_workloads.callback(made.close)
            if not made.check.passed:
                raise DeviceError(f"{name}: wrong result at {made.check.where}")
            return made

        other = None if trial.mix is None else prepared(trial.mix)
        sms = None if trial.per_second else max(1, round(device.sm_count * trial.sms))
        workload = prepared(trial.metric, sms=sms, data=cast("Data", trial.data))
        rows: list[tuple[float, float, float, int]] = []
        started = looked = time.monotonic()
        mask = _mask(sensors)
        while (now := time.monotonic()) - started < trial.duration_s:
            if other is not None:
                other.launch()
            workload.launch()
            if now - looked >= REASONS_EVERY_S:  # while the launch runs
                looked, mask = now, _mask(sensors)
            stamps = workload.stamps(len(workload.launches) - 1)  # waits for the launch
            rate, clock_hz = _rates(stamps, kernel.work_per_iteration, per_second=trial.per_second)
            rows.append((now - started, rate, clock_hz, mask))
            if trial.duty < 1:
                time.sleep(trial.launch_s * (1 / trial.duty - 1))
    columns = np.array(rows, float).reshape(-1, 4).T  # a trial too short for a round leaves empty columns
    return Series(columns[0], columns[1], columns[2], columns[3].astype(np.int64))


def _mask(sensors: Any) -> int:
    mask = sensors.read()["clock_event_reasons"]
    return -1 if mask is None else int(mask)


def _rates(stamps: Any, work_per_iteration: int, *, per_second: bool) -> tuple[float, float]:
    """(work per clock and SM, or of all SMs per second; SM clock in Hz) of one launch's stamps: medians over the SMs
    and over the blocks."""
    from ..device import CLOCK_START, CLOCK_STOP, ITERATIONS, SMID, TIME_START_NS, TIME_STOP_NS

    per_clock = []
    for sm in np.unique(stamps[:, SMID]):
        blocks = stamps[stamps[:, SMID] == sm]
        cycles = int(blocks[:, CLOCK_STOP].max() - blocks[:, CLOCK_START].min())
        per_clock.append(int(blocks[:, ITERATIONS].sum()) * work_per_iteration / max(cycles, 1))
    cycles_of_blocks = stamps[:, CLOCK_STOP] - stamps[:, CLOCK_START]
    nanoseconds = np.maximum(stamps[:, TIME_STOP_NS] - stamps[:, TIME_START_NS], 1)
    clock_hz = float(np.median(cycles_of_blocks / nanoseconds)) * 1e9
    if per_second:
        whole_ns = float(stamps[:, TIME_STOP_NS].max() - stamps[:, TIME_START_NS].min())
        return float(stamps[:, ITERATIONS].sum()) * work_per_iteration * 1e9 / max(whole_ns, 1.0), clock_hz
    return float(np.median(per_clock)), clock_hz
