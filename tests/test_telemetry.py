"""Telemetry with canned clocks, sensors that fail, and a fake NVML."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuassay import record, telemetry
from gpuassay.claims import NoDriver
from gpuassay.telemetry import NvmlSensors, Telemetry, reason_names, update_interval


class CannedClock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeSensors:
    """Sensors that count their readings and fail from a given one on."""

    def __init__(self, read_fails_at: int | None = None, energy_fails_at: int | None = None) -> None:
        self.reads = 0
        self.energies = 0
        self.read_fails_at = read_fails_at
        self.energy_fails_at = energy_fails_at
        self.enough = threading.Event()

    def read(self) -> dict[str, Any]:
        self.reads += 1
        if self.reads == self.read_fails_at:
            raise RuntimeError("GPU is lost")
        if self.reads >= 5:
            self.enough.set()
        return {"power_w": 300.0, "temperature_c": None}

    def energy_j(self) -> float | None:
        self.energies += 1
        if self.energies == self.energy_fails_at:
            raise RuntimeError("GPU is lost")
        if self.energies >= 5:
            self.enough.set()
        return float(self.energies)


class Lines:
    """Takes what is written."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.lines.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == kind]


# The update interval


@pytest.mark.parametrize(
    ("period", "expected"),
    [(0.02, 0.02), (0.05, 0.05), (0.1, 0.1), (0.004, 0.02), (0.25, 0.1), (10.0, 0.1)],
)
def test_update_interval(period: float, expected: float) -> None:
    clock = CannedClock()
    got = update_interval(lambda: clock.now // period, clock, clock.sleep)
    assert got == pytest.approx(expected, abs=0.0015)
    assert clock.now <= 1000.0 + 0.3 + 0.0015


def test_update_interval_is_a_median() -> None:
    clock = CannedClock()
    changes = [0.05, 0.10, 0.15, 0.16, 0.26]
    got = update_interval(lambda: float(sum(clock.now - 1000.0 >= at for at in changes)), clock, clock.sleep)
    assert got == pytest.approx(0.05, abs=0.0015)


def test_update_interval_is_clipped_above() -> None:
    clock = CannedClock()
    got = update_interval(lambda: clock.now // 2, clock, clock.sleep, budget_s=10.0)
    assert got == 0.1


def test_update_interval_without_a_counter() -> None:
    clock = CannedClock()
    assert update_interval(lambda: None, clock, clock.sleep) == telemetry.DEFAULT_INTERVAL_S
    assert clock.now == 1000.0


def test_update_interval_with_a_clock_that_stands_still() -> None:
    looks = itertools.count()
    got = update_interval(lambda: float(next(looks)), lambda: 5.0, lambda seconds: None)
    assert got == telemetry.SHORTEST_INTERVAL_S


# The thread


def test_samples_carry_their_own_time() -> None:
    sensors, lines = FakeSensors(), Lines()
    before = telemetry.host_clock()
    with Telemetry(sensors, lines, interval_s=0.001) as sampling:
        assert sensors.enough.wait(10)
    after = telemetry.host_clock()
    samples = lines.of("telemetry")
    assert len(samples) == sampling.samples >= 5
    times = [sample["host_s"] for sample in samples]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= after
    assert samples[0] == {
        "host_s": times[0],
        "energy_j": 1.0,
        "power_w": 300.0,
        "temperature_c": None,
    }
    assert not lines.of("finding")


def test_a_short_context_still_has_two_samples() -> None:
    lines = Lines()
    with Telemetry(FakeSensors(), lines, interval_s=60):
        pass
    assert len(lines.of("telemetry")) == 2


def test_the_interval_is_found_on_entering() -> None:
    sensors, lines = FakeSensors(), Lines()
    sampling = Telemetry(sensors, lines)
    assert sampling.interval_s is None
    with sampling:
        assert sampling.interval_s == telemetry.SHORTEST_INTERVAL_S
    assert lines.of("telemetry")


def test_an_interval_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Telemetry(FakeSensors(), Lines(), interval_s=0)


def findings(lines: Lines) -> list[str]:
    found = lines.of("finding")
    assert all(
        finding["code"] == "telemetry-failed" and finding["severity"] == "warning" and finding["metric"] is None
        for finding in found
    )
    return [finding["text"] for finding in found]


def test_a_failing_sensor_is_one_finding_and_the_other_goes_on() -> None:
    sensors, lines = FakeSensors(read_fails_at=2), Lines()
    with Telemetry(sensors, lines, interval_s=0.001):
        assert sensors.enough.wait(10)
    (text,) = findings(lines)
    assert "the sensors failed with RuntimeError: GPU is lost" in text
    assert sensors.reads == 2
    assert sensors.energies >= 5
    assert "power_w" not in lines.of("telemetry")[-1]


def test_a_failing_energy_counter_is_one_finding() -> None:
    sensors, lines = FakeSensors(energy_fails_at=1), Lines()
    with Telemetry(sensors, lines) as sampling:  # fails while its updates are timed
        assert sampling.interval_s == telemetry.DEFAULT_INTERVAL_S
    (text,) = findings(lines)
    assert "energy" in text
    assert sensors.energies == 1
    assert "energy_j" not in lines.of("telemetry")[0]


def test_with_both_failed_the_thread_ends() -> None:
    sensors, lines = FakeSensors(read_fails_at=1, energy_fails_at=1), Lines()
    with Telemetry(sensors, lines, interval_s=0.001) as sampling:
        sampling._thread.join(10)
        assert not sampling._thread.is_alive()
    assert len(findings(lines)) == 2
    assert not lines.of("telemetry")


def test_a_record_that_refuses_a_reading_does_not_end_the_run() -> None:
    lines = Lines()

    def write(kind: str, **fields: Any) -> None:
        if kind == "telemetry":
            raise ValueError("not a number")
        lines(kind, **fields)

    with Telemetry(FakeSensors(), write, interval_s=0.001) as sampling:
        sampling._thread.join(10)
    (text,) = findings(lines)
    assert "not a number" in text


def test_a_sensor_that_hangs_does_not_hang_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_STOP_TIMEOUT_S", 0.05)
    release, lines = threading.Event(), Lines()
    sensors = FakeSensors()

    def hang() -> dict[str, Any]:
        release.wait(10)
        return {}

    monkeypatch.setattr(sensors, "read", hang)
    with Telemetry(sensors, lines, interval_s=0.001) as sampling:
        pass
    (text,) = findings(lines)
    assert "did not answer" in text
    release.set()
    sampling._thread.join(10)


def test_the_body_s_exception_passes_through() -> None:
    def fail() -> None:
        with Telemetry(FakeSensors(), Lines(), interval_s=0.001):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def test_host_clock_is_the_monotonic_clock() -> None:
    assert abs(telemetry.host_clock() - time.monotonic()) < 1.0


# Reasons


def test_reason_names() -> None:
    assert reason_names(0) == []
    assert reason_names(0x24) == ["SwPowerCap", "SwThermalSlowdown"]
    assert reason_names(0x601) == ["GpuIdle", "BoardLimit", "Reliability"]
    assert reason_names(1 << 20 | 4) == ["SwPowerCap", "0x100000"]


def test_reasons_match_the_installed_binding() -> None:
    pynvml = pytest.importorskip("pynvml")
    for bit, name in telemetry.CLOCK_EVENT_REASONS.items():
        published = getattr(pynvml, f"nvmlClocksEventReason{name}", None) or getattr(
            pynvml, f"nvmlClocksThrottleReason{name}", bit
        )
        assert published == bit


# NVML


class FakeNvmlError(Exception):
    pass


class FakeNotSupported(FakeNvmlError):
    pass


class FakeLost(FakeNvmlError):
    pass


def unsupported(*args: object) -> None:
    raise FakeNotSupported("Not Supported")


@pytest.fixture
def fake_nvml(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    fake = types.ModuleType("fake_nvml")
    table: dict[str, object] = {
        "opened": 0,
        "NVMLError": FakeNvmlError,
        "NVMLError_NotSupported": FakeNotSupported,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-0000-{handle[-1]}",
        "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1980, 2: 2619}[clock],
        "nvmlDeviceGetPowerUsage": lambda handle: 300_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 1_234_567,
        "nvmlDeviceGetTemperatureV": lambda handle, sensor: 41,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 4,
        "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=97, memory=20),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            types.SimpleNamespace(pid=pid) for pid in (os.getpid(), 77, 5)
        ],
    }

    def count(step: int) -> Callable[[], None]:
        def call() -> None:
            fake.__dict__["opened"] += step

        return call

    table |= {"nvmlInit": count(1), "nvmlShutdown": count(-1)}
    fake.__dict__.update(table)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_nvml_readings_are_in_si_units(fake_nvml: types.ModuleType) -> None:
    with NvmlSensors(0) as sensors:
        assert sensors.energy_j() == pytest.approx(1234.567)
        assert sensors.read() == {
            "sm_clock_hz": 1.98e9,
            "memory_clock_hz": 2.619e9,
            "power_w": pytest.approx(300.5),
            "temperature_c": 41,
            "clock_event_reasons": 4,
            "gpu_utilisation": 0.97,
            "memory_utilisation": 0.2,
            "other_processes": 2,
            "other_pids": [5, 77],
            "own_process_listed": 1,
        }
    sensors.close()
    assert fake_nvml.__dict__["opened"] == 0
    with pytest.raises(ValueError, match="closed"):
        sensors.energy_j()


def test_unsupported_readings_are_none(fake_nvml: types.ModuleType) -> None:
    for name in list(fake_nvml.__dict__):
        if name.startswith("nvmlDeviceGet") and name != "nvmlDeviceGetHandleByIndex":
            setattr(fake_nvml, name, unsupported)
    with NvmlSensors(0) as sensors:
        assert sensors.energy_j() is None
        assert set(sensors.read().values()) == {None}


def test_older_calls_stand_in_for_newer_ones(fake_nvml: types.ModuleType) -> None:
    fake_nvml.__dict__["nvmlDeviceGetCurrentClocksEventReasons"] = unsupported
    fake_nvml.__dict__["nvmlDeviceGetCurrentClocksThrottleReasons"] = lambda handle: 1
    del fake_nvml.__dict__["nvmlDeviceGetTemperatureV"]
    fake_nvml.__dict__["nvmlDeviceGetTemperature"] = lambda handle, sensor: 40
    with NvmlSensors(0) as sensors:
        read = sensors.read()
    assert read["clock_event_reasons"] == 1
    assert read["temperature_c"] == 40


def test_a_gpu_by_uuid(fake_nvml: types.ModuleType) -> None:
    with NvmlSensors("GPU-0000-1") as sensors:
        assert sensors._handle == "gpu1"
    with pytest.raises(LookupError):
        NvmlSensors("GPU-ffff")
    assert fake_nvml.__dict__["opened"] == 0


def test_a_gpu_that_cannot_be_opened(fake_nvml: types.ModuleType) -> None:
    def lost(index: int) -> None:
        raise FakeLost("GPU is lost")

    fake_nvml.__dict__["nvmlDeviceGetHandleByIndex"] = lost
    with pytest.raises(NoDriver, match="GPU 0: GPU is lost"):
        NvmlSensors(0)
    assert fake_nvml.__dict__["opened"] == 0


def test_a_gpu_lost_meanwhile_is_one_finding_in_a_real_record(fake_nvml: types.ModuleType, tmp_path: Path) -> None:
    fails = threading.Event()
    path = tmp_path / "r.jsonl"

    def power(handle: object) -> int:
        fails.set()
        raise FakeLost("GPU is lost")

    fake_nvml.__dict__["nvmlDeviceGetPowerUsage"] = power
    with NvmlSensors(0) as sensors, record.RecordWriter(path) as writer:
        writer.write(
            "run",
            run_id="0",
            started=record.utc_now(),
            instrument="gpuassay 0.0.0",
            samples="kept",
            profile=None,
            program={"version": "0.0.0", "commit": None},
            host={"python": "3", "platform": "x", "packages": {}},
            argv=[],
        )
        with Telemetry(sensors, writer.write, interval_s=0.001):
            assert fails.wait(10)
    read = record.read(path)
    assert read.complete
    assert [finding["code"] for finding in read.findings] == ["telemetry-failed"]
    assert read.telemetry()["energy_j"][0] == pytest.approx(1234.567)
