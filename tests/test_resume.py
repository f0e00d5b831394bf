"""`gpuassay verify --resume`: a run that was cut off is completed on the same GPU, in a record of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import gpuassay
from gpuassay import resume, verify
from gpuassay.cli import cli

Measure = Callable[..., Path]


def metrics_of(path: Path) -> set[str]:
    return set(gpuassay.load(path)["metric"])


def test_a_resumed_run_judges_like_an_uninterrupted_one(fake_run: Measure) -> None:
    cut = fake_run(die_at="tensor.bf16")
    before = cut.read_bytes()
    path = fake_run(resumed=cut)
    assert cut.read_bytes() == before
    whole, resumed = verify.judge_record(fake_run(), None), verify.judge_record(path, None)
    assert resumed.overall == whole.overall == "conforms"
    assert [(v.metric, v.verdict) for v in resumed.verdicts] == [(v.metric, v.verdict) for v in whole.verdicts]
    codes = {finding.code for finding in resumed.findings}
    assert codes == {finding.code for finding in whole.findings} | {"resumed"}


def test_what_was_finished_is_copied_and_said_and_nothing_is_measured_twice(fake_run: Measure) -> None:
    cut = fake_run(die_at="tensor.bf16")
    path = fake_run(resumed=cut)
    record = gpuassay.read(path)
    assert record.complete
    assert record.run["resumed_from"] == gpuassay.read(cut).run["run_id"] != record.run["run_id"]
    (said,) = [finding["text"] for finding in record.findings if finding["code"] == "resumed"]
    old, new = gpuassay.load(cut), gpuassay.load(path)
    assert record.run["resumed_from"] in said
    for metric in sorted(metrics_of(cut) - {"memory.triad"}):  # the last one may lack rounds, so it is done again
        assert metric in said
        starts = [list(rounds[rounds["metric"] == metric]["start_host_s"]) for rounds in (old, new)]
        assert starts[0] == starts[1]
    assert not new.duplicated(["metric", "toolchain", "index"]).any()
    assert metrics_of(path) == metrics_of(fake_run())


@pytest.mark.parametrize(
    ("change", "word"),
    [({"uuid": "GPU-OTHER"}, "GPU-OTHER"), ({"driver": "1.0"}, "driver.version"), ({"sm_count": 114}, "count.sm")],
)
def test_another_gpu_is_refused_and_leaves_no_record(
    fake_run: Measure, change: dict[str, object], word: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cut = fake_run(die_at="tensor.bf16")
    with pytest.raises(verify.NoUsableGpu):
        fake_run(resumed=cut, **change)
    refusal = capfd.readouterr().err
    assert word in refusal
    assert "not the GPU of the record" in refusal


def test_a_complete_record_has_nothing_to_resume(fake_run: Measure) -> None:
    path = fake_run()
    result = CliRunner().invoke(cli, ["verify", "--resume", str(path)])
    assert result.exit_code == 2
    assert "there is nothing to resume" in result.output


def test_resume_and_replay_exclude_each_other(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", "--resume", "a", "--replay", "b"])
    assert result.exit_code == 2
    assert "give one of them" in result.output


def test_host_times_of_before_a_reboot_come_before_all_new_ones(
    fake_run: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, new = fake_run(die_at="tensor.bf16"), tmp_path / "new.jsonl"
    monkeypatch.setattr(resume.time, "monotonic", lambda: 100.0)
    resume.begin(cut, new, "1")
    record, old = gpuassay.read(new), gpuassay.read(cut)
    assert record.telemetry()["host_s"].max() < 100
    assert record.rounds()["start_host_s"].max() < 100
    assert record.rounds()["host_s"].equals(old.rounds()["host_s"][: len(record.rounds())])
    assert "began anew" in record.findings[-1]["text"]


def test_a_failed_check_is_kept_and_not_tried_again(fake_run: Measure, tmp_path: Path) -> None:
    whole = fake_run(fail_check="memory.read").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    last = next(n for n, line in enumerate(whole) if b"check-failed" in line)
    cut.write_bytes(b"".join(whole[: last + 1]))
    path = fake_run(resumed=cut)
    record = gpuassay.read(path)
    assert "memory.read" not in metrics_of(path)
    assert "check-failed" in {finding["code"] for finding in record.findings}
    assert not record.complete


def test_half_a_benchmark_is_not_finished() -> None:
    lines = [
        {"kind": kind, "metric": metric, "toolchain": "numba"}
        for kind, metric in (("kernel", "a"), ("round", "a"), ("kernel", "b"), ("round", "b"))
    ]
    assert resume.finished(lines) == {("a", "numba", None)}
    interrupted = [*lines, {"kind": "end"}]
    assert resume.finished(interrupted) == {("a", "numba", None)}
    broken = [*lines[:3], {"kind": "kernel", "metric": "c", "toolchain": "numba"}]  # b has no rounds
    assert resume.finished(broken) == {("a", "numba", None)}


def test_an_interrupted_run_is_resumed(fake_run: Measure) -> None:
    path = fake_run(resumed=fake_run(interrupt_at="tensor.bf16"))
    assert gpuassay.read(path).complete
    assert metrics_of(path) == metrics_of(fake_run())
