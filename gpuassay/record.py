"""The run record: everything that one run saw, in one append-only JSON Lines file.

This docstring is the format's reference.

History
-------
``gpuassay.record/1``
    The first format.
``gpuassay.record/2``
    Adds the line kind ``audit``; described below.
``gpuassay.record/3``
    Every line carries ``chain``.

A reader refuses a newer format and reads every older one.  A change that old readers would
misread (a new line kind, a new required field, another unit) gets a new number and an entry here.

The file
--------
UTF-8 (written as pure ASCII), one JSON object per line, each line ended by ``\\n``; a line counts
only once its ``\\n`` is there.  All quantities are in SI units without prefixes: s, Hz, W, J, B,
FLOP; the temperature, in degrees Celsius as the driver gives it, is the one exception.  NaN and
infinities do not occur, absent values are ``null``, integers fit 64 signed bits.  Every line has
the key ``kind``.  The first line is ``run``, the last one ``end``, the others come in the order
in which things happened.  Every line's last key is ``chain``, its place in a hash chain (`gpuassay.chain`); a
reader refuses a line that does not follow from the one before.  Keys beyond those listed may
occur in any line and are kept by readers.

Lines, "or null" where a value may be absent:

``run``
    ``schema`` "gpuassay.record/3"; ``run_id`` text; ``started`` ISO 8601 in UTC; ``instrument``
    "gpuassay <version>", or "prototype instrument" for imported figures; ``samples`` "kept" or
    "not kept" (then the figures stand in ``median`` lines); ``profile`` text or null;
    ``program`` {"version": text, "commit": text or null}; ``host`` {"python", "platform",
    "packages": {name: version}}; ``argv`` list.  ``resumed_from``, where present: the ``run_id`` of
    the run that was cut off and that this one completes.  ``redacted``, where present: what was
    taken out or replaced (`gpuassay.redact`).
``device``
    ``claims``: list of {"quantity", "value", "unit", "source"}: what the device and its driver
    say of themselves and which call said it.  ``unit`` is "1" for counts, null for names and
    modes.
``kernel``
    ``metric``; ``toolchain`` "cuda c++" or "numba"; ``name``; ``source`` (the file);
    ``source_sha256``, ``cubin_sha256``, ``architecture``, ``compiler`` texts or null;
    ``operations_per_iteration`` number or null, counted in ``work_unit`` ("FLOP", "OP", "B", "load",
    or "1" for calls timed from outside);
    ``check`` null (not checked) or {"passed": bool, "worst_error": number or null (not finite),
    "bound": number or null, "where": text or null}.
``round``
    One timed launch.  ``metric``; ``toolchain``; ``index`` (integer, counts per metric and
    toolchain); ``work`` done by the whole launch in ``work_unit``; ``event_s``, ``host_s`` and
    ``globaltimer_s``: the launch's duration by CUDA events, by the host's monotonic clock and by
    the device's global timer, each a number or null; ``start_host_s``: the host's monotonic clock
    at the start; ``sm_id`` (integers), ``sm_cycles`` (integers) and ``sm_work`` (numbers, in
    ``work_unit``): per SM that worked, equally long lists, empty where the kernel has no stamps;
    where it has, ``sm_clock_hz``: cycles over %globaltimer, the median over SMs.
    A ``round``, its ``kernel`` and a ``not_measured`` may have ``variant`` (text): fewer SMs, other
    data, a footprint of a curve; never judged.  ``footprint_bytes``, where present: all large arrays
    together, 0 for a kernel with resident operands.  In a chase ``work`` counts loads ("load").
``median``
    A figure whose samples were not kept: ``metric``; ``toolchain`` text or null; ``value``, null
    where only a share was kept; ``unit``; and whatever the importer knows of it
    (`gpuassay.prototype` lists its keys).
``not_measured``
    ``metric``; ``reason``.
``telemetry``
    ``host_s`` (the host's monotonic clock, the same as ``start_host_s``), and the readings, each
    present only where it was sampled and null where the device does not give it:
    ``sm_clock_hz``, ``memory_clock_hz``, ``power_w``, ``energy_j`` (a counter), ``temperature_c``,
    ``clock_event_reasons`` (NVML's bit mask), ``gpu_utilisation`` and ``memory_utilisation``
    (0 to 1), ``other_processes`` (a count), ``other_pids`` (their list), ``own_process_listed``
    (1 or 0).
``finding``
    ``code``; ``severity`` "info", "warning" or "error"; ``metric`` text or null; ``text``.
``audit``
    One row of the honesty audit (`gpuassay.audit`).  ``check``; ``verdict`` "consistent",
    "inconsistent", "not tested", "not observable", "not permitted" or "not supported"; ``claim``
    and ``measured`` of any kind or null; ``expanded_uncertainty`` number or null and ``unit`` text
    or null, of both; ``text``: what was touched and what a disagreement would mean; ``details``
    object.
``end``
    ``finished`` ISO 8601 in UTC; ``status`` "complete" or "failed"; ``lines``: how many lines
    stand before this one; ``sha256``: hex digest of all bytes before this line.

A record without its last line or with a half-written one comes from a run that was killed or
still goes on: it is read as far as it goes and marked incomplete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import chain
from .untrusted import printable

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

SCHEMA_VERSION = 3
CHAINED_SINCE = 3
SCHEMA = f"gpuassay.record/{SCHEMA_VERSION}"
MAX_BYTES = 1_000_000_000
"""Larger files are refused: a full run is a few MB, so a larger file is some other thing."""

_RESTORE = "measure again or restore it from a copy"

AUDIT_WORDS = ("consistent", "inconsistent", "not tested", "not observable", "not permitted", "not supported")
"""The verdicts of an ``audit`` line."""

# What a field must hold: a name from _HOLDS (a trailing "?" also admits null), or the texts
# allowed.  One table serves writer and reader, so that no record is written that cannot be read.
_Need = str | tuple[str, ...]
_FIELDS: dict[str, dict[str, _Need]] = {
    "run": {
        "schema": "text",
        "run_id": "text",
        "started": "text",
        "instrument": "text",
        "samples": ("kept", "not kept"),
        "profile": "text?",
        "program": "object",
        "host": "object",
        "argv": "list",
    },
    "device": {"claims": "list"},
    "kernel": {
        "metric": "text",
        "toolchain": "text",
        "name": "text",
        "source": "text",
        "source_sha256": "text?",
        "cubin_sha256": "text?",
        "architecture": "text?",
        "compiler": "text?",
        "operations_per_iteration": "number?",
        "work_unit": "text",
        "check": "object?",
    },
    "round": {
        "metric": "text",
        "toolchain": "text",
        "index": "integer",
        "work": "positive number",
        "work_unit": "text",
        "event_s": "positive number?",
        "host_s": "positive number?",
        "globaltimer_s": "positive number?",
        "start_host_s": "number",
        "sm_id": "list of integers",
        "sm_cycles": "list of integers",
        "sm_work": "list of numbers",
    },
    "median": {"metric": "text", "toolchain": "text?", "value": "number?", "unit": "text"},
    "not_measured": {"metric": "text", "reason": "text"},
    "telemetry": {"host_s": "number"},
    "finding": {
        "code": "text",
        "severity": ("info", "warning", "error"),
        "metric": "text?",
        "text": "text",
    },
    "audit": {
        "check": "text",
        "verdict": AUDIT_WORDS,
        "claim": "any",
        "measured": "any",
        "expanded_uncertainty": "number?",
        "unit": "text?",
        "text": "text",
        "details": "object",
    },
    "end": {
        "finished": "text",
        "status": ("complete", "failed"),
        "lines": "integer",
        "sha256": "text",
    },
}
# Fields that a line may lack, but which must hold this where they stand.
_OPTIONAL: dict[str, dict[str, _Need]] = {
    "round": {"sm_clock_hz": "positive number?", "variant": "text?", "footprint_bytes": "number?"},
    "kernel": {"variant": "text?", "footprint_bytes": "number?"},
    "telemetry": {
        "sm_clock_hz": "number?",
        "memory_clock_hz": "number?",
        "power_w": "number?",
        "energy_j": "number?",
        "temperature_c": "number?",
        "clock_event_reasons": "integer?",
        "gpu_utilisation": "number?",
        "memory_utilisation": "number?",
        "other_processes": "integer?",
        "other_pids": "list of integers?",
        "own_process_listed": "integer?",
    },
}
_CLAIM: dict[str, _Need] = {"quantity": "text", "value": "any", "unit": "text?", "source": "text"}
_CHECK: dict[str, _Need] = {
    "passed": "true or false",
    "worst_error": "number?",
    "bound": "number?",
    "where": "text?",
}
_PROGRAM: dict[str, _Need] = {"version": "text", "commit": "text?"}
_HOST: dict[str, _Need] = {"python": "text", "platform": "text", "packages": "object"}

ROUND_COLUMNS: tuple[str, ...] = (*_FIELDS["round"], "sm_clock_hz")
"""Columns of `Record.rounds`, in order; meaning and units as in the ``round`` line."""
TELEMETRY_COLUMNS: tuple[str, ...] = ("host_s", *_OPTIONAL["telemetry"])
"""Columns of `Record.telemetry`, in order; meaning and units as in the ``telemetry`` line."""


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


class _LineError(ValueError):
    """One line's fault, before file and line number are known."""


# ---------------------------------------------------------------------------------------------
# One line


def _integer(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer does not fit 64 bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not allowed")


# Only numbers that are written like this can be too large. A record holds a million numbers, and a call for each of
# them takes longer than all else that reading does.
_LONG = re.compile(r"[\s:,\[-][0-9]{19}")
_HIGH = re.compile(r"[eE]\+?[0-9]{3}[0-9]*\s*[,\]}]")
_QUICK = json.JSONDecoder(parse_constant=_constant)
_CAREFUL = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)


def _parse(text: str) -> dict[str, Any]:
    try:
        line = (_CAREFUL if _LONG.search(text) or _HIGH.search(text) else _QUICK).decode(text)
    except (ValueError, RecursionError) as error:
        # Not str(error): JSON's own position counts this line as line 1.
        raise _LineError(f"it is not valid JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(line, dict):
        raise _LineError("it is not a JSON object")
    # Nothing that is written with neither backslash nor a letter beyond ASCII drives a terminal.
    return line if text.isascii() and "\\" not in text else _printable(line)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    return value


# type(), not isinstance(): a bool is an int to Python, but not a quantity.
_HOLDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "positive number": lambda value: type(value) in (int, float) and value > 0,
    "true or false": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "list of integers": lambda value: isinstance(value, list) and set(map(type, value)) <= {int},
    "list of numbers": lambda value: isinstance(value, list) and set(map(type, value)) <= {int, float},
    "any": lambda value: True,
}


def _holds(need: _Need, value: object) -> bool:
    if isinstance(need, tuple):
        return value in need
    return (value is None and need.endswith("?")) or _HOLDS[need.removesuffix("?")](value)


def _require(what: str, fields: dict[str, _Need], holder: object) -> None:
    if not isinstance(holder, dict):
        raise _LineError(f"{what} is not a JSON object")
    for name, need in fields.items():
        if name not in holder:
            raise _LineError(f"{what} lacks the field '{name}'")
        if not _holds(need, holder[name]):
            kind = " or ".join(map(repr, need)) if isinstance(need, tuple) else need
            raise _LineError(f"the field '{name}' of {what} is not {kind.replace('?', ' or null')}")


def _check(line: dict[str, Any]) -> str:
    """Return the kind of a parsed line; raise _LineError where the line breaks the format."""
    kind = line.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        shown = "missing" if kind is None else repr(kind)[:40]
        raise _LineError(f"its kind ({shown}) is unknown to {SCHEMA}")
    what = f"this '{kind}' line"
    _require(what, _FIELDS[kind], line)
    optional = _OPTIONAL.get(kind, {})
    _require(what, {name: need for name, need in optional.items() if name in line}, line)
    if kind == "device":
        for number, claim in enumerate(line["claims"], 1):
            _require(f"claim {number} of {what}", _CLAIM, claim)
            if claim["unit"] is not None and not _holds("number?", claim["value"]):
                raise _LineError(f"claim {number} of {what} has a unit and a value that is no number")
    elif kind == "kernel" and line["check"] is not None:
        _require(f"'check' of {what}", _CHECK, line["check"])
    elif kind == "run":
        _require(f"'program' of {what}", _PROGRAM, line["program"])
        _require(f"'host' of {what}", _HOST, line["host"])
    elif kind == "round" and len({len(line[f"sm_{n}"]) for n in ("id", "cycles", "work")}) > 1:
        raise _LineError(f"'sm_id', 'sm_cycles' and 'sm_work' of {what} differ in length")
    elif kind == "round" and line["sm_id"]:
        _check_stamps(what, line)
    return kind


def _check_stamps(what: str, line: dict[str, Any]) -> None:
    """What is divided by later must not be absent or nothing."""
    for name in ("event_s", "globaltimer_s", "sm_clock_hz"):
        if line.get(name) is None:
            raise _LineError(f"{what} has stamps of SMs and no '{name}'")
    if min(line["sm_cycles"]) <= 0 or min(line["sm_work"]) < 0:
        raise _LineError(f"'sm_cycles' or 'sm_work' of {what} is not positive")


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
            self._append(kind, data)

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
                self._append("end", _dump("end", end))
            finally:
                self._file.close()

    def _append(self, kind: str, data: bytes) -> None:
        """Put one finished line into the file; the caller holds the lock."""
        if self.closed:
            raise ValueError(f"the record {self.path} is closed")
        if self._broken:
            raise ValueError(f"the record {self.path} could not be written and takes no more lines")
        before = self._written
        if (kind == "run") != (before.lines == 0):
            raise ValueError("the first line of a record, and no other, is its 'run' line")
        data, following = chain.chained(before.chain, data)
        sha256 = before.sha256.copy()
        sha256.update(data)
        try:
            self._cut()
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            # Telemetry comes often and is no loss; everything else must survive a power cut.
            if kind != "telemetry":
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
        _check(_parse(text))
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
            line = _parse(raw.decode("utf-8"))
            kind = _check(line)
            if kind == "run":
                raise _LineError("a second 'run' line stands here")
        except UnicodeDecodeError as error:
            raise RecordChanged(path, f"this line is broken, it is not UTF-8: {_RESTORE}", number) from error
        except _LineError as error:
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
        line = _parse(text)
    except _LineError as error:
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
        _check(line)
    except _LineError as error:
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
