"""A fleet's run on a real Dask cluster on loopback: simulated GPUs, workers that die, runs that go on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuassay import read
from gpuassay.fleet import job as jobs
from gpuassay.fleet import run as fleet
from gpuassay.fleet import simulate
from gpuassay.fleet.store import Store, StoreError, replace_file

# Dask says these of workers that are killed on purpose, and of its own event loop at the end.
pytestmark = pytest.mark.filterwarnings("ignore")
WORKERS = 3


@pytest.fixture
def client() -> Iterator[Any]:
    from distributed import Client

    with fleet.local(WORKERS, simulated=True) as cluster, Client(cluster) as client:
        yield client


def plan_of(store: Path, gpus: int, **rest: Any) -> fleet.Plan:
    return fleet.Plan(store=store, against="H20", simulate=gpus, **rest)


def totals(store: Store) -> Counter[tuple[str, str]]:
    counted = {s["run_id"] for s in store.statuses() if s["state"] == "ok"}
    found: Counter[tuple[str, str]] = Counter()
    for batch in store.batches(["run_id", "metric", "verdict"]):
        for row in batch.to_pylist():
            if row["run_id"] in counted:
                found[row["metric"], row["verdict"]] += 1
    return found


def test_killed_workers_lose_no_record_and_resume_completes(tmp_path: Path, client: Any) -> None:
    whole = Store.create(tmp_path / "whole")
    assert fleet.run(plan_of(whole.path, 24), whole, client, WORKERS)["ok"] == 24

    store, chance, finished = Store.create(tmp_path / "killed"), random.Random(5), []

    def kill(done: int, of: int, status: dict[str, Any]) -> None:
        if status["state"] == "ok":
            finished.append(status)
        if done in (3, 9, 14):
            pids = [nanny.pid for nanny in client.cluster.workers.values() if nanny.pid]
            os.kill(chance.choice(pids), signal.SIGKILL)

    counts = fleet.run(plan_of(store.path, 24, simulated_s=0.05), store, client, WORKERS, kill)
    assert counts["ok"] + counts["failed"] == 24
    assert counts["ok"] >= 18
    for status in finished:
        assert read(store.records / status["record"]).claims["uuid"] == status["uuid"]
    client.wait_for_workers(WORKERS, timeout=30)
    again = fleet.run(plan_of(store.path, 24), store, client, WORKERS)
    assert again["ok"] == 24 - counts["ok"]
    assert totals(store) == totals(whole)
    assert fleet.run(plan_of(store.path, 24), store, client, WORKERS)["ok"] == 0


def test_everything_simulated_says_so(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    status = jobs.assay(a_job(store))
    assert status["simulated"]
    record = read(store.records / status["record"])
    assert record.run["simulated"]
    assert "SIMULATED" in record.claims["name"]
    assert {row["source"] for row in record.claim_rows} == {"SIMULATED"}
    rows = [row for batch in store.batches(["simulated", "part", "node", "date"]) for row in batch.to_pylist()]
    assert len(rows) >= simulate.METRICS
    assert all(row["simulated"] and row["node"] == "simulated-00000" for row in rows)


def a_job(store: Store, **rest: Any) -> dict[str, Any]:
    (gpu,) = simulate.gpus(1)
    job = {"store": str(store.path), "key": "k.alone", "phase": "alone", "profile": "quick", "against": "H20"}
    return {**job, "limit_s": 60.0, "simulated_s": 0.0, "campaign": "c", **gpu, **rest}


def real_job(store: Store, **rest: Any) -> dict[str, Any]:
    job = a_job(store, **rest)
    del job["index"]
    return job


def test_a_hanging_child_is_stopped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path / "s")
    monkeypatch.setattr(jobs, "command", lambda job: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(jobs.JobError, match=r"simulated-00000, GPU-SIMULATED-000000: no end after 0 s"):
        jobs.assay(real_job(store, limit_s=0.2))
    assert store.status("k.alone")["state"] == "failed"
    with pytest.raises(jobs.JobError):
        jobs.assay(real_job(store, limit_s=0.2))
    assert store.status("k.alone")["attempt"] == 2


def test_the_child_sees_its_gpu_only_and_its_refusal_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s")
    code = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr); sys.exit(4)"
    monkeypatch.setattr(jobs, "command", lambda job: [sys.executable, "-c", code])
    with pytest.raises(jobs.JobError, match="exit code 4: MIG-1234"):
        jobs.assay(real_job(store, uuid="MIG-1234"))


def test_visible_devices_are_indices_or_uuids() -> None:
    found = [{"uuid": "GPU-aaaa-1", "ordinal": "0"}, {"uuid": "MIG-bbbb-2", "ordinal": "1"}]
    assert jobs.visible(found, None) == found
    assert jobs.visible(found, "") == []
    assert jobs.visible(found, "1") == found[1:]
    assert jobs.visible(found, "GPU-aaaa, MIG-bbbb-2") == found
    assert jobs.visible(found, "1,0") == [found[1], found[0]]
    assert jobs.visible(found, "0,7,1") == found[:1]  # nothing after one that does not exist


def test_a_node_without_a_gpu_is_named(tmp_path: Path) -> None:
    from distributed import Client

    from gpuassay.claims import NoDriver, device_count

    with contextlib.suppress(NoDriver):
        if device_count():
            pytest.skip("this machine has a GPU")
    store = Store.create(tmp_path / "s")
    with (
        fleet.local(1) as cluster,
        Client(cluster) as client,
        pytest.raises(fleet.FleetError, match=r"no worker has a GPU: .*NVIDIA driver"),
    ):
        fleet.run(fleet.Plan(store=store.path), store, client, 1)


def test_stores_refuse_what_is_not_theirs(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    with pytest.raises(StoreError, match="--resume"):
        Store.create(store.path)
    with pytest.raises(StoreError, match="no fleet store"):
        Store.open(tmp_path)
    (store.path / "store.json").write_text(json.dumps({"schema": "gpuassay.fleet/9"}))
    with pytest.raises(StoreError, match=r"gpuassay\.fleet/9"):
        Store.open(store.path)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "x", b"data")
    assert list(tmp_path.iterdir()) == []
