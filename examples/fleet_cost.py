"""What a fleet costs its scheduler: `python fleet_cost.py STORE GPUS [WORKERS]`, with simulated GPUs.

The real way, `fleet run --simulate` less the terminal: a LocalCluster of WORKERS processes (default 2), a task, a
record, a verdict and rows per GPU. Client and scheduler share this process, so that what it sends and receives counts
both ends of the connection between them; heartbeats are in it. No second of it is time on a GPU.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet  # noqa: F401  what the run's end loads: no cost per GPU
from distributed import Client
from distributed.comm import tcp

from gpuassay.fleet import run, simulate
from gpuassay.fleet.store import Store

sent, received = [], []


def count() -> None:
    """Counts the bytes of each message that Dask's TCP transport writes and reads in this process."""
    write, read = tcp.TCP.write, tcp.read_bytes_rw

    async def counted_write(self: Any, *arguments: Any, **options: Any) -> int:
        size: int = await write(self, *arguments, **options)
        sent.append(size)
        return size

    async def counted_read(stream: Any, n: int) -> Any:
        received.append(n)
        return await read(stream, n)

    tcp.TCP.write, tcp.read_bytes_rw = counted_write, counted_read


def main(store: Store, gpus: int, workers: int) -> None:
    """Runs, and prints each figure per GPU."""
    count()
    with run.local(workers, simulated=True) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers)
        sent.clear()
        received.clear()
        process = psutil.Process()
        resting, cpu, started = process.memory_info().rss, time.process_time(), time.monotonic()
        most = [resting]

        def said(done: int, of: int, status: dict[str, Any]) -> None:
            most.append(max(most.pop(), process.memory_info().rss))

        counts = run.run(run.Plan(store.path, against="H20", simulate=gpus), store, client, workers, said)
        cpu_s, wall_s = time.process_time() - cpu, time.monotonic() - started
    planted = sum(simulate.planted(index) is not None for index in range(gpus))
    print(f"{counts}, {planted} planted; {wall_s:.0f} s with {workers} workers; SIMULATED")
    for what, total, unit in (
        ("sent by the process of client and scheduler", sum(sent), "B"),
        ("messages sent", len(sent), ""),
        ("received by it", sum(received), "B"),
        ("its memory, most while tasks run over rest", most[0] - resting, "B"),
        ("its CPU time", 1e3 * cpu_s, "ms"),
        ("a worker's time", 1e3 * wall_s * workers, "ms"),
    ):
        print(f"{what}: {total / gpus:.1f} {unit} per GPU, {total:.6g} {unit} in all".replace("  ", " "))


if __name__ == "__main__":
    main(Store.create(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 2)
