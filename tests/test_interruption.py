"""A run that is cut off: what was finished stays, whatever byte was the last."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gpuassay
from gpuassay import resume
from gpuassay.record import RecordError, RecordWriter

Measure = Callable[..., Path]
METRICS = {f"test_memory[{kind}]": f"memory.{kind}" for kind in ("read", "write", "copy", "triad")} | {
    "test_l2_read": "l2.read"
}


def lines_of(data: bytes, path: Path) -> int:
    """How many lines of the record are read back after a cut to `data`."""
    path.write_bytes(data)
    record = gpuassay.read(path)
    lines = (record.kernels, record.findings, record.not_measured, record.rounds(), record.telemetry())
    return 1 + bool(record.claims) + sum(map(len, lines)) + record.ended


def test_a_record_cut_at_any_byte_is_read_and_keeps_every_whole_line(fake_run: Measure, tmp_path: Path) -> None:
    """As a power cut leaves it, at 200 places behind its first line."""
    whole = fake_run().read_bytes()
    first = whole.index(b"\n") + 1
    places = random.Random(20261124).sample(range(first, len(whole) + 1), 199)
    for place in (*places, len(whole)):
        cut = whole[:place]
        assert lines_of(cut, tmp_path / "cut.jsonl") == cut.count(b"\n")


def test_lines_reach_the_disk_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    run = {
        "run_id": "0",
        "started": "2026-11-24T00:00:00Z",
        "instrument": "FAKE",
        "samples": "kept",
        "profile": None,
        "program": {"version": "0", "commit": None},
        "host": {"python": "", "platform": "", "packages": {}},
        "argv": [],
    }
    with RecordWriter(tmp_path / "run.jsonl") as writer:
        for kind, fields in (("run", run), ("not_measured", {"metric": "m", "reason": "r"})):
            writer.write(kind, **fields)
            assert synced[-1] == writer.path.stat().st_size
        before, one = len(synced), {"metric": "m", "toolchain": "numba", "index": 0, "work": 1.0, "work_unit": "B"}
        one |= {"event_s": 1.0, "host_s": 1.0, "globaltimer_s": None, "start_host_s": 1.0}
        writer.write_rounds([one | {"sm_id": [], "sm_cycles": [], "sm_work": [], "index": n} for n in range(30)])
        assert synced[before:] == [writer.path.stat().st_size]  # the rounds of a benchmark together


@pytest.mark.parametrize("where", ["before", "half written", "written"])
def test_an_interrupt_inside_a_write_breaks_no_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Ctrl-C raises between any two steps of a write; what is written later follows from the last whole line."""
    run = {"run_id": "0", "started": "2026-11-24T00:00:00Z", "instrument": "FAKE", "samples": "kept", "profile": None}
    host = {"python": "", "platform": "", "packages": {}}
    writer = RecordWriter(tmp_path / "run.jsonl")
    writer.write("run", **run, program={"version": "0", "commit": None}, host=host, argv=[])
    writer.write("not_measured", metric="first", reason="r")
    real = writer._file

    class Interrupted:
        """The file, whose next write somebody interrupts."""

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def write(self, data: memoryview) -> int:
            if where == "half written":
                real.write(data[:20])
            elif where == "written":
                real.write(data)
            raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_file", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        writer.write("not_measured", metric="interrupted", reason="r")
    monkeypatch.setattr(writer, "_file", real)
    writer.write("not_measured", metric="last", reason="r")
    writer.close("failed")
    record = gpuassay.read(writer.path)
    assert record.ended
    assert [line["metric"] for line in record.not_measured] == ["first", "last"]


@pytest.mark.parametrize("half", [b"", b'{"kind":"fin'])
def test_a_reopened_record_goes_on_as_if_nothing_had_been(fake_run: Measure, tmp_path: Path, half: bytes) -> None:
    whole = fake_run().read_bytes()
    path = tmp_path / "cut.jsonl"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:100]) + half)
    with RecordWriter.reopen(path) as writer:
        writer.write("not_measured", metric="m", reason="r")
    record = gpuassay.read(path)
    assert record.complete
    assert record.not_measured == [{"kind": "not_measured", "metric": "m", "reason": "r"}]
    with pytest.raises(RecordError, match="has its end mark"):
        RecordWriter.reopen(path)


@pytest.mark.parametrize("after_lines", [1, 60, 110])
def test_a_run_killed_outright_keeps_what_it_had(tmp_path: Path, after_lines: int) -> None:
    """SIGKILL to the process that measures, once the record has so many lines."""
    path = tmp_path / "run.jsonl"
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    plugins = ["-p", "pytest_benchmark.plugin", "-p", "gpuassay.plugin", "-p", "fake_gpu", "-p", "no:cacheprovider"]
    arguments = ["--pyargs", "gpuassay.suites.test_memory", "-m", "quick", f"--gpuassay-record={path}"]
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--import-mode=importlib", *plugins, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        seen, deadline = 0, time.monotonic() + 60
        while seen < after_lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
            seen = path.read_bytes().count(b"\n") if path.exists() else 0
        process.send_signal(signal.SIGKILL)
    data = path.read_bytes()
    assert data.count(b"\n") >= seen >= after_lines
    assert lines_of(data, tmp_path / "copy.jsonl") == data.count(b"\n")


def test_two_hundred_runs_killed_at_random_moments_lose_nothing_finished(tmp_path: Path) -> None:
    """SIGKILL at moments spread over a whole run. What a run said it had finished is in its record, every round."""
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])
    }
    told = subprocess.run(
        [sys.executable, str(here / "killed_runs.py"), str(tmp_path), "200", "20261124"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    whole, *runs = map(json.loads, told.stdout.splitlines())
    rounds = gpuassay.read(whole["record"]).rounds().groupby("metric").size()
    assert len(whole["finished"]) == len(rounds) == 5
    killed = [run for run in runs if run["killed"]]
    assert len(killed) > 150
    for run in killed:
        path = Path(run["record"])
        if not run["finished"] and (not path.exists() or b"\n" not in path.read_bytes()):
            continue  # killed before the record was begun
        kept = gpuassay.read(path)
        metrics = [METRICS[name] for name in run["finished"]]
        assert kept.rounds().groupby("metric").size().reindex(metrics).tolist() == rounds[metrics].tolist()
        assert {(metric, "cuda c++", None) for metric in metrics[:-1]} <= resume.done(path)
        # Its last line may be written while pytest has not yet told of the last benchmark, and the process is not gone.
        assert not kept.ended or set(kept.rounds()["metric"]) == set(rounds.index)
    finished = [len(run["finished"]) for run in killed]
    assert min(finished) == 0
    assert max(finished) >= 4


def waiting_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def processes_of(marker: str) -> list[str]:
    """Command lines of living processes that name `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in line:
                found.append(line)
    return found


@pytest.mark.parametrize(
    ("number", "whom", "code"),
    [
        (signal.SIGINT, "verify", 3),
        (signal.SIGINT, "both", 3),  # Ctrl-C at a terminal reaches the whole process group
        (signal.SIGTERM, "verify", 3),
        (signal.SIGKILL, "verify", -signal.SIGKILL),
    ],
)
def test_a_signal_ends_verify_and_resume_completes_it(
    tmp_path: Path, number: signal.Signals, whom: str, code: int
) -> None:
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "FAKE_GPU": json.dumps({"uuid": f"GPU-{tmp_path.name}"}),  # a lock of its own
    }
    out = tmp_path / "out"
    command = [sys.executable, str(here / "verify_on_fake.py"), "verify", "--out", str(out)]
    with subprocess.Popen(
        [*command, "--profile", "quick"], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        waiting_for(lambda: any(b'"kind":"round"' in path.read_bytes() for path in out.glob("*.jsonl")))
        (path,) = out.glob("*.jsonl")
        before = resume.done(path)
        (os.killpg if whom == "both" else os.kill)(process.pid, number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said
    waiting_for(lambda: not processes_of(str(out)))  # what measured ends with what asked for it
    cut = gpuassay.read(path)
    assert not cut.complete
    assert before <= resume.done(path)

    run = subprocess.run(
        [*command, "--resume", str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    (new,) = set(out.glob("*.jsonl")) - {path}
    assert gpuassay.read(new).complete
    assert set(cut.rounds()["metric"]) < set(gpuassay.read(new).rounds()["metric"])


def test_a_report_killed_at_any_moment_is_whole_or_not_there(tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and SIGINT, from before the first import to the end."""
    command = [sys.executable, "-m", "gpuassay", "report", "reference", "--format", "html", "-o"]
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole.html")], check=True, capture_output=True)
    whole_s = time.monotonic() - started
    whole = (tmp_path / "whole.html").read_bytes()
    rng = random.Random(20261125)
    for turn in range(6):
        path = tmp_path / f"{turn}.html"
        with subprocess.Popen([*command, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            time.sleep(rng.uniform(0, whole_s))
            process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[turn % 3])
            process.communicate(timeout=60)
        assert not path.exists() or len(path.read_bytes()) > 0.9 * len(whole)
        assert not path.exists() or path.read_bytes().rstrip().endswith(b"</html>")
