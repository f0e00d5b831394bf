"""Dask worker preload: this worker process takes one GPU of its node (`dask worker --preload gpuassay.fleet.worker`).

The GPU becomes a resource of the worker, named by its UUID, before the worker registers. The hold is a file lock: it
ends with the process, so that the worker which replaces a dead one takes its GPU.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import click

from .job import gpus_here, lock

_held = contextlib.ExitStack()


@click.command()
@click.option("--simulated", type=int, default=0, help="So many simulated holders instead of this node's GPUs.")
@click.option("--run", default="", help="Tells simulated holders of several runs apart.")
def dask_setup(worker: Any, simulated: int, run: str) -> None:
    """Takes the first GPU that no other worker holds; where none is left, notes why."""
    worker.gpuassay_gpu = gpu = _take(simulated, run)
    if "uuid" in gpu:
        worker.state.total_resources[gpu["uuid"]] = 1
        worker.state.available_resources[gpu["uuid"]] = 1


def _take(simulated: int, run: str) -> dict[str, str]:
    from gpuassay.claims import NoDriver

    try:
        found = [{"uuid": f"simulated-{run}-{n}", "slot": ""} for n in range(simulated)] or gpus_here()
    except NoDriver as error:
        return {"problem": str(error)}
    for gpu in found:
        with contextlib.suppress(BlockingIOError):
            _held.enter_context(lock(f"held-{gpu['uuid']}", wait=False))
            return {**gpu, "node": socket.gethostname()}
    return {"problem": f"{len(found)} GPU(s) here, each held by another worker: start one worker per GPU"}


def gpu_of_worker(dask_worker: Any) -> dict[str, str]:
    """What this worker took; runs on every worker."""
    none = {"problem": "this worker was started without --preload gpuassay.fleet.worker"}
    return {"host": socket.gethostname(), **getattr(dask_worker, "gpuassay_gpu", none)}


def unlike(client: dict[str, Any], worker: dict[str, Any]) -> str:
    """What of two sets of versions, as Dask's Client.get_versions gives them, must be the same and is not; or ""."""
    found = []
    for name in ("gpuassay", "distributed", "dask", "python"):
        ours, theirs = (str(side["packages"].get(name) or "none") for side in (client, worker))
        if name == "python":  # 3.12.4.final.0: what tasks are made of changes with the minor version
            ours, theirs = (".".join(text.split(".")[:2]) for text in (ours, theirs))
        if ours != theirs:
            found.append(f"{name} {theirs} where the client has {ours}")
    return ", ".join(found)
