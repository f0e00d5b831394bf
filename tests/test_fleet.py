"""A fleet's run on a real Dask cluster on loopback: simulated GPUs, workers that die, runs that go on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import H20

from gpuassay import read
from gpuassay.cli import cli
from gpuassay.fleet import job as jobs
from gpuassay.fleet import run as fleet
from gpuassay.fleet import simulate
from gpuassay.fleet.store import Store, StoreError, replace_file

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
    return Counter((row["metric"], row["verdict"]) for row in rows_in(store) if row["run_id"] in counted)


def rows_in(store: Store) -> list[dict[str, Any]]:
    """As anybody reads them: a Parquet dataset partitioned as Hive does."""
    import pyarrow.dataset as ds

    found: list[dict[str, Any]] = ds.dataset(store.rows, format="parquet", partitioning="hive").to_table().to_pylist()
    return found


def test_killed_workers_lose_no_record_and_resume_completes(tmp_path: Path, client: Any) -> None:
    whole = Store.create(tmp_path / "whole")
    assert fleet.run(plan_of(whole.path, 24), whole, client, WORKERS)["ok"] == 24

    store, chance, finished = Store.create(tmp_path / "killed"), random.Random(5), []

    def kill(done: int, of: int, status: dict[str, Any]) -> None:
        if status["state"] == "ok":
            finished.append(status)
        if done in (3, 9, 14):
            # A nanny whose process dies before it has registered gives up: that is Dask's, and not tried here.
            pids = [nanny.pid for nanny in client.cluster.workers.values() if nanny.pid and nanny.worker_address]
            os.kill(chance.choice(pids), signal.SIGKILL)

    counts = fleet.run(plan_of(store.path, 24, simulated_s=0.05), store, client, WORKERS, kill)
    assert counts["ok"] + counts["failed"] == 24
    assert counts["ok"] >= 18
    for status in finished:
        assert read(store.records / status["record"]).claims["uuid"] == status["uuid"]
    client.wait_for_workers(1, timeout=30)
    again = fleet.run(plan_of(store.path, 24), store, client, 1)
    assert again["ok"] == 24 - counts["ok"]
    assert totals(store) == totals(whole)
    assert fleet.run(plan_of(store.path, 24), store, client, 1)["ok"] == 0


def test_a_killed_client_and_scheduler_lose_no_record_and_resume_completes(tmp_path: Path) -> None:
    """The command line's own process holds both; its workers go when it is gone."""
    gpus = 30
    store = Store(tmp_path / "s")
    words = ["-m", "gpuassay", "fleet", "run", "--simulate", str(gpus), "--against", "H20", "--out", str(store.path)]
    code = f"import os; os.cpu_count = lambda: {WORKERS}; import runpy, sys; sys.argv = ['gpuassay', *sys.argv[3:]]; "
    code += "__name__ == '__main__' and runpy.run_module('gpuassay', run_name='__main__')"
    command = [sys.executable, "-c", code, *words]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(status["state"] == "ok" for status in store.statuses()) < 5:
        assert child.poll() is None, "it ended by itself"
        time.sleep(0.01)
    child.kill()
    child.wait()
    finished = {s["key"]: s["run_id"] for s in store.statuses() if s["state"] == "ok"}
    assert 5 <= len(finished) < gpus
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode in (0, 1, 3), again.stderr
    last = {status["key"]: status for status in store.statuses()}
    assert {status["state"] for status in last.values()} == {"ok"}
    assert len(last) == gpus
    assert all(last[key]["run_id"] == run_id for key, run_id in finished.items())
    assert all(read(store.records / s["record"]).claims["uuid"] == s["uuid"] for s in last.values())
    whole = Store.create(tmp_path / "whole")
    for gpu in simulate.gpus(gpus):
        jobs.assay({**a_job(whole), **gpu, "key": f"{gpu['uuid']}.alone"})
    assert totals(store) == totals(whole)


def test_dasks_own_dashboard_shows_the_progress(client: Any) -> None:
    pytest.importorskip("bokeh")
    import urllib.request

    with urllib.request.urlopen(client.dashboard_link, timeout=30) as answer:
        page = answer.read().decode()
    assert answer.status == 200
    assert "render_items" in page  # Bokeh's plots; without Bokeh it is a page that asks for it
    # It counts tasks by the first word of their keys: one bar per phase, whatever the GPUs are called.
    from dask.utils import key_split

    keys = ("alone-GPU-5d5ba0d6-c33d-2b2c-524d-9e3d8d2b8a77-0a1b2c3d", "alone-GPU-0f5ba0d6-1b2c3d4e")
    assert {key_split(key) for key in keys} == {"alone-GPU"}


def test_everything_simulated_says_so(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    status = jobs.assay(a_job(store))
    assert status["simulated"]
    record = read(store.records / status["record"])
    assert record.run["simulated"]
    assert "SIMULATED" in record.claims["name"]
    assert {row["source"] for row in record.claim_rows} == {"SIMULATED"}
    rows = rows_in(store)
    assert len(rows) >= simulate.METRICS
    assert all(row["simulated"] and row["node"] == "simulated-00000" and row["date"] for row in rows)


def a_job(store: Store, **rest: Any) -> dict[str, Any]:
    (gpu,) = simulate.gpus(1)
    job = {"store": str(store.path), "key": "k.alone", "phase": "alone", "profile": "quick", "against": "H20"}
    return {**job, "limit_s": 60.0, "simulated_s": 0.0, "campaign": "c", **gpu, **rest}


def test_slurm_and_its_options_stand_in_the_job_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    asked: list[int] = []
    monkeypatch.setattr("dask_jobqueue.SLURMCluster.scale", lambda self, jobs: asked.append(jobs))
    options = {"nodes": "4", "gpus": "8", "queue": "gpu", "account": "acceptance", "walltime": "01:02:03"}
    with fleet.batch("slurm", {**options, "memory": "48GB", "directives": "--constraint=h20"}) as cluster:
        lines = cluster.job_script().splitlines()
        assert asked == [4]
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    wanted = {"-p gpu", "-A acceptance", "-t 01:02:03", "--gpus-per-node=8", "--exclusive", "--constraint=h20"}
    assert wanted | {"-n 1", "--cpus-per-task=8", "--mem=45G"} <= set(directives)  # 48 GB, rounded up to GiB
    worker = lines[-1]
    for part in ("--nthreads 1", "--nworkers 8", "--nanny", f"--preload {fleet.PRELOAD}"):
        assert part in worker, worker


def test_pbs_and_its_options_stand_in_the_job_script(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    asked: list[int] = []
    monkeypatch.setattr("dask_jobqueue.PBSCluster.scale", lambda self, jobs: asked.append(jobs))
    options = {"nodes": "4", "gpus": "8", "queue": "gpu", "account": "acceptance", "walltime": "01:02:03"}
    with fleet.batch("pbs", {**options, "directives": "-m n"}) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler.allowed_failures == 1
        assert cluster.scheduler.no_workers_timeout == 120
    assert asked[0] == 4  # and none when it closes
    lines = {line.removeprefix("#PBS ") for line in script.splitlines() if line.startswith("#PBS")}
    assert {"-q gpu", "-A acceptance", "-l walltime=01:02:03", "-l place=excl"} <= lines
    assert "-l select=1:ncpus=8:ngpus=8:mem=32GB" in lines
    assert f"--preload {fleet.PRELOAD}" in script


def test_slurm_counts_are_numbers() -> None:
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(fleet.FleetError, match="whole numbers"):
        fleet.batch("slurm", {"nodes": "four"})


def test_a_real_gpus_way_from_child_to_store_and_resume(
    tmp_path: Path, fake_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is the command line itself; only what measures is replaced, by a fake GPU's record."""
    whole = fake_run(**H20)
    monkeypatch.setattr(jobs, "command", lambda job: [sys.executable, "-c", CHILD, str(whole), *FULL(job)[4:]])
    store = Store.create(tmp_path / "s")
    status = jobs.assay(real_job(store))
    assert (status["state"], status["overall"], status["attempt"]) == ("ok", "conforms", 1)
    assert status["run_id"] == read(store.records / status["record"]).run["run_id"]
    rows = rows_in(store)
    assert {row["run_id"] for row in rows} == {status["run_id"]}
    assert next(row for row in rows if row["metric"] == "memory.read")["value"] > 0
    monkeypatch.setattr(jobs, "command", lambda job: [sys.executable, "-c", "raise SystemExit(9)"])
    assert jobs.assay(real_job(store, campaign="resumed"))["run_id"] == status["run_id"]  # not measured again
    plan = fleet.Plan(store=store.path, against="H20")
    gpus = {"w1": {"uuid": "A", "node": "n", "slot": "0"}, "w2": {"uuid": "B", "node": "n", "slot": "1"}}
    store.set_status("A.alone", **{k: v for k, v in status.items() if k != "key"} | {"uuid": "A"})
    assert [job["key"] for job in fleet.jobs_of(plan, store, gpus, "c2")] == ["B.alone"]


FULL = jobs.command
CHILD = """
import shutil, sys
from pathlib import Path
from gpuassay import claims, cli, cli_shared, verify
whole = Path(sys.argv.pop(1))
claims.device_count, claims.nvml_claims = lambda: 1, lambda index: []
def measure(*, out, part, **rest):
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(whole, out))
verify.measure = measure
cli.cli()
"""


def real_job(store: Store, **rest: Any) -> dict[str, Any]:
    job = a_job(store, **rest)
    del job["index"]
    return job


def test_a_fleets_way_costs_about_as_much_as_plain_verify(tmp_path: Path, fake_run: Callable[..., Path]) -> None:
    """CPU seconds of a fresh worker's task beside those of the same `verify` by itself; time on the GPU is in neither.

    The worker judges the record and writes its row, and loads the libraries for that: 1.3 s more, and twice of it on a
    host under load. `pytest tests/test_fleet.py -k plain_verify -s` prints them.
    """
    whole = fake_run(**H20)
    store = Store.create(tmp_path / "s")
    job = real_job(store)
    plain = [sys.executable, "-c", CHILD, str(whole), *FULL({**job, "store": str(tmp_path / "plain")})[4:]]
    worker = "import json, sys; from gpuassay.fleet import job as jobs; child = json.loads(sys.argv[1]); "
    worker += "jobs.command = lambda job: child; print(jobs.assay(json.loads(sys.argv[2]))['state'])"
    child = [sys.executable, "-c", CHILD, str(whole), *FULL(job)[4:]]
    spent = [cpu_s(plain), cpu_s([sys.executable, "-c", worker, json.dumps(child), json.dumps(job)])]
    print(f"plain verify {spent[0]:.2f} s, the same in a fleet's worker {spent[1]:.2f} s of CPU")
    assert store.status("k.alone")["state"] == "ok"
    assert spent[1] < 3 * spent[0]


def cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


@pytest.mark.parametrize(("missing", "command"), [("distributed", "run"), ("pyarrow", "run"), ("pyarrow", "report")])
def test_a_missing_extra_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    arguments = ["run", "--simulate", "1", "--out"] if command == "run" else ["report"]
    done = CliRunner().invoke(cli, ["fleet", *arguments, str(tmp_path / "store")])
    assert done.exit_code == 2
    assert f"fleets need {missing}: pip install" in done.stderr
    assert not (tmp_path / "store").exists()
