"""Claims read through a fake NVML."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuassay import claims, record, telemetry
from gpuassay.claims import NoDriver
from gpuassay.cuda import _uuid
from gpuassay.device import DeviceError


class FakeNvmlError(Exception):
    pass


class FakeNotSupported(FakeNvmlError):
    pass


class FakeNoPermission(FakeNvmlError):
    pass


class FakeLibraryNotFound(FakeNvmlError):
    pass


class FakeMismatch(Exception):
    """As the binding's NVMLLibraryMismatchError: not a subclass of its NVMLError."""


UUIDS = ["GPU-11111111-2222-3333-4444-5555555555AA", "GPU-11111111-2222-3333-4444-5555555555bb"]


def fails(error: Exception) -> Callable[..., None]:
    def call(*args: object) -> None:
        raise error

    return call


@pytest.fixture
def fake_nvml(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The namespace of the module that stands in for pynvml."""
    module = types.ModuleType("fake_nvml")
    fake = module.__dict__

    def count(step: int) -> Callable[[], None]:
        def call() -> None:
            fake["opened"] += step

        return call

    fake.update(
        opened=0,
        NVMLError=FakeNvmlError,
        NVMLError_NotSupported=FakeNotSupported,
        NVMLError_NoPermission=FakeNoPermission,
        NVMLError_LibraryNotFound=FakeLibraryNotFound,
        NVMLLibraryMismatchError=FakeMismatch,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_THRESHOLD_SLOWDOWN=1,
        nvmlDeviceGetTemperatureThreshold=lambda handle, threshold: {1: 89}[threshold],
        nvmlInit=count(1),
        nvmlShutdown=count(-1),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: "NVIDIA H100 80GB HBM3",
        nvmlDeviceGetPciInfo=lambda handle: types.SimpleNamespace(pciDeviceId=0x233010DE, pciSubSystemId=0x16C110DE),
        nvmlDeviceGetUUID=lambda handle: UUIDS[handle],
        nvmlDeviceGetSerial=lambda handle: "1650000000000",
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, 0),
        nvmlDeviceGetNumGpuCores=lambda handle: 16896,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=85_520_809_984),
        nvmlDeviceGetMemoryBusWidth=lambda handle: 5120,
        nvmlDeviceGetMaxClockInfo=lambda handle, clock: {1: 1980, 2: 2619}[clock],
        nvmlDeviceGetPowerManagementLimit=lambda handle: 700_000,
        nvmlDeviceGetPowerManagementDefaultLimit=lambda handle: 700_000,
        nvmlDeviceGetEccMode=lambda handle: [1, 1],
        nvmlDeviceGetMigMode=lambda handle: [0, 1],
        nvmlDeviceGetVirtualizationMode=lambda handle: 1,
        nvmlDeviceGetCurrPcieLinkGeneration=lambda handle: 4,
        nvmlDeviceGetMaxPcieLinkGeneration=lambda handle: 5,
        nvmlDeviceGetCurrPcieLinkWidth=lambda handle: 8,
        nvmlDeviceGetMaxPcieLinkWidth=lambda handle: 16,
        nvmlDeviceGetVbiosVersion=lambda handle: "96.00.61.00.01",
        nvmlSystemGetDriverVersion=lambda: "580.65.06",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return fake


def test_every_claim(fake_nvml: dict[str, Any]) -> None:
    rows = claims.nvml_claims(0)
    assert {row["quantity"]: (row["value"], row["unit"], row["source"]) for row in rows} == {
        "name": ("NVIDIA H100 80GB HBM3", None, "nvmlDeviceGetName"),
        "pci.device_id": ("10de:2330", None, "nvmlDeviceGetPciInfo"),
        "pci.subsystem_id": ("10de:16c1", None, "nvmlDeviceGetPciInfo"),
        "uuid": (UUIDS[0], None, "nvmlDeviceGetUUID"),
        "serial": ("1650000000000", None, "nvmlDeviceGetSerial"),
        "compute_capability": ("9.0", None, "nvmlDeviceGetCudaComputeCapability"),
        "count.core": (16896, "1", "nvmlDeviceGetNumGpuCores"),
        "memory.size": (85_520_809_984, "B", "nvmlDeviceGetMemoryInfo"),
        "memory.bus_width": (5120, "bit", "nvmlDeviceGetMemoryBusWidth"),
        "clock.sm.max": (1_980_000_000, "Hz", "nvmlDeviceGetMaxClockInfo"),
        "clock.memory.max": (2_619_000_000, "Hz", "nvmlDeviceGetMaxClockInfo"),
        "power.limit": (700.0, "W", "nvmlDeviceGetPowerManagementLimit"),
        "power.default_limit": (700.0, "W", "nvmlDeviceGetPowerManagementDefaultLimit"),
        "temperature.slowdown": (89, "degC", "nvmlDeviceGetTemperatureThreshold"),
        "ecc.mode": ("enabled", None, "nvmlDeviceGetEccMode"),
        "mig.mode": ("disabled", None, "nvmlDeviceGetMigMode"),
        "virtualization.mode": ("passthrough", None, "nvmlDeviceGetVirtualizationMode"),
        "pcie.generation.current": (4, "1", "nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie.generation.max": (5, "1", "nvmlDeviceGetMaxPcieLinkGeneration"),
        "pcie.width.current": (8, "1", "nvmlDeviceGetCurrPcieLinkWidth"),
        "pcie.width.max": (16, "1", "nvmlDeviceGetMaxPcieLinkWidth"),
        "vbios.version": ("96.00.61.00.01", None, "nvmlDeviceGetVbiosVersion"),
        "driver.version": ("580.65.06", None, "nvmlSystemGetDriverVersion"),
        "driver.cuda_version": ("13.0", None, "nvmlSystemGetCudaDriverVersion_v2"),
    }
    assert len(rows) == 24
    assert fake_nvml["opened"] == 0


def test_claims_fit_a_record(fake_nvml: dict[str, Any], tmp_path: Path) -> None:
    line = record._dump("device", {"claims": claims.nvml_claims(0)})
    assert b"10de:2330" in line


def test_what_nvml_does_not_give_is_absent(fake_nvml: dict[str, Any]) -> None:
    fake_nvml["nvmlDeviceGetEccMode"] = fails(FakeNotSupported())
    fake_nvml["nvmlDeviceGetSerial"] = fails(FakeNoPermission())
    fake_nvml["nvmlDeviceGetVbiosVersion"] = fails(FakeNvmlError("Corrupted infoROM"))
    fake_nvml["nvmlDeviceGetMigMode"] = fails(FakeMismatch())
    fake_nvml["nvmlDeviceGetName"] = lambda handle: ""
    del fake_nvml["nvmlDeviceGetNumGpuCores"]
    quantities = {row["quantity"] for row in claims.nvml_claims(0)}
    assert not quantities & {
        "ecc.mode",
        "serial",
        "vbios.version",
        "mig.mode",
        "name",
        "count.core",
    }
    assert len(quantities) == 18


def test_the_source_is_the_call_that_answered(fake_nvml: dict[str, Any]) -> None:
    del fake_nvml["nvmlSystemGetCudaDriverVersion_v2"]
    fake_nvml["nvmlSystemGetCudaDriverVersion"] = lambda: 12080
    row = next(r for r in claims.nvml_claims(1) if r["quantity"] == "driver.cuda_version")
    assert row["value"] == "12.8"
    assert row["source"] == "nvmlSystemGetCudaDriverVersion"


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_that_nvml_does_not_have(fake_nvml: dict[str, Any], index: int) -> None:
    with pytest.raises(IndexError, match=f"no GPU {index}"):
        claims.nvml_claims(index)
    assert fake_nvml["opened"] == 0


def test_a_gpu_that_cannot_be_opened(fake_nvml: dict[str, Any]) -> None:
    fake_nvml["nvmlDeviceGetHandleByIndex"] = fails(FakeNvmlError("GPU is lost"))
    with pytest.raises(NoDriver, match="cannot open GPU 1: GPU is lost"):
        claims.nvml_claims(1)
    assert fake_nvml["opened"] == 0


def test_count_and_driver(fake_nvml: dict[str, Any]) -> None:
    assert claims.device_count() == 2
    assert claims.driver_version() == "580.65.06"
    assert fake_nvml["opened"] == 0


@pytest.mark.parametrize(
    "uuid",
    [
        UUIDS[1],
        UUIDS[1].upper(),
        UUIDS[1].removeprefix("GPU-"),
        bytes.fromhex(UUIDS[1].removeprefix("GPU-").replace("-", "")),
    ],
)
def test_an_index_by_uuid(fake_nvml: dict[str, Any], uuid: str | bytes) -> None:
    assert claims.nvml_index_of_uuid(uuid) == 1


def test_a_lost_gpu_does_not_hide_the_others(fake_nvml: dict[str, Any]) -> None:
    def handle(index: int) -> int:
        if index == 0:
            raise FakeNvmlError("GPU is lost")
        return index

    fake_nvml["nvmlDeviceGetHandleByIndex"] = handle
    assert claims.nvml_index_of_uuid(UUIDS[1]) == 1
    with pytest.raises(LookupError, match="GPU-1111"):
        claims.nvml_index_of_uuid(UUIDS[0])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FakeLibraryNotFound(), "No NVIDIA driver is installed"),
        (FakeNvmlError("Driver Not Loaded"), "does not initialise: Driver Not Loaded"),
    ],
)
def test_no_driver(fake_nvml: dict[str, Any], error: Exception, sentence: str) -> None:
    fake_nvml["nvmlInit"] = fails(error)
    for call in (
        claims.device_count,
        lambda: claims.nvml_claims(0),
        lambda: claims.nvml_index_of_uuid(UUIDS[0]),
        lambda: telemetry.NvmlSensors(0),
    ):
        with pytest.raises(NoDriver, match=sentence):
            call()
    assert claims.driver_version() is None


def test_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoDriver, match="nvidia-ml-py"):
        claims.device_count()
    assert claims.driver_version() is None


def test_the_real_binding_has_every_function() -> None:
    """The names asked for are real: a misspelt one would just be an absent claim."""
    pynvml = pytest.importorskip("pynvml")
    for _, _, names, _, _ in claims._rows(pynvml, None):
        assert all(callable(getattr(pynvml, name)) for name in names)
    for name in claims._UNSUPPORTED:
        assert issubclass(getattr(pynvml, name), Exception)


def test_nothing_is_ever_set() -> None:
    for module in (claims, telemetry):
        source = Path(str(module.__file__)).read_text()
        for word in ("nvmlDeviceSet", "nvmlSystemSet", "nvmlDeviceReset", "nvmlDeviceClear"):
            assert word not in source


@pytest.mark.parametrize("name", ["cuDeviceGetUuid", "cuDeviceGetUuid_v2"])
def test_a_uuid_with_a_zero_byte_is_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    raw = bytes([0x12, 0, 0x34, *range(13)])
    done = driver.CUresult.CUDA_SUCCESS
    monkeypatch.setattr(driver, "cuDeviceGet", lambda ordinal: (done, ordinal))
    monkeypatch.setattr(driver, name, lambda device: (done, SimpleNamespace(bytes=raw)), raising=False)
    assert _uuid(1) == "GPU-12003400-0102-0304-0506-0708090a0b0c"
    refused = driver.CUresult.CUDA_ERROR_INVALID_DEVICE
    monkeypatch.setattr(driver, "cuDeviceGet", lambda ordinal: (refused, None))
    with pytest.raises(DeviceError, match="UUID of CUDA device 1: CUDA_ERROR_INVALID_DEVICE"):
        _uuid(1)
