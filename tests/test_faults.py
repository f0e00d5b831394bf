"""Faults of the device, injected at the driver's edge (fake_gpu.py): each named, recorded, and no wrong rate.

Every run here ends within seconds: what hangs is ended at --gpuassay-limit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import gpuassay
from gpuassay import verify
from gpuassay.cli_shared import exit_code
from gpuassay.exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE

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
