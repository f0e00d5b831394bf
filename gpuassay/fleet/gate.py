"""The gatekeeper: the fewest kernels that catch the selftest's faults, within a budget of time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpuassay.exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE, NO_GPU, USAGE

if TYPE_CHECKING:
    from gpuassay.verdict import Judgement

# The metrics of the selftest's faults: tensor.bf16 (slow, uncapped, one SM short), vector.fp32, memory.read and .write.
# Words for pytest's -k, which choose these four of the quick profile's tests.
WORDS = "test_bf16 or (test_fma and fp32) or (test_memory and (read or write))"
METRICS = ("tensor.bf16", "vector.fp32", "memory.read", "memory.write")
CODES = {"conforms": CONFORMS, "does not conform": DIFFERS, "inconclusive": INCONCLUSIVE}


def seconds(text: str) -> float:
    """ "30s" or "2m" or "30" as seconds. Raises click.UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|)", text.strip())
    if not found or not float(found[1]):
        raise click.UsageError(f"--budget is a time such as 30s or 2m; this is {text!r}")
    return float(found[1]) * (60 if found[2] == "m" else 1)


def gate(
    budget_s: float, against: str | None, device: int, replay: str | None, out: Path | None
) -> tuple[dict[str, Any], int]:
    """The one line and the exit code. Nothing is raised for a bad GPU, record or sheet: the line says it."""
    from gpuassay.record import RecordError
    from gpuassay.sheets import SheetError, load
    from gpuassay.verify import VerifyError, judge_record, reference_record

    started = time.monotonic()
    line: dict[str, Any] = {"schema": "gpuassay.gate/1", "verdict": "error", "device": device, "replay": bool(replay)}
    with tempfile.TemporaryDirectory(prefix="gpuassay-gate-") as scratch:
        try:
            if against is not None:
                load(against)
            problem = ""
            if replay:
                path: Path | None = reference_record() if replay == "reference" else Path(replay)
            else:
                gpu = _gpu(device)
                line["uuid"] = gpu["uuid"]
                path, problem = _measure(gpu, budget_s, out or Path(scratch))
            if path is None:
                code = NO_GPU if problem.startswith("no GPU") else INCONCLUSIVE
                line |= {"verdict": "no GPU" if code == NO_GPU else "inconclusive", "reason": problem}
            else:
                line |= _told(judge_record(path, against), problem)
                code = CODES[line["verdict"]]
        except _NoGpu as error:
            code = NO_GPU
            line |= {"verdict": "no GPU", "reason": str(error)}
        except (RecordError, SheetError, VerifyError, OSError) as error:
            line |= {"reason": str(error)}
            code = USAGE
    return line | {"exit_code": code, "seconds": round(time.monotonic() - started, 3)}, code


def _told(judgement: Judgement, problem: str) -> dict[str, Any]:
    """What the line says of a judged record. `problem`: why the run ended early, or "".

    A run that lacks some of what was asked passes nothing; what it did show may still fail the GPU.
    """
    record = judgement.record
    assert record is not None
    verdict, reason = judgement.overall, judgement.summary
    measured = {v.metric for v in judgement.verdicts if v.verdict != "not measured"}
    missing = [name for name in METRICS if name not in measured]
    if missing and not problem:
        problem = f"not measured: {', '.join(missing)}"
    if not record.complete and not problem:
        problem = record.problem or "the record is incomplete"
    if problem and verdict == "conforms":
        verdict, reason = "inconclusive", f"{problem}; what was measured conforms"
    return {
        "verdict": verdict,
        "reason": reason,
        "complete": not problem,
        "part": judgement.part,
        "uuid": record.claims.get("uuid"),
        "sheet": judgement.sheet.name,
        "run_id": record.run["run_id"],
        "simulated": bool(record.run.get("simulated")),
        "metrics": {
            v.metric: {"value": v.measured, "unit": v.unit, "verdict": v.verdict}
            for v in judgement.verdicts
            if v.verdict not in ("not measured", "not published")
        },
    }


class _NoGpu(Exception):
    """There is no such GPU, or NVML cannot reach it: the reason."""


def _gpu(device: int) -> dict[str, str]:
    """CUDA's device `device`: the so-manieth of those that CUDA_VISIBLE_DEVICES leaves, in its order. Raises _NoGpu."""
    from gpuassay.claims import NoDriver

    from .job import gpus_here

    try:
        found = gpus_here()
    except NoDriver as error:
        raise _NoGpu(f"no GPU: {error}") from error
    except Exception as error:  # NVML's own, whose class exists only where NVML does: a GPU fell off the bus
        raise _NoGpu(f"no GPU: NVML cannot reach every GPU of this node: {error}") from error
    if device >= len(found):
        raise _NoGpu(f"no GPU {device} here, {len(found)} visible (CUDA_VISIBLE_DEVICES counts)")
    return found[device]


def _measure(gpu: dict[str, str], budget_s: float, out: Path) -> tuple[Path | None, str]:
    """The record of the short run (None where there is none), and why it is not whole ("" where it is).

    The child sees this GPU alone, by UUID: its CUDA device 0 is the one that was named, whatever orders the others.
    """
    before = set(out.glob("*.jsonl"))
    child = subprocess.Popen(
        command(gpu["name"], out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu["uuid"], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    )
    try:
        status: int | None = child.wait(timeout=budget_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        status = None
    found = sorted(set(out.glob("*.jsonl")) - before)
    if found:
        if status is None:
            return found[-1], f"stopped at the budget of {budget_s:g} s"
        return found[-1], f"measuring ended with exit code {status}" if status else ""
    if status == NO_GPU:
        return None, f"no GPU: CUDA refused {gpu['uuid']}"
    late = f"no kernel finished within {budget_s:g} s" if status is None else f"measuring ended with exit code {status}"
    return None, f"{late}: run gpuassay verify on this device"


def command(part: str, out: Path) -> list[str]:
    """The child that measures the gate's kernels on the one GPU that it sees."""
    code = (
        "import sys; from pathlib import Path; from gpuassay import verify\n"
        "try:\n"
        "    verify.measure(device=0, profile='quick', out=Path(sys.argv[2]), part=sys.argv[1],\n"
        "        pytest_arguments=('-k', sys.argv[3]))\n"
        "except verify.NoUsableGpu:\n"
        f"    sys.exit({NO_GPU})\n"
    )
    return [sys.executable, "-P", "-c", code, part, str(out), WORDS]


def write_textfile(path: Path, line: dict[str, Any]) -> None:
    """The line as OpenMetrics text, whole or not at all. Raises OSError.

    Gauges only, and no timestamps: such a file is Prometheus text format too, to which OpenMetrics' last line is a
    comment. node_exporter's textfile collector reads that format (github.com/prometheus/node_exporter, issue 1988 asks
    for OpenMetrics) and refuses timestamps and OpenMetrics' types that are not Prometheus' (issue 1284 and others).
    """
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.openmetrics.exposition import generate_latest

    from .store import replace_file

    registry = CollectorRegistry()
    names = ("uuid", "part", "sheet")
    labels = [str(line.get(name) or "") for name in names]
    verdict = Gauge(
        "gpuassay_gate_exit_code", "0 conforms, 1 not, 2 error, 3 inconclusive, 4 no GPU", names, registry=registry
    )
    verdict.labels(*labels).set(line["exit_code"])
    Gauge("gpuassay_gate_duration_seconds", "How long the gate took", names, registry=registry).labels(*labels).set(
        line["seconds"]
    )
    Gauge("gpuassay_gate_timestamp_seconds", "When it was asked", names, registry=registry).labels(
        *labels
    ).set_to_current_time()
    value = Gauge("gpuassay_metric", "Measured value, SI", (*names, "metric", "unit", "verdict"), registry=registry)
    for name, found in (line.get("metrics") or {}).items():
        if found["value"] is not None:
            value.labels(*labels, name, found["unit"], found["verdict"]).set(found["value"])
    replace_file(path, generate_latest(registry))
