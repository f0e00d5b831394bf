"""A store's rows sorted by metric on disk, so that a report holds the rows of a few metrics at a time.

A store has one small file per GPU: to read them once per metric would open each forty times over.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .store import SENSORS, Store

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("metric", "unit", "verdict", "reason", "value", "per_clock", "throttled", *SENSORS)
OF_STATUS = ("phase", "uuid", "part", "node")  # the same for all rows of a run
FAILED = ("below", "above")  # of these verdicts alone a report says the reason
ROWS_AT_ONCE = 400_000  # 10,000 GPUs of 40 metrics; some hundred bytes each


class Spill:
    """The rows of the runs that count, a file per metric, in a directory that goes when the `with` ends."""

    def __init__(self, folder: Path, statuses: list[dict[str, Any]]) -> None:
        import pandas as pd

        self._folder = folder
        self._places: dict[str, Path] = {}
        self._rows: dict[str, int] = {}
        self._of_status = {
            name: pd.Categorical([str(status.get(name) or "") for status in statuses]) for name in OF_STATUS
        }
        self._runs = {s["run_id"]: place for place, s in enumerate(statuses) if s["state"] == "ok"}

    def groups(self) -> Iterator[list[str]]:
        """The metrics that have rows, by name; together at a time as many as ROWS_AT_ONCE allows."""
        group: list[str] = []
        for name in sorted(self._places):
            if group and sum(self._rows[n] for n in (*group, name)) > ROWS_AT_ONCE:
                yield group
                group = []
            group.append(name)
        if group:
            yield group

    def rows(self, metrics: list[str]) -> DataFrame:
        """All rows of these metrics. `run`: place among the statuses; `x`: what siblings are compared by."""
        import pandas as pd
        import pyarrow as pa

        table = pa.concat_tables([self._table(name) for name in metrics])
        for name in ("metric", "unit", "verdict"):
            encoded = table[name].combine_chunks().dictionary_encode()
            table = table.set_column(table.column_names.index(name), name, encoded)
        rows: DataFrame = table.to_pandas()
        for name, known in self._of_status.items():
            rows[name] = pd.Categorical.from_codes(known.codes[rows["run"]], dtype=known.dtype)
        # Per clock where work was counted by operations: the clock that a part chose is no property of its units.
        memory = rows["metric"].isin([name for name in metrics if name.startswith("memory.")])
        rows["by_clock"] = rows["per_clock"].notna() & ~memory
        rows["x"] = rows["per_clock"].where(rows["by_clock"], rows["value"])
        return rows

    def of_runs(self, runs: list[int]) -> Iterator[dict[str, Any]]:
        """The rows of the runs at these places among the statuses, by metric."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for name in sorted(self._places):
            table = self._table(name).select(["run", "metric", "value", "unit", "verdict"])
            yield from table.filter(pc.is_in(table["run"], value_set=pa.array(runs, pa.int32()))).to_pylist()

    def _table(self, metric: str) -> Any:
        import pyarrow as pa

        with pa.memory_map(str(self._places[metric])) as source:
            return pa.ipc.open_file(source).read_all()

    def write(self, store: Store) -> None:
        """Fills it. Raises OSError where the temporary directory is full, and StoreError."""
        import pyarrow as pa

        with contextlib.ExitStack() as stack:
            writers: dict[str, Any] = {}
            for table in self._chunks(store):
                for name, part in _by_metric(table):
                    if name not in writers:
                        # Names of metrics come from records: the file's name is a number.
                        self._places[name] = self._folder / f"{len(self._places)}.arrow"
                        writers[name] = stack.enter_context(pa.ipc.new_file(str(self._places[name]), part.schema))
                    writers[name].write_table(part)
                    self._rows[name] = self._rows.get(name, 0) + len(part)

    def _chunks(self, store: Store) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        for table in store.tables(self._runs.keys(), COLUMNS):
            ids = table["run_id"].combine_chunks().dictionary_encode()
            places = np.array([self._runs[run] for run in ids.dictionary.to_pylist()], np.int32)
            failed = pc.is_in(table["verdict"], value_set=pa.array(FAILED))
            reasons = pc.if_else(failed, table["reason"], None)
            table = table.set_column(table.column_names.index("reason"), "reason", reasons)
            yield table.append_column("run", pa.array(places[ids.indices])).drop_columns(["run_id"])


@contextlib.contextmanager
def by_metric(store: Store, statuses: list[dict[str, Any]]) -> Iterator[Spill]:
    """The rows of the runs that a status calls ok, sorted by metric. Raises OSError and StoreError."""
    with tempfile.TemporaryDirectory(prefix="gpuassay-report-") as folder:
        spill = Spill(Path(folder), statuses)
        spill.write(store)
        yield spill


def _by_metric(table: Any) -> Iterator[tuple[str, Any]]:
    import numpy as np

    metric = table["metric"].combine_chunks().dictionary_encode()
    codes = metric.indices.to_numpy(zero_copy_only=False)
    table = table.take(np.argsort(codes, kind="stable"))
    ends = np.cumsum(np.bincount(codes, minlength=len(metric.dictionary)))
    start = 0
    for name, end in zip(metric.dictionary.to_pylist(), ends.tolist(), strict=True):
        yield name, table.slice(start, end - start)
        start = end
