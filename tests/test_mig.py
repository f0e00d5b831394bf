"""A MIG instance and a virtual GPU: found through NVML, never held against the whole part."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuassay import claims, telemetry, verify
from gpuassay.sheet_audit import rules
from gpuassay.verdict import Judgement

GPU = "GPU-11111111-2222-3333-4444-555555555555"
INSTANCES = ["MIG-aaaaaaaa-0000-5000-8000-000000000001", "MIG-aaaaaaaa-0000-5000-8000-000000000002"]


class Refused(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One GPU with MIG on: handle "gpu"; its instances have places 0 and 2 of seven."""
    module = types.ModuleType("fake_nvml")

    def instance(handle: str, place: int) -> str:
        if place not in (0, 2):
            raise Refused("not found")
        return f"mig{place}"

    module.__dict__.update(
        NVMLError=Refused,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        NVML_TEMPERATURE_THRESHOLD_SLOWDOWN=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: "gpu",
        nvmlDeviceGetMigMode=lambda handle: [1, 1],
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=instance,
        nvmlDeviceGetUUID=lambda handle: {"gpu": GPU, "mig0": INSTANCES[0], "mig2": INSTANCES[1]}[handle],
        nvmlDeviceGetNumGpuCores=lambda handle: 16896,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 * 2**30 if handle == "gpu" else 9 * 2**30),
        nvmlDeviceGetAttributes_v2=lambda handle: SimpleNamespace(multiprocessorCount=16, memorySizeMB=9856),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=7)] * (handle == "gpu"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.mark.parametrize("uuid", [GPU, *INSTANCES, bytes.fromhex(INSTANCES[1][4:].replace("-", ""))])
def test_an_instance_stands_for_its_gpu(nvml: Any, uuid: str | bytes) -> None:
    assert claims.nvml_index_of_uuid(uuid) == 0


def test_an_instance_claims_what_is_its_own(nvml: Any) -> None:
    # CUDA gives bytes, which become "GPU-..." whatever they name.
    rows = claims.nvml_claims(0, INSTANCES[1].replace("MIG", "GPU"))
    found = {row["quantity"]: row["value"] for row in rows}
    assert len(found) == len(rows)
    assert (found["uuid"], found["mig.gpu_uuid"]) == (INSTANCES[1], GPU)
    assert (found["memory.size"], found["mig.memory.size"]) == (9 * 2**30, 9856 * 2**20)
    assert found["mig.count.sm"] == 16
    assert found["mig.mode"] == "enabled"
    assert "count.core" not in found  # the whole part's


def test_an_instance_that_cannot_be_told_is_not_guessed(nvml: Any) -> None:
    found = {row["quantity"]: row["value"] for row in claims.nvml_claims(0, GPU)}
    assert found["uuid"] == GPU
    assert "mig.count.sm" not in found
    nvml.nvmlDeviceGetMaxMigDeviceCount = lambda handle: 1  # the only one
    assert claims.mig_instance(nvml, "gpu", GPU) == ("mig0", INSTANCES[0])


def test_processes_of_another_instance_are_not_others(nvml: Any) -> None:
    assert telemetry.NvmlSensors(0).read()["other_processes"] == 1
    assert telemetry.NvmlSensors(0, INSTANCES[0]).read()["other_processes"] == 0


def test_the_real_binding_has_every_function() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in ("GetMaxMigDeviceCount", "GetMigDeviceHandleByIndex", "GetMigMode", "GetAttributes_v2"):
        assert callable(getattr(pynvml, f"nvmlDevice{name}"))
    fields = {name for name, _ in pynvml.c_nvmlDeviceAttributes._fields_}
    assert {"multiprocessorCount", "memorySizeMB"} <= fields


# -- a run on an eighth of an H100 -----------------------------------------------------------------------------

EIGHTH = {"mig": True, "sm_count": 16, "memory_bytes": 9856 * 2**20, "nominal_bytes_per_s": 3.352e12 / 8}


@pytest.fixture(scope="module")
def instance(fake_run: Callable[..., Path]) -> Judgement:
    return verify.judge_record(fake_run(uuid=INSTANCES[0], **EIGHTH), None)


def test_nothing_is_held_against_the_whole_part(instance: Judgement) -> None:
    assert instance.sheet.name == "H100-SXM"
    verdicts = {v.metric: v for v in instance.verdicts}
    for name in ("count.sm", "memory.read", "memory.write"):
        found = verdicts[name]
        assert (found.verdict, found.delivered_verdict) == ("not published", "not published")
        assert found.reason.startswith("a MIG instance, and the sheet speaks of the whole part")
        assert found.share_of_published is found.share_of_limit is found.capability is None
    assert verdicts["memory.read"].measured == pytest.approx(0.943 * 3.352e12 / 8, rel=0.01)
    assert all(v.delivered_verdict not in ("below", "above") for v in instance.verdicts)


def test_what_an_sm_does_is_judged(instance: Judgement, judged: Callable[..., Judgement]) -> None:
    verdicts = {v.metric: v.verdict for v in instance.verdicts}
    assert verdicts["tensor.bf16"] == verdicts["vector.fp64"] == "conforms"
    assert instance.overall == "conforms"
    capped = judged(**EIGHTH, rates={"tensor.bf16": 1024, "memory.triad": 0.9})
    assert {v.metric: v.verdict for v in capped.verdicts}["tensor.bf16"] == "below"
    assert capped.overall == "does not conform"


def test_the_report_says_so_and_accuses_nobody(instance: Judgement) -> None:
    (finding,) = [f for f in instance.findings if f.code == "mig-instance"]
    assert "of 16 SMs and 9.62 GiB by its attributes" in finding.text
    assert not [f for f in instance.findings if f.severity == "error"]
    assert not [row.check for row in instance.audit if row.verdict == "inconsistent"]
    assert instance.to_json()["acceptance_lines"] == {}
    computed = [figure for figure, _ in rules.of_judgement(instance).independent_test() if figure.bounds is not None]
    assert computed == []


# -- a virtual GPU ---------------------------------------------------------------------------------------------

HALF = {"virtualization": "vgpu", "memory_bytes": 40 * 2**30}


def test_a_virtual_gpu_is_not_accused_of_what_its_profile_lacks(judged: Callable[..., Judgement]) -> None:
    half = judged(**HALF)
    assert half.sheet.name == "H100-SXM"
    assert half.overall == "conforms"
    assert [f.code for f in half.findings if f.code in ("identity", "virtual-gpu")] == ["virtual-gpu"]
    # Another guest has the SMs for a half of the time.
    slowed = judged(**HALF, rates={"tensor.bf16": 2048, "memory.read": 0.4})
    bf16 = next(v for v in slowed.verdicts if v.metric == "tensor.bf16")
    assert bf16.verdict == "inconclusive"
    assert bf16.reason.startswith("this is a virtual GPU")
    assert slowed.overall == "inconclusive"
    assert not [row.check for row in slowed.audit if row.verdict == "inconsistent"]


def test_what_a_virtual_gpu_reaches_counts(judged: Callable[..., Judgement]) -> None:
    uncapped = judged("H20", **HALF | {"sm_count": 78, "pci_device_id": "10de:2329"})
    assert {v.metric: v.verdict for v in uncapped.verdicts}["tensor.bf16"] == "above"
    assert uncapped.overall == "does not conform"
    assert judged(**HALF, sm_count=78).overall == "does not conform"  # its SMs are the part's
