"""The main job on a fake GPU: suites in a process of their own, a record, a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import gpuassay
from gpuassay import sustained, verify
from gpuassay.kernels import KERNELS
from gpuassay.verdict import Judgement

Measure = Callable[..., Path]
# What a quick run measures before its first tensor metric.
FIRST = {
    "pcie.h2d",
    "pcie.d2h",
    "l2.read",
    "latency.memory",
    "memory.read",
    "memory.write",
    "memory.copy",
    "memory.triad",
}


def test_a_standard_run_records_every_kernel_of_the_part(fake_run: Measure, capfd: pytest.CaptureFixture[str]) -> None:
    path = fake_run("standard", fresh=True)
    record = gpuassay.read(path)
    assert record.complete
    assert record.run["run_id"][:8] in path.name
    wanted = {(k.metric, k.toolchain) for k in KERNELS if k.architecture_for("9.0")}
    assert {(k["metric"], k["toolchain"]) for k in record.kernels if k["cubin_sha256"]} == wanted
    rounds = gpuassay.load(path)
    rounds = rounds[rounds["sm_id"].map(len) > 0]  # links and launches have a test file of their own
    assert set(zip(rounds["metric"], rounds["toolchain"], strict=True)) == wanted
    sizes = sustained.plain(rounds).groupby("metric").size()
    # Of the curve over shapes, and what is compared with its like and judged against nothing.
    points = sizes.index.str.contains(r"\.n\d|\.width|\.offset|\.partial|^atomic\.")
    assert sizes[~points].min() >= 25
    assert sizes[points].min() >= 10
    peers = [f"peer.{way}" for way in ("one_way", "both_ways", "all_pairs", "read", "write", "read_both_ways")]
    lacking = ["memory.read.width32", "l2.read.width32", *peers, "tensor.int4"]
    assert [line["metric"] for line in record.not_measured if "variant" not in line] == lacking
    assert len(record.telemetry()) >= 2
    progress = capfd.readouterr().err
    assert re.search(r"\[1/\d+\]", progress)
    assert re.search(r"\[(\d+)/\1\]", progress)
    assert all(metric in progress for metric, _ in wanted)
    assert "passed" in path.with_suffix(".log").read_text(encoding="utf-8")


def test_a_curve_over_footprints_says_nothing_of_the_whole_memory(judged: Callable[..., Judgement]) -> None:
    """Its small arrays stay in L2; what is judged is far larger, and its uncertainty is its own."""
    verdicts = {v.metric: v for v in judged(profile="standard").verdicts}
    for name in ("memory.read", "memory.write"):
        left_in_l2 = next(t for t in verdicts[name].budget if t.name == "left in L2 by the pass before")
        assert left_in_l2.relative < 0.01
        assert verdicts[name].verdict == "conforms"


def test_stamps_give_the_clock_and_the_rate_of_the_part(fake_run: Measure) -> None:
    rounds = gpuassay.load(fake_run())
    bf16 = rounds[rounds["metric"] == "tensor.bf16"]
    assert bf16["sm_clock_hz"].median() == pytest.approx(1.755e9, rel=1e-4)
    per_clock = bf16["sm_work"].iloc[0] / bf16["sm_cycles"].iloc[0]
    assert len(per_clock) == 132
    assert per_clock.mean() == pytest.approx(4096 * 0.998, rel=0.003)


def test_a_killed_run_keeps_what_it_measured(fake_run: Measure) -> None:
    path = fake_run(die_at="tensor.bf16")
    record = gpuassay.read(path)
    assert not record.complete
    assert set(record.rounds()["metric"]) == FIRST
    judgement = verify.judge_record(path, None)
    assert "incomplete-record" in {finding.code for finding in judgement.findings}
    assert {v.metric for v in judgement.verdicts if v.verdict == "conforms"} >= {"memory.read", "count.sm"}


def test_an_interrupted_run_says_so(fake_run: Measure) -> None:
    record = gpuassay.read(fake_run(interrupt_at="tensor.bf16"))
    assert not record.complete
    assert set(record.rounds()["metric"]) == FIRST


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_a_run_interrupted_between_two_steps_of_pytest_says_so(fake_run: Measure, phase: str) -> None:
    record = gpuassay.read(fake_run(interrupt_after=phase))
    assert record.ended
    assert not record.complete
    assert ("l2.read" in set(record.rounds()["metric"])) == (phase != "setup")


def test_two_runs_never_share_a_file(tmp_path: Path) -> None:
    paths = {gpuassay.record.new_record_path(tmp_path, "FAKE") for _ in range(50)}
    assert len(paths) == 50


@pytest.mark.parametrize("capability", ["7.0", "13.0"])
def test_a_part_without_kernels_is_not_measured(fake_run: Measure, capability: str) -> None:
    record = gpuassay.read(fake_run(compute_capability=capability))
    assert record.complete
    assert len(record.not_measured) == 9
    assert all("no kernel for this architecture" in line["reason"] for line in record.not_measured)


def test_a_missing_instruction_names_who_has_it(fake_run: Measure) -> None:
    """Every metric of the standard profile on an 8.6 part: all but one have a kernel for it, or none at all."""
    record = gpuassay.read(fake_run("standard", compute_capability="8.6"))
    assert record.complete
    reasons = {line["metric"]: line["reason"] for line in record.not_measured}
    assert reasons["convert.f32_fp8"] == (
        "no kernel for this architecture (compute capability 8.6): "
        "the conversion to FP8 exists from compute capability 8.9"
    )
    assert set(record.rounds()["metric"]) >= {"vector.fp16", "sfu.tanh", "convert.i32_f32", "vector.shuffle"}


@pytest.mark.parametrize("capability", ["10.0", "10.3"])
def test_a_tensor_path_without_a_kernel_is_not_measured(fake_run: Measure, capability: str) -> None:
    """tcgen05: the other metrics are measured, this one says why not."""
    record = gpuassay.read(fake_run(compute_capability=capability))
    assert record.complete
    (line,) = record.not_measured
    assert line["metric"] == "tensor.bf16"
    assert line["reason"].startswith(f"no kernel for this architecture (compute capability {capability})")


def test_settings_of_the_directory_and_the_user_change_nothing(
    fake_run: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not ours')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")  # pytest-benchmark would measure nothing
    assert gpuassay.read(fake_run(fresh=True)).complete


def test_settings_of_cuda_numba_and_cupy_do_not_reach_the_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = ("CUDA_LAUNCH_BLOCKING", "CUDA_FORCE_PTX_JIT", "NUMBA_ENABLE_CUDASIM", "NUMBA_CUDA_DEBUGINFO")
    changing += (
        "CUDA_DISABLE_PERF_BOOST",
        "CUPY_GPU_MEMORY_LIMIT",
        "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM",
        "PYTEST_ADDOPTS",
    )
    kept = ("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NUMBA_CUDA_DRIVER", "LD_LIBRARY_PATH")
    for name in (*changing, *kept):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "shared"))
    reached: dict[str, str] = {}

    def run(command: list[str], record: Path, log: object, environment: dict[str, str]) -> int:
        reached.update(environment)
        return 4

    monkeypatch.setattr(verify.supervise, "run", run)
    with pytest.raises(verify.NoUsableGpu):
        verify.measure(device=0, profile="quick", out=tmp_path, part="FAKE")
    assert not set(changing) & set(reached)
    assert set(kept) <= set(reached)
    assert reached["NUMBA_CACHE_DIR"] == reached["CUPY_CACHE_DIR"] == str(verify.private_cache())


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(verify.VerifyError, match="choose another directory with --out"):
        verify.measure(device=0, profile="quick", out=tmp_path / "file" / "runs", part="FAKE")
