"""The gatekeeper: one JSON line, the exit code as the verdict, nothing written unasked; and the shipped examples."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.cli import cli
from gpuassay.exit_codes import DIFFERS, INCONCLUSIVE, NO_GPU, USAGE
from gpuassay.fleet import gate

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def asked(*arguments: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(cli, ["gate", *arguments])
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["exit_code"] == result.exit_code
    return result.exit_code, found


def test_a_recording_of_another_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = asked("--replay", "reference", "--against", "H20")
    assert code == DIFFERS
    assert line["verdict"] == "does not conform"
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line_too(tmp_path: Path) -> None:
    code, line = asked("--replay", str(tmp_path / "none.jsonl"))
    assert code == USAGE
    assert "no such file" in str(line["reason"])
    assert asked("--replay", "reference", "--against", "no-such-sheet")[0] == USAGE


def test_without_a_gpu_the_gate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuassay.claims.device_count", lambda: 0)
    code, line = asked()
    assert code == NO_GPU
    assert line["verdict"] == "no GPU"


def test_past_its_budget_the_gate_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuassay.claims.device_count", lambda: 1)
    monkeypatch.setattr("gpuassay.claims.nvml_claims", lambda index: [])
    monkeypatch.setattr(gate, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    code, line = asked("--budget", "0.2s")
    assert code == INCONCLUSIVE
    assert "no kernel finished within 0.2 s" in str(line["reason"])


def test_the_words_choose_exactly_the_four_kernels() -> None:
    import gpuassay

    suites = Path(gpuassay.__file__).parent / "suites"
    arguments = [
        "-m",
        "pytest",
        str(suites),
        "-p",
        "gpuassay.plugin",
        "-p",
        "pytest_benchmark.plugin",
        "-c",
        "/dev/null",
    ]
    arguments += ["--collect-only", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    found = subprocess.run(
        [sys.executable, "-P", *arguments, "-m", "quick", "-k", gate.WORDS],
        capture_output=True,
        text=True,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(suites.parent.parent)},
        check=True,
    )
    names = {line.split("::")[1] for line in found.stdout.splitlines() if "::" in line}
    assert names == {"test_bf16", "test_fma[fp32]", "test_memory[read]", "test_memory[write]"}


def test_openmetrics_text_is_read_back(tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    target = tmp_path / "gpuassay.prom"
    asked("--replay", "reference", "--openmetrics", str(target))
    families = {family.name: family for family in text_string_to_metric_families(target.read_text())}
    assert families["gpuassay_gate_exit_code"].samples[0].value == INCONCLUSIVE
    assert families["gpuassay_metric"].samples
    assert list(tmp_path.iterdir()) == [target]


@given(st.floats(0.001, 1e6), st.sampled_from(["s", "m", ""]))
def test_budgets_are_read(value: float, unit: str) -> None:
    text = f"{value:.3f}{unit}"
    assert gate.seconds(text) == pytest.approx(float(f"{value:.3f}") * (60 if unit == "m" else 1))


@pytest.mark.parametrize("text", ["", "0s", "-1s", "ten", "5h", "1e3"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="--budget"):
        gate.seconds(text)


def test_the_prolog_is_a_shell_script_that_drains_only_for_a_bad_gpu(tmp_path: Path) -> None:
    prolog = EXAMPLES / "slurm-prolog.sh"
    subprocess.run(["bash", "-n", prolog], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", prolog], check=True)
    fake = tmp_path / "gpuassay"
    for code, expected in ((0, 0), (1, 1), (2, 0), (3, 0), (4, 1)):
        fake.write_text(f"#!/bin/sh\nexit {code}\n")
        fake.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_GPUS": "0,1"}
        assert subprocess.run(["bash", prolog], env=environment, check=False).returncode == expected


def test_the_systemd_units_are_verified(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    for name in ("gpuassay-gate.service", "gpuassay-gate.timer"):
        text = (EXAMPLES / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/gpuassay", "/bin/true"))
    units = [str(tmp_path / "gpuassay-gate.service"), str(tmp_path / "gpuassay-gate.timer")]
    found = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert not [line for line in found.stderr.splitlines() if "gpuassay-gate" in line], found.stderr


def test_the_kubernetes_job_gates_before_it_works() -> None:
    import yaml

    job = yaml.safe_load((EXAMPLES / "kubernetes-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    (first,) = pod["initContainers"]
    assert first["command"][:2] == ["gpuassay", "gate"]
    for container in (first, *pod["containers"]):
        assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1
        assert {"name", "image"} <= set(container)
