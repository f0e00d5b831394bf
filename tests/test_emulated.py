"""The whole instrument on an emulated GPU (emulator/): the real CuPy, Numba, cuda-core and nvidia-ml-py, and every
kernel as its PTX says. It tells what is computed and what is called, and nothing of speed; silicon is still to be
asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from operator import mul
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest

import gpuassay
from gpuassay.audit import self_report
from gpuassay.audit.fingerprint import vectors
from gpuassay.audit.fingerprint_run import PATHS
from gpuassay.kernels import KERNELS

HERE = Path(__file__).parent
Emulated = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """emulated("script.py", "argument", ..., cc="9.0", ...) -> that Python program of ours, ended."""
    cache = getattr(request.config, "cache", None)
    home = emulator.build(cache.mkdir("emulator") if cache else tmp_path_factory.mktemp("emulator"))

    def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
        environment = emulator.environment(home, **settings)
        environment["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("locks"))  # a card of its own
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, check=False)
        assert "EMULATOR" not in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# In parts, so that several processes may share them.
FAMILIES = ("tensor.bf16", "tensor.fp mma_sync", "tensor.t tensor.i tensor.b", "vector sfu convert", "memory l2")
FAMILIES += ("shared dsmem l1 atomic latency pcie",)


@pytest.mark.parametrize(
    ("cc", "prefixes"),
    [*(("9.0", family) for family in FAMILIES), *((cc, "tensor") for cc in ("8.0", "8.9", "12.0")), ("10.0", "l2")],
)
def test_every_kernel_computes_what_its_reference_does(emulated: Emulated, cc: str, prefixes: str) -> None:
    tried = lines_of(emulated("every_kernel.py", *prefixes.split(), cc=cc))
    assert [line for line in tried if "failed" in line] == []
    expected = [k for k in KERNELS if k.metric.startswith(tuple(prefixes.split())) and k.architecture_for(cc)]
    assert [line["metric"] for line in tried] == [kernel.metric for kernel in expected]
    assert [line["numba"] for line in tried] == [kernel.toolchain == "numba" for kernel in expected]
    assert {line["sms"] for line in tried} <= {1, 2}


def test_the_families_are_all_kernels() -> None:
    every = tuple(" ".join(FAMILIES).split())
    assert [kernel.metric for kernel in KERNELS if not kernel.metric.startswith(every)] == []


def verified(emulated: Emulated, out: Path, *options: str, **settings: object) -> tuple[gpuassay.Record, str]:
    arguments = ("verify", "--profile", "quick", "--out", str(out), *options)  # its PCI id is an H100's
    done = emulated("-m", "gpuassay", *arguments, **settings)
    assert done.returncode == 1, done.stdout + done.stderr  # two SMs are no H100
    (path,) = out.glob("*.jsonl")
    return gpuassay.read(path), done.stdout


def test_verify_from_the_driver_to_the_report(emulated: Emulated, tmp_path: Path) -> None:
    record, said = verified(emulated, tmp_path)
    assert record.ended
    assert [line["metric"] for line in record.not_measured] == ["latency.memory"]  # 2 GiB are not there
    measured = {str(name) for name in record.rounds()["metric"]} | {str(line["metric"]) for line in record.medians}
    assert measured >= {"l2.read", "memory.read", "memory.triad", "tensor.bf16", "vector.fp32", "pcie.h2d"}
    assert record.claims["uuid"] == "GPU-10111200-1415-1617-1819-1a1b1c1d1e1f"  # by the driver and by NVML
    assert record.claims["count.sm"] == 2
    assert "NVIDIA EMULATED GPU is no H100-SXM: below: count.sm" in said
    assert not {"check-failed", "context-lost"} & {line["code"] for line in record.findings}


def test_a_context_that_is_lost_costs_one_metric(emulated: Emulated, tmp_path: Path) -> None:
    record, _ = verified(emulated, tmp_path / "runs", fail="memory_copy:700", fail_once=tmp_path / "failed")
    lost = {line["metric"]: line["reason"] for line in record.not_measured}
    assert set(lost) == {"latency.memory", "memory.copy"}
    assert "cudaErrorIllegalAddress" in lost["memory.copy"]
    assert {"memory.triad", "vector.fp64"} <= {str(name) for name in record.rounds()["metric"]}


def test_operations_of_one_gpu_and_of_two(emulated: Emulated) -> None:
    done = emulated("-m", "pytest", "-q", "../suites", "-k", "launch or pcie or peer", devices=2, mib=1200)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_mig_instance_is_known_by_its_own_uuid(emulated: Emulated) -> None:
    program = "import json, gpuassay.cuda as c; print(json.dumps({'claims': c.CudaDevice(0).claims()}))"
    (line,) = lines_of(emulated("-c", program, mig=1, mib=64))
    claims = {claim["quantity"]: claim["value"] for claim in line["claims"]}
    assert claims["mig.mode"] == "enabled"
    assert claims["uuid"] == "MIG-10111200-1415-1617-1819-1a1b1c1d1e1f"
    assert claims["mig.gpu_uuid"].startswith("GPU-80")
    assert claims["mig.count.sm"] == claims["count.sm"] == 2
    assert claims["mig.memory.size"] == claims["memory.size"] == 64 * 2**20


def test_a_share_of_the_part_is_not_taken_for_the_part(
    emulated: Emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import json, gpuassay.cuda as c; print(json.dumps({'claims': c.CudaDevice(0).claims()}))"
    (line,) = lines_of(emulated("-c", program, virtualization=2))
    assert {"vgpu"} == {row["value"] for row in line["claims"] if row["quantity"] == "virtualization.mode"}
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50")
    done = emulated("-m", "gpuassay", "verify", "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (4, "")
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50 may leave this process a part of the SMs: unset it" in done.stderr


def test_a_clock_that_is_misstated_is_found(emulated: Emulated, tmp_path: Path) -> None:
    record, said = verified(emulated, tmp_path, claimed_clock_mhz=1700)
    rows = {row.check: row for row in self_report.rows(record, None)}
    assert rows["clock.sm"].verdict == "inconsistent"
    assert rows["clock.sm"].details["ratio"] == pytest.approx(1755 / 1700, rel=0.001)
    assert "clock.sm" in said


def test_suites_that_pytest_benchmark_may_not_time_are_skipped(emulated: Emulated) -> None:
    chosen = ("../suites", "-k", "l2_read or event_pair")
    done = emulated("-m", "pytest", "-q", "-rs", *chosen, "--benchmark-disable")
    assert done.returncode == 0, done.stdout
    assert "3 skipped" in done.stdout
    assert "pytest-benchmark is disabled" in done.stdout


def audited(emulated: Emulated, *names: str, **settings: object) -> dict[str, dict[str, Any]]:
    return {line["check"]: line for line in lines_of(emulated("audited.py", *names, **settings))}


def test_the_audit_finds_nothing_in_a_sound_part(emulated: Emulated) -> None:
    names = ("capacity", "residue", "determinism", "host", "capabilities")
    rows = audited(emulated, *names, sms=4, mib=200)
    assert {name for name, row in rows.items() if row["verdict"] == "inconsistent"} == set()
    sound = ("determinism memory", "determinism tensor.bf16", "residue global memory", "memory.errors")
    assert {rows[name]["verdict"] for name in sound} == {"consistent"}
    assert rows["memory.capacity"]["details"]["errors"] == dict.fromkeys(
        ("hash", "complement", "inversion", "inversion back", "inverted"), 0
    )
    answers = {one["name"]: one["answer"] for one in rows["driver's capabilities"]["details"]["capabilities"]}
    assert answers["clusters of 16 blocks"] == answers["cooperative launch"] == "works"
    assert rows["gsp.version"]["claim"] == "580.00.00"


@pytest.mark.parametrize("fault", ["memory wraps", "address line"])
def test_memory_that_is_there_twice_is_found(emulated: Emulated, fault: str) -> None:
    row = audited(emulated, "capacity", fault=fault, mib=224)["memory.capacity"]
    assert row["verdict"] == "inconsistent"
    assert row["details"]["errors"]["hash"] > 0


def test_an_sm_that_computes_wrongly_is_named(emulated: Emulated) -> None:
    row = audited(emulated, "determinism", fault="wrong SM", sms=4)["determinism tensor.bf16"]
    assert row["verdict"] == "inconsistent"
    assert set(row["details"]["faulty_sms"]) == {"1"}


def test_a_tensor_core_of_no_known_kind_is_not_taken_for_one(emulated: Emulated) -> None:
    """The emulator adds products exactly and rounds once, as no GPU does: what mma.sync and wgmma gave is that."""
    row = audited(emulated, "fingerprint")["tensor arithmetic"]
    assert (row["verdict"], row["measured"]) == ("inconsistent", "no known family")
    assert row["details"]["other_paths_alike"] == {
        path.instruction: True for path in PATHS if path.symbol == "fingerprint_fp16_wgmma"
    }
    for dtype, sums in row["details"]["observed"].items():
        exact = [sum(map(mul, map(Fraction, v.a), map(Fraction, v.b)), Fraction(v.c)) for v in vectors(dtype)]
        assert sums == [float(np.float32(float(number))) for number in exact]
