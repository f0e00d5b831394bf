"""Where a fleet's results lie: a directory that many workers write at once and anybody reads meanwhile.

    store.json                                       the schema
    records/*.jsonl                                  one run record per GPU and phase (gpuassay.record)
    rows/part=P/node=N/date=D/RUN_ID.parquet         one row per metric of that run
    packed.parquet                                   a copy of all rows in one file, made when a run has ended
    workers.json                                     what each Dask worker of the last run served, or why nothing
    status/KEY.json                                  one per GPU and phase: running, ok or failed, and why

Each file appears whole (temporary file, then os.replace). A run counts once its status says ok: rows whose run no ok
status names are left-overs of a worker that died between the two, and are not read.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Set
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gpuassay.untrusted import printable

if TYPE_CHECKING:
    from gpuassay.record import Record
    from gpuassay.verdict import Judgement

SCHEMA = "gpuassay.fleet/1"
PACK = "packed.parquet"
ROWS_AT_ONCE = 50_000  # some hundred bytes each
PARTITIONS = ("part", "node", "date")
STATUS_TEXTS = ("key", "uuid", "node", "slot", "phase", "state")
# For forty rows a file: dictionaries and statistics of each column cost more than they save, in bytes and in time.
PARQUET: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "store_schema": False}


class StoreError(Exception):
    """A directory that cannot serve as a store: what is wrong, and what to do."""


def replace_file(path: Path, data: bytes) -> None:
    """Writes `path` whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def slug(text: str) -> str:
    """`text` as one harmless file or partition name: anything but letters, digits, dot, _ and - becomes -."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "unnamed"


def records_url(store: Store, output: Path | None) -> str | None:
    """Where a page at `output` finds the store's records, as a relative URL.

    None where no link would hold: on standard output, and where neither the store lies below the page's folder nor the
    page in the store, since the two then move apart and the way between them tells of this machine's directories.
    """
    if output is None:
        return None
    folder, root = output.resolve().parent, store.path.resolve()
    if not (root.is_relative_to(folder) or folder.is_relative_to(root)):
        return None
    return quote(os.path.relpath(root / "records", folder))


class Store:
    """A fleet store at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records"
        self.rows = path / "rows"
        self.statuses_at = path / "status"

    @classmethod
    def create(cls, path: Path) -> Store:
        """A new store. Raises StoreError where something lies there already or cannot be written."""
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise StoreError(f"{path} exists: go on with it by --resume, or name another directory by --out")
            store = cls(path)
            for folder in (store.records, store.rows, store.statuses_at):
                folder.mkdir(parents=True, exist_ok=True)
            replace_file(path / "store.json", json.dumps({"schema": SCHEMA}).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"cannot write to {path}: {error.strerror}; choose another directory by --out") from error
        return store

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store at `path`. Raises StoreError where there is none, or one of another schema."""
        try:
            found = json.loads((path / "store.json").read_text(encoding="utf-8"))
            schema = found["schema"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{path} is no fleet store, it has no readable store.json: name what `fleet run` wrote"
            ) from error
        if schema != SCHEMA:
            raise StoreError(
                f"{path} has the schema {schema!r} and this gpuassay reads {SCHEMA!r}: "
                "use the version that wrote it, or run into a new store"
            )
        return cls(path)

    def set_status(self, key: str, **fields: Any) -> None:
        """Writes the status of one GPU and phase. Raises OSError."""
        text = json.dumps({"key": key, **fields}, allow_nan=False)
        replace_file(self.statuses_at / f"{slug(key)}.json", text.encode() + b"\n")

    def status(self, key: str) -> dict[str, Any]:
        """The status of one GPU and phase; empty where there is none yet, or none that can be read."""
        try:
            return _status(self.statuses_at / f"{slug(key)}.json")
        except StoreError:
            return {}

    def set_workers(self, workers: dict[str, dict[str, str]]) -> None:
        """Notes which GPU each worker serves, or why none. Raises OSError."""
        replace_file(self.path / "workers.json", json.dumps(workers, indent=1).encode() + b"\n")

    def unserved(self) -> list[str]:
        """The workers of the last run that measured nothing: node, address, and why. Raises StoreError."""
        path = self.path / "workers.json"
        try:
            found = json.loads(path.read_bytes())
            problems = ((gpu["host"], address, gpu["problem"]) for address, gpu in found.items() if "problem" in gpu)
            return [printable(f"{host}, worker {address}: {problem}") for host, address, problem in problems]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read: remove it, the next run writes it again") from error

    def statuses(self) -> Iterator[dict[str, Any]]:
        """All statuses, by key. Raises StoreError where one cannot be read."""
        for path in sorted(self.statuses_at.glob("*.json")):
            yield _status(path)

    def add_rows(self, judgement: Judgement, job: dict[str, Any]) -> int:
        """Writes the rows of one judged run; returns their number. Raises OSError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = list(rows_of(judgement, job))
        assert judgement.record is not None
        run = judgement.record.run
        place = self.rows / f"part={slug(judgement.part)}" / f"node={slug(job['node'])}" / f"date={run['started'][:10]}"
        table = pa.Table.from_pylist(rows, schema=row_schema())
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **PARQUET)
        replace_file(place / f"{slug(run['run_id'])}.parquet", sink.getvalue().to_pybytes())
        return len(rows)

    def tables(self, runs: Set[str], columns: Iterable[str]) -> Iterator[Any]:
        """The rows of these runs as pyarrow tables of about ROWS_AT_ONCE rows; null where a column is younger than a
        file. Raises StoreError."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = row_schema(("run_id", *columns))
        packed: set[str] = set()
        ids = pa.array(sorted(runs), pa.string())
        for table in _pieces(self.path / PACK, wanted):
            ours = table.filter(pc.is_in(table["run_id"], value_set=ids))
            packed.update(pc.unique(ours["run_id"]).to_pylist())
            yield ours
        pieces: list[Any] = []
        for path in self._row_files(runs - packed):
            pieces += _pieces(path, wanted)
            if sum(map(len, pieces)) >= ROWS_AT_ONCE:
                yield pa.concat_tables(pieces)
                pieces.clear()
        if pieces:
            yield pa.concat_tables(pieces)

    def _row_files(self, runs: Set[str]) -> Iterator[Path]:
        left = {f"{slug(run)}.parquet" for run in runs}
        for place in self.rows.glob("/".join(f"{name}=*" for name in PARTITIONS)) if left else ():
            yield from (place / name for name in left.intersection(os.listdir(place)))

    def pack(self) -> None:
        """Copies the rows of all finished runs into one file beside them, which readers open in place of thousands.

        Raises OSError and StoreError. The file appears whole; a run that is not in it is read from its own file.
        """
        import pyarrow.parquet as pq

        runs = {status["run_id"] for status in self.statuses() if status["state"] == "ok"}
        temporary = self.path / f".{PACK}.{secrets.token_hex(4)}.tmp"
        try:
            with pq.ParquetWriter(temporary, row_schema()) as writer:
                for table in self.tables(runs, row_schema().names[1:]):
                    writer.write_table(table)
            os.replace(temporary, self.path / PACK)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _pieces(path: Path, wanted: Any) -> Iterator[Any]:
    """A Parquet file's rows, with the fields `wanted`; nothing of a file that is not there. Raises StoreError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # File by file: pyarrow's dataset takes twice as long for files of forty rows, and keeps the footers of all.
    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted.names, use_threads=False):
                table = _fitted(pa.Table.from_batches([batch]), wanted)
                table.validate(full=True)  # a file from elsewhere may hold text that is no UTF-8
                if any(table[name].null_count for name in ("run_id", "metric") if name in wanted.names):
                    raise pa.ArrowInvalid("a row without a run or a metric")
                yield table
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # a column's name may be no UTF-8 either
        raise StoreError(
            f"{path} holds no rows that can be read ({error}): remove it and its GPU's file in status/, and "
            "`fleet run --resume` measures that GPU again"
        ) from error


def _fitted(table: Any, wanted: Any) -> Any:
    import pyarrow as pa

    if table.schema.equals(wanted):
        return table
    for field in wanted:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(wanted.names).cast(wanted)


def _status(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not all(isinstance(found[name], str) for name in STATUS_TEXTS):
            raise TypeError
        return {name: printable(value) if isinstance(value, str) else value for name, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{path} is no status that can be read: remove it, and `fleet run --resume` measures that GPU again"
        ) from error


TEXTS = (
    "run_id",
    "phase",
    "uuid",
    "slot",
    "driver",
    "sheet",
    "metric",
    "unit",
    "verdict",
    "delivered_verdict",
    "reason",
)
# What the board's sensors said while this metric was measured: means of the samples, and shares of them that the power
# or the temperature slowed down.
SENSORS = ("power_w", "temperature_c", "sm_clock_hz", "power_limited", "heat_limited")
NUMBERS = ("value", "standard_uncertainty", "per_clock", "share_of_limit", "throttled", *SENSORS)


@cache
def row_schema(columns: tuple[str, ...] | None = None) -> Any:
    """The columns of a row file, as rows_of gives them; or these of them."""
    import pyarrow as pa

    fields = [(name, pa.string()) for name in TEXTS] + [(name, pa.float64()) for name in NUMBERS]
    whole = pa.schema([*fields, ("simulated", pa.bool_())])
    return whole if columns is None else pa.schema([whole.field(name) for name in columns])


def rows_of(judgement: Judgement, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per metric of a judged run.

    `value` in the metric's SI unit; `standard_uncertainty` likewise, absolute, None where dispersion is unknown;
    `per_clock` work per clock and SM; `throttled` the share of samples with a reason to slow down for heat or power;
    SENSORS in W, degrees Celsius, Hz and shares.
    """
    from gpuassay.measured import measurements
    from gpuassay.uncertainty import combined

    record = judgement.record
    assert record is not None
    measured, sensed = dict(measurements(record)), sensors(record)
    for verdict in judgement.verdicts:
        found = measured.get(verdict.metric)
        known = found is not None and found.dispersion_known and found.rate is not None
        yield {
            "run_id": record.run["run_id"],
            "phase": job["phase"],
            "uuid": job["uuid"],
            "slot": job["slot"],
            "driver": str(record.claims.get("driver.version") or ""),
            "sheet": judgement.sheet.name,
            "metric": verdict.metric,
            "unit": verdict.unit,
            "verdict": verdict.verdict,
            "delivered_verdict": verdict.delivered_verdict,
            "reason": verdict.reason,
            "value": None if verdict.measured is None else float(verdict.measured),
            "standard_uncertainty": float(combined(found.terms)[0] * found.rate) if known and found else None,
            "per_clock": None if found is None or found.per_clock is None else float(found.per_clock),
            "share_of_limit": verdict.share_of_limit,
            "throttled": max((v for k, v in verdict.causes.items() if k not in IDLE_REASONS), default=0.0),
            "simulated": bool(record.run.get("simulated")),
            **sensed.get(verdict.metric, {}),
        }


# Clock-event reasons (nvml.h) that are no slow-down of a part at work.
IDLE_REASONS = ("GpuIdle", "ApplicationsClocksSetting", "SyncBoost", "DisplayClockSetting")
# ... and those of power and of heat. HwSlowdown (0x8) may be either.
POWER_REASONS, HEAT_REASONS = 0x04 | 0x80, 0x20 | 0x40


def sensors(record: Record) -> dict[str, dict[str, float]]:
    """metric -> SENSORS, as far as the record's telemetry tells; means over the time of the metric's rounds."""
    from gpuassay import sustained

    if record.run["samples"] != "kept":
        lines = ((line["metric"], line) for line in record.medians)
        return {name: {key: float(line[key]) for key in SENSORS if key in line} for name, line in lines}
    found: dict[str, dict[str, float]] = {}
    telemetry, rounds = record.telemetry(), sustained.plain(record.rounds())
    for name, group in rounds.groupby("metric") if len(telemetry) else ():
        stop = float((group["start_host_s"] + group["host_s"].fillna(0.0)).max())
        window = telemetry[telemetry["host_s"].between(float(group["start_host_s"].min()), stop)]
        masks = window["clock_event_reasons"].dropna().astype("int64")
        means = {
            "power_w": window["power_w"].mean(),
            "temperature_c": window["temperature_c"].mean(),
            "sm_clock_hz": window["sm_clock_hz"].mean(),
            "power_limited": (masks & POWER_REASONS > 0).mean(),
            "heat_limited": (masks & HEAT_REASONS > 0).mean(),
        }
        found[str(name)] = {key: float(value) for key, value in means.items() if value == value}
    return found
