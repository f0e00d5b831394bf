"""Sensor readings taken in the background while kernels run.

Only getters are called; nothing here changes a setting of the GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gpuassay.claims import NoDriver, first_supported, mig_instance, nvml_index_of_uuid, open_nvml

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "CLOCK_EVENT_REASONS",
    "STANDING_REASONS",
    "NvmlSensors",
    "Reading",
    "Sensors",
    "Telemetry",
    "host_clock",
    "reason_names",
    "update_interval",
]

Reading = float | int | list[int] | None

DEFAULT_INTERVAL_S = 0.1
"""Used where the device has no energy counter whose updates could be timed."""
SHORTEST_INTERVAL_S = 0.02
LONGEST_INTERVAL_S = 0.1  # a burst lasts a few tenths of a second, and its clock-event reasons must be seen
_STOP_TIMEOUT_S = 5.0

CLOCK_EVENT_REASONS: dict[int, str] = {
    0x001: "GpuIdle",
    0x002: "ApplicationsClocksSetting",
    0x004: "SwPowerCap",
    0x008: "HwSlowdown",
    0x010: "SyncBoost",
    0x020: "SwThermalSlowdown",
    0x040: "HwThermalSlowdown",
    0x080: "HwPowerBrakeSlowdown",
    0x100: "DisplayClockSetting",
    0x200: "BoardLimit",
    0x400: "Reliability",
}
"""Bit -> name without its prefix, as nvml.h defines nvmlClocksEventReason* (three of them, and in
older headers all, as nvmlClocksThrottleReason*)."""


STANDING_REASONS = 0x001 | 0x002 | 0x100
"""Bits of an idle part and of settings that stand all the time: they explain no fall of a clock under load."""


def reason_names(mask: int) -> list[str]:
    """The names of the bits set in a clock-event-reasons mask, lowest bit first.

    A bit that nvml.h did not define when this was written comes as its hexadecimal value.
    """
    bits = (1 << position for position in range(mask.bit_length()))
    return [CLOCK_EVENT_REASONS.get(bit, f"{bit:#x}") for bit in bits if mask & bit]


def host_clock() -> float:
    """Seconds on the host's monotonic clock: the clock of every ``host_s`` in a record."""
    return time.monotonic_ns() / 1e9


class Sensors(Protocol):
    """What `Telemetry` reads."""

    def read(self) -> dict[str, Any]:
        """Every reading except the energy, named as in the record's ``telemetry`` line."""

    def energy_j(self) -> float | None:
        """The energy counter in J, None where the device has none."""


def update_interval(
    read: Callable[[], float | None],
    clock: Callable[[], float] = host_clock,
    sleep: Callable[[float], None] = time.sleep,
    *,
    budget_s: float = 0.3,
    poll_s: float = 0.001,
) -> float:
    """How often a counter changes, in s: sampling it faster only repeats readings.

    Args:
        read: reads the counter; None means that there is none.
        clock: seconds, monotonic.
        sleep: waits so many seconds.
        budget_s: for how long to watch.
        poll_s: the pause between two looks.

    Returns:
        The median time between two changes within the budget, clipped to 0.02..0.1 s.  Fewer
        than two changes: the budget itself, since the counter is about that slow or slower.
        `DEFAULT_INTERVAL_S` without a counter.

    Raises:
        Exception: whatever `read` raises.
    """
    start = clock()
    value = read()
    if value is None:
        return DEFAULT_INTERVAL_S
    changes: list[float] = []
    # The number of looks is bounded too, so that a clock that stands still cannot hang a run.
    for _ in range(int(budget_s / poll_s) + 1):
        if clock() - start >= budget_s:
            break
        sleep(poll_s)
        previous, value = value, read()
        if value is None:
            return DEFAULT_INTERVAL_S
        if value != previous:
            changes.append(clock())
    between = [later - earlier for earlier, later in itertools.pairwise(changes)]
    interval = statistics.median(between) if between else budget_s
    return min(max(interval, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)


class Telemetry:
    """Samples sensors in a background thread while its context is open.

    Each sample becomes one ``telemetry`` line: ``host_s``, ``energy_j`` and what
    ``sensors.read()`` gives.  One sample is taken on entering, one on leaving.  No failure in
    here ends the run: a sensor (the energy counter, or the rest) that raises is recorded once as
    a finding "telemetry-failed" and not read again.

    Args:
        sensors: read only from the background thread, once it runs.
        write: takes a kind and fields, like `gpuassay.record.RecordWriter.write`.
        interval_s: the time between samples; None times the energy counter's updates on entering,
            which takes 0.3 s.

    Attributes:
        interval_s: the time between samples in s; None before entering where it was not given.
        samples: how many samples were written.
    """

    def __init__(
        self,
        sensors: Sensors,
        write: Callable[..., None],
        interval_s: float | None = None,
        *,
        clock: Callable[[], float] = host_clock,
    ) -> None:
        if interval_s is not None and not interval_s > 0:
            raise ValueError(f"the sampling interval must be positive, not {interval_s!r}")
        self.interval_s = interval_s
        self.samples = 0
        self._write = write
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._sensors = sensors
        self._energy: Callable[[], float | None] | None = sensors.energy_j
        self._read: Callable[[], dict[str, Any]] | None = sensors.read

    def __enter__(self) -> Telemetry:
        if self.interval_s is None:
            # Before the thread starts, so that timing the updates disturbs no measurement.
            try:
                self.interval_s = update_interval(self._sensors.energy_j, self._clock)
            except Exception as error:
                self._energy = None
                self._failed("the energy counter", error)
                self.interval_s = DEFAULT_INTERVAL_S
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            # A driver call that hangs cannot be interrupted, but the run need not hang with it.
            self._finding(f"a sensor did not answer within {_STOP_TIMEOUT_S:g} s")

    def _run(self) -> None:
        assert self.interval_s is not None
        try:
            while self._sample() and not self._stop.wait(self.interval_s):
                pass
            if self._stop.is_set():
                self._sample()
        except Exception as error:
            # Not a sensor but its line: a value that no record takes, or a record that takes none.
            self._failed("the record of the readings", error)

    def _sample(self) -> bool:
        """Write one sample; False once there is nothing left to read."""
        sample: dict[str, Any] = {"host_s": self._clock()}
        # The counter first: power comes from its differences over those of host_s.
        if self._energy is not None:
            try:
                sample["energy_j"] = self._energy()
            except Exception as error:
                self._energy = None
                self._failed("the energy counter", error)
        if self._read is not None:
            try:
                sample |= self._read()
            except Exception as error:
                self._read = None
                self._failed("the sensors", error)
        if len(sample) > 1:
            self._write("telemetry", **sample)
            self.samples += 1
        return self._energy is not None or self._read is not None

    def _failed(self, what: str, error: Exception) -> None:
        self._finding(f"{what} failed with {type(error).__name__}: {error}")

    def _finding(self, text: str) -> None:
        # The run's own next line meets the same refusal and reports it.
        with contextlib.suppress(Exception):
            self._write(
                "finding",
                code="telemetry-failed",
                severity="warning",
                metric=None,
                text=f"Sampling stopped: {text}.",
            )


class NvmlSensors:
    """One GPU's sensors, read through NVML; a context manager.

    Args:
        device: NVML's index (not CUDA's: see `gpuassay.claims`), or the GPU's UUID.
        instance: UUID of the MIG instance whose processes count, where MIG is on. Clocks, power
            and temperature are the whole GPU's: an instance has none of its own.

    Raises:
        NoDriver: there is no NVIDIA driver to ask, or it cannot open this GPU.
        LookupError: no GPU has this UUID.
    """

    def __init__(self, device: int | str, instance: str | None = None) -> None:
        index = nvml_index_of_uuid(device) if isinstance(device, str) else device
        self._nvml = open_nvml()
        try:
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as error:
            self.close()
            raise NoDriver(f"The NVIDIA driver cannot open GPU {index}: {error}.") from error
        found = mig_instance(self._nvml, self._handle, instance)
        self._processes_of = self._handle if found is None else found[0]

    def __enter__(self) -> NvmlSensors:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let NVML go; a second call does nothing."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def read(self) -> dict[str, Reading]:
        """One reading of everything but the energy; None where the device does not give it.

        Returns:
            ``sm_clock_hz``, ``memory_clock_hz`` (Hz); ``power_w`` (W; from Ampere on, GA100
            excepted, the driver averages it over a second, so differences of `energy_j` are the
            sharper figure); ``temperature_c`` (degrees Celsius); ``clock_event_reasons`` (bit mask,
            see `reason_names`); ``gpu_utilisation``, ``memory_utilisation`` (0 to 1: shares of
            time, not of capacity); ``other_processes``, ``other_pids`` (compute processes with
            another id than this one, their number and sorted ids); ``own_process_listed`` (1
            where this process is among those listed, else 0).

            Inside a container NVML may give process ids of the host, and this process then looks
            like another one: with ``own_process_listed`` 0, one of ``other_processes`` may be
            this process.

        Raises:
            pynvml.NVMLError: a failure other than "not supported", such as a lost GPU.
        """
        nvml = self._nvml
        utilisation = self._ask("nvmlDeviceGetUtilizationRates")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        # The older call cannot say less than 0 degrees, the newer one needs a newer driver.
        temperature = self._ask(
            "nvmlDeviceGetTemperatureV",
            "nvmlDeviceGetTemperature",
            args=(nvml.NVML_TEMPERATURE_GPU,),
        )
        processes = self._ask(
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetComputeRunningProcesses_v2",
            handle=self._processes_of,
        )
        pids = None if processes is None else {int(process.pid) for process in processes}
        others = None if pids is None else sorted(pids - {os.getpid()})
        return {
            "sm_clock_hz": self._clock_hz(nvml.NVML_CLOCK_SM),
            "memory_clock_hz": self._clock_hz(nvml.NVML_CLOCK_MEM),
            "power_w": _scaled(self._ask("nvmlDeviceGetPowerUsage"), 1e-3),
            "temperature_c": temperature,
            "clock_event_reasons": reasons,
            "gpu_utilisation": None if utilisation is None else utilisation.gpu / 100,
            "memory_utilisation": None if utilisation is None else utilisation.memory / 100,
            "other_processes": None if others is None else len(others),
            "other_pids": others,
            "own_process_listed": None if pids is None else int(os.getpid() in pids),
        }

    def energy_j(self) -> float | None:
        """The energy in J that the GPU has used since the driver was loaded; None without counter.

        Raises:
            pynvml.NVMLError: a failure other than "not supported", such as a lost GPU.
        """
        return _scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def _clock_hz(self, clock: int) -> float | None:
        return _scaled(self._ask("nvmlDeviceGetClockInfo", args=(clock,)), 1e6)

    def _ask(self, *names: str, args: tuple[Any, ...] = (), handle: Any = None) -> Any:
        if self._nvml is None:
            raise ValueError("these sensors are closed")
        answer = first_supported(self._nvml, names, self._handle if handle is None else handle, *args)
        return None if answer is None else answer[1]


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value * factor)
