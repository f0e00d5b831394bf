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
    object.  A row of a check on the device has ``metric`` "audit: NAME" and ``toolchain`` as well.
``end``
    ``finished`` ISO 8601 in UTC; ``status`` "complete" or "failed"; ``lines``: how many lines
    stand before this one; ``sha256``: hex digest of all bytes before this line.

A record without its last line or with a half-written one comes from a run that was killed or
still goes on: it is read as far as it goes and marked incomplete.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from .untrusted import printable

__all__ = [
    "AUDIT_WORDS",
    "CHAINED_SINCE",
    "FIELDS",
    "OPTIONAL",
    "ROUND_COLUMNS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "TELEMETRY_COLUMNS",
    "LineError",
    "check",
    "parse",
]

SCHEMA_VERSION = 3
CHAINED_SINCE = 3
SCHEMA = f"gpuassay.record/{SCHEMA_VERSION}"

AUDIT_WORDS = ("consistent", "inconsistent", "not tested", "not observable", "not permitted", "not supported")
"""The verdicts of an ``audit`` line."""

# What a field must hold: a name from _HOLDS (a trailing "?" also admits null), or the texts
# allowed.  One table serves writer and reader, so that no record is written that cannot be read.
_Need = str | tuple[str, ...]
FIELDS: dict[str, dict[str, _Need]] = {
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
OPTIONAL: dict[str, dict[str, _Need]] = {
    "round": {"sm_clock_hz": "positive number?", "variant": "text?", "footprint_bytes": "number?"},
    "kernel": {"variant": "text?", "footprint_bytes": "number?"},
    "audit": {"metric": "text", "toolchain": "text"},
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

ROUND_COLUMNS: tuple[str, ...] = (*FIELDS["round"], "sm_clock_hz")
"""Columns of `Record.rounds`, in order; meaning and units as in the ``round`` line."""
TELEMETRY_COLUMNS: tuple[str, ...] = ("host_s", *OPTIONAL["telemetry"])
"""Columns of `Record.telemetry`, in order; meaning and units as in the ``telemetry`` line."""


class LineError(ValueError):
    """One line's fault, before file and line number are known."""


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
_LONG = ":" + "0" * 19
_HIGH = [re.compile(rf"{e}\+?[0-9]{{3}}[0-9]*\s*[,\]}}]") for e in "eE"]  # a first letter is found faster than a set
_SHAPE = str.maketrans("123456789,[- \t\n\r", "0" * 9 + ":" * 7)  # digits as 0, what stands before a number as :
_QUICK = json.JSONDecoder(parse_constant=_constant)
_CAREFUL = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)


def parse(text: str) -> dict[str, Any]:
    """One line's text as an object whose numbers are finite and fit 64 bits, and whose texts are printable. Raises
    LineError."""
    try:
        careful = _LONG in text.translate(_SHAPE) or any(high.search(text) for high in _HIGH)
        line = (_CAREFUL if careful else _QUICK).decode(text)
    except (ValueError, RecursionError) as error:
        # Not str(error): JSON's own position counts this line as line 1.
        raise LineError(f"it is not valid JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(line, dict):
        raise LineError("it is not a JSON object")
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
    if need[-1] == "?":
        return value is None or _HOLDS[need[:-1]](value)
    return _HOLDS[need](value)


def _require(what: str, fields: dict[str, _Need], holder: object) -> None:
    if not isinstance(holder, dict):
        raise LineError(f"{what} is not a JSON object")
    for name, need in fields.items():
        if name not in holder:
            raise LineError(f"{what} lacks the field '{name}'")
        if not _holds(need, holder[name]):
            kind = " or ".join(map(repr, need)) if isinstance(need, tuple) else need
            raise LineError(f"the field '{name}' of {what} is not {kind.replace('?', ' or null')}")


def check(line: dict[str, Any]) -> str:
    """The kind of a parsed line. Raises LineError where the line breaks the format."""
    kind = line.get("kind")
    if not isinstance(kind, str) or kind not in FIELDS:
        shown = "missing" if kind is None else repr(kind)[:40]
        raise LineError(f"its kind ({shown}) is unknown to {SCHEMA}")
    what = f"this '{kind}' line"
    _require(what, FIELDS[kind], line)
    optional = OPTIONAL.get(kind, {})
    _require(what, {name: need for name, need in optional.items() if name in line}, line)
    if kind == "device":
        for number, claim in enumerate(line["claims"], 1):
            _require(f"claim {number} of {what}", _CLAIM, claim)
            if claim["unit"] is not None and not _holds("number?", claim["value"]):
                raise LineError(f"claim {number} of {what} has a unit and a value that is no number")
    elif kind == "kernel" and line["check"] is not None:
        _require(f"'check' of {what}", _CHECK, line["check"])
    elif kind == "run":
        _require(f"'program' of {what}", _PROGRAM, line["program"])
        _require(f"'host' of {what}", _HOST, line["host"])
    elif kind == "round" and len({len(line[f"sm_{n}"]) for n in ("id", "cycles", "work")}) > 1:
        raise LineError(f"'sm_id', 'sm_cycles' and 'sm_work' of {what} differ in length")
    elif kind == "round" and line["sm_id"]:
        _check_stamps(what, line)
    return kind


def _check_stamps(what: str, line: dict[str, Any]) -> None:
    """What is divided by later must not be absent or nothing."""
    for name in ("event_s", "globaltimer_s", "sm_clock_hz"):
        if line.get(name) is None:
            raise LineError(f"{what} has stamps of SMs and no '{name}'")
    if min(line["sm_cycles"]) <= 0 or min(line["sm_work"]) < 0:
        raise LineError(f"'sm_cycles' or 'sm_work' of {what} is not positive")
