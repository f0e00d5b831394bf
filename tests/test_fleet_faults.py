"""What goes wrong in a fleet: processes killed at random points, and input, nodes and disks that are not as they should
be. Each is named by node and GPU, the rest goes on, and the exit code says partial."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from test_fleet import a_job, plan_of, real_job, rows_in

from gpuassay import read
from gpuassay.cli import cli
from gpuassay.exit_codes import PARTIAL, USAGE
from gpuassay.fleet import job as jobs
from gpuassay.fleet import report, simulate
from gpuassay.fleet import run as fleet
from gpuassay.fleet.store import Store

WORKERS = 8
GPUS = 120
DEADLINE_S = 600.0  # it takes 35 s on two idle cores, five minutes beside much other work

CLUSTER = f"""
import sys, time
from gpuassay.fleet import run
if __name__ == "__main__":
    with run.local({WORKERS}, simulated=True) as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(3600)
"""


class Cluster:
    """A LocalCluster in a process of its own: the scheduler, and a process per worker."""

    def __init__(self, folder: Path) -> None:
        script = folder / "cluster.py"
        script.write_text(CLUSTER)
        self.scheduler = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.scheduler.stdout is not None
        self.address = self.scheduler.stdout.readline().strip()
        self.everybody = psutil.Process(self.scheduler.pid).children(recursive=True)
        self.workers = [child for child in self.everybody if any("spawn_main" in word for word in child.cmdline())]
        assert len(self.workers) == WORKERS

    def kill_scheduler(self) -> None:
        self.scheduler.kill()
        self.scheduler.communicate()
        _, alive = psutil.wait_procs(self.everybody, timeout=30)
        for child in alive:
            child.kill()


@pytest.mark.parametrize("seed", [20261125])
def test_workers_scheduler_and_client_killed_at_random_points_lose_nothing(tmp_path: Path, seed: int) -> None:
    """No finished record is lost, --resume completes, and the rows are those of a run without faults."""
    whole = Store.create(tmp_path / "whole")
    for gpu in simulate.gpus(GPUS):
        jobs.assay({**a_job(whole), **gpu, "key": f"{gpu['uuid']}.alone"})
    chance, store, deadline = random.Random(seed), Store(tmp_path / "s"), time.monotonic() + DEADLINE_S
    points = sorted(chance.sample(range(1, GPUS - 20), 6))
    faults = chance.sample(["worker", "worker", "worker", "client", "client", "scheduler"], 6)
    finished: dict[str, str] = {}

    def client(resume: bool) -> subprocess.Popen[str]:
        words = ["fleet", "run", "--scheduler", cluster.address, "--simulate", str(GPUS), "--against", "H20"]
        words += ["--out", str(store.path), *(["--resume"] if resume else [])]
        command = [sys.executable, "-m", "gpuassay", *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    cluster = Cluster(tmp_path)
    running = client(resume=False)
    try:
        for point, fault in zip(points, faults, strict=True):
            while len(finished) < point:
                assert time.monotonic() < deadline, "it stands still"
                assert running.poll() is None, running.communicate()[1]
                time.sleep(0.005)
                finished |= {s["key"]: s["run_id"] for s in store.statuses() if s["state"] == "ok"}
            if fault == "worker":
                cluster.workers.pop(chance.randrange(len(cluster.workers))).send_signal(signal.SIGKILL)
            elif fault == "client":
                running.kill()
                running.communicate()
                running = client(resume=True)
            else:
                cluster.kill_scheduler()
                errors = running.communicate(timeout=120)[1]
                assert running.returncode == PARTIAL, errors
                assert "go on by --resume" in errors.replace("\n", " ")
                cluster = Cluster(tmp_path)
                running = client(resume=True)
        errors = running.communicate(timeout=max(1.0, deadline - time.monotonic()))[1]
        if running.returncode == PARTIAL:  # a GPU whose worker was killed twice is reported, and tried again like this
            running = client(resume=True)
            errors = running.communicate(timeout=max(1.0, deadline - time.monotonic()))[1]
        assert running.returncode in (0, 1, 3), errors
    finally:
        running.kill()
        with running:  # closes its pipe, which may be read to its end already
            cluster.kill_scheduler()
    last = {status["key"]: status for status in store.statuses()}
    assert len(last) == GPUS
    assert {status["state"] for status in last.values()} == {"ok"}
    assert {key: last[key]["run_id"] for key in finished} == finished
    assert all(read(store.records / s["record"]).complete for s in last.values())
    assert told(store) == told(whole)
    assert report.build(store).pull == report.build(whole).pull


def told(store: Store) -> list[tuple[Any, ...]]:
    """All rows of the runs that count, less what tells one run from another."""
    counted = {status["run_id"] for status in store.statuses()}
    names = ("uuid", "node", "phase", "metric", "verdict", "value")
    return sorted(tuple(row[name] for name in names) for row in rows_in(store) if row["run_id"] in counted)


@contextmanager
def cluster_of(workers: int) -> Iterator[Any]:
    from distributed import Client

    with fleet.local(workers, simulated=True) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers)
        yield client


def asked(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["fleet", *arguments])
    return done.exit_code, " ".join(done.stderr.split())


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    code, said = asked("run", "--scheduler", "tcp://127.0.0.1:9", "--out", str(tmp_path / "s"))
    assert code == USAGE
    assert "the scheduler tcp://127.0.0.1:9 cannot be reached" in said


def test_workers_unlike_the_client_or_twice_on_a_gpu_or_without_one_are_named_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    with cluster_of(4) as client:
        other, twice, none, _ = addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        gpus = client.run(fleet.gpu_of_worker)
        client.run(_pose_as, version="0.0.1", workers=[other])
        client.run(_pose_as, gpu=gpus[addresses[3]], workers=[twice])
        client.run(_pose_as, gpu={"problem": "the driver is there, but no GPU"}, workers=[none])
        store = tmp_path / "s"
        scheduler = client.scheduler.address
        code, said = asked("run", "--scheduler", scheduler, "--simulate", "6", "--against", "H20", "--out", str(store))
    assert code == PARTIAL, said
    assert "gpuassay 0.0.1 where the client has" in said
    assert f"the worker {twice} holds this GPU too" in said or f"the worker {addresses[3]} holds this GPU too" in said
    assert "the driver is there, but no GPU" in said
    for address in (other, none):
        assert f"worker {address}" in said
    assert gpus[other]["uuid"] in said
    assert "6 measured, 0 failed" in said
    assert "the scheduler has not" not in said
    found = report.build(Store.open(store))
    assert len(found.unserved) == 3
    assert "Workers that measured nothing" in report.render(found, "md")


def _pose_as(dask_worker: Any, version: str | None = None, gpu: dict[str, str] | None = None) -> None:
    from distributed import versions

    if version:
        real = versions._version_cached  # what Dask asks importlib.metadata by
        versions._version_cached = lambda name: version if name == "gpuassay" else real(name)
    if gpu:
        dask_worker.gpuassay_gpu = {k: v for k, v in gpu.items() if k != "host"}


def test_a_gpu_whose_worker_never_comes_back_fails_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the node went down: no worker holds that GPU any more."""
    monkeypatch.setitem(fleet.SETTINGS, "distributed.scheduler.no-workers-timeout", "3 s")
    store = Store.create(tmp_path / "s")
    with cluster_of(2) as client:
        gone = sorted(client.scheduler_info(n_workers=-1)["workers"])[0]
        holder = client.run(fleet.gpu_of_worker)[gone]["uuid"]
        retire = threading.Thread(target=client.retire_workers, args=([gone],), daemon=True)

        def said(done: int, of: int, status: dict[str, Any]) -> None:
            if done == 1:
                retire.start()

        counts = fleet.run(plan_of(store.path, 10, simulated_s=0.5), store, client, 2, said)
    assert counts["ok"] + counts["failed"] == 10
    assert counts["failed"] >= 1
    lost = [status for status in store.statuses() if status["state"] == "failed"]
    assert len(lost) == counts["failed"]
    assert holder
    for status in lost:
        assert f"{status['node']}, {status['uuid']}: no worker holds this GPU any more" in status["reason"]


def test_a_full_disk_is_named_by_node_and_gpu_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The rows of the second node lie on a file system of 64 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if os.getuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        (small / "filling").write_bytes(bytes(60 * 1024))
        place = tmp_path / "s" / "rows" / "part=SIMULATED-NVIDIA-H20"
        store = Store.create(tmp_path / "s")
        place.mkdir(parents=True)
        (place / "node=simulated-00001").symlink_to(small)
        code, said = asked("run", "--simulate", "10", "--against", "H20", "--resume", "--out", str(store.path))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    states = {s["uuid"]: s for s in store.statuses()}
    assert code == PARTIAL
    for index in range(10):
        status = states[f"GPU-SIMULATED-{index:06d}"]
        assert status["state"] == ("ok" if index < 8 else "failed")
    for index in (8, 9):
        assert f"failed: simulated-00001, GPU-SIMULATED-{index:06d}: [Errno 28] No space left on device" in said
    # With space again, --resume completes it.
    (place / "node=simulated-00001").unlink()
    assert asked("run", "--simulate", "10", "--against", "H20", "--resume", "--out", str(store.path))[0] != PARTIAL


def test_a_disk_that_takes_no_status_either_still_names_node_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(jobs.JobError, match=r"simulated-00000, GPU-SIMULATED-000000: \[Errno 28\]"):
        jobs.assay(a_job(store))


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_store_of_another_schema_is_refused_by_both_commands(tmp_path: Path, command: str) -> None:
    store = Store.create(tmp_path / "s")
    (store.path / "store.json").write_text(json.dumps({"schema": "gpuassay.fleet/9"}))
    words = ["run", "--simulate", "1", "--resume", "--out"] if command == "run" else ["report"]
    code, said = asked(*words, str(store.path))
    assert code == USAGE
    assert "gpuassay.fleet/9" in said
    assert str(store.path) in said


def test_alone_is_one_at_a_time_on_a_node_and_together_is_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = tmp_path / "times"
    times.mkdir()
    code = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); a = time.monotonic(); time.sleep(1.0); "
    code += "p.write_text(f'{a} {time.monotonic()}'); sys.exit(9)"

    def command(job: dict[str, Any]) -> list[str]:
        return [sys.executable, "-S", "-c", code, str(times / f"{job['phase']}-{job['uuid']}")]

    monkeypatch.setattr(jobs, "command", command)
    store = Store.create(tmp_path / "s")
    overlaps = {}
    for phase in ("alone", "together"):
        ours = [real_job(store, phase=phase, key=f"{u}.{phase}", uuid=u) for u in ("GPU-a", "GPU-b")]
        threads = [threading.Thread(target=_refused, args=(jobs.assay, job)) for job in ours]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (a, b), (c, d) = (map(float, path.read_text().split()) for path in sorted(times.glob(f"{phase}-*")))
        overlaps[phase] = max(a, c) < min(b, d)
    assert overlaps == {"alone": False, "together": True}


def _refused(call: Callable[[dict[str, Any]], Any], job: dict[str, Any]) -> None:
    with pytest.raises(jobs.JobError, match="exit code 9"):
        call(job)
