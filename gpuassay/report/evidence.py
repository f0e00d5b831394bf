"""The sections of evidence: what was capped, findings, conditions, method, uncertainty budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .. import peers, sheets
from ..metrics import metric
from ..record import Record
from ..sheet_audit import acceptance
from ..telemetry import reason_names
from ..uncertainty import Term
from ..units import show
from ..verdict import Judgement
from .model import TONES, Cell, Picture, Section, Table

SENSORS = {
    "sm_clock_hz": ("SM clock", "Hz"),
    "memory_clock_hz": ("memory clock", "Hz"),
    "power_w": ("board power", "W"),
    "temperature_c": ("temperature", "°C"),
    "other_processes": ("other processes on the GPU", "1"),
}


def _table(
    caption: str, columns: tuple[str, ...], rows: Sequence[Sequence[str | Cell]], numeric: tuple[int, ...] = ()
) -> Table:
    cells = tuple(tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
    return Table(caption, columns, cells, frozenset(numeric))


def capped(judgement: Judgement, pictures: tuple[Picture, ...]) -> Section:
    """Per metric the sheet's silicon against its uncapped siblings', and the factors of each difference."""
    rows, whole = [], 0
    for v in judgement.verdicts:
        own = judgement.sheet.silicon_quantity(v.quantity) if v.quantity else None
        sibling = uncapped(judgement.sheet, v.quantity) if v.quantity else None
        if own and sibling and v.unit.endswith("OP/s") and not metric(v.metric).sustained:
            name, value = sibling
            if own.si >= value:
                whole += 1
            else:
                share = f"{own.si / value:.1%}"
                rows.append((v.metric, f"{own.si:g} {own.unit}", f"{value:g} {own.unit}", name, share))
    paragraphs, tables = [], []
    if rows:
        columns = ("metric", f"{judgement.sheet.name} sheet", "uncapped", "as in", "share")
        caption = "Rate per clock and SM by the sheets, against the best of the same compute capability"
        tables.append(_table(caption, columns, rows, (1, 2, 4)))
    if whole:
        paragraphs.append(
            f"{whole} rate{'s' if whole > 1 else ''} per clock and SM of this sheet "
            f"{'are' if whole > 1 else 'is'} the highest of the same compute capability."
        )
    if not rows and not whole:
        paragraphs.append("The sheets do not say enough to tell a cap from the silicon beneath it.")
    return Section(
        "capped", "What was capped, and by how much", tuple(paragraphs), (*tables, *_factors(judgement)), pictures
    )


def _factors(judgement: Judgement) -> list[Table]:
    """measured / published as a product: one row per metric, one column per factor; metrics of other factors apart."""
    rows: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for v in judgement.verdicts:
        if v.attribution:
            columns = tuple(f"{name} ({factor.nature})" for name, factor in v.attribution.items())
            ratios = (factor.text for factor in v.attribution.values())
            product = "-" if v.share_of_published is None else f"{v.share_of_published:.4f}"
            rows.setdefault(columns, []).append((v.metric, *ratios, product))
    return [
        _table(
            f"Measured / published as the product of {', '.join(name.rpartition(' (')[0] for name in columns)}",
            ("metric", *columns, "product"),
            found,
            tuple(range(1, len(columns) + 2)),
        )
        for columns, found in rows.items()
    ]


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
        *_provenance(record),
    ]
    tables.append(_table("Host and program", ("", "value"), facts))
    return Section("conditions", "Conditions", tuple(paragraphs), tuple(tables), pictures)


def _provenance(record: Record) -> list[tuple[str, str]]:
    """What ties this document to the record's bytes, and what was taken out of them."""
    from ..seal import SealError, read_seal

    rows = [("chain head of the record", record.chain or "none: the record's format has no hash chain")]
    try:
        sealed = read_seal(record.path)
    except SealError as error:
        rows.append(("seal", str(error)))
    else:
        fits = sealed is not None and sealed.manifest["record"].get("chain_head") == (record.chain or None)
        rows.append(("seal", "none" if sealed is None else f"{sealed.digest}" if fits else "not of this record"))
    if "redacted" in record.run:
        redacted = record.run["redacted"]
        what = redacted.get("what") if isinstance(redacted, dict) else None
        rows.append(("redacted", ", ".join(map(str, what)) if isinstance(what, list) else "yes"))
    return rows


def method(record: Record) -> Section:
    """Per metric and toolchain the kernel that ran, what its machine code was hashed to, and its check."""
    if not record.kernels:
        text = "The record names no kernels: its figures were imported, and cannot be traced to machine code here."
        return Section("method", "Method", (text,))
    rows, sources = [], {}
    for k in record.kernels:
        source = (str(k["source"]), str(k["toolchain"]))
        sources[source] = (*source, str(k["source_sha256"] or "-"))
        if k.get("variant") or metric(str(k["metric"])).curve_point is not None:
            continue  # the same kernel, on other data or another shape
        check = k["check"]
        passed = "not checked" if check is None else "" if check["passed"] else "failed"
        work = "-" if k["operations_per_iteration"] is None else f"{k['operations_per_iteration']:g} {k['work_unit']}"
        name = str(k["metric"]) + ("" if k["toolchain"] == "cuda c++" else f": {k['toolchain']}")
        cubin = str(k["cubin_sha256"] or "-")[:12]
        rows.append((name, f"{k['source']}, {cubin}", f"{work}: {_instructions(k)}", passed))
    columns = ("metric", "source, cubin SHA-256", "work per iteration: instructions of its loop", "result check")
    text = (
        "A rate is the declared work over the measured time; the work is counted in the machine code (`gpuassay "
        "census`). Hashes of cubins are cut to 12 digits, and points of curves are left out; the record has all. The "
        "check of a kernel's results passed where nothing else is said."
    )
    unlike = [place for place in range(len(columns)) if place < 3 or any(row[3] for row in rows)]
    tables = (
        _table("Sources of the kernels", ("source", "toolchain", "its SHA-256"), list(sources.values())),
        _table(
            "Kernels, in CUDA C++ where nothing else is said",
            tuple(columns[place] for place in unlike),
            [tuple(row[place] for place in unlike) for row in rows],
        ),
    )
    return Section("method", "Method", (text,), tables)


def _instructions(line: dict[str, Any]) -> str:
    """The census line: how often each instruction that does the work stands in the loop."""
    counted = line.get("instructions")
    return ", ".join(f"{times} {name}" for name, times in counted.items()) if isinstance(counted, dict) else "-"


def variants(judgement: Judgement, pictures: tuple[Picture, ...], unpublished: Table) -> Section:
    """What no sheet judges: other data, fewer SMs, footprints; the sizes that curves show; metrics without a sheet."""
    from ..latency import shown_size

    tables = []
    if judgement.hierarchy and judgement.hierarchy.sizes:
        rows = [
            (
                f"{s.level}: {s.curve}",
                shown_size(s.size_bytes),
                f"{shown_size(s.lower_bytes)} - {shown_size(s.upper_bytes)}",
                "-" if s.claimed_bytes is None else shown_size(s.claimed_bytes),
                s.published_text or "-",
            )
            for s in judgement.hierarchy.sizes
        ]
        columns = ("level: curve", "found", "interval", "claimed", "sheet")
        tables.append(_table("Sizes found in the curves over footprint", columns, rows, (1, 2, 3, 4)))
    if judgement.variants:
        units = {verdict.metric: verdict.unit for verdict in judgement.verdicts}
        points = [
            (
                f"{v.metric}: {v.variant}",
                str(v.sm_count),
                show(v.rate, units.get(v.metric, "FLOP/s")),
                f"{v.per_clock:.1f}",
                show(v.sm_clock_hz, "Hz"),
                "-" if v.power_w is None else f"{v.power_w:.0f} W",
            )
            for v in judgement.variants
            if not v.variant.endswith(" B")  # a point of a curve over footprints: in its picture
        ]
        headings = ("metric: variant", "SMs", "rate", "per clock and SM", "SM clock", "board power")
        if points:
            tables.append(_table("Variants, judged by no sheet", headings, points, (1, 2, 3, 4, 5)))
    empty = () if tables else ("This run measured no curves and no variants.",)
    tables += [unpublished] if unpublished.rows else []
    return Section("variants", "Curves, variants, and metrics that no sheet judges", empty, tuple(tables), pictures)


def other_gpus(judgement: Judgement) -> Iterable[Section]:
    """The matrices over pairs of GPUs; no section where the run asked for no peer."""
    if not any(v.metric.startswith("peer.") for v in judgement.verdicts):
        return
    found = peers.matrices(judgement.verdicts)
    tables = []
    for matrix in found:
        columns = ("", *(f"device {device}" for device in matrix.devices))
        numbers = tuple(range(1, len(columns)))
        tables.append(_table(matrix.title, columns, matrix.rows(), numbers))
    lone = () if found else ("There was one GPU: copies and kernels between GPUs need a second.",)
    yield Section("peers", "Other GPUs", (f"{peers.nvlink(judgement.record, found)}.", *lone), tuple(tables))


def honesty(judgement: Judgement) -> Section:
    """The audit's rows: what the device says of itself against what was measured."""
    from ..audit import LIMITS
    from ..audit.capabilities import grouped

    def value(found: object, unit: str | None) -> str:
        if found is None:
            return "-"
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return (
            show(float(found), (unit or "1").replace("degC", "°C"))
            if isinstance(found, int | float) and number
            else str(found)
        )

    rows: list[tuple[str | Cell, ...]] = [
        (
            r.check,
            Cell(r.verdict, TONES[r.verdict]),
            *(value(found, r.unit) for found in (r.claim, r.measured, r.expanded_uncertainty)),
            r.text,
        )
        for r in judgement.audit
    ]
    columns = ("check", "answer", "claim", "measured", "U", "what was touched, and what a disagreement would mean")
    caption = "What the device says of itself, and what was measured"
    tables = [replace(_table(caption, columns, rows, (2, 3, 4)), note=True)] if rows else []
    tried = [c for r in judgement.audit if r.check == "capabilities" for c in r.details.get("capabilities", ())]
    if tried:
        headings = ("answer", "by which kernel or call", "functions, and what the sheet prints")
        functions = _table("Functions that were tried, beside the sheet", headings, grouped(tried))
        tables.append(replace(functions, note=True))
    return Section("audit", "Honesty audit", (LIMITS,), tuple(tables))


def regulation(judgement: Judgement) -> Section:
    """The figures that an independent test by 91 FR 1684 reports: arithmetic on the measured record."""
    from ..sheet_audit import rules

    rows = [
        (f.quantity, f"{f.text} {f.basis or ''}".strip(), a.text, a.words)
        for f, a in rules.of_judgement(judgement).independent_test()
    ]
    text = "Arithmetic with the figures of this report, not legal advice."
    table = _table("Figures of an independent test by 91 FR 1684", ("quantity", "figure", "threshold", "answer"), rows)
    return Section("regulation", "Export-control arithmetic", (text,), (table,))


def budget(judgement: Judgement) -> Section:
    """One row per metric, one column per term, as relative standard uncertainties; then what each term is."""
    shown = [v for v in judgement.verdicts if v.budget and v.capability and metric(v.metric).curve_point is None]
    names = list(dict.fromkeys(term.name for v in shown for term in v.budget))
    rows, about = [], {}
    for v in shown:
        terms = {term.name: term for term in v.budget}
        rows.append((v.metric, *(_relative(terms[name]) if name in terms else "-" for name in names)))
        for term in v.budget:
            about[term.name, term.evaluation, term.distribution, term.source] = v.metric
    text = (
        "Terms after JCGM 100:2008, relative to the value; degrees of freedom where they are finite. U of a "
        "result is k times the root of the sum of squares of its own terms. Metrics that are held against a limit "
        "stand here; the JSON output has the budget of every one."
    )
    if not rows:
        return Section("budget", "Uncertainty budget", (text,))
    sources: dict[tuple[str, str, str], list[str]] = {}
    for name, evaluation, distribution, source in about:
        sources.setdefault((name, evaluation, distribution), []).append(source)
    terms_table = _table(
        "What the terms are",
        ("term", "type", "distribution", "source"),
        [(*key, "; ".join(dict.fromkeys(found))) for key, found in sources.items()],
    )
    numbers = tuple(range(1, len(names) + 1))
    tables = (_table("Relative standard uncertainty by term", ("metric", *names), rows, numbers), terms_table)
    return Section("budget", "Uncertainty budget", (text,), tables)


def _relative(term: Term) -> str:
    freedom = float(term.degrees_of_freedom)
    return f"{float(term.relative):.3%}" + ("" if math.isinf(freedom) else f" ({freedom:.0f})")
