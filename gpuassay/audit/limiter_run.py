"""The limiter hunt's trials on a GPU: the suites' own kernels, launch after launch, with their stamps and the driver's
reason bits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import Row
from .limiter import Series, Trial, design, hunt, row

if TYPE_CHECKING:
    from ..cuda import CudaDevice
    from ..device import Data
    from ..kernels import Kernel

METRICS = ("tensor.bf16", "vector.fp32", "vector.int32")
LONG_S = 75.0  # LHR began after one to two minutes; the profile's 15 minutes do not hold longer ones of every metric
ROUND_S = 0.02
LONG_ROUND_S = 0.05
REASONS_EVERY_S = 0.1


def run(device: CudaDevice, seed: int, long_s: float = LONG_S) -> Row:
    """The hunt on `device`, by the design of `seed`."""
    from ..device import DeviceError
    from ..kernels.compile import CompileError

    kernels = {m: kernel for m in METRICS if (kernel := _kernel(m, device.compute_capability))}
    trials = design(seed, list(kernels), long_s)
    try:
        with device.sensors() as sensors:
            result = hunt(trials, lambda trial: _observe(device, kernels[trial.metric], trial, sensors), seed)
    except (DeviceError, CompileError) as error:
        return Row("limiters", "not tested", str(error))
    return row(result, seed)


def _kernel(metric: str, compute_capability: str) -> Kernel | None:
    from ..kernels import kernels_for

    fitting = (k for k in kernels_for(metric, "cuda c++") if k.architecture_for(compute_capability))
    return next(fitting, None)


def _observe(device: CudaDevice, kernel: Kernel, trial: Trial, sensors: Any) -> Series:
    sms = max(1, round(device.sm_count * trial.sms))
    round_s = LONG_ROUND_S if trial.duration_s > 10 else ROUND_S
    workload = device.prepare(kernel, round_s=round_s, sms=sms, data=cast("Data", trial.data))
    rows: list[tuple[float, float, float, int]] = []
    try:
        started = looked = time.monotonic()
        mask = _mask(sensors)
        while (now := time.monotonic()) - started < trial.duration_s:
            workload.launch()
            if now - looked >= REASONS_EVERY_S:  # while the launch runs
                looked, mask = now, _mask(sensors)
            stamps = workload.stamps(len(workload.launches) - 1)  # waits for the launch
            per_clock, clock_hz = _rates(stamps, kernel.work_per_iteration)
            rows.append((now - started, per_clock, clock_hz, mask))
            if trial.duty < 1:
                time.sleep(round_s * (1 / trial.duty - 1))
    finally:
        workload.close()
    columns = np.array(rows, float).reshape(-1, 4).T  # a trial too short for a round leaves empty columns
    return Series(columns[0], columns[1], columns[2], columns[3].astype(np.int64))


def _mask(sensors: Any) -> int:
    mask = sensors.read()["clock_event_reasons"]
    return -1 if mask is None else int(mask)


def _rates(stamps: Any, work_per_iteration: int) -> tuple[float, float]:
    """(work per clock and SM, SM clock in Hz), medians over the SMs and over the blocks, of one launch's stamps."""
    from ..device import CLOCK_START, CLOCK_STOP, ITERATIONS, SMID, TIME_START_NS, TIME_STOP_NS

    per_clock = []
    for sm in np.unique(stamps[:, SMID]):
        blocks = stamps[stamps[:, SMID] == sm]
        cycles = int(blocks[:, CLOCK_STOP].max() - blocks[:, CLOCK_START].min())
        per_clock.append(int(blocks[:, ITERATIONS].sum()) * work_per_iteration / max(cycles, 1))
    cycles_of_blocks = stamps[:, CLOCK_STOP] - stamps[:, CLOCK_START]
    nanoseconds = np.maximum(stamps[:, TIME_STOP_NS] - stamps[:, TIME_START_NS], 1)
    return float(np.median(per_clock)), float(np.median(cycles_of_blocks / nanoseconds)) * 1e9
