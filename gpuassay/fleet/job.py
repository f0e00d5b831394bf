"""What a worker does for one GPU: measure in a child process pinned to it, judge, store."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .store import Store, slug

LIMITS_S = {"quick": 600.0, "standard": 1200.0, "full": 2400.0}  # ten minutes, and about three times the profile


class JobError(Exception):
    """This GPU could not be measured. One sentence: where, what, and what to do."""


@contextmanager
def lock(name: str, wait: bool = True) -> Iterator[IO[str]]:
    """An exclusive lock of this machine, which the kernel frees when its holder and its children are gone.

    Raises BlockingIOError where it is taken and `wait` is false.
    """
    place = Path(tempfile.gettempdir()) / f"gpuassay-{os.getuid()}-{slug(name)}.lock"
    with place.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file


def assay(job: dict[str, Any]) -> dict[str, Any]:
    """Measures, judges and stores one GPU; returns its status. Raises JobError; the engine then tries once more.

    `job`: store, key, uuid, node, slot, phase ("alone" or "together"), profile, against, limit_s, and for a
    simulated GPU simulated_s (how long the measurement pretends to take) and index.
    """
    store = Store.open(Path(job["store"]))
    before = store.status(job["key"])
    if before.get("state") == "ok":  # finished by a worker that died before it could say so
        return before
    # A status of another campaign (--resume) is no attempt of this one.
    attempt = before["attempt"] + 1 if before.get("campaign") == job["campaign"] else 1
    common = {name: job[name] for name in ("uuid", "node", "slot", "phase", "campaign")} | {"attempt": attempt}
    try:
        store.set_status(job["key"], state="running", **common)
        path = _simulated(store, job) if "index" in job else _measured(store, job)
        return _judged(store, job, path, common)
    except Exception as error:
        reason = f"{job['node']}, {job['uuid']}: {error}"
        with contextlib.suppress(OSError):  # a full disk: the client writes the status then
            store.set_status(job["key"], state="failed", reason=reason, **common)
        raise JobError(reason) from error


def _judged(store: Store, job: dict[str, Any], path: Path, common: dict[str, Any]) -> dict[str, Any]:
    from gpuassay.verify import judge_record

    judgement = judge_record(path, job["against"])
    assert judgement.record is not None
    store.add_rows(judgement, job)
    found = {
        "state": "ok",
        "retried": common["attempt"] > 1,
        "run_id": judgement.record.run["run_id"],
        "record": path.name,
        "part": judgement.part,
        "overall": judgement.overall,
        "overall_delivered": judgement.overall_delivered,
        "summary": judgement.summary,
        "identity": [f.text for f in judgement.findings if f.code == "identity"],
        "findings": sorted({f.code for f in judgement.findings if f.severity != "info"}),
        "simulated": bool(judgement.record.run.get("simulated")),
        **common,
    }
    store.set_status(job["key"], **found)
    return {"key": job["key"], **found}


def _simulated(store: Store, job: dict[str, Any]) -> Path:
    from gpuassay.record import new_record_path, new_run_id

    from . import simulate

    time.sleep(job["simulated_s"])
    run_id = new_run_id()
    path = new_record_path(store.records, f"simulated {job['index']}", run_id)
    simulate.write(path, run_id, job, job["profile"])
    return path


def command(job: dict[str, Any]) -> list[str]:
    """The child that measures: plain `gpuassay verify` of the one GPU that it sees."""
    against = ["--against", job["against"]] if job["against"] else []
    out = str(Path(job["store"]) / "records")
    return [
        *(sys.executable, "-P", "-m", "gpuassay", "verify", "--json", "--device", "0"),
        *("--profile", job["profile"], "--out", out, *against),
    ]


def _measured(store: Store, job: dict[str, Any]) -> Path:
    """One GPU at a time on a node, unless all together is the question. The child holds the locks too: where this
    worker is killed, the retry waits until its child is gone."""
    with lock(job["uuid"]) as mine:
        if job["phase"] == "together":
            with lock(f"beside-{job['uuid']}") as other:
                text = _run(job, (mine.fileno(), other.fileno()))
        else:
            with lock("one-at-a-time") as other:
                text = _run(job, (mine.fileno(), other.fileno()))
    run_id = json.loads(text)["record"]["run_id"]
    (path,) = store.records.glob(f"*-{run_id[:8]}.jsonl")
    return path


def _run(job: dict[str, Any], locks: tuple[int, ...]) -> str:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": job["uuid"], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    child = subprocess.Popen(
        command(job),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        pass_fds=locks,
    )
    try:
        out, errors = child.communicate(timeout=job["limit_s"])
    except subprocess.TimeoutExpired as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise JobError(f"no end after {job['limit_s']:.0f} s, stopped; look at the GPU with nvidia-smi") from error
    if child.returncode not in (0, 1, 3):
        said = [line for line in errors.splitlines() if line.strip()] or ["nothing was printed"]
        raise JobError(f"verify ended with exit code {child.returncode}: {said[-1]}")
    return out


def gpus_here() -> list[dict[str, str]]:
    """This node's GPUs and MIG instances as CUDA numbers them: uuid, slot (PCI address), name, ordinal (of NVML).

    By PCI order, or in the order of CUDA_VISIBLE_DEVICES where it is set. Raises claims.NoDriver, pynvml.NVMLError.
    """
    from gpuassay.claims import mig_instances, open_nvml

    nvml, found = open_nvml(), []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            slot = str(nvml.nvmlDeviceGetPciInfo(handle).busId)
            parts = [uuid for _, uuid in mig_instances(nvml, handle)]
            uuids = parts or [str(nvml.nvmlDeviceGetUUID(handle))]
            name = str(nvml.nvmlDeviceGetName(handle))
            found += [{"uuid": uuid, "slot": slot, "name": name, "ordinal": str(index)} for uuid in uuids]
    finally:
        nvml.nvmlShutdown()
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(found: list[dict[str, str]], wanted: str | None) -> list[dict[str, str]]:
    """What a CUDA_VISIBLE_DEVICES of indices (by PCI order) or UUIDs (or their beginnings) leaves, in its order.

    CUDA's device n is the n-th entry, and an entry that names nothing hides those after it (CUDA programming guide,
    "CUDA environment variables").
    """
    if wanted is None:
        return found
    left: list[dict[str, str]] = []
    for name in re.split(r"\s*,\s*", wanted.strip()):
        these = [gpu for gpu in found if gpu["ordinal"] == name or (len(name) > 3 and gpu["uuid"].startswith(name))]
        if not these:
            break
        left += [gpu for gpu in these if gpu not in left]
    return left
