"""The driver's edge: everything that a suite needs from a GPU, and nothing more.

`CudaDevice` in cuda.py implements it on real silicon. Tests put a fake here, and only here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .kernels import Check, Kernel
from .links import PcieLink

# Columns of a stamp (kernels/stamp.cuh).
SMID, CLOCK_START, CLOCK_STOP, TIME_START_NS, TIME_STOP_NS, ITERATIONS = range(6)


# Operands of a timed launch: fresh random ones; those sorted, or four of them in turn (low entropy), in each run of as
# many as a block has threads; all alike (one random value); zeros. Only random data says what a job gets; the others
# show what data costs in power.
Data = Literal["random", "sorted", "low entropy", "one value", "zeros"]


class DeviceError(Exception):
    """The GPU or its driver cannot do what was asked. One sentence: what, and what to do."""


class CheckFailed(DeviceError):
    """A kernel computed something wrong, so that it has no rate."""


@dataclass(frozen=True)
class Mark:
    """One reading of a device's clocks, taken when all earlier work had finished.

    `event_s` accumulates CUDA event times, `host_s` is the host's monotonic clock; both in seconds, each from
    its own arbitrary zero.
    """

    event_s: float
    host_s: float


class Workload(Protocol):
    """A kernel, compiled, loaded, checked and sized: ready to be timed."""

    check: Check
    cubin_sha256: str | None
    compiler: str
    architecture: str
    footprint_bytes: int  # of all large arrays together; 0 for kernels with resident operands
    wanted_bytes: int  # what that would be if nobody else held any of the device's memory
    launches: list[int]  # for each launch, how many marks the device had taken before it

    def launch(self) -> None:
        """Starts one launch of about the round's length; does not wait for it."""

    def stamps(self, launch: int) -> NDArray[np.uint64]:
        """Stamps of that launch, shape (blocks, 6)."""

    def close(self) -> None:
        """Frees the workload's memory."""


class Operation(Protocol):
    """Something the host asks of the GPU that carries no stamps: a transfer, a peer copy, launches."""

    work: float  # done by one run, in work_unit: "B", or "1" for calls
    work_unit: str
    about: dict[str, Any]  # more of the record's kernel line than the module that built it, where there is more

    def run(self) -> None:
        """Does it once; a transfer may still be under way afterwards. Raises DeviceError."""

    def ready(self) -> None:
        """Waits for earlier runs and sets up the next, untimed. Raises DeviceError."""

    def close(self) -> None:
        """Frees its memory."""


class Device(Protocol):
    """One GPU."""

    name: str
    compute_capability: str
    sm_count: int
    marks: list[Mark]

    def claims(self) -> list[dict[str, Any]]:
        """What the device says of itself: rows of quantity, value, unit, source."""

    def sensors(self) -> Any:
        """An object for telemetry.Telemetry to poll."""

    def operation(self, name: str, toolchain: str = "cuda c++") -> Operation:
        """The operation that metric `name` times. Raises DeviceError where there is none, saying why."""

    def link(self) -> PcieLink:
        """The PCIe link as it is now."""

    def device_count(self) -> int:
        """How many GPUs this process can use."""

    def mark(self) -> float:
        """Waits for all work, reads the clocks, appends a Mark; returns its event_s. The timer of the suites."""

    def prepare(
        self,
        kernel: Kernel,
        *,
        round_s: float | None = None,
        sms: int | None = None,
        data: Data = "random",
        footprint_bytes: int | None = None,
    ) -> Workload:
        """Compiles, loads, checks, sizes and warms up. Raises DeviceError or kernels.compile.CompileError.

        `round_s`: about how long one launch shall take; None: the usual burst. `sms`: blocks for so many SMs only.
        `data`: what the timed launches of an arithmetic kernel compute on; the check always runs on random data.
        `footprint_bytes`: at most so many bytes of all arrays together; None: as many as the kernel's kind takes.
        """
