"""A real GPU: the Device of device.py through CuPy, Numba and NVML.

The life of a workload: compile -> load -> check on small fresh random data -> allocate -> size -> warm up. Only
then is it timed. Device settings are never written: the part is measured as found.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .claims import nvml_claims, nvml_index_of_uuid
from .cuda_chase import ChaseWorkload
from .cuda_mapped import MappedWorkload
from .cuda_workload import CudaWorkload, numba_kernel
from .device import Data, DeviceError, Mark
from .kernels import ChaseKernel, Kernel, MemoryKernel
from .kernels.compile import MachineCode, compile_kernel
from .links import PcieLink, read_link
from .telemetry import NvmlSensors

if TYPE_CHECKING:
    from .cuda_operations import CudaOperation


class CudaDevice:
    """CUDA device `ordinal` (the numbering of CUDA_VISIBLE_DEVICES). Raises DeviceError."""

    def __init__(self, ordinal: int) -> None:
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(
                "CuPy is not installed: pip install 'gpuassay[cuda13]' (or gpuassay[cuda12] for a CUDA 12 driver)"
            ) from error
        self._cupy = cupy
        runtime = cupy.cuda.runtime
        # Under MPS it takes SMs away, and CUDA then counts only those left: a share of the part, not the part.
        share = os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "")
        if share not in ("", "100"):
            raise DeviceError(
                f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={share} may leave this process a part of the SMs: unset it"
            )
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            driver, toolkit = runtime.driverGetVersion(), runtime.runtimeGetVersion()
            if 0 < driver < toolkit // 1000 * 1000:
                raise DeviceError(
                    f"the driver supports CUDA {driver // 1000}, this environment is built for CUDA "
                    f"{toolkit // 1000}: update the driver, or reinstall with make CUDA={driver // 1000}"
                ) from error
            raise DeviceError(f"CUDA finds no usable GPU ({error}); `gpuassay doctor` says more") from error
        if not 0 <= ordinal < count:
            raise DeviceError(
                f"there is no CUDA device {ordinal}: {count} found, numbered from 0; see `gpuassay devices`"
            )
        cupy.cuda.Device(ordinal).use()
        self._properties = runtime.getDeviceProperties(ordinal)
        self._uuid = _uuid(ordinal)
        try:
            self.nvml_index = nvml_index_of_uuid(self._uuid)
        except LookupError as error:
            raise DeviceError(
                f"CUDA has a device that NVML does not know, so nothing can be read of it: {error}"
            ) from error
        self.name = self._properties["name"].decode()
        self.compute_capability = f"{self._properties['major']}.{self._properties['minor']}"
        self.sm_count = int(self._properties["multiProcessorCount"])
        self.marks: list[Mark] = []
        self._events = [cupy.cuda.Event(), cupy.cuda.Event()]
        self._rng = np.random.default_rng()
        self._modules: dict[str, Any] = {}  # by cubin hash
        self._loaded: dict[tuple[str, str, str], tuple[Any, MachineCode]] = {}

    def claims(self) -> list[dict[str, Any]]:
        """NVML's claims, then the CUDA runtime's."""
        from cupy.cuda import runtime

        rows = nvml_claims(self.nvml_index, self._uuid)
        attribute = runtime.deviceGetAttribute
        ordinal = self._cupy.cuda.Device().id
        for quantity, value, unit, source in (
            ("count.sm", self.sm_count, "1", "cudaDevAttrMultiProcessorCount"),
            ("cuda.name", self.name, "", "cudaDeviceProp.name"),
            ("cuda.compute_capability", self.compute_capability, "", "cudaDeviceProp.major, minor"),
            ("cuda.memory.size", int(self._properties["totalGlobalMem"]), "B", "cudaDeviceProp.totalGlobalMem"),
            ("l2.size", int(self._properties["l2CacheSize"]), "B", "cudaDeviceProp.l2CacheSize"),
            (
                "cuda.clock.sm.max",
                attribute(runtime.cudaDevAttrClockRate, ordinal) * 1000,
                "Hz",
                "cudaDevAttrClockRate",
            ),
            (
                "cuda.clock.memory",
                attribute(runtime.cudaDevAttrMemoryClockRate, ordinal) * 1000,
                "Hz",
                "cudaDevAttrMemoryClockRate",
            ),
            ("cuda.driver.version", runtime.driverGetVersion(), "", "cudaDriverGetVersion"),
            ("cuda.runtime.version", runtime.runtimeGetVersion(), "", "cudaRuntimeGetVersion"),
        ):
            rows.append({"quantity": quantity, "value": value, "unit": unit or None, "source": source})
        return rows

    def sensors(self) -> NvmlSensors:
        """NVML's sensors of this device."""
        return NvmlSensors(self.nvml_index, self._uuid)

    def mark(self) -> float:
        """See Device.mark. Two events take turns, so each elapsed time is short: cudaEventElapsedTime returns
        float32 milliseconds, and a difference against a far-away base event would lose its digits."""
        event = self._events[len(self.marks) % 2]
        event.record()
        event.synchronize()
        host_s = time.monotonic()
        total = 0.0
        if self.marks:
            previous = self._events[(len(self.marks) - 1) % 2]
            total = self.marks[-1].event_s + self._cupy.cuda.get_elapsed_time(previous, event) * 1e-3
        self.marks.append(Mark(total, host_s))
        return total

    def operation(self, name: str, toolchain: str = "cuda c++") -> CudaOperation:
        """See Device.operation."""
        from .cuda_operations import operation

        self._cupy.get_default_memory_pool().free_all_blocks()
        return operation(name, toolchain)

    def link(self) -> PcieLink:
        """See Device.link."""
        runtime = self._cupy.cuda.runtime
        return read_link(self.nvml_index, runtime.deviceGetPCIBusId(runtime.getDevice()))

    def device_count(self) -> int:
        """See Device.device_count."""
        return int(self._cupy.cuda.runtime.getDeviceCount())

    def prepare(
        self,
        kernel: Kernel,
        *,
        round_s: float | None = None,
        sms: int | None = None,
        data: Data = "random",
        footprint_bytes: int | None = None,
    ) -> CudaWorkload:
        """See Device.prepare."""
        architecture = kernel.architecture_for(self.compute_capability)
        if architecture is None:
            raise DeviceError(f"no {kernel.metric} kernel for compute capability {self.compute_capability}")
        workload = self._workload(kernel, architecture, sms)
        try:
            workload.check = workload.run_check(self._rng)
            if workload.check.passed:
                workload.allocate(self._rng, data, footprint_bytes)
                workload.size_and_warm_up(round_s)
        except MemoryError as error:  # CuPy's OutOfMemoryError is one
            error = error.with_traceback(None)  # its frames hold the arrays that were taken so far
            workload.close()
            raise DeviceError(f"out of memory, what was taken is free again: {error}") from error
        return workload

    def _workload(self, kernel: Kernel, architecture: str, sms: int | None) -> CudaWorkload:
        if isinstance(kernel, ChaseKernel):
            return ChaseWorkload(self, kernel, architecture)
        if isinstance(kernel, MemoryKernel) and kernel.host_memory:
            return MappedWorkload(self, kernel, architecture, sms or self.sm_count)
        return CudaWorkload(self, kernel, architecture, sms or self.sm_count)

    def function_beside(self, kernel: Kernel, architecture: str, symbol: str) -> Any:
        """The function `symbol` of the CUDA C++ module that holds `kernel`."""
        _, code = self.load(kernel, architecture)
        return self._modules[code.sha256].get_function(symbol)

    def load(self, kernel: Kernel, architecture: str) -> tuple[Any, MachineCode]:
        """(function to launch, its machine code). CUDA C++ runs exactly the cubin that the census counts; Numba
        compiles and links by a way of its own."""
        key = (kernel.toolchain, kernel.symbol, architecture)
        if key not in self._loaded:  # a curve launches one kernel many times
            self._loaded[key] = self._load(kernel, architecture)
        return self._loaded[key]

    def _load(self, kernel: Kernel, architecture: str) -> tuple[Any, MachineCode]:
        if kernel.toolchain == "numba":
            from .kernels.numba_twins import TWINS

            return numba_kernel(*TWINS[kernel.symbol])
        code = compile_kernel(kernel, architecture)
        if code.sha256 not in self._modules:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(code.cubin)
                file.flush()
                module = self._cupy.RawModule(path=file.name)
                module.get_function(kernel.symbol)  # RawModule loads lazily: force it while the file exists
            self._modules[code.sha256] = module
        return self._modules[code.sha256].get_function(kernel.symbol), code


def _uuid(ordinal: int) -> str:
    """The device's UUID, or its MIG instance's, in NVML's form: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.

    From the driver: what CuPy's getDeviceProperties gives ends at the first zero byte, which one UUID in sixteen has.
    """
    from cuda.bindings import driver

    # CUDA 12 gives a MIG instance's own UUID under a second name, CUDA 13 under the first.
    ask = getattr(driver, "cuDeviceGetUuid_v2", driver.cuDeviceGetUuid)
    status, device = driver.cuDeviceGet(ordinal)
    if not int(status):
        status, found = ask(device)
    if int(status):
        raise DeviceError(f"the driver does not give the UUID of CUDA device {ordinal}: {status.name}")
    return _uuid_text(bytes(found.bytes))


def _uuid_text(raw: bytes) -> str:
    text = raw.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
