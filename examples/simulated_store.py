"""Fills a fleet store with simulated rows: `python simulated_store.py STORE GPUS`, for measuring the report.

What `fleet run --simulate` writes, less the records: a status and a Parquet file per GPU, then all rows in one file.
Everything says SIMULATED.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpuassay.fleet import simulate
from gpuassay.fleet.store import PARQUET, Store, row_schema
from gpuassay.metrics import metric
from gpuassay.selftest import H20

PER_SM_AND_CLOCK = H20.sms * H20.max_clock_hz


def fill(store: Store, gpus: int) -> None:
    """Writes `gpus` statuses and row files, 1 % of the GPUs 3 % slow on one metric."""
    truths = simulate.truths()
    names = list(truths)
    rng = np.random.default_rng(simulate.SEED)
    x = np.array(list(truths.values())) * (1 + rng.normal(0, simulate.SPREAD, (gpus, len(names))))
    schema = row_schema()
    same: dict[str, object] = {"phase": "alone", "driver": "SIMULATED", "sheet": "H20", "verdict": "conforms"}
    same |= {"delivered_verdict": "conforms", "reason": "", "throttled": 0.0, "simulated": True}
    texts = {key: pa.array([value] * len(names)) for key, value in same.items()}
    texts |= {"metric": pa.array(names), "unit": pa.array([metric(name).unit for name in names])}
    by_clock = np.array([not name.startswith(("memory.", "pcie.")) for name in names])
    for gpu in simulate.gpus(gpus):
        index = gpu["index"]
        if bad := simulate.planted(index):
            x[index, names.index(bad)] *= simulate.BAD_FACTOR
        run_id = f"{index:032x}"
        values = pa.array(np.where(by_clock, x[index] * PER_SM_AND_CLOCK, x[index]))
        per_clock = pa.array(x[index])
        own = {key: pa.array([text] * len(names)) for key, text in (("run_id", run_id), ("uuid", gpu["uuid"]))}
        given = {**texts, **own, "slot": pa.array([gpu["slot"]] * len(names))}
        given |= {"value": values, "per_clock": per_clock}
        empty = pa.nulls(len(names), pa.float64())
        table = pa.table([given.get(field.name, empty) for field in schema], schema=schema)
        place = store.rows / "part=SIMULATED-H20" / f"node={gpu['node']}" / "date=2026-11-24"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place / f"{run_id}.parquet", **PARQUET)
        status: dict[str, object] = {"key": f"{gpu['uuid']}.alone", "state": "ok", "phase": "alone", "run_id": run_id}
        status |= {"uuid": gpu["uuid"], "node": gpu["node"], "slot": gpu["slot"], "part": "SIMULATED H20"}
        status |= {"overall": "conforms", "summary": "SIMULATED", "simulated": True, "record": f"{run_id}.jsonl"}
        (store.statuses_at / f"{status['key']}.json").write_text(json.dumps(status), encoding="utf-8")
    store.pack()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="a directory that does not exist yet")
    parser.add_argument("gpus", type=int)
    given = parser.parse_args()
    fill(Store.create(given.store), given.gpus)
