"""The census of capabilities: what ran, what was refused, what is absent; and the driver's calls on a stand-in."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeDevice, Model
from test_honesty import simulated

from gpuassay.audit.capabilities import (
    QUERIES,
    TRIED,
    Capability,
    profiling,
    queries,
    queries_row,
    row,
    try_kernels,
    try_launches,
)
from gpuassay.kernels.declare import VECTOR_ARCHITECTURES
from gpuassay.record import Record
from gpuassay.sheets import load


def answers(found: Any) -> dict[str, str]:
    return {c["name"]: c["answer"] for c in found.details["capabilities"]}


class CUDARuntimeError(RuntimeError):
    """As CuPy raises it."""

    status = 715


class IllegalInstruction(FakeDevice):  # type: ignore[misc]
    """A part that does not know an instruction of the BF16 kernel."""

    def prepare(self, kernel: Any, **how: Any) -> Any:
        if kernel.metric == "tensor.bf16":
            raise CUDARuntimeError("cudaErrorIllegalInstruction: an illegal instruction was encountered")
        return super().prepare(kernel, **how)


def with_line(made: Record, found: Any) -> Record:
    made.audit.append(found.line())
    return made


def test_a_trial_of_every_kernel_says_what_works_and_what_is_absent() -> None:
    found = try_kernels(FakeDevice(Model(noise=0.0)))  # type: ignore[arg-type]
    said = answers(found)
    assert said["tensor.bf16"] == said["tensor.int8.sparse"] == said["memory.read"] == said["latency.l2"] == "works"
    assert said["memory.triad"] == "works"
    assert said["tensor.int4"] == "absent"
    reason = next(c["by"] for c in found.details["capabilities"] if c["name"] == "tensor.int4")
    assert reason.startswith("no kernel for this architecture (compute capability 9.0)")
    assert not [name for name in said if ".n8" in name]


def test_a_refused_kernel_and_a_wrong_one_are_told_apart() -> None:
    model = Model(rates={k: v for k, v in Model().rates.items() if k != "memory.triad"}, fail_check="tensor.fp16")
    found = try_kernels(FakeDevice(model))  # type: ignore[arg-type]
    assert answers(found)["memory.triad"] == "refused"
    assert answers(found)["tensor.fp16"] == "computes wrongly"
    census = row(with_line(simulated(), found), load("H100-SXM"))
    assert census.verdict == "inconsistent"
    assert "wrong results of: tensor.fp16" in census.text
    assert "refused although the sheet prints it" not in census.text  # it was out of memory
    (line,) = (c for c in found.details["capabilities"] if c["name"] == "memory.triad")
    line["by"] = "cudaErrorInvalidDeviceFunction: invalid device function"
    census = row(with_line(simulated(), found), load("H100-SXM"))
    assert "refused although the sheet prints it: memory.triad" in census.text


def test_an_instruction_that_kills_the_context_ends_the_trial_and_is_named() -> None:
    found = try_kernels(IllegalInstruction(Model()))
    last = found.details["capabilities"][-1]
    assert (last["name"], last["answer"]) == ("tensor.bf16", "refused")
    assert "the CUDA context was lost with tensor.bf16" in found.text
    assert row(with_line(simulated(), found), load("H20")).verdict == "consistent"  # the run had measured it before
    alone = with_line(Record(Path("x"), simulated().run), found)
    assert "refused although the sheet prints it: tensor.bf16" in row(alone, load("H20")).text


def test_the_census_stands_beside_the_sheet() -> None:
    census = row(with_line(simulated(), try_kernels(FakeDevice(Model()))), load("H20"))  # type: ignore[arg-type]
    assert census.verdict == "consistent"
    by_name = {c["name"]: c for c in census.details["capabilities"]}
    assert by_name["tensor.bf16"]["sheet"] == "148 TFLOP/s"
    assert by_name["tensor.bf16"]["by"] == "measured"
    assert by_name["tensor.fp8_e4m3"]["sheet"] == "296 TFLOP/s"
    unprinted = census.details["unprinted"]
    assert unprinted
    assert all(by_name[name]["sheet"] is None and by_name[name]["answer"] == "works" for name in unprinted)
    assert "works although the sheet does not print it" in census.text
    assert row(simulated(), None).verdict == "not observable"


def test_what_a_run_could_not_measure_is_refused_or_absent() -> None:
    made = simulated()
    made.not_measured += [
        {
            "metric": "tensor.int4",
            "reason": "no kernel for this architecture (compute capability 9.0)",
            "toolchain": None,
        },
        {"metric": "pcie.both", "reason": "out of memory", "toolchain": "cuda c++"},
        {"metric": "vector.fp16", "reason": "no Numba", "toolchain": "numba"},
    ]
    said = answers(row(made, None))
    assert (said["tensor.int4"], said["pcie.both"]) == ("absent", "refused")
    assert "vector.fp16" not in said


def test_a_record_without_rounds_has_no_census() -> None:
    made = Record(Path("x"), {"samples": "kept", "run_id": "x"})
    assert row(made, None).verdict == "not tested"
    made.audit.append({"check": TRIED, "details": {"capabilities": [{"name": "x"}, 3, None]}})  # of another version
    assert row(made, None).verdict == "not tested"


# -- NVML ---------------------------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


def nvml(**calls: Any) -> Any:
    def refused(*_: Any) -> None:
        raise NVMLError("Not Supported")

    names = ("EncoderCapacity", "DecoderUtilization", "JpgUtilization", "OfaUtilization", "MigMode")
    usual = {f"nvmlDeviceGet{name}": refused for name in names}
    usual |= {"nvmlSystemGetConfComputeCapabilities": refused, "nvmlSystemGetConfComputeState": refused}
    usual |= {"NVMLError": NVMLError, "nvmlGpmQueryDeviceSupport": refused}
    return SimpleNamespace(**usual | calls)


def test_the_drivers_answers_name_their_calls(tmp_path: Path) -> None:
    def forbidden(*_: Any) -> None:
        raise NVMLError("Insufficient Permissions")

    (tmp_path / "params").write_text("RmMsg: 1\nRmProfilingAdminOnly: 1\n")
    found = {
        c.name: c
        for c in queries(
            nvml(
                nvmlDeviceGetDecoderUtilization=lambda handle: [0, 1000],
                nvmlDeviceGetMigMode=lambda handle: [0, 0],
                nvmlDeviceGetOfaUtilization=forbidden,
                nvmlSystemGetConfComputeCapabilities=lambda: SimpleNamespace(cpuCaps=0, gpusCaps=1),
                nvmlSystemGetConfComputeState=lambda: SimpleNamespace(ccFeature=0),
                nvmlGpmQueryDeviceSupport=lambda handle: SimpleNamespace(isSupportedDevice=1),
            ),
            1,
            tmp_path / "params",
        )
    }
    assert found["NVENC"] == Capability("NVENC", "absent", "nvmlDeviceGetEncoderCapacity: Not Supported")
    for percent, answer in ((0, "absent"), (100, "claimed")):
        encoder = queries(nvml(nvmlDeviceGetEncoderCapacity=lambda *_, p=percent: p), 1, tmp_path / "params")[0]
        assert (encoder.name, encoder.answer) == ("NVENC", answer)
    assert found["OFA"].answer == "refused"
    assert {found[name].answer for name in ("NVDEC", "MIG", "confidential computing")} == {"claimed"}
    assert "not switched here" in found["MIG"].by
    assert found["performance counters, CUPTI"].answer == "refused"
    assert found["performance counters, GPM"].answer == "claimed"
    assert queries_row(list(found.values())).verdict == "not observable"


def testprofiling_by_the_modules_parameter(tmp_path: Path) -> None:
    (tmp_path / "params").write_text("RmProfilingAdminOnly: 0\n")
    assert profiling(tmp_path / "params").answer == "claimed"
    assert profiling(tmp_path / "none").answer == "refused"


# -- launches -----------------------------------------------------------------------------------------------------


class Driver:
    """The part of cuda.bindings.driver that try_launches calls, with "device memory" in the host's."""

    def __init__(self, largest_cluster: int = 16, devices: int = 1, wrong: bool = False) -> None:
        from cuda.bindings import driver

        self.largest, self.devices, self.wrong, self.allowed = largest_cluster, devices, wrong, False
        self.loaded = 0
        for name in ("CUlaunchConfig", "CUlaunchAttribute", "CUlaunchAttributeID"):
            setattr(self, name, getattr(driver, name))
        self.CUfunction_attribute, self.CUdevice_attribute = driver.CUfunction_attribute, driver.CUdevice_attribute
        self.ok, self.bad = driver.CUresult.CUDA_SUCCESS, driver.CUresult.CUDA_ERROR_INVALID_CLUSTER_SIZE
        self.memory: dict[int, Any] = {}

    def cuModuleLoadData(self, image: int) -> Any:
        assert ctypes.string_at(image, 4) == b"\x7fELF"
        self.loaded += 1
        return self.ok, "module"

    def cuModuleUnload(self, module: Any) -> Any:
        self.loaded -= 1
        return (self.ok,)

    def cuModuleGetFunction(self, module: Any, name: bytes) -> Any:
        return self.ok, name

    def cuFuncSetAttribute(self, function: Any, attribute: Any, value: int) -> Any:
        self.allowed = True
        return (self.ok,)

    def cuMemAlloc(self, size: int) -> Any:
        array = np.full(size, 0xFF, np.uint8)
        self.memory[array.ctypes.data] = array
        return self.ok, array.ctypes.data

    def cuMemFree(self, pointer: int) -> Any:
        del self.memory[pointer]
        return (self.ok,)

    def cuMemsetD32(self, pointer: int, value: int, count: int) -> Any:
        self.memory[pointer].view(np.uint32)[:count] = value
        return (self.ok,)

    def cuMemcpyDtoH(self, to: int, pointer: int, size: int) -> Any:
        ctypes.memmove(to, pointer, size)
        return (self.ok,)

    def cuLaunchKernelEx(self, config: Any, function: Any, arguments: int, extra: int) -> Any:
        (attribute,) = config.attrs
        cluster = 1
        if attribute.id == self.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            cluster = attribute.value.clusterDim.x
            assert config.gridDimX % cluster == 0
            if cluster > self.largest or (cluster > 8 and not self.allowed):
                return (self.bad,)
        else:
            assert attribute.value.cooperative == 1
        first = ctypes.cast(arguments, ctypes.POINTER(ctypes.c_uint64))[0]
        pointer = ctypes.cast(first, ctypes.POINTER(ctypes.c_uint64))[0]
        self.memory[pointer].view(np.uint32)[: config.gridDimX] = 1 if self.wrong else cluster
        return (self.ok,)

    def cuCtxGetDevice(self) -> Any:
        return self.ok, 0

    def cuDeviceGetAttribute(self, attribute: Any, device: int) -> Any:
        return self.ok, 3

    def cuDeviceGetCount(self) -> Any:
        return self.ok, self.devices

    def cuDeviceGet(self, ordinal: int) -> Any:
        return self.ok, ordinal

    def cuDeviceCanAccessPeer(self, one: int, other: int) -> Any:
        return self.ok, int(other == 1)


@pytest.mark.parametrize("capability", sorted({f"{name[3:-1]}.{name[-1]}" for name in VECTOR_ARCHITECTURES}))
def test_launches_on_every_architecture(capability: str) -> None:
    driver = Driver(largest_cluster=8, devices=3)
    found = {c.name: c.answer for c in try_launches(driver, capability, 132)}
    assert found["cooperative launch"] == "works"
    assert found["copy engines"] == "claimed"
    assert (found["peer access to device 1"], found["peer access to device 2"]) == ("claimed", "refused")
    if float(capability) >= 9:
        assert (found["clusters of 8 blocks"], found["clusters of 16 blocks"]) == ("works", "refused")
    else:
        assert found["clusters"] == "absent"
    assert driver.loaded == 0
    assert driver.memory == {}


def test_a_cluster_of_another_size_than_asked_for_is_wrong() -> None:
    found = {c.name: c for c in try_launches(Driver(wrong=True), "9.0", 4)}
    assert found["clusters of 16 blocks"].answer == "computes wrongly"
    assert found["peer access"].answer == "absent"
    census = row(with_line(simulated(), queries_row(list(found.values()))), None)
    assert census.verdict == "inconsistent"
    assert queries_row([]).check == QUERIES
