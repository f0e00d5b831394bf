"""A fleet's run on Dask distributed, which schedules, transports and retries: one worker process per GPU.

A worker holds its GPU as a resource named by UUID, and the GPU's task asks for that resource: a retry, after an
exception or after the worker's death, comes to the same GPU and to no other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import job as jobs
from .store import Store, StoreError
from .worker import gpu_of_worker, unlike

PRELOAD = "gpuassay.fleet.worker"
RETRIES = 1
REGISTRATION_S = 60.0
QUEUED_S = 3600.0  # for a batch system to start the jobs
# How long a GPU's task waits for a worker that holds this GPU before it fails: a worker that died for good, or that
# came back without its GPU. Both are the scheduler's settings (distributed.yaml).
SETTINGS = {"distributed.scheduler.allowed-failures": RETRIES, "distributed.scheduler.no-workers-timeout": "120 s"}


class FleetError(Exception):
    """The run cannot be made. One sentence: what, and what to do."""


class SchedulerLost(FleetError):
    """The scheduler went away while GPUs were measured; what has finished is in the store."""


@dataclass(frozen=True)
class Plan:
    """What to do with every GPU."""

    store: Path
    profile: str = "quick"
    against: str | None = None
    together: bool = False
    limit_s: float = jobs.LIMITS_S["quick"]
    simulate: int | None = None
    simulated_s: float = 0.0

    @property
    def phases(self) -> tuple[str, ...]:
        """One at a time on each node, then, where asked for, all of a node at once."""
        return ("alone", "together") if self.together else ("alone",)


@contextlib.contextmanager
def local(workers: int, simulated: bool = False) -> Iterator[Any]:
    """A cluster on this machine's loopback: `workers` processes of one thread, restarted where they die."""
    import dask
    from distributed import LocalCluster

    from gpuassay.record import new_run_id

    options = ["--simulated", str(workers), "--run", new_run_id()[:8]] if simulated else []

    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port: `fleet run` prints the link
            memory_limit=0,
            preload=[PRELOAD],
            preload_argv=[options],
        ) as cluster,
    ):
        yield cluster


def batch(system: str, options: dict[str, Any]) -> Any:
    """A cluster of jobs of "slurm" or "pbs", one per node, with a worker process per GPU (dask-jobqueue).

    `options`: nodes, gpus (per node), and dask-jobqueue's own by its names (queue, account, walltime, memory, ...).
    Raises FleetError.
    """
    try:
        import dask
        import dask_jobqueue
    except ImportError as error:
        raise FleetError(f"--{system} needs dask-jobqueue: pip install 'gpuassay[fleet,slurm]'") from error
    options = dict(options)
    try:
        gpus, nodes = int(options.pop("gpus", 8)), int(options.pop("nodes", 1))
    except ValueError as error:
        raise FleetError(f"--{system} nodes=N and gpus=N are whole numbers: {error}") from error
    directives = options.pop("directives", "").split()
    options = {"cores": gpus, "memory": "32GB", **options}
    if system == "slurm":
        directives = [f"--gpus-per-node={gpus}", "--exclusive", *directives]
    else:
        # PBS has no option for GPUs: they stand in the chunk, which dask-jobqueue would make of cores and memory only.
        chunk = f"select=1:ncpus={options['cores']}:ngpus={gpus}:mem={options['memory']}"
        options = {"resource_spec": chunk, **options}
        directives = ["-l place=excl", *directives]
    made = {"slurm": dask_jobqueue.SLURMCluster, "pbs": dask_jobqueue.PBSCluster}[system]
    with dask.config.set(SETTINGS):
        cluster = made(
            **options,
            processes=gpus,
            nanny=True,
            worker_extra_args=["--preload", PRELOAD],
            job_extra_directives=directives,
        )
    cluster.scale(jobs=nodes)
    return cluster


def jobs_of(plan: Plan, store: Store, workers: dict[str, dict[str, str]], campaign: str) -> list[dict[str, Any]]:
    """A job per GPU and phase that the store lacks, alone before together."""
    gpus: list[dict[str, Any]]
    if plan.simulate is None:
        gpus = [gpu | {"resource": gpu["uuid"]} for gpu in workers.values() if "uuid" in gpu]
    else:
        from . import simulate

        holders = sorted(gpu["uuid"] for gpu in workers.values() if "uuid" in gpu)
        made = simulate.gpus(plan.simulate) if holders else []
        gpus = [
            gpu | {"resource": holders[place % len(holders)], "simulated_s": plan.simulated_s}
            for place, gpu in enumerate(made)
        ]
    done = {status["key"] for status in store.statuses() if status["state"] == "ok"}
    common = {
        "store": str(plan.store.absolute()),
        "profile": plan.profile,
        "against": plan.against,
        "limit_s": plan.limit_s,
        "campaign": campaign,
    }
    made_jobs = [
        {**common, **gpu, "phase": phase, "key": f"{gpu['uuid']}.{phase}"} for phase in plan.phases for gpu in gpus
    ]
    return [job for job in made_jobs if job["key"] not in done]


Said = Callable[[int, int, dict[str, Any]], None]


def run(
    plan: Plan,
    store: Store,
    client: Any,
    workers: int | None = None,
    said: Said | None = None,
    wait_s: float = REGISTRATION_S,
) -> dict[str, int]:
    """Runs what the store lacks on the cluster of `client`; returns the counts ok, failed, retried and unserved.

    `workers`: as many are waited for, up to `wait_s`, before GPUs are counted. `said(done, of, status)` is called after
    each GPU. Raises FleetError where no worker has a GPU, SchedulerLost, and OSError and StoreError of the store.
    """
    from gpuassay.record import new_run_id

    campaign = new_run_id()
    seen = served(client, workers, wait_s)
    store.set_workers(seen)
    if not any("uuid" in gpu for gpu in seen.values()):
        reasons = sorted({f"{gpu['host']}: {gpu['problem']}" for gpu in seen.values()})
        raise FleetError("no worker has a GPU: " + ("; ".join(reasons[:5]) or "no worker is there; start some"))
    counts = {"ok": 0, "failed": 0, "retried": 0, "unserved": sum("problem" in gpu for gpu in seen.values())}
    todo = jobs_of(plan, store, seen, campaign)
    done = 0
    for phase in plan.phases:  # all alone before any together
        for status in _finished(client, [job for job in todo if job["phase"] == phase], store):
            done += 1
            counts["ok" if status["state"] == "ok" else "failed"] += 1
            counts["retried"] += bool(status.get("retried"))
            if said:
                said(done, len(todo), status)
    store.pack()
    return counts


def served(client: Any, workers: int | None = None, wait_s: float = REGISTRATION_S) -> dict[str, dict[str, str]]:
    """address -> the GPU that the worker there serves (uuid, node, slot), or the problem why it serves none."""
    missing = 0
    if workers is not None:
        try:
            client.wait_for_workers(workers, timeout=wait_s)
        except TimeoutError:
            missing = workers - len(client.scheduler_info(n_workers=-1)["workers"])
    answers = client.run(gpu_of_worker, on_error="return")
    versions = client.get_versions(packages=["gpuassay"])
    seen: dict[str, dict[str, str]] = {}
    holders: dict[str, str] = {}
    for address, gpu in sorted(answers.items()):
        found = gpu if isinstance(gpu, dict) else {"host": address, "problem": f"gpuassay does not run there: {gpu}"}
        theirs = versions["workers"].get(address)
        name = found.get("uuid")
        if theirs and (difference := unlike(versions["client"], theirs)):
            found = _refused(found, f"its versions are unlike the client's: {difference}; install the same")
        elif name in holders:
            found = _refused(found, f"the worker {holders[name]} holds this GPU too: start one worker per GPU")
        elif name:
            holders[name] = address
        seen[address] = found
    for place in range(missing):
        problem = f"one of {workers} workers did not register within {wait_s:.0f} s"
        seen[f"missing-{place + 1}"] = {"host": "unknown", "problem": problem}
    return seen


def _refused(gpu: dict[str, str], problem: str) -> dict[str, str]:
    """A worker that is given nothing to do, and why; with the GPU that it holds."""
    names = ", ".join(gpu[name] for name in ("uuid", "slot") if gpu.get(name))
    return {"host": gpu["host"], "problem": f"{names}: {problem}" if names else problem}


def unset(client: Any) -> list[str]:
    """SETTINGS that the scheduler of somebody else lacks; empty where it has them all."""
    found: dict[str, Any] = client.run_on_scheduler(_settings)
    wanted = {
        "allowed-failures": found["allowed-failures"] == RETRIES,
        "no-workers-timeout": found["no-workers-timeout"],
    }
    return [name for name, there in wanted.items() if not there]


def _settings(dask_scheduler: Any) -> dict[str, Any]:
    """Runs on the scheduler."""
    return {
        "allowed-failures": dask_scheduler.allowed_failures,
        "no-workers-timeout": dask_scheduler.no_workers_timeout,
    }


def _finished(client: Any, todo: list[dict[str, Any]], store: Store) -> Iterator[dict[str, Any]]:
    """Every job's status as it ends. Raises SchedulerLost."""
    from distributed import CancelledError, as_completed
    from distributed.comm import CommClosedError

    futures = {
        client.submit(
            jobs.assay,
            job,
            key=f"{job['phase']}-{job['uuid']}-{job['campaign'][:8]}",  # Dask's dashboard counts by the first word
            resources={job["resource"]: 1},
            retries=RETRIES,
            pure=False,
        ): job
        for job in todo
    }
    for future in as_completed(list(futures)):
        job = futures.pop(future)
        try:
            # Waits once more where the result's worker has died since: Dask asks again, and the store knows.
            status = future.result()
        except (CancelledError, CommClosedError) as error:
            # Nobody knows how the job ended: its worker may be writing the result just now.
            raise SchedulerLost(
                "the scheduler is gone; what has finished is in the store: go on by --resume"
            ) from error
        except Exception as error:  # JobError, or Dask's: KilledWorker, NoValidWorkerError
            status = _failed(store, job, error)
        yield status
        future.release()


def _failed(store: Store, job: dict[str, Any], error: Exception) -> dict[str, Any]:
    """The status of a job that ended in failure, which a dead worker could not write itself."""
    found = store.status(job["key"])
    if found.get("state") == "ok":  # it finished, and died before it could say so
        return found
    reason, place = str(error), f"{job['node']}, {job['uuid']}"
    kind, attempt = type(error).__name__, RETRIES + 1
    if kind == "KilledWorker":
        reason = f"{place}: the worker died {attempt} times; look at the node's kernel log"
    elif kind in ("NoValidWorkerError", "NoWorkerError"):
        reason = f"{place}: no worker holds this GPU any more; look at the node, it or its GPU is gone"
        attempt = found.get("attempt", 0) if found.get("campaign") == job["campaign"] else 0
    elif not isinstance(error, jobs.JobError):
        reason = f"{place}: {reason}"
    fields = {name: job[name] for name in ("uuid", "node", "slot", "phase", "campaign")}
    fields |= {"state": "failed", "reason": reason, "retried": attempt > 1, "attempt": attempt}
    with contextlib.suppress(OSError):
        store.set_status(job["key"], **fields)
    return {"key": job["key"], **fields}


def open_store(path: Path, resume: bool) -> Store:
    """The store to write to. Raises StoreError."""
    if resume and not os.access(path, os.W_OK) and path.exists():
        raise StoreError(f"{path} cannot be written: check its permissions")
    return Store.open(path) if resume else Store.create(path)
