"""Every kernel of the catalogue whose metric begins with one of the arguments, checked and launched once through
CudaDevice: one JSON object a line. For a process that finds an emulated GPU (test_emulated.py)."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np

from gpuassay import cuda_workload
from gpuassay.cuda import CudaDevice
from gpuassay.device import ITERATIONS, SMID, TIME_START_NS, TIME_STOP_NS, DeviceError
from gpuassay.kernels import KERNELS, Kernel

FOOTPRINT_BYTES = 2**20
cuda_workload.WARM_UP_S = 0.0  # nothing here has a clock to bring up


def tried(device: CudaDevice, kernel: Kernel) -> dict[str, object]:
    sized = FOOTPRINT_BYTES if kernel.work_unit in ("B", "load") else None
    workload = device.prepare(kernel, round_s=1e-4, footprint_bytes=sized)
    try:
        if not workload.check.passed:
            return {"failed": f"{workload.check}"}
        device.mark()
        workload.launch()
        event_s = device.mark() - device.marks[-2].event_s
        stamps = workload.stamps(0)
        assert stamps[:, ITERATIONS].max() > 0
        assert (stamps[:, TIME_STOP_NS] >= stamps[:, TIME_START_NS]).all()
        assert event_s > 0
        return {"sms": len(np.unique(stamps[:, SMID])), "numba": kernel.toolchain == "numba"}
    finally:
        workload.close()


def main(prefixes: list[str]) -> None:
    warnings.simplefilter("error")  # as in tests that ask silicon
    device = CudaDevice(0)
    for kernel in KERNELS:
        if kernel.architecture_for(device.compute_capability) and kernel.metric.startswith(tuple(prefixes or [""])):
            try:
                line = tried(device, kernel)
            except (DeviceError, AssertionError) as error:
                line = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps({"metric": kernel.metric} | line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
