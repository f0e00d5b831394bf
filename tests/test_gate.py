"""The gatekeeper: one JSON line, the exit code as the verdict, nothing written unasked; and the shipped examples."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import H20
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.cli import cli
from gpuassay.exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE, NO_GPU, USAGE
from gpuassay.fleet import gate
from gpuassay.fleet import job as jobs

Measure = Callable[..., Path]

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


GPU = {"uuid": "GPU-FAKE-1", "slot": "0", "name": "FAKE H20", "ordinal": "1"}


def test_without_a_gpu_the_gate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "gpus_here", list)
    code, line = asked()
    assert code == NO_GPU
    assert line["verdict"] == "no GPU"


def test_a_gpu_off_the_bus_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("GPU is lost")

    monkeypatch.setattr(jobs, "gpus_here", lost)
    code, line = asked()
    assert code == NO_GPU
    assert "GPU is lost" in str(line["reason"])


def test_past_its_budget_the_gate_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "gpus_here", lambda: [GPU])
    monkeypatch.setattr(gate, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    code, line = asked("--budget", "0.2s")
    assert code == INCONCLUSIVE
    assert "no kernel finished within 0.2 s" in str(line["reason"])


def child(record: Path, then: str) -> list[str]:
    """What stands for the measuring child: it leaves this record, then does this."""
    code = "import os, shutil, sys, time; shutil.copy(sys.argv[1], os.path.join(sys.argv[2], 'r.jsonl')); "
    return [sys.executable, "-c", code + then, str(record)]


def test_a_whole_run_passes_and_the_same_run_ended_early_does_not(
    fake_run: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is recorded conforms in each case."""
    monkeypatch.setattr(jobs, "gpus_here", lambda: [GPU])
    whole, part = fake_run(**H20), fake_run(**H20, die_at="tensor.bf16")
    for record, then, budget, code, why in (
        (whole, "", "30s", CONFORMS, "conform"),
        (part, "", "30s", INCONCLUSIVE, "not measured: tensor.bf16"),
        (whole, "sys.exit(9)", "30s", INCONCLUSIVE, "exit code 9"),
        (whole, "time.sleep(60)", "2s", INCONCLUSIVE, "stopped at the budget of 2 s"),
    ):
        monkeypatch.setattr(gate, "command", lambda name, out, r=record, t=then: [*child(r, t), str(out)])
        found, line = asked("--budget", budget, "--against", "H20")
        assert (found, line["complete"]) == (code, code == CONFORMS), line
        assert why in str(line["reason"])
    assert asked("--replay", str(part), "--against", "H20")[0] == INCONCLUSIVE


def test_what_a_broken_run_showed_still_fails_the_gpu(fake_run: Measure) -> None:
    slow = H20 | {"rates": H20["rates"] | {"memory.read": 0.5}}
    code, line = asked("--replay", str(fake_run(**slow, die_at="tensor.bf16")), "--against", "H20")
    assert code == DIFFERS
    assert line["complete"] is False


def slower(**factors: float) -> dict[str, object]:
    """The genuine H20 with these rates times a factor; "memory" is all access patterns."""
    rates = dict(H20["rates"])  # type: ignore[call-overload]
    for name in rates:
        rates[name] *= factors.get(name, factors.get(name.split(".")[0], 1.0))
    return {**H20, "rates": rates}


@pytest.mark.parametrize(
    ("model", "against", "code", "why"),
    [
        (H20, "H20", CONFORMS, ""),
        ({**H20, "sm_count": 77}, "H20", DIFFERS, "count.sm"),
        (slower(**{"tensor.bf16": 0.97}), "H20", DIFFERS, "tensor.bf16"),
        (slower(**{"vector.fp32": 0.97}), "H20", DIFFERS, "vector.fp32"),
        (slower(memory=0.95), "H20", DIFFERS, "memory."),
        (slower(memory=0.75), "H20", DIFFERS, "memory."),
        (slower(**{"tensor.bf16": 4.0}), "H20", DIFFERS, "above: tensor.bf16"),
        ({**H20, "name": "FAKE H100 80GB HBM3", "pci_device_id": "10de:2330"}, "H100-SXM", DIFFERS, "count.sm"),
    ],
    ids=["genuine", "an SM short", "slow tensor", "slow vector", "slow memory", "bus", "uncapped", "posing"],
)
def test_the_four_kernels_catch_the_selftests_faults(
    fake_run: Measure, model: dict[str, object], against: str, code: int, why: str
) -> None:
    """Each of selftest.CASES that must fail a GPU, by the four kernels alone."""
    record = fake_run(options=("-k", gate.WORDS), **model)
    found, line = asked("--replay", str(record), "--against", against)
    assert found == code, line
    assert why in str(line["reason"])


def test_the_named_device_is_cudas_and_pinned_by_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES=1,0 makes the second GPU of the node CUDA's device 0."""
    found = [GPU | {"uuid": "GPU-FAKE-0", "ordinal": "0"}, GPU]
    monkeypatch.setattr(jobs, "gpus_here", lambda: jobs.visible(found, "1,0"))
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); sys.exit(4)"
    monkeypatch.setattr(gate, "command", lambda *_: [sys.executable, "-c", code, str(tmp_path / "seen")])
    for device, uuid in (("0", "GPU-FAKE-1"), ("1", "GPU-FAKE-0")):
        status, line = asked("--device", device)
        assert (status, line["uuid"]) == (NO_GPU, uuid)
        assert (tmp_path / "seen").read_text() == uuid
    assert asked("--device", "2")[0] == NO_GPU


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


def test_the_textfile_is_openmetrics_and_prometheus_text_at_once(tmp_path: Path) -> None:
    from prometheus_client.openmetrics import parser as openmetrics
    from prometheus_client.parser import text_string_to_metric_families

    target = tmp_path / "gpuassay.prom"
    asked("--replay", "reference", "--textfile", str(target))
    text = target.read_text()
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text)}
    samples = [sample for family in families.values() for sample in family.samples]
    plain = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert [(s.name, s.labels, s.value) for s in plain] == [(s.name, s.labels, s.value) for s in samples]
    # What else OpenMetrics knows, node_exporter refuses with the whole file.
    assert {family.type for family in families.values()} == {"gauge"}
    assert all(sample.timestamp is None and sample.exemplar is None for sample in samples)
    assert families["gpuassay_gate_exit_code"].samples[0].value == INCONCLUSIVE
    assert families["gpuassay_metric"].samples
    assert list(tmp_path.iterdir()) == [target]


def test_node_exporter_reads_the_textfile(tmp_path: Path) -> None:
    name = next((found for n in ("node_exporter", "prometheus-node-exporter") if (found := shutil.which(n))), None)
    if name is None:
        pytest.skip("no node_exporter here")
    asked("--replay", "reference", "--textfile", str(tmp_path / "gpuassay.prom"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={tmp_path}"]
    with subprocess.Popen([name, *options, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL) as exporter:
        try:
            text = fetched(f"http://{address}/metrics")
        finally:
            exporter.kill()
    assert "node_textfile_scrape_error 0" in text
    assert 'gpuassay_gate_exit_code{part="NVIDIA H100 80GB HBM3"' in text


def fetched(url: str) -> str:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found: bytes = answer.read()
            return found.decode()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(url)


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
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1
        assert {"name", "image"} <= set(container)


def test_the_kubernetes_job_passes_its_models() -> None:
    """Types and required fields, as the Python client of Kubernetes has them; kubectl asks a cluster for its schema."""
    client = pytest.importorskip("kubernetes.client")
    import yaml

    client.V1Job.from_dict(yaml.safe_load((EXAMPLES / "kubernetes-job.yaml").read_text()))
