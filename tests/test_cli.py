"""The command line as a user meets it, on a machine without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuassay.cli import cli

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
RECORDING = next(REFERENCE.glob("*.jsonl"))


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`gpuassay ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "gpuassay", *arguments], capture_output=True, text=True, cwd=cwd, timeout=100
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_help_teaches_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from gpuassay.cli import cli; from click.testing import CliRunner;"
        "out = CliRunner().invoke(cli, ['--help']).output;"
        "heavy = {'cupy','numba','pandas','scipy','numpy','matplotlib','distributed','rich','pydantic','pynvml'};"
        "print(out); print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    for words in ("Measure:", "Judge:", "Trust the instrument:", "Exit codes:", "--replay reference"):
        assert words in done.stdout


def test_without_a_gpu_verify_names_the_replay() -> None:
    done = run("verify")
    assert done.returncode == 4
    assert "gpuassay verify --replay reference" in done.stderr


def test_the_reference_recording_from_any_directory(tmp_path: Path) -> None:
    done = run("verify", "--replay", "reference", cwd=tmp_path)
    assert done.returncode in (0, 1, 3)
    assert "NO GPU WAS MEASURED HERE" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_recording_of_an_h100_is_no_h20() -> None:
    done = run("verify", "--replay", str(RECORDING), "--against", "H20", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    verdicts = {row["metric"]: row for row in document["verdicts"]}
    assert verdicts["tensor.bf16"]["verdict"] == "above"
    assert verdicts["tensor.bf16"]["capability"]["limit"] == 1024
    assert verdicts["count.sm"]["verdict"] == "above"
    assert any("this is no H20" in finding["text"] for finding in document["findings"])


def test_a_recording_that_calibrated_the_instrument_is_not_judged_by_itself() -> None:
    document = json.loads(run("verify", "--replay", str(RECORDING), "--json").stdout)
    if document["record"]["samples"] == "kept":
        pytest.skip("the shipped recording has its samples")
    assert "calibration-excludes-itself" in {finding["code"] for finding in document["findings"]}
    for row in document["verdicts"]:
        assert row["expanded_uncertainty"] is None or row["metric"] == "count.sm"
        terms = {term["name"]: term["source"] for term in row["budget"]}
        assert terms.get("attainment", "prior").startswith("prior")
        if row["verdict"] in ("conforms", "inconclusive") and row["metric"] != "count.sm":
            assert "type A is not estimated" in row["reason"]
    assert document["overall"] == "inconclusive"  # the prior for memory is too wide to decide


GOOD = RECORDING.read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"hello\n", "line 1"),
        (b'{"a": 1}\n', "line 1"),
        (GOOD.replace(b"gpuassay.record/1", b"gpuassay.record/99"), "update gpuassay"),
        (GOOD.replace(b'"count.sm","value":132', b'"count.sm","value":131'), "changed"),
        (GOOD.replace(b'{"kind":"median"', b'{"kind":"median', 1), "line"),
    ],
    ids=["missing", "empty", "text", "foreign", "newer", "altered", "broken"],
)
def test_bad_records_are_one_sentence(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "record.jsonl"
    if content is not None:
        path.write_bytes(content)
    done = run("verify", "--replay", str(path))
    assert done.returncode == 2
    assert says in done.stderr
    assert str(path) in done.stderr
    assert done.stdout == ""


def test_a_truncated_record_is_judged_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.write_bytes(GOOD[: int(len(GOOD) * 0.8)])
    done = run("verify", "--replay", str(path))
    assert done.returncode in (0, 1, 3)
    assert "incomplete-record" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "--against", "H2O"], "H20"),
        (["verify", "--against", "/no/such.toml"], "does not exist"),
        (["verify", "--profile", "instant"], "quick"),
        (["verify", "--device", "-1"], "-1"),
        (["census", "--arch", "sm_1"], "sm_90a"),
        (["sheets", "show", "H2O"], "H20"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_sheets_list_and_show() -> None:
    assert "H20-3e" in run("sheets").stdout
    shown = run("sheets", "show", "H20")
    assert shown.returncode == 0
    assert "148 TFLOP/s" in shown.stdout
    assert "press of a leak" in shown.stdout
    assert run("sheets", "h20").stdout == shown.stdout


def test_l10_was_never_published() -> None:
    done = run("sheets", "show", "L10")
    assert done.returncode == 1
    assert all(name in done.stdout for name in ("H20", "L20", "L2", "gpuassay sheets show L2"))


def test_devices_and_doctor_without_a_gpu() -> None:
    assert run("devices").returncode == 4
    assert json.loads(run("devices", "--json").stdout) == []
    done = run("doctor", "--json")
    assert done.returncode == 4
    rows = json.loads(done.stdout)
    assert {row["what"] for row in rows} >= {"NVIDIA driver", "CuPy", "CUDA C++ compiler", "nvdisasm"}
    assert all(row["mend"] for row in rows if not row["usable"])
    assert len([row for row in rows if row["what"].startswith("root: ") and row["optional"]]) == 4


def test_doctor_lists_what_only_root_sees(tmp_path: Path) -> None:
    from gpuassay.doctor import _needs_root

    params = tmp_path / "proc/driver/nvidia/params"
    params.parent.mkdir(parents=True)
    params.write_text("RmProfilingAdminOnly: 1\n")
    assert all(row.optional and row.mend for row in _needs_root(tmp_path, user=1000))
    of_user = {row.what: row.usable for row in _needs_root(tmp_path, user=1000)}
    of_root = {row.what: row.usable for row in _needs_root(tmp_path, user=0)}
    assert of_user["root: SM counters"] is of_user["root: agents' sockets"] is False
    assert all(of_root.values())
    params.write_text("RmProfilingAdminOnly: 0\n")
    assert next(row for row in _needs_root(tmp_path, user=1000) if "counters" in row.what).usable


def test_census_as_json() -> None:
    done = run("census", "--arch", "sm_90a", "--metric", "tensor.bf16", "--json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    assert (row["metric"], row["declared_work"], row["counted_work"]) == ("tensor.bf16", 8388608, 8388608)
    assert row["verdict"] == "ok"


def test_the_list_of_kernels_and_silicon_is_true() -> None:
    from gpuassay.recordings import readme

    assert (REFERENCE / "README.md").read_text(encoding="utf-8") == readme(REFERENCE), (
        "make it again: python -m gpuassay.recordings results/reference"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence_and_never_a_verdict() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpuassay", "sheets"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=100
        )
    assert done.returncode == 2
    assert done.stderr == "gpuassay: cannot write to standard output: No space left on device\n"


def test_a_reader_that_went_away_changes_no_exit_code() -> None:
    command = f"{sys.executable} -m gpuassay sheets show L10 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_interruption_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C while a run is being ended, and while something else is done."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuassay.verify.measure", interrupted)
    monkeypatch.setattr("gpuassay.cli_shared._part", lambda device: "a GPU")
    done = CliRunner().invoke(cli, ["verify", "--out", str(tmp_path)])
    assert done.exit_code == 130
    assert f"kept in {tmp_path}: `gpuassay verify --resume RECORD`" in done.stderr
    monkeypatch.setattr("gpuassay.record.read", interrupted)
    done = CliRunner().invoke(cli, ["identify", "reference"])
    assert (done.exit_code, done.stderr) == (130, "gpuassay: interrupted\n")
