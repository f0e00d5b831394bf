"""The sections of evidence: what was capped, findings, conditions, method, uncertainty budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import sheets
from ..record import Record
from ..sheet_audit import acceptance
from ..telemetry import reason_names
from ..units import show
from ..verdict import Judgement
from .model import Cell, Picture, Section, Table

SENSORS = {
    "sm_clock_hz": ("SM clock", "Hz"),
    "memory_clock_hz": ("memory clock", "Hz"),
    "power_w": ("board power", "W"),
    "temperature_c": ("temperature", "°C"),
    "other_processes": ("other processes on the GPU", "1"),
}


def _table(
    caption: str, columns: tuple[str, ...], rows: Sequence[Sequence[str]], numeric: tuple[int, ...] = ()
) -> Table:
    return Table(caption, columns, tuple(tuple(map(Cell, row)) for row in rows), frozenset(numeric))


def capped(judgement: Judgement, pictures: tuple[Picture, ...]) -> Section:
    """Per metric the sheet's silicon against its uncapped siblings', and the factors of each difference."""
    rows, factors = [], []
    for v in judgement.verdicts:
        for name, factor in v.attribution.items():
            ratio = f"{factor.ratio:.4f} ± {factor.expanded_uncertainty:.4f}"
            factors.append((v.metric, name, factor.nature, ratio))
        own = judgement.sheet.silicon_quantity(v.quantity) if v.quantity else None
        sibling = uncapped(judgement.sheet, v.quantity) if v.quantity else None
        if own and sibling and v.unit.endswith("OP/s"):
            name, value = sibling
            rows.append((v.metric, f"{own.si:g} {own.unit}", f"{value:g} {own.unit}", name, f"{own.si / value:.1%}"))
    tables = []
    if rows:
        columns = ("metric", f"{judgement.sheet.name} sheet", "uncapped", "as in", "share")
        caption = "Rate per clock and SM by the sheets, against the best of the same compute capability"
        tables.append(_table(caption, columns, rows, (1, 2, 4)))
    if factors:
        caption = "Measured / published, factor by factor"
        tables.append(_table(caption, ("metric", "factor", "nature", "ratio ± U"), factors, (3,)))
    empty = () if rows else ("The sheets do not say enough to tell a cap from the silicon beneath it.",)
    return Section("capped", "What was capped, and by how much", empty, tuple(tables), pictures)


def uncapped(sheet: sheets.Sheet, quantity: str) -> tuple[str, float] | None:
    """The shipped sheet of the same compute capability with the highest rate per clock and SM, and that rate."""
    capability = sheet.identity.compute_capability
    siblings = [s for s in sheets.all_sheets() if capability and s.identity.compute_capability == capability]
    found = [(q.si, s.name) for s in siblings if (q := s.silicon_quantity(quantity))]
    if not found:
        return None
    best = max(value for value, _ in found)
    own = sheet.silicon_quantity(quantity)
    if own and own.si >= best:
        return sheet.name, own.si
    return next(name for value, name in found if value == best), best


def findings(judgement: Judgement) -> Section:
    """What the instrument, the device and the sheet disagree on."""
    rows = [(f.severity, f.code, f.metric or "-", f.text) for f in judgement.findings]
    tables = [_table("Findings", ("severity", "code", "metric", "text"), rows)] if rows else []
    said = [
        (v.metric, text)
        for v in judgement.verdicts
        if v.measured is not None and (text := acceptance.would_say(judgement.sheet, v.metric, v.measured))
    ]
    if said:
        tables.append(_table("What the maker's own acceptance line would have said", ("metric", "text"), said))
    return Section("findings", "Findings", () if rows else ("None.",), tuple(tables))


def conditions(record: Record, pictures: tuple[Picture, ...]) -> Section:
    """Ranges of the telemetry and how long each clock-event reason stood."""
    telemetry, rows = record.telemetry(), []
    for column, (name, unit) in SENSORS.items():
        values = telemetry[column].dropna() if column in telemetry else telemetry.iloc[:0, 0]
        if len(values):
            low, middle, high = (show(float(x), unit) for x in (values.min(), values.median(), values.max()))
            rows.append((name, low, middle, high))
    paragraphs: list[str] = []
    tables = []
    if rows:
        tables.append(_table("Telemetry", ("reading", "lowest", "median", "highest"), rows, (1, 2, 3)))
    else:
        paragraphs.append("The record holds no telemetry: clocks, power and temperature are unknown.")
    if "clock_event_reasons" in telemetry and telemetry["clock_event_reasons"].notna().any():
        masks = telemetry["clock_event_reasons"].dropna().astype("int64")
        counts: dict[str, int] = {}
        for mask in masks:
            for name in reason_names(int(mask)):
                counts[name] = counts.get(name, 0) + 1
        reasons = [(name, f"{count / len(masks):.1%}") for name, count in sorted(counts.items(), key=lambda p: -p[1])]
        if reasons:
            tables.append(_table("What limited the clock", ("clock-event reason", "of samples"), reasons, (1,)))
    run = record.run
    host = run["host"]
    program = run["program"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(host["packages"].items()))
    facts = [
        ("program", f"gpuassay {program['version']}" + (f", commit {program['commit']}" if program["commit"] else "")),
        ("profile", str(run["profile"] or "not stated")),
        ("Python", host["python"] or "not stated"),
        ("platform", host["platform"] or "not stated"),
        ("packages", packages or "not stated"),
    ]
    tables.append(_table("Host and program", ("", "value"), facts))
    return Section("conditions", "Conditions", tuple(paragraphs), tuple(tables), pictures)


def method(record: Record) -> Section:
    """Per metric and toolchain the kernel that ran, what its machine code was hashed to, and its check."""
    if not record.kernels:
        text = "The record names no kernels: its figures were imported, and cannot be traced to machine code here."
        return Section("method", "Method", (text,))
    rows, census = [], []
    for k in record.kernels:
        check = k["check"]
        passed = "not checked" if check is None else "passed" if check["passed"] else "failed"
        sources = (str(k["source_sha256"] or "-")[:16], str(k["cubin_sha256"] or "-")[:16])
        rows.append((str(k["metric"]), str(k["toolchain"]), str(k["source"]), *sources, passed))
        if k["operations_per_iteration"] is not None and not k.get("variant"):
            declared = f"{k['operations_per_iteration']:g} {k['work_unit']}"
            command = f"gpuassay census --arch {k['architecture']} --metric {k['metric']}"
            census.append((k["metric"], k["toolchain"], declared, str(k["compiler"] or "-"), command))
    columns = ("metric", "toolchain", "source", "source SHA-256", "cubin SHA-256", "result check")
    tables = [_table("Kernels", columns, rows)]
    if census:
        headings = ("metric", "toolchain", "work per iteration", "compiler", "command that counts it in the SASS")
        tables.append(_table("Declared work", headings, census, (2,)))
    text = "A rate is the declared work over the measured time. Hashes are cut to 16 digits; the record has all."
    return Section("method", "Method", (text,), tuple(tables))


def budget(judgement: Judgement) -> Section:
    """Every term of every metric, as relative standard uncertainties."""
    rows = []
    for v in judgement.verdicts:
        for term in v.budget:
            freedom = float(term.degrees_of_freedom)
            shown = "infinite" if math.isinf(freedom) else f"{freedom:.0f}"
            relative = f"{float(term.relative):.3%}"
            rows.append((v.metric, term.name, relative, term.evaluation, term.distribution, shown, term.source))
    columns = ("metric", "term", "u, relative", "type", "distribution", "degrees of freedom", "source")
    text = "Terms after JCGM 100:2008. U of a result is k times the root of the sum of squares of its own terms."
    return Section("budget", "Uncertainty budget", (text,), (_table("Terms", columns, rows, (2, 5)),) if rows else ())
