"""A judgement and its record as one document: the answer, then the evidence. Writers only set it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..audit import overall
from ..metrics import metric
from ..record import Record
from ..units import show
from ..verdict import Judgement, Verdict
from . import evidence, pictures
from .lab import Lab
from .model import TONES, Cell, Document, Section, Table

ABSENT = "not stated"
# What every one of them gives as its reason; what more it says stands beside it.
_NO_VALUE = re.compile(r"(?:; )?no sheet value to compare with(?: \((.*)\))?$", re.DOTALL)
LIMITS = (
    "The results relate only to the item tested, on the date, with the driver and in the conditions stated here.",
    "Conforming means that what was exercised stayed inside the stated limits within the stated uncertainty. It does "
    "not show that the part has no other function: an input, a date, a firmware or a command that was not presented "
    "was not tested.",
    "Every reading passed through the maker's driver and firmware. Counters, clocks and names are the device's own "
    "account, save for those that were timed against the host's clock.",
    "A rate says nothing of the origin, the age or the remaining life of a part.",
    "This report makes no claim of accreditation.",
)


def build(judgement: Judgement, lab: Lab | None = None, *, draw: bool = True) -> Document:
    """The document of `judgement`, which must have its record. `draw` False leaves the pictures out."""
    record = judgement.record
    assert record is not None
    lab = lab or Lab()
    run = record.run
    # One record may be judged against several sheets: each report has a number of its own.
    number = lab.report_number or f"{run['run_id']}-{judgement.sheet.name}"
    incomplete = None if record.complete else f"incomplete: {record.problem or 'the run did not finish'}"
    return Document(
        title="Test report",
        identification=f"gpuassay test report {number}",
        part=judgement.part,
        verdict=Cell(judgement.overall, TONES[judgement.overall]),
        summary=judgement.summary + ".",
        incomplete=incomplete,
        sections=tuple(_sections(judgement, record, lab, number, draw)),
        end=f"End of test report {number}",
        facts=(
            ("Sheet", f"{judgement.sheet.name}: {judgement.sheet.title}"),
            ("Delivered rates", judgement.overall_delivered),
            ("Honesty audit", overall(judgement.audit)),
            ("Measured", f"{str(run['started'])[:19].replace('T', ' ')} UTC"),
            ("Instrument", str(run["instrument"])),
            ("Samples", str(run["samples"])),
        ),
    )


def _sections(judgement: Judgement, record: Record, lab: Lab, number: str, draw: bool) -> Iterable[Section]:
    drawn = pictures.draw(judgement, record) if draw else {}
    yield Section("part", "The part and its claims", tables=(_claims(record), *_choice(judgement)))
    yield Section(
        "matrix",
        "Verdict per metric",
        (
            "Verdict: capability, that is work per clock and SM (bandwidth: of nominal) against the silicon or its "
            "cap. Delivered: the absolute rate against the printed figure. Both are corrected for what a good part "
            "attains.",
        ),
        (matrix(judgement),),
        drawn.get("matrix", ()),
    )
    yield evidence.capped(judgement, drawn.get("capped", ()))
    yield evidence.findings(judgement)
    yield evidence.honesty(judgement)
    yield evidence.conditions(record, drawn.get("conditions", ()))
    yield evidence.variants(judgement, drawn.get("variants", ()), _unpublished(judgement))
    yield from evidence.other_gpus(judgement)
    yield evidence.method(record)
    yield evidence.budget(judgement)
    missing = [v for v in judgement.verdicts if v.verdict == "not measured"]
    yield Section(
        "missing",
        "What was not measured, and why",
        () if missing else ("Every metric of this profile was measured.",),
        (table("Not measured", ("metric", "reason"), [(v.metric, v.reason) for v in missing]),) if missing else (),
    )
    yield Section("limits", "What such a measurement cannot show", LIMITS)
    yield evidence.regulation(judgement)
    yield _conformity(judgement)
    yield _laboratory(judgement, record, lab, number)


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str | Cell]], numeric: Iterable[int] = ()
) -> Table:
    """A table of texts; verdict words get their tone where they come as cells."""
    cells = tuple(tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
    return Table(caption, tuple(columns), cells, frozenset(numeric))


def word(text: str) -> Cell:
    """A verdict word with its tone."""
    return Cell(text, TONES.get(text))


def matrix(judgement: Judgement) -> Table:
    """One row per metric that the sheet speaks of; points of curves are left to their picture, pairs of
    GPUs to their matrix, both to CSV."""
    columns = ("metric", "sheet", "measured", "U", "of sheet", "of limit", "verdict", "delivered", "reason")
    rows = [_row(v) for v in _shown(judgement) if v.on_the_sheet]
    return replace(table(f"Against the {judgement.sheet.name} sheet", columns, rows, (1, 2, 3, 4, 5)), note=True)


def _shown(judgement: Judgement) -> list[Verdict]:
    return [v for v in judgement.verdicts if metric(v.metric).headline]


def _unpublished(judgement: Judgement) -> Table:
    """What was measured and is held against nothing."""
    rows = [
        (v.metric, show(v.measured, v.unit), uncertainty(v), share(v.share_of_limit), _NO_VALUE.sub(r"\1", v.reason))
        for v in _shown(judgement)
        if not v.on_the_sheet and v.measured is not None
    ]
    columns = ("metric", "measured", "U", "of limit", "remark")
    return table("Measured, and judged by no sheet", columns, rows, (1, 2, 3))


def _row(v: Verdict) -> tuple[str | Cell, ...]:
    return (
        v.metric,
        v.published_text or "-",
        "-" if v.measured is None else show(v.measured, v.unit),
        uncertainty(v),
        share(v.share_of_published),
        share(v.share_of_limit),
        word(v.verdict),
        word(v.delivered_verdict),
        v.reason,
    )


def uncertainty(v: Verdict) -> str:
    """Relative expanded uncertainty; "unknown" where the dispersion is."""
    if v.measured is None:
        return "-"
    if v.unit == "1":
        return "0"
    return (
        "unknown" if v.expanded_uncertainty is None or not v.measured else f"{v.expanded_uncertainty / v.measured:.2%}"
    )


def share(value: float | None) -> str:
    """A ratio as a percentage."""
    return "-" if value is None else f"{value:.1%}"


def _claims(record: Record) -> Table:
    rows = []
    for claim in record.claim_rows:
        value, unit = claim["value"], (claim["unit"] or "").replace("degC", "°C")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        shown = ABSENT if value is None else show(value, unit) if number else str(value)
        rows.append((str(claim["quantity"]), shown, str(claim["source"])))
    return table("What the device and its driver say of themselves", ("claim", "value", "source"), rows)


def _choice(judgement: Judgement) -> tuple[Table, ...]:
    if not judgement.choice:
        return ()
    rows = [(str(place), text) for place, text in enumerate(judgement.choice, 1)]
    return (table(f"Why the {judgement.sheet.name} sheet", ("", "evidence"), rows),)


def _conformity(judgement: Judgement) -> Section:
    found = judgement.multiplicity
    return Section(
        "conformity",
        "Statement of conformity",
        (
            f"It applies to every metric whose verdict is not 'not published' or 'not measured', against: "
            f"{judgement.sheet.title}. {judgement.sheet.summary}",
            f"Decision rule: {judgement.rule.text}.",
            f"Of {found.comparisons} comparisons, {found.expected_false_alarms_of_a_good_part:.2g} false alarms are "
            f"expected of a part that is exactly right, {found.expected_false_alarms_at_the_limit:.2g} at most of one "
            "that is exactly at every tolerance limit.",
        ),
    )


def _laboratory(judgement: Judgement, record: Record, lab: Lab, number: str) -> Section:
    run = record.run
    uuid = record.claims.get("uuid")
    supplied = ", ".join(lab.customer_supplied)
    rows: list[tuple[str, str | None, str]] = [
        ("Title", "Test report", "7.8.2.1 a"),
        ("Laboratory", lab.laboratory, "7.8.2.1 b"),
        ("Address", lab.address, "7.8.2.1 b"),
        ("Location of the work", lab.location, "7.8.2.1 c"),
        ("Report number", number, "7.8.2.1 d"),
        ("Customer", lab.customer, "7.8.2.1 e"),
        ("Method", f"{run['instrument']}: see Method", "7.8.2.1 f"),
        ("Procedure of the laboratory", lab.procedure, "7.8.2.1 f"),
        ("Item", lab.item or judgement.part, "7.8.2.1 g"),
        ("Serial identification (UUID)", None if uuid is None else str(uuid), "7.8.2.1 g"),
        ("Condition of the item", lab.item_condition, "7.8.2.1 g"),
        ("Received", lab.received, "7.8.2.1 h"),
        ("Date of the test", str(run["started"]), "7.8.2.1 i"),
        ("Date of issue", lab.issued, "7.8.2.1 j"),
        ("Sampling", lab.sampling, "7.8.2.1 k"),
        ("Scope", "The results relate only to the item tested.", "7.8.2.1 l"),
        ("Results with units", "see Verdict per metric", "7.8.2.1 m"),
        ("Additions, deviations, exclusions", lab.deviations, "7.8.2.1 n"),
        ("Authorised by", lab.authorised_by, "7.8.2.1 o"),
        ("Results from external providers", lab.external_results, "7.8.2.1 p"),
        ("Supplied by the customer", supplied and f"{supplied}: see below", "7.8.2.2"),
        ("Test conditions", "see Conditions", "7.8.3.1 a"),
        ("Uncertainty of measurement", "see Uncertainty budget", "7.8.3.1 c"),
        ("Statement of conformity", "see Statement of conformity", "7.8.6"),
        ("Opinions and interpretations", lab.opinions, "7.8.7"),
        ("Amendments", lab.amendments, "7.8.8"),
    ]
    tables = [
        table(
            "Fields that ISO/IEC 17025:2017 asks of a test report",
            ("field", "value", "clause"),
            [(name, Cell(value) if value else Cell(ABSENT, "quiet"), clause) for name, value, clause in rows],
        )
    ]
    if lab.customer_supplied:
        listed = list(lab.customer_supplied.items())
        tables.append(table("Supplied by the customer, not verified (7.8.2.2)", ("field", "value"), listed))
    return Section("laboratory", "Laboratory and report", tables=tuple(tables))
