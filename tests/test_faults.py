"""Faults of the device, injected at the driver's edge (fake_gpu.py): each named, recorded, and no wrong rate.

Every run here ends within seconds: what hangs is ended at --gpuassay-limit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpuassay
from gpuassay import verify
from gpuassay.cli_shared import exit_code
from gpuassay.cuda_workload import numba_kernel
from gpuassay.exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE
from gpuassay.faults import cuda_failure
from gpuassay.kernels.compile import CompileError

Measure = Callable[..., Path]
FAULT_AT = "memory.write"
REFUSED = ["allocation", "launch configuration", "launch resources", "no image"]
LOST = [
    "illegal address",
    "launch failure",
    "misaligned address",
    "illegal instruction",
    "launch timeout",
    "assert",
    "hardware stack",
    "ecc",
    "nvlink",
    "contained",
    "device lost",
    "unknown",
]
LIMITED = ("--gpuassay-limit=4",)


def outcome(path: Path) -> tuple[set[str], set[str], int]:
    """Metrics with rounds, codes of the record's findings, the exit code of verify."""
    record = gpuassay.read(path)
    code = exit_code(verify.judge_record(path, None), "capability")
    return set(record.rounds()["metric"]), {finding["code"] for finding in record.findings}, code


@pytest.mark.parametrize(
    ("fault", "finding", "reason"),
    [
        *((fault, None, "cudaError") for fault in REFUSED),
        *((fault, "context-lost", "the CUDA context was lost: cudaError") for fault in LOST),
        ("hang", "no-answer", "no answer within 4 s"),
        ("crash", "crashed", "the process that measured it crashed (SIGSEGV)"),
    ],
)
def test_a_fault_costs_its_metric_and_no_other(fake_run: Measure, fault: str, finding: str | None, reason: str) -> None:
    path = fake_run(fault=fault, fault_at=FAULT_AT, options=LIMITED)
    record = gpuassay.read(path)
    measured, codes, code = outcome(path)
    assert measured == set(gpuassay.load(fake_run())["metric"]) - {FAULT_AT}
    (line,) = record.not_measured
    assert line["metric"] == FAULT_AT
    assert reason in line["reason"]
    assert (finding in codes) == (finding is not None)
    assert record.complete
    assert not record.rounds().duplicated(["metric", "toolchain", "index"]).any()
    verdicts = {v.metric: v.verdict for v in verify.judge_record(path, None).verdicts}
    assert verdicts[FAULT_AT] == "not measured"
    assert code == exit_code(verify.judge_record(fake_run(), None), "capability") == CONFORMS


@pytest.mark.parametrize("clock", ["event", "clock64", "globaltimer"])
def test_a_clock_that_runs_backwards_gives_no_rate(fake_run: Measure, clock: str) -> None:
    path = fake_run(backwards=clock, options=LIMITED)
    record = gpuassay.read(path)
    assert not set(record.rounds()["metric"]) & {"memory.write", "vector.fp32", "tensor.bf16"}
    reasons = {line["metric"]: line["reason"] for line in record.not_measured}
    assert "went backwards" in reasons["tensor.bf16"]
    verdicts = {v.metric: v.verdict for v in verify.judge_record(path, None).verdicts}
    assert verdicts["tensor.bf16"] == "not measured"
    assert outcome(path)[2] != DIFFERS


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"name": "FAKE H200"}, "claims-changed", "name changed from FAKE H100 to FAKE H200"),
        ({"mig.mode": "enabled"}, "claims-changed", "mig.mode changed from disabled to enabled"),
        ({"driver.version": "1"}, "claims-changed", "driver.version changed"),
        ({"ecc.errors.uncorrected": 3}, "ecc-errors", "rose from 0 to 3"),
    ],
)
def test_a_device_that_changes_during_the_run_is_named(
    fake_run: Measure, changes: dict[str, object], code: str, words: str
) -> None:
    path = fake_run(changes=changes)
    (finding,) = [finding for finding in gpuassay.read(path).findings if finding["code"] == code]
    assert words in finding["text"]
    assert outcome(path)[2] == INCONCLUSIVE


def test_a_gpu_that_is_lost_for_good_ends_the_run(fake_run: Measure) -> None:
    path = fake_run(fault="device lost", fault_at=FAULT_AT, gone=True)
    measured, codes, _ = outcome(path)
    assert "memory.read" in measured
    assert not measured & {FAULT_AT, "tensor.bf16"}
    assert {"context-lost", "run-given-up"} <= codes
    assert not gpuassay.read(path).complete


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("slow", None),
        ("hang", "telemetry-failed"),
        ("lost", "telemetry-failed"),
        ("nonsense", "telemetry-failed"),
        ("words", "telemetry-failed"),
        ("negative", "clock-claim"),
        ("not permitted", None),
        ("jumping clock", "clock-claim"),
    ],
)
def test_sensors_that_fail_change_no_rate(fake_run: Measure, fault: str, finding: str | None) -> None:
    path = fake_run(sensor_fault=fault)
    measured, _, code = outcome(path)
    assert measured == set(gpuassay.load(fake_run())["metric"])
    codes = {found.code for found in verify.judge_record(path, None).findings}
    assert codes & {"telemetry-failed", "clock-claim"} == ({finding} if finding else set())
    rate = [
        float(rounds[rounds["metric"] == "tensor.bf16"].eval("work / event_s").median())
        for rounds in map(gpuassay.load, (path, fake_run()))
    ]
    assert rate[0] == pytest.approx(rate[1], rel=0.01)
    assert code == CONFORMS


def test_a_check_of_the_audit_that_loses_the_context_costs_no_other(fake_run: Measure) -> None:
    record = gpuassay.read(fake_run("standard", audit_fault="capabilities", options=("-m", "audit and not thorough")))
    assert record.complete
    assert [line["check"] for line in record.audit] == ["fingerprint", "host"]  # once each, though in two processes
    assert len({line["text"].split()[-1] for line in record.audit}) == 2
    (line,) = record.not_measured
    assert line["metric"] == "audit: capabilities"
    assert line["reason"].startswith("the CUDA context was lost: cudaErrorIllegalAddress")
    assert {f["code"] for f in record.findings} >= {"context-lost"}


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CUDA_ERROR_INVALID_IMAGE: This indicates that the device kernel image is invalid.", False),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an unsupported toolchain.", False),
        ("CUDA_ERROR_ILLEGAL_ADDRESS: While executing a kernel, the device encountered an invalid address.", True),
        ("a text that names no error", True),
    ],
)
def test_an_error_of_cuda_core_is_told_by_its_name(text: str, lost: bool) -> None:
    CUDAError = pytest.importorskip("cuda.core._utils.cuda_utils").CUDAError
    assert cuda_failure(CUDAError(text)) == (text, lost)


def test_what_numba_cannot_compile_is_a_compile_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pytest.importorskip("numba.cuda")

    def refused(error: Exception) -> Callable[..., Any]:
        def jit(signature: object) -> Callable[..., Any]:
            def compiled(function: object) -> Any:
                raise error

            return compiled

        return jit

    monkeypatch.setattr(cuda, "jit", refused(ValueError("NVVM says no")))
    with pytest.raises(CompileError, match="Numba does not compile nothing: NVVM says no"):
        numba_kernel(nothing, "void()")

    class CUDAError(Exception):
        pass

    monkeypatch.setattr(cuda, "jit", refused(CUDAError("CUDA_ERROR_ILLEGAL_ADDRESS: ...")))
    with pytest.raises(CUDAError):
        numba_kernel(nothing, "void()")


def nothing() -> None:
    pass
