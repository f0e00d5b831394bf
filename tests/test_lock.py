"""One run per GPU: the lock, and what a second run is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuassay import lock, verify

HOLD = """
import sys
from gpuassay import lock
with lock.hold("GPU-1"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_held_gpu_is_refused_with_the_pid_of_its_holder(holder: subprocess.Popen[str]) -> None:
    with pytest.raises(lock.GpuBusy, match=f"process {holder.pid}") as caught, lock.hold("GPU-1"):
        pass
    assert caught.value.pid == holder.pid
    with lock.hold("GPU-2"):
        pass


def test_a_killed_holder_holds_nothing(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with lock.hold("GPU-1") as path:
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_is_free_after_its_context() -> None:
    for _ in range(2):
        with lock.hold("GPU-1"), pytest.raises(lock.GpuBusy), lock.hold("GPU-1"):
            pass


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_open_to_others_is_refused(runtime: Path, mode: int) -> None:
    (runtime / "gpuassay").mkdir()
    (runtime / "gpuassay").chmod(mode)
    with pytest.raises(lock.LockError, match=f"mode {mode:o}"), lock.hold("GPU-1"):
        pass


@pytest.mark.parametrize("what", ["directory", "file"])
def test_links_are_not_followed(runtime: Path, what: str) -> None:
    elsewhere = runtime / "elsewhere"
    if what == "directory":
        elsewhere.mkdir(mode=0o700)
        (runtime / "gpuassay").symlink_to(elsewhere)
    else:
        elsewhere.write_text("precious")
        (runtime / "gpuassay").mkdir(mode=0o700)
        (runtime / "gpuassay" / "GPU-1.lock").symlink_to(elsewhere)
    with pytest.raises(lock.LockError, match="remove"), lock.hold("GPU-1"):
        pass
    assert elsewhere.is_dir() or elsewhere.read_text() == "precious"


def test_a_uuid_is_no_path(runtime: Path) -> None:
    with lock.hold("../../evil\n") as path:
        assert path.parent == runtime / "gpuassay"


def test_without_a_runtime_directory_the_lock_is_named_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such/directory")
    assert lock.directory() == Path(f"/tmp/gpuassay-{os.getuid()}")


def test_a_second_run_is_refused_and_leaves_no_record(
    fake_run: Callable[..., Path], runtime: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_LOCKS", str(runtime))
    with lock.hold("GPU-FAKE"), pytest.raises(verify.NoUsableGpu):
        fake_run(fresh=True)
    assert f"being measured by another run (process {os.getpid()})" in capfd.readouterr().err
    assert not list(runtime.rglob("*.jsonl"))
