"""Figures measured by others: CSV, and the native outputs of nvbandwidth, clpeak, BabelStream and our own suites.

CSV has the columns metric, value, unit, and optionally standard_uncertainty (in the same unit), sm_clock_hz, sm_count,
kind and source. `kind` is `limit` (the default: a kernel that approaches the limit) or `library` (a GEMM, an
application: it bounds the capability from below). Everything is read with a bound on memory; nothing is trusted.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import calibration
from .agreement import Finding
from .conformity import Verdict, judge_metric, sm_count
from .decision import Rule
from .metrics import Metric, known, metrics
from .sheets import Sheet
from .uncertainty import Measured, Term
from .units import PER_CLOCK, parse
from .untrusted import printable
from .verdict import Judgement, conclude

MAX_BYTES = 64_000_000
MAX_ROWS = 200_000
REQUIRED = ("metric", "value", "unit")
OPTIONAL = ("standard_uncertainty", "sm_clock_hz", "sm_count", "kind", "source")
KINDS = ("limit", "library")
CLOCK_HZ = (1e8, 1e10)  # what is believed of an SM clock; a number of megahertz is far outside

# nvbandwidth -j (json_output.cpp, 2025): per test a matrix in GB/s of 1e9; a copy counts each byte once.
NVBANDWIDTH = {
    "device_local_copy": ("memory.copy", 2.0),
    "host_to_device_memcpy_ce": ("pcie.h2d", 1.0),
    "device_to_host_memcpy_ce": ("pcie.d2h", 1.0),
    "device_to_device_memcpy_read_ce": ("nvlink.peer", 1.0),
    "device_to_device_memcpy_write_ce": ("nvlink.peer", 1.0),
}
# clpeak (run_document.cpp, schema clpeak/run): per test the best of its widths.
CLPEAK = {
    "global_memory_bandwidth": "memory.read",
    "single_precision_compute": "vector.fp32",
    "double_precision_compute": "vector.fp64",
    "half_precision_compute": "vector.fp16",
    "integer_compute": "vector.int32",
}
# BabelStream --csv (main.cpp 5.0): read and write counted, no write-allocate, as here.
BABELSTREAM = {"Copy": "memory.copy", "Triad": "memory.triad"}


class FiguresError(Exception):
    """A file that cannot be judged. One sentence: file, line, column, what was found, what would be right."""


@dataclass(frozen=True)
class Figure:
    """One figure. `value` and `standard_uncertainty` in SI units; `unit` the base unit that was given."""

    metric: Metric
    value: float
    unit: str
    standard_uncertainty: float | None = None
    sm_clock_hz: float | None = None
    sm_count: int | None = None
    kind: str = "limit"
    source: str | None = None
    line: int | None = None


@dataclass
class Figures:
    """What a file holds: figures in its order, and what of it no metric matches."""

    file: str
    rows: list[Figure]
    ignored: list[str] = field(default_factory=list)


def read(path: str) -> Figures:
    """The figures of a file, or of standard input for "-". Raises FiguresError, nothing else."""
    where = "standard input" if path == "-" else path
    text = _text(path, where)
    if not text.strip():
        raise FiguresError(f"{where} is empty: it needs a header line {','.join(REQUIRED)} and a row")
    if text.lstrip()[0] in "{[":
        return _json(text, where)
    header = [cell.strip().lower() for cell in text.lstrip("\ufeff\r\n").split("\n", 1)[0].split(",")]
    if "function" in header and any(name.startswith("max_m") for name in header):
        return _babelstream(text, where)
    return Figures(where, list(_csv(text, where)))


def judge(figures: Figures, sheet: Sheet, rule: Rule) -> Judgement:
    """Every figure on its own against `sheet`, in the order of the file."""
    counted = next((int(row.value) for row in figures.rows if row.metric.name == "count.sm"), None)
    capability = sheet.identity.compute_capability
    verdicts: list[Verdict] = []
    for row in figures.rows:
        attained = calibration.attainment(row.metric.base, capability)
        verdict = judge_metric(row.metric, _measured(row, sheet, counted), sheet, attained, rule)
        verdicts.append(replace(verdict, kind=row.kind, source=row.source, line=row.line))
    findings = []
    if figures.ignored:
        shown = ", ".join(figures.ignored[:12]) + (" and more" if len(figures.ignored) > 12 else "")
        findings.append(Finding("not-judged", "info", None, f"no metric of this program matches: {shown}"))
    return conclude(f"the part in {figures.file}", sheet, verdicts, findings, rule, source=figures.file)


def _measured(row: Figure, sheet: Sheet, counted: int | None) -> Measured:
    terms: tuple[Term, ...] = ()
    if row.standard_uncertainty is not None:
        relative = row.standard_uncertainty / row.value
        terms = (Term("stated by the source", relative, "B", "normal", row.source or "the file"),)
    conditions = ""
    if row.unit == PER_CLOCK:
        rate, per_clock, sms = None, row.value, row.sm_count
    else:
        rate, per_clock, sms = row.value, None, row.sm_count or counted
        if row.metric.kind == "rate" and row.sm_clock_hz is not None:
            if sms is None and (listed := sm_count(sheet)) is not None:
                sms = int(listed)
                conditions = "SM count by the sheet"
            per_clock = None if sms is None else row.value / sms / row.sm_clock_hz
    return Measured(
        rate=rate,
        per_clock=per_clock,
        sm_count=sms,
        sm_clock_hz=row.sm_clock_hz,
        terms=terms,
        clock_terms=terms,
        dispersion_known=bool(terms),
        bounds_from_below=row.kind == "library",
        conditions=conditions,
    )


# -- reading -------------------------------------------------------------------------------------------------


def _text(path: str, where: str) -> str:
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            if Path(path).is_dir():
                raise FiguresError(f"{where} is a directory: name one file in it")
            with open(path, "rb") as file:
                raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FiguresError(f"{where} does not exist: check the path") from None
    except OSError as error:
        raise FiguresError(f"{where} cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL character in the name
        raise FiguresError(f"{where!r} cannot be a file name ({error})") from None
    if len(raw) > MAX_BYTES:
        raise FiguresError(f"{where} is larger than {MAX_BYTES // 10**6} MB: judge it in parts")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FiguresError(f"{where} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    if "\0" in text:
        raise FiguresError(f"{where} holds a NUL character: it is no text file")
    return text


def _csv(text: str, where: str) -> Iterator[Figure]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    count = 0
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header([cell.strip().lower() for cell in cells], where)
                continue
            count += 1
            if count > MAX_ROWS:
                raise FiguresError(f"{where} has more than {MAX_ROWS} rows: judge it in parts")
            if len(cells) != len(header):
                raise FiguresError(
                    f"{where}, line {line}: {len(cells)} cells where the header has {len(header)}; check its commas"
                )
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            yield _figure(row, f"{where}, line {line}", line)
    except csv.Error as error:
        raise FiguresError(f"{where}, line {reader.line_num}: not valid CSV ({error})") from None
    if not count:
        raise FiguresError(f"{where} has a header and no rows: nothing to judge")


def _header(header: list[str], where: str) -> list[str]:
    for name in header:
        if name not in REQUIRED + OPTIONAL:
            raise FiguresError(f"{where}: the column {_quoted(name)} is unknown; {_near(name, [*REQUIRED, *OPTIONAL])}")
        if header.count(name) > 1:
            raise FiguresError(f"{where}: the column {_quoted(name)} stands there twice: remove one")
    for name in REQUIRED:
        if name not in header:
            raise FiguresError(f"{where}: the column {name} is missing; a header is {','.join(REQUIRED)} and what more")
    return header


def _figure(row: dict[str, str], at: str, line: int) -> Figure:
    metric = known(row["metric"])
    if metric is None:
        names = [*metrics(), *(f"{name}.sustained" for name, m in metrics().items() if m.kind == "rate")]
        raise FiguresError(f"{at}, column metric: {_quoted(row['metric'])} is unknown; {_near(row['metric'], names)}")
    factor, unit = _unit(row["unit"], metric, at)
    value = _number(row["value"], f"{at}, column value")
    stated = row.get("standard_uncertainty")
    uncertainty = _number(stated, f"{at}, column standard_uncertainty") if stated else None
    clock = row.get("sm_clock_hz")
    clock_hz = _number(clock, f"{at}, column sm_clock_hz") if clock else None
    if clock_hz is not None and not CLOCK_HZ[0] <= clock_hz <= CLOCK_HZ[1]:
        raise FiguresError(f"{at}, column sm_clock_hz: {clock} is no SM clock in Hz; 1980 MHz is 1980000000")
    sms = row.get("sm_count")
    kind = row.get("kind") or "limit"
    if kind not in KINDS:
        raise FiguresError(f"{at}, column kind: {_quoted(kind)} is unknown; use limit or library")
    return Figure(
        metric,
        value * factor,
        unit,
        None if uncertainty is None else uncertainty * factor,
        clock_hz,
        None if not sms else _count(sms, f"{at}, column sm_count"),
        kind,
        _printable(row["source"]) if row.get("source") else None,
        line,
    )


def _unit(text: str, metric: Metric, at: str) -> tuple[float, str]:
    wanted = metric.unit.replace("OP/", "FLOP/").replace("FLFLOP", "FLOP")
    right = {
        "FLOP/s": "TFLOPS, TOPS or FLOP/clk/SM",
        "B/s": "GB/s or TB/s",
        "B": "GB, GiB or MiB",
        "Hz": "MHz or Hz",
        "s": "ns, us or s",
        "FLOP/J": "TFLOPS/W or FLOP/J",
        "1": "1",
    }[wanted]
    found = parse(text)
    if found is None:
        raise FiguresError(f"{at}, column unit: {_quoted(text)} is unknown; {metric.name} takes {right}")
    if found[1] == PER_CLOCK and metric.kind == "rate":
        return found
    if found[1] != wanted:
        raise FiguresError(f"{at}, column unit: {_quoted(text)} does not measure {metric.name}, which takes {right}")
    return found


def _number(text: str | None, at: str) -> float:
    try:
        value = float(text or "")
        if "_" in (text or ""):
            raise ValueError
    except ValueError:
        raise FiguresError(f"{at}: {_quoted(text or '')} is no number; write it like 148.2 or 1.482e14") from None
    if not math.isfinite(value) or value <= 0:
        raise FiguresError(f"{at}: {_quoted(text or '')} is not above zero and finite; leave out what is not known")
    if not 1e-30 < value < 1e30:
        raise FiguresError(f"{at}: {_quoted(text or '')} is out of range; check the unit")
    return value


def _count(text: str, at: str) -> int:
    value = _number(text, at)
    if value != int(value) or value > 10_000:
        raise FiguresError(f"{at}: {_quoted(text)} is no number of SMs; write a whole number like 78")
    return int(value)


# -- other programs' files -----------------------------------------------------------------------------------


def _json(text: str, where: str) -> Figures:
    try:
        document = json.loads(text, parse_constant=lambda name: math.nan)
    except (ValueError, RecursionError) as error:
        raise FiguresError(f"{where} is not valid JSON ({getattr(error, 'msg', 'nested too deeply')})") from None
    found: Figures | None = None
    try:
        if isinstance(document, dict) and isinstance(document.get("nvbandwidth"), dict):
            found = _nvbandwidth(document["nvbandwidth"], where)
        elif isinstance(document, dict) and document.get("schema") == "clpeak/run":
            found = _clpeak(document, where)
        elif isinstance(document, dict) and isinstance(document.get("benchmarks"), list):
            found = _pytest_benchmark(document, where)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise FiguresError(f"{where} is not built as its kind of file is ({type(error).__name__}: {error})") from None
    if found is None:
        raise FiguresError(
            f"{where} is JSON of no known program: nvbandwidth -j, clpeak and pytest-benchmark are read, and CSV"
        )
    if not found.rows:
        raise FiguresError(f"{where} holds no figure that a metric of this program matches")
    return found


def _imported(metric: str, value: float, unit: str, source: str, where: str) -> Figure:
    entry = known(metric)
    assert entry is not None
    if not math.isfinite(value) or not 1e-30 < value < 1e30:
        raise FiguresError(f"{where}: {source} is {value}, which is no measured value")
    return Figure(entry, value, unit, kind="library", source=_printable(source))


def _nvbandwidth(document: dict[str, Any], where: str) -> Figures:
    rows, ignored = [], []
    for test in document["testcases"]:
        name = str(test["name"])
        if test.get("status") != "Passed" or name not in NVBANDWIDTH:
            ignored.append(_printable(name))
            continue
        metric, factor = NVBANDWIDTH[name]
        for i, row in enumerate(test["bandwidth_matrix"]):
            for j, cell in enumerate(row):
                if str(cell) != "N/A":
                    value = float(cell) * 1e9 * factor
                    if value > 0:
                        rows.append(_imported(metric, value, "B/s", f"nvbandwidth {name} [{i}][{j}]", where))
    return Figures(where, rows, ignored)


def _clpeak(document: dict[str, Any], where: str) -> Figures:
    rows, ignored = [], []
    for device in document["devices"]:
        for test in device["tests"]:
            name = str(test["id"])
            values = [float(m["value"]) for m in test["metrics"] if "value" in m]
            unit = parse(str(test["unit"]))
            if name not in CLPEAK or not values or unit is None:
                ignored.append(_printable(name))
                continue
            source = f"clpeak {device['backend']} {device['name']} {name}"
            rows.append(_imported(CLPEAK[name], max(values) * unit[0], unit[1], source, where))
    return Figures(where, rows, ignored)


def _pytest_benchmark(document: dict[str, Any], where: str) -> Figures:
    """Our own suites' JSON (--benchmark-json): extra_info holds metric, work, unit, SM clock and SM count."""
    rows, ignored = [], []
    for entry in document["benchmarks"]:
        extra = entry.get("extra_info") or {}
        metric = known(str(extra.get("metric")))
        if metric is None or extra.get("variant"):
            ignored.append(_printable(str(entry.get("name"))))
            continue
        value = float(extra["work"]) / float(entry["stats"]["median"])
        if extra.get("work_unit") == "load":  # a chase: each SM's loads follow one another
            value = float(extra["sm_count"]) / value
        row = _imported(metric.name, value, metric.unit, "", where)
        clock, sms = extra.get("sm_clock_hz"), extra.get("sm_count")
        rows.append(
            replace(
                row,
                kind="limit",
                source=_printable(f"pytest-benchmark {entry.get('name')}"),
                sm_clock_hz=None if clock is None else _number(str(clock), f"{where}, {metric.name}"),
                sm_count=None if sms is None else _count(str(sms), f"{where}, {metric.name}"),
            )
        )
    return Figures(where, rows, ignored)


def _babelstream(text: str, where: str) -> Figures:
    rows, ignored = [], []
    try:
        for row in csv.DictReader(io.StringIO(text), strict=True):
            name = str(row.get("function"))
            column = next((c for c in ("max_mbytes_per_sec", "max_mibytes_per_sec") if row.get(c)), None)
            if name not in BABELSTREAM or column is None:
                ignored.append(_printable(name))
                continue
            factor = 1e6 if column == "max_mbytes_per_sec" else 2.0**20
            value = _number(row[column], f"{where}, column {column}") * factor
            rows.append(_imported(BABELSTREAM[name], value, "B/s", f"BabelStream {name}", where))
    except csv.Error as error:
        raise FiguresError(f"{where}: not valid CSV ({error})") from None
    if not rows:
        raise FiguresError(f"{where} holds no figure that a metric of this program matches")
    return Figures(where, rows, ignored)


def _quoted(text: str) -> str:
    return '"' + _printable(text) + '"'


def _printable(text: str, limit: int = 120) -> str:
    """Strangers' text, safe for a terminal: no control characters, not endless."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return printable(cut).replace("\n", "?").replace("\t", "?")


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name[:60].lower(), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "see gpuassay judge --help"
