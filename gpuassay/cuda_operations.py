"""Operations of the CUDA runtime that are timed from outside: transfers, peer copies and launch costs, by CuPy.

None of them changes a setting of the GPU. Enabling peer access concerns this process alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cuda_launches import BATCH, launch
from .device import DeviceError
from .kernels.compile import CompileError

TRANSFER_BYTES = 256 * 2**20  # 5 ms at PCIe 5.0 x16: long against a launch
SHARE_OF_FREE = 0.4  # of the device's free memory that one buffer may take


class CudaOperation:
    """See device.Operation. `free` undoes what was allocated, in any case."""

    def __init__(
        self,
        run: Callable[[], None],
        work: float,
        work_unit: str,
        free: list[Callable[[], Any]],
        ready: Callable[[], Any],
        about: dict[str, Any] | None = None,
    ) -> None:
        self._run, self.work, self.work_unit, self._free, self._ready = run, work, work_unit, free, ready
        self.about = about or {}

    def run(self) -> None:
        """See Operation.run. Raises DeviceError."""
        _translated(self._run)

    def ready(self) -> None:
        """See Operation.ready. Raises DeviceError."""
        _translated(self._ready)

    def close(self) -> None:
        """See Operation.close."""
        _release(self._free)


def operation(name: str, toolchain: str = "cuda c++") -> CudaOperation:
    """The operation of that metric name on CUDA's current device. Raises DeviceError, saying why there is none."""
    free: list[Callable[[], Any]] = []
    try:
        built: CudaOperation = _translated(lambda: _build(name, toolchain, free))
    except DeviceError:
        _release(free)
        raise
    return built


def _build(name: str, toolchain: str, free: list[Callable[[], Any]]) -> CudaOperation:
    from cupy.cuda import runtime

    run: Callable[[], None]
    ready: Callable[[], Any] = runtime.deviceSynchronize
    about: dict[str, Any] = {}
    family, _, rest = name.partition(".")
    if family == "pcie":
        run, work, unit = _transfer(rest, free)
    elif family == "peer":
        from .cuda_peers import peers

        run, work, unit, about = peers(rest, free)
    elif family == "launch":
        run, work, unit, ready = launch(rest, toolchain, free)
    else:
        raise DeviceError(f"there is no operation {name!r}")
    run()  # once untimed: pages touched, pools filled, kernels loaded
    ready()
    return CudaOperation(run, work, unit, free, ready, about)


def _translated(call: Callable[[], Any]) -> Any:
    from cupy.cuda import driver, runtime

    try:
        return call()
    except (runtime.CUDARuntimeError, driver.CUDADriverError, MemoryError, CompileError) as error:
        raise DeviceError(f"the GPU refused: {error}") from error


def _release(free: list[Callable[[], Any]]) -> None:
    while free:
        # One buffer that cannot be freed (a lost GPU) must not keep the others.
        try:
            _translated(free.pop())
        except DeviceError:
            continue


# -- host and device -----------------------------------------------------------------------------------------


def _transfer(rest: str, free: list[Callable[[], Any]]) -> tuple[Callable[[], None], float, str]:
    """h2d, d2h, both; then .pageable or .latency (pinned otherwise)."""
    from cupy.cuda import runtime

    direction, _, way = rest.partition(".")
    if way == "latency":
        size = 4
    else:
        free_bytes, _ = runtime.memGetInfo()
        size = min(TRANSFER_BYTES, int(free_bytes * SHARE_OF_FREE)) // 4096 * 4096
        if size == 0:
            raise DeviceError(f"only {free_bytes} bytes of device memory are free: stop what holds it")
    if direction == "both":
        down, up = _copy("h2d", size, False, free), _copy("d2h", size, False, free)

        def both() -> None:
            down()
            up()

        return both, 2 * size, "B"
    copy = _copy(direction, size, way == "pageable", free)
    if way != "latency":
        return copy, size, "B"

    def latency() -> None:
        for _ in range(BATCH):
            copy()
            runtime.deviceSynchronize()

    return latency, BATCH, "1"


def _copy(direction: str, size: int, pageable: bool, free: list[Callable[[], Any]]) -> Callable[[], None]:
    """A copy in a stream of its own: a blocking one, so that events in the default stream enclose it."""
    import cupy
    from cupy.cuda import runtime

    device = runtime.malloc(size)
    free.append(lambda: runtime.free(device))
    if pageable:
        buffer = np.ones(size, dtype=np.uint8)  # touched here: on this CPU's node
        host = int(buffer.ctypes.data)
        free.append(lambda: buffer.size)  # keeps the buffer until the copies are done with
    else:
        host = _pinned(size, runtime.hostAllocDefault, free)
    stream = cupy.cuda.Stream()
    free.append(stream.synchronize)
    if direction == "h2d":
        return lambda: runtime.memcpyAsync(device, host, size, runtime.memcpyHostToDevice, stream.ptr)
    return lambda: runtime.memcpyAsync(host, device, size, runtime.memcpyDeviceToHost, stream.ptr)


def _pinned(size: int, flags: int, free: list[Callable[[], Any]]) -> int:
    import ctypes

    from cupy.cuda import runtime

    host = int(runtime.hostAlloc(size, flags))
    free.append(lambda: runtime.freeHost(host))
    ctypes.memset(host, 1, size)
    return host
