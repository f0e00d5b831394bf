"""What only silicon can tell: `pytest -m gpu` on a machine with a GPU checks every kernel of the catalogue on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpuassay.device import ITERATIONS, SMID, TIME_START_NS, TIME_STOP_NS, DeviceError
from gpuassay.kernels import KERNELS, ChaseKernel, Kernel, kernels_for

pytestmark = pytest.mark.gpu
NAMES = [f"{kernel.metric}-{kernel.toolchain.split()[0]}" for kernel in KERNELS]


@pytest.fixture(scope="module")
def device() -> Iterator[object]:
    from gpuassay.claims import NoDriver
    from gpuassay.cuda import CudaDevice

    try:
        yield CudaDevice(0)
    except (DeviceError, NoDriver) as error:
        pytest.skip(f"no usable GPU: {error}")


def rate(device, kernel: Kernel) -> float:  # type: ignore[no-untyped-def]
    """Median work per second by %globaltimer; checks one kernel on the way."""
    workload = device.prepare(kernel)
    try:
        assert workload.check.passed, workload.check
        rates = []
        for launch in range(10):
            before = device.mark()
            workload.launch()
            event_s = device.mark() - before
            stamps = workload.stamps(launch)
            blocks = kernel.blocks if isinstance(kernel, ChaseKernel) else None
            assert len(np.unique(stamps[:, SMID])) == (blocks or device.sm_count)
            seconds = float(stamps[:, TIME_STOP_NS].max() - stamps[:, TIME_START_NS].min()) * 1e-9
            assert -0.002 < event_s / seconds - 1 < 0.02
            rates.append(int(stamps[:, ITERATIONS].sum()) * kernel.work_per_iteration / seconds)
        return float(np.median(rates))
    finally:
        workload.close()


@pytest.mark.parametrize("kernel", KERNELS, ids=NAMES)
def test_a_kernel_computes_what_its_reference_does(device, kernel: Kernel) -> None:  # type: ignore[no-untyped-def]
    if kernel.architecture_for(device.compute_capability) is None:
        pytest.skip(f"{kernel.metric} has no kernel for compute capability {device.compute_capability}")
    assert rate(device, kernel) > 0


@pytest.mark.parametrize("metric", sorted({kernel.metric for kernel in KERNELS if kernel.toolchain == "numba"}))
def test_both_toolchains_agree(device, metric: str) -> None:  # type: ignore[no-untyped-def]
    ours, twin = (rate(device, kernels_for(metric, toolchain)[0]) for toolchain in ("cuda c++", "numba"))
    assert twin / ours == pytest.approx(1, abs=0.02)
