"""The run record: everything that one run saw, in one append-only JSON Lines file.

What stands in it, line by line, is in `gpuassay.record_format`; here it is written and read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import chain
from .record_format import (
    AUDIT_WORDS,
    CHAINED_SINCE,
    ROUND_COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    TELEMETRY_COLUMNS,
    LineError,
    check,
    parse,
)

if TYPE_CHECKING:
    from types import TracebackType

    from pandas import DataFrame

__all__ = [
    "AUDIT_WORDS",
    "MAX_BYTES",
    "ROUND_COLUMNS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "TELEMETRY_COLUMNS",
    "Record",
    "RecordChanged",
    "RecordError",
    "RecordWriter",
    "new_record_path",
    "new_run_id",
    "read",
    "read_lines",
    "utc_now",
]

MAX_BYTES = 1_000_000_000
"""Larger files are refused: a full run is a few MB, so a larger file is some other thing."""

_RESTORE = "measure again or restore it from a copy"


class RecordError(Exception):
    """A file that cannot be read as a run record: what is wrong, where, and what to do.

    Attributes:
        path: the file.
        line: the 1-based line number, or None where the whole file is meant.
    """

    def __init__(self, path: Path, what: str, line: int | None = None) -> None:
        self.path = path
        self.line = line
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {what}.")


class RecordChanged(RecordError):
    """A run record that was changed after it was written: its chain, its end mark or a broken line says so."""


# ---------------------------------------------------------------------------------------------
# Writing


def utc_now() -> str:
    """The time now, ISO 8601 in UTC with microseconds and a trailing Z."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_run_id() -> str:
    """A random run id: 32 hex digits."""
    return secrets.token_hex(16)


def new_record_path(directory: str | Path, part: str, run_id: str | None = None) -> Path:
    """A path for a new record: ``<UTC timestamp>-<part slug>-<run id prefix>.jsonl``.

    Args:
        directory: where runs land; need not exist yet.
        part: the device's name, for example "NVIDIA H100 80GB HBM3".
        run_id: the id that the ``run`` line will hold; a random one when None, which only
            keeps the name unique.

    The file is not created.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", part.lower())[:40].strip("-") or "gpu"
    prefix = re.sub(r"[^0-9A-Za-z]+", "", run_id or new_run_id())[:8]
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(directory) / f"{stamp}-{slug}-{prefix}.jsonl"


def _plain(value: object) -> object:
    """NumPy scalars and arrays as Python numbers and lists."""
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        result: object = tolist()
        return result
    raise TypeError(f"a {type(value).__name__} cannot stand in a run record")


@dataclass(frozen=True)
class _Written:
    """What stands in the file of a `RecordWriter`: digest of all of it, size, lines, the last one's chain."""

    sha256: hashlib._Hash
    size_bytes: int = 0
    lines: int = 0
    chain: str = ""


class RecordWriter:
    """Writes one new run record, line by line; a context manager, safe to use from many threads.

    The file is opened exclusively: an existing one is never touched (FileExistsError).  Missing
    directories are made.  Every line goes to the kernel in one piece as it is written and, except
    for telemetry, to the disk: what a killed run had finished stays readable.

    Leaving the context normally writes the end mark "complete", leaving it by an exception the
    end mark "failed", unless `close` was called before.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._written = _Written(hashlib.sha256())
        self._broken = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line handed over is a line that survives the death of this process.
        self._file = self.path.open("xb", buffering=0)
        _sync_directory(self.path.parent)

    @classmethod
    def reopen(cls, path: str | Path) -> RecordWriter:
        """Goes on with a record that has no end mark; half a line at its end is cut off.

        One process at a time may write a record: the caller sees to that.

        Raises:
            RecordError: no readable record, or one with an end mark.
        """
        found = read(path)
        if found.ended:
            raise RecordError(found.path, "the record has its end mark and takes no more lines")
        writer = cls.__new__(cls)
        writer.path = found.path
        writer._lock = threading.Lock()
        writer._broken = False
        writer._file = found.path.open("r+b", buffering=0)
        data = found.path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        writer._written = _Written(hashlib.sha256(data), len(data), data.count(b"\n"), found.chain)
        writer._cut()
        return writer

    def leave(self) -> None:
        """Closes the file without an end mark, for another process to go on with (`reopen`)."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close("complete")
            return
        # The exception that ended the run must reach the user, not one about its end mark.
        with contextlib.suppress(OSError, ValueError):
            self.close("failed")

    @property
    def closed(self) -> bool:
        """Whether the end mark was written or the file given up."""
        return self._file.closed

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line.

        Args:
            kind: a line kind of the module's docstring except "end"; the first must be "run".
            fields: the line's fields, in SI units; NumPy scalars and arrays are welcome.  The
                ``schema`` of a "run" line is filled in.

        Raises:
            ValueError: NaN or infinity, a missing or wrong field, a line out of order, a closed
                record.  Nothing is written then.
            TypeError: a value that JSON does not know.
            OSError: the disk refused; the record takes no further lines.
        """
        if kind == "end":
            raise ValueError("the end mark is written by close()")
        if "chain" in fields:
            raise ValueError("the field 'chain' is the record's own")
        if kind == "run":
            fields.pop("schema", None)
            fields = {"schema": SCHEMA, **fields}
        data = _dump(kind, fields)
        with self._lock:
            # Telemetry comes often and is no loss; everything else must survive a power cut.
            self._append(data, begins=kind == "run", synced=kind != "telemetry")

    def write_rounds(self, lines: list[dict[str, Any]]) -> None:
        """Append a benchmark's "round" lines, as `write` does; they reach the disk together, before this returns.

        On a network file system each wait for the disk costs milliseconds, and a run has thousands of rounds.
        """
        for place, fields in enumerate(lines, 1):
            data = _dump("round", fields)
            with self._lock:
                self._append(data, synced=place == len(lines))

    def close(self, status: str = "complete", finished: str | None = None) -> None:
        """Write the end mark and close the file; a second call does nothing.

        After an OSError from `write` no end mark follows, since the last line may be half there.

        Args:
            status: "complete" or "failed".
            finished: when the run ended, where that was not now: a copy's end is its original's.

        Raises:
            ValueError: another status, or "complete" for a record without its "run" line.
            OSError: the end mark could not be written; the file is closed all the same.
        """
        if status not in ("complete", "failed"):
            raise ValueError(f"a record's status is 'complete' or 'failed', not {status!r}")
        with self._lock:
            if self.closed:
                return
            try:
                if self._broken or (self._written.lines == 0 and status == "failed"):
                    return
                end = {
                    "finished": finished or utc_now(),
                    "status": status,
                    "lines": self._written.lines,
                    "sha256": self._written.sha256.hexdigest(),
                }
                self._append(_dump("end", end))
            finally:
                self._file.close()

    def _append(self, data: bytes, *, begins: bool = False, synced: bool = True) -> None:
        """Put one finished line into the file; the caller holds the lock. `begins`: it is the "run" line."""
        if self.closed:
            raise ValueError(f"the record {self.path} is closed")
        if self._broken:
            raise ValueError(f"the record {self.path} could not be written and takes no more lines")
        before = self._written
        if begins != (before.lines == 0):
            raise ValueError("the first line of a record, and no other, is its 'run' line")
        data, following = chain.chained(before.chain, data)
        sha256 = before.sha256.copy()
        sha256.update(data)
        try:
            self._cut()
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            if synced:
                os.fsync(self._file.fileno())
        except OSError:
            self._broken = True
            raise
        # In one step: Ctrl-C may come between any two.
        self._written = _Written(sha256, before.size_bytes + len(data), before.lines + 1, following)

    def _cut(self) -> None:
        """Takes from the file what an interrupted `_append` left: the next line follows from the last whole one."""
        if self._file.seek(0, os.SEEK_END) != self._written.size_bytes:
            self._file.truncate(self._written.size_bytes)
            self._file.seek(self._written.size_bytes)


def _sync_directory(directory: Path) -> None:
    """A new file survives a power cut only once its directory entry is on the disk too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems do not know it
        pass
    finally:
        os.close(descriptor)


def _dump(kind: str, fields: dict[str, Any]) -> bytes:
    """One line as bytes; ValueError where it would not be read back."""
    try:
        text = json.dumps({"kind": kind, **fields}, allow_nan=False, separators=(",", ":"), default=_plain)
        check(parse(text))
    except ValueError as error:
        raise ValueError(f"this '{kind}' line cannot be recorded: {error}") from error
    return text.encode("ascii") + b"\n"


# ---------------------------------------------------------------------------------------------
# Reading


@dataclass
class Record:
    """A run record in memory.

    Attributes:
        path: the file it came from.
        run: the ``run`` line.
        claims: quantity -> value; where several sources claim a quantity, the first one's.
        claim_rows: every claim as {"quantity", "value", "unit", "source"}, in file order.
        kernels, findings, not_measured, medians, audit: those lines, in file order.
        complete: whether the run ended as it should: an end mark is there and says "complete".
        ended: whether an end mark is there, whatever it says.
        problem: why it is not complete, one sentence; None where it is.
        chain: the last line's chain value, "" in formats 1 and 2, which have none.
    """

    path: Path
    run: dict[str, Any]
    claims: dict[str, Any] = field(default_factory=dict)
    claim_rows: list[dict[str, Any]] = field(default_factory=list)
    kernels: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    not_measured: list[dict[str, Any]] = field(default_factory=list)
    medians: list[dict[str, Any]] = field(default_factory=list)
    audit: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    ended: bool = False
    problem: str | None = None
    chain: str = ""
    _rounds: list[dict[str, Any]] = field(default_factory=list, repr=False)
    _telemetry: list[dict[str, Any]] = field(default_factory=list, repr=False)
    # What is computed of this record alone, by the name of what computes it: once, however many ask.
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def mig(self) -> bool:
        """Whether the device is an instance of a GPU that MIG divides: a part of what its name and sheet speak of."""
        return bool(self.claims.get("mig.mode") == "enabled")

    @property
    def vgpu(self) -> bool:
        """Whether the device is a virtual GPU of a guest: it has its profile's memory, and the SMs in turns."""
        return bool(self.claims.get("virtualization.mode") == "vgpu")

    def rounds(self) -> DataFrame:
        """The rounds, one row each, in file order.

        Returns:
            The columns `ROUND_COLUMNS`: ``metric``, ``toolchain``, ``work_unit`` texts; ``index``
            int64; ``work`` (in ``work_unit``), ``event_s``, ``host_s``, ``globaltimer_s``,
            ``start_host_s`` (s), ``sm_clock_hz`` (Hz) float64, NaN where null; ``sm_id``, ``sm_cycles`` int64 arrays
            and ``sm_work`` float64 arrays of one length per row; then any further keys of the
            lines.  Without rounds the frame is empty and has the same columns. Each call gives a
            frame of its own.
        """
        return self._rounds_frame.copy()

    @cached_property
    def _rounds_frame(self) -> DataFrame:
        import numpy as np

        arrays = {"sm_id": np.int64, "sm_cycles": np.int64, "sm_work": np.float64}
        rows = [
            {**row, **{name: np.array(row[name], dtype=dtype) for name, dtype in arrays.items()}}
            for row in self._rounds
        ]
        types = dict.fromkeys(ROUND_COLUMNS, "object") | {
            "index": "int64",
            "work": "float64",
            "event_s": "float64",
            "host_s": "float64",
            "globaltimer_s": "float64",
            "start_host_s": "float64",
            "sm_clock_hz": "float64",
        }
        return _frame(rows, types)

    def telemetry(self) -> DataFrame:
        """The sensor readings, one row per sample, in file order.

        Returns:
            The columns `TELEMETRY_COLUMNS`: float64 with NaN where a reading is absent, except
            ``clock_event_reasons``, ``other_processes`` and ``own_process_listed`` (nullable
            Int64) and ``other_pids`` (lists or None); then any further keys of the lines.
            Without samples the frame is empty and has the same columns. Each call gives a frame of its own.
        """
        return self._telemetry_frame.copy()

    @cached_property
    def _telemetry_frame(self) -> DataFrame:
        types = dict.fromkeys(TELEMETRY_COLUMNS, "float64") | {
            "clock_event_reasons": "Int64",
            "other_processes": "Int64",
            "own_process_listed": "Int64",
            "other_pids": "object",
        }
        return _frame(self._telemetry, types)


def _frame(rows: list[dict[str, Any]], types: dict[str, str]) -> DataFrame:
    import pandas as pd

    known = dict.fromkeys(types)
    extra = dict.fromkeys(name for row in rows for name in row if name != "kind")
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], dtype=types.get(name, "object")) for name in known | extra}
    )


def read(path: str | Path) -> Record:
    """Read the run record at `path`.

    A record that was cut short is no error: it comes back with ``complete`` False and the reason
    in ``problem``.

    Raises:
        RecordError: no such file, a directory, an empty, foreign, newer or changed file, one of
            more than 1 GB, or a line that breaks the format.
    """
    path = Path(path)
    _refuse_unreadable(path)
    try:
        with path.open("rb") as file:
            return _read_lines(path, file)
    except OSError as error:
        raise RecordError(path, f"the file cannot be read ({error.strerror})") from error


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of the run record at `path` as they are, in file order, without their chain values.

    Raises RecordError, like `read`.
    """
    read(path)
    data = Path(path).read_bytes()
    lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return [{key: value for key, value in line.items() if key != "chain"} for line in lines]


def _refuse_unreadable(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise RecordError(path, "no such file: check the path") from error
    except (OSError, ValueError) as error:
        raise RecordError(path, f"the file cannot be read ({error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise RecordError(path, "this is a directory: name one .jsonl file in it")
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(path, "this is not a regular file: name a .jsonl file")
    if status.st_size == 0:
        raise RecordError(path, "the file is empty, so nothing was recorded: measure again")
    if status.st_size > MAX_BYTES:
        raise RecordError(path, "the file is larger than 1 GB, so it is no run record: check the path")


def _read_lines(path: Path, file: Any) -> Record:
    record: Record | None = None
    end: dict[str, Any] | None = None
    digest = hashlib.sha256()
    number = 0
    cut = False
    for number, raw in enumerate(file, 1):
        if end is not None:
            raise RecordChanged(path, f"text follows the end mark: the file was changed, so {_RESTORE}", number)
        if record is None:
            record = Record(path, _first_line(path, raw))
            _follow(record, raw, number)
            digest.update(raw)
            continue
        if not raw.endswith(b"\n"):
            cut = True
            break
        try:
            line = parse(raw.decode("utf-8"))
            kind = check(line)
            if kind == "run":
                raise LineError("a second 'run' line stands here")
        except UnicodeDecodeError as error:
            raise RecordChanged(path, f"this line is broken, it is not UTF-8: {_RESTORE}", number) from error
        except LineError as error:
            raise RecordChanged(path, f"this line is broken, {error}: {_RESTORE}", number) from error
        line.pop("chain", None)
        _follow(record, raw, number)
        if kind == "end":
            end = line
            if line["lines"] != number - 1 or line["sha256"] != digest.hexdigest():
                raise RecordChanged(
                    path,
                    "the file was changed after it was written (its end mark does not fit the"
                    f" lines before it): {_RESTORE}",
                )
            continue
        digest.update(raw)
        _file_line(record, kind, line)
    if record is None:  # the file shrank to nothing between looking and opening
        raise RecordError(path, "the file is empty, so nothing was recorded: measure again")
    if cut:
        record.problem = f"The record ends in the middle of line {number}: the run was killed or still goes on."
    elif end is None:
        record.problem = f"The record has no end mark after line {number}: the run was killed or still goes on."
    elif end["status"] != "complete":
        record.problem = "The run failed before its end, as its end mark says."
    record.complete, record.ended = record.problem is None, end is not None
    return record


def _follow(record: Record, raw: bytes, number: int) -> None:
    """Checks the line's place in the hash chain, where the record's format has one."""
    if int(record.run["schema"].rpartition("/")[2]) < CHAINED_SINCE:
        return
    value = chain.value_of(record.chain, raw)
    if value is None:
        what = "it does not follow from the line before: here a line was changed, removed, added or moved"
        raise RecordChanged(record.path, f"the file was changed after it was written, {what}; {_RESTORE}", number)
    record.chain = value


def _first_line(path: Path, raw: bytes) -> dict[str, Any]:
    foreign = "this is not a gpuassay run record, whose first line is a 'run' line: check the path"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(path, f"it is not UTF-8 text; {foreign}", 1) from error
    if not raw.endswith(b"\n") and raw.startswith(b'{"kind":"run"'):
        raise RecordError(path, "the record ends inside its first line, so nothing was recorded: measure again", 1)
    try:
        line = parse(text)
    except LineError as error:
        raise RecordError(path, foreign, 1) from error
    schema = line.get("schema")
    match = re.fullmatch(r"gpuassay\.record/([0-9]{1,9})", schema if isinstance(schema, str) else "")
    if line.get("kind") != "run" or match is None:
        raise RecordError(path, foreign, 1)
    version = int(match[1])
    if version > SCHEMA_VERSION:
        raise RecordError(
            path,
            f"the record has format version {version} and this gpuassay reads up to version"
            f" {SCHEMA_VERSION}: update gpuassay",
            1,
        )
    if version < 1 or not raw.endswith(b"\n"):
        raise RecordError(path, foreign, 1)
    try:
        check(line)
    except LineError as error:
        raise RecordError(path, f"this line is broken, {error}: {_RESTORE}", 1) from error
    line.pop("chain", None)
    return line


def _file_line(record: Record, kind: str, line: dict[str, Any]) -> None:
    if kind == "device":
        for claim in line["claims"]:
            record.claim_rows.append(claim)
            record.claims.setdefault(claim["quantity"], claim["value"])
        return
    {
        "kernel": record.kernels,
        "round": record._rounds,
        "median": record.medians,
        "not_measured": record.not_measured,
        "telemetry": record._telemetry,
        "finding": record.findings,
        "audit": record.audit,
    }[kind].append(line)
