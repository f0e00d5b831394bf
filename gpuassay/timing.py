"""How the suites time: pytest-benchmark, on the GPU's own clock.

pytest-benchmark calls its timer before and after each launch. `gpu_timer` waits for the GPU, reads a CUDA event and
returns accumulated event seconds, so a round is the launch and nothing before it. The timer also keeps the host's
clock beside each reading; the kernels bring a third clock (%globaltimer). The three must agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .device import Device, DeviceError, Mark

# What the fixture `measure` gives a suite: measure(metric, toolchain, **variant); see plugin.measure.
Measure = Callable[..., None]
SUSTAINED_S = 20.0

_device: Device | None = None


def use(device: Device) -> None:
    """Makes `device` the one that `gpu_timer` reads."""
    global _device
    _device = device


def gpu_timer() -> float:
    """Seconds of GPU time; see Device.mark. Raises DeviceError where that clock went backwards."""
    if _device is None:
        raise RuntimeError("gpu_timer was read before the gpu fixture opened a device")
    event_s = _device.mark()
    if len(_device.marks) > 1 and event_s < _device.marks[-2].event_s:
        raise DeviceError("the GPU's event clock went backwards, so nothing can be timed by it")
    return event_s


# Readings of the host's clock, for what CUDA events cannot time.
host_marks: list[Mark] = []


def host_timer() -> float:
    """Seconds of the host's monotonic clock, the one that telemetry uses; waits for nothing."""
    now = time.monotonic()
    host_marks.append(Mark(now, now))
    return now


def forget_marks() -> None:
    """Drops the readings of a benchmark that is over, so that a long run's memory does not grow with them. The last
    one or two stay: CudaDevice.mark goes on from the last, with two events that take turns by their number."""
    host_marks.clear()
    if _device is not None:
        del _device.marks[: (len(_device.marks) - 1) // 2 * 2]


# A burst: the silicon's rate before the power manager has settled. Rounds stop when the margin of error of the mean
# is under 0.05 % at 95 % confidence, but not before 25 rounds (the order-statistic interval of a median needs some)
# and not after 0.8 s of rounds.
burst = pytest.mark.benchmark(
    timer=gpu_timer,
    min_rounds=25,
    max_time=0.8,
    precision=0.0005,
    confidence=0.95,
    disable_gc=True,
    warmup=False,
)

# Sustained: what a job gets once the power manager has settled, and how it got there. Every round counts.
sustained = pytest.mark.benchmark(
    timer=gpu_timer,
    min_rounds=25,
    max_time=SUSTAINED_S,
    disable_gc=True,
    warmup=False,
)

# For one of a hundred points of a latency curve: a chase repeats itself to better than 0.1 %.
point = pytest.mark.benchmark(
    timer=gpu_timer,
    min_rounds=7,
    max_time=0.02,
    disable_gc=True,
    warmup=False,
)

# For one point of a curve that is judged against nothing: the fewest rounds that give a median an order-statistic
# interval at 95 % (six) and some to spare.
glimpse = pytest.mark.benchmark(
    timer=gpu_timer,
    min_rounds=10,
    max_time=0.1,
    precision=0.0005,
    confidence=0.95,
    disable_gc=True,
    warmup=False,
)
