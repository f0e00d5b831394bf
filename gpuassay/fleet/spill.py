"""A store's rows sorted by metric on disk, so that a report holds the rows of one metric at a time.

A store has one small file per GPU: to read them once per metric would open each forty times over.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    *("phase", "uuid", "part", "node", "metric", "unit", "verdict", "reason"),
    *("value", "per_clock", "throttled"),
)
CATEGORIES = ("phase", "uuid", "part", "node", "unit", "verdict")
SCORED = ("phase", "uuid", "unit", "verdict", "value", "z")
ROWS_AT_ONCE = 50_000


class Spill:
    """The counted rows, a file per metric, in a directory that goes when the `with` ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, Path] = {}

    def metrics(self) -> list[str]:
        """The metrics that have rows, by name."""
        return sorted(self._places)

    def rows(self, metric: str) -> DataFrame:
        """All rows of one metric; `x` is what siblings are compared by."""
        import pyarrow as pa

        with pa.memory_map(str(self._places[metric])) as source:
            table = pa.ipc.open_file(source).read_all()
            for name in CATEGORIES:
                table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
            rows: DataFrame = table.to_pandas()
        # Per clock where work was counted by operations: the clock that a part chose is no property of its units.
        if metric.startswith("memory."):
            rows["x"] = rows["value"]
        else:
            rows["x"] = rows["per_clock"].where(rows["per_clock"].notna(), rows["value"])
        return rows

    def keep_scored(self, metric: str, rows: DataFrame) -> None:
        """Keeps what `scored` gives back."""
        rows[list(SCORED)].reset_index(drop=True).to_feather(self._scored(metric))

    def scored(self, metric: str, uuids: Set[str]) -> DataFrame:
        """The kept rows of these GPUs."""
        import pandas as pd

        rows: DataFrame = pd.read_feather(self._scored(metric))
        return rows[rows["uuid"].isin(uuids)]

    def _scored(self, metric: str) -> Path:
        return self._places[metric].with_suffix(".feather")

    def _write(self, tables: Iterator[Any]) -> None:
        import pyarrow as pa

        with contextlib.ExitStack() as stack:
            writers: dict[str, Any] = {}
            for table in tables:
                for name, part in _by_metric(table):
                    if name not in writers:
                        # Names of metrics come from records: the file's name is a number.
                        self._places[name] = self._folder / f"{len(self._places)}.arrow"
                        writers[name] = stack.enter_context(pa.ipc.new_file(str(self._places[name]), part.schema))
                    writers[name].write_table(part)


@contextlib.contextmanager
def by_metric(store: Store, counted: Set[str]) -> Iterator[Spill]:
    """The rows of the runs `counted`, sorted by metric. Raises OSError where the temporary directory is full."""
    with tempfile.TemporaryDirectory(prefix="gpuassay-report-") as folder:
        spill = Spill(Path(folder))
        spill._write(_chunks(store, counted))
        yield spill


def _chunks(store: Store, counted: Set[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    runs = pa.array(sorted(counted), pa.string())
    pieces: list[Any] = []
    many = 0

    def chunk() -> Any:
        table = pa.Table.from_batches(pieces).combine_chunks()  # pieces are small
        return table.filter(pc.is_in(table["run_id"], value_set=runs)).select(COLUMNS)

    for batch in store.batches(("run_id", *COLUMNS)):
        pieces.append(batch)
        many += len(batch)
        if many >= ROWS_AT_ONCE:
            yield chunk()
            pieces.clear()
            many = 0
    if pieces:
        yield chunk()


def _by_metric(table: Any) -> Iterator[tuple[str, Any]]:
    import pyarrow.compute as pc

    table = table.sort_by("metric")
    start = 0
    for entry in pc.value_counts(table["metric"].combine_chunks()).to_pylist():  # in order of appearance
        yield entry["values"], table.slice(start, entry["counts"])
        start += entry["counts"]
