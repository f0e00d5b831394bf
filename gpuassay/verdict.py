"""Record + sheet -> a verdict per metric, with its uncertainty and the reason for any difference.

Terms are metrology's: GUM (JCGM 100:2008) for uncertainty, JCGM 106:2012 for the decision. Two questions, two
verdicts. *Capability*: work per clock and per SM (bandwidth: of the memory's nominal rate) against what the silicon,
or its cap, allows. *Delivery*: the absolute rate, at the clock that the part chose, against the printed figure.

Everything here is a pure function of the record and the sheet: a run can be judged again on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from . import agreement, measured
from .agreement import Finding
from .measured import COVERAGE_FACTOR, Measured, Term, combined, rectangular
from .metrics import Metric, metric, metrics
from .record import Record
from .sheets import Quantity, Sheet
from .units import show

SCHEMA = "gpuassay.judgement/1"
# Findings that make a measurement invalid: what it says of the part cannot be told from what disturbed it.
DOUBTS = ("toolchains-disagree", "clocks-disagree", "other-process")

Word = Literal[
    "conforms",
    "below",
    "above",
    "inconclusive",
    "unattainable sheet",
    "not published",
    "not measured",
]


@dataclass(frozen=True)
class Capability:
    """Work per clock and SM (or bandwidth over nominal), corrected for attainment, over the limit: 1 is the limit."""

    value: float
    limit: float
    unit: str
    ratio: float
    expanded_uncertainty: float
    tolerance: float
    budget: tuple[Term, ...]


@dataclass(frozen=True)
class Verdict:
    """One metric held against one sheet. SI units; None where absent. `expanded_uncertainty` is of `measured`,
    absolute, k = 2, attainment not included; `budget` has its terms and those of the comparison with the sheet.
    `share_of_limit` is without correction for attainment. `share_of_other` is the rate per clock and SM over that of
    the metric named by `compared_with` in metrics.toml."""

    metric: str
    title: str
    published: float | None
    published_text: str | None
    measured: float | None
    unit: str
    expanded_uncertainty: float | None
    share_of_published: float | None
    share_of_limit: float | None
    verdict: Word
    delivered_verdict: Word
    reason: str
    quantity: str | None = None
    capability: Capability | None = None
    attribution: dict[str, float] = field(default_factory=dict)
    causes: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    budget: tuple[Term, ...] = ()
    share_of_other: float | None = None


@dataclass(frozen=True)
class Judgement:
    """All verdicts of one record against one sheet."""

    part: str
    sheet: Sheet
    overall: Literal["conforms", "does not conform", "inconclusive"]
    overall_delivered: Literal["conforms", "does not conform", "inconclusive"]
    summary: str
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    choice: tuple[str, ...]
    record: Record

    def to_json(self) -> dict[str, Any]:
        """The judgement as every `--json` prints it; schema "gpuassay.judgement/1"."""
        return {
            "schema": SCHEMA,
            "part": self.part,
            "sheet": self.sheet.name,
            "overall": self.overall,
            "overall_delivered": self.overall_delivered,
            "summary": self.summary,
            "record": {
                "run_id": self.record.run["run_id"],
                "started": self.record.run["started"],
                "instrument": self.record.run["instrument"],
                "samples": self.record.run["samples"],
                "complete": self.record.complete,
            },
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "findings": [asdict(finding) for finding in self.findings],
        }


def decide(ratio: float, expanded_uncertainty: float, tolerance: float) -> Word:
    """The decision rule. `ratio` is 1 at the limit, the tolerance interval is 1 +- `tolerance`, and the guard band
    is the expanded uncertainty on either side (JCGM 106:2012, 8.3): a part conforms only if it is inside by U, and
    fails only if it is outside by U. In between the measurement does not decide."""
    if abs(ratio - 1) <= tolerance - expanded_uncertainty:
        return "conforms"
    if ratio < 1 - tolerance - expanded_uncertainty:
        return "below"
    if ratio > 1 + tolerance + expanded_uncertainty:
        return "above"
    return "inconclusive"


def judge(record: Record, sheet: Sheet, choice: Iterable[str] = (), contradictions: Iterable[str] = ()) -> Judgement:
    """Judges every metric of `record` against `sheet`.

    `choice` explains how the sheet was chosen, `contradictions` are identity findings (sheets.choose).
    """
    findings = [Finding(f["code"], f["severity"], f.get("metric"), f["text"]) for f in record.findings]
    findings += [Finding("identity", "error", None, text) for text in contradictions]
    if not record.complete:
        findings.append(Finding("incomplete-record", "warning", None, record.problem or "the run did not finish"))
    if record.run["samples"] != "kept":
        findings.append(
            Finding(
                "samples-not-kept",
                "warning",
                None,
                f"made by {record.run['instrument']}, samples not kept: dispersion is unknown, and a verdict that "
                "needs it is inconclusive",
            )
        )
    per_clock: dict[str, float | None] = {}
    if record.run["samples"] == "kept":
        rounds, telemetry = record.rounds(), record.telemetry()
        seen_sms = {int(sm) for ids in rounds["sm_id"] for sm in ids}
        verdicts = _count_verdicts(len(seen_sms) or None, "distinct %smid at work", sheet)
        if len(rounds):
            findings += agreement.findings(rounds, telemetry, record)
        for name in dict.fromkeys(rounds["metric"]) if len(rounds) else ():
            of_metric = rounds[rounds["metric"] == name]
            ours = of_metric[of_metric["toolchain"] == "cuda c++"]
            taken = measured.from_rounds(ours if len(ours) else of_metric, record, telemetry)
            per_clock[name] = taken.per_clock
            verdict = _judge_metric(metric(name), taken, sheet)
            doubt = next((f.text for f in findings if f.code in DOUBTS and f.metric in (None, name)), None)
            verdicts.append(_undecided(verdict, doubt) if doubt else verdict)
    else:
        claimed = record.claims.get("count.sm")
        verdicts = _count_verdicts(claimed, "as the device claims; nothing here counted them", sheet)
        for line in record.medians:
            if line["metric"] in metrics() and not line.get("variant"):
                taken = measured.from_median(line)
                per_clock[line["metric"]] = taken.per_clock
                verdicts.append(_judge_metric(metric(line["metric"]), taken, sheet))
    verdicts = [_compared(verdict, per_clock) for verdict in verdicts]
    seen = {verdict.metric for verdict in verdicts}
    failed = {f.metric: f.text for f in findings if f.code == "check-failed"}
    missing = {line["metric"]: line["reason"] for line in record.not_measured} | failed
    for name, reason in missing.items():
        if name is not None and name not in seen:
            verdicts.append(_not_measured(metric(name), sheet, reason))
    order = {name: place for place, name in enumerate(metrics())}
    verdicts.sort(key=lambda v: order.get(v.metric, len(order)))
    overall = _overall([(v.quantity, v.verdict) for v in verdicts])
    delivered = _overall([(v.quantity, v.delivered_verdict) for v in verdicts])
    part = str(record.claims.get("name") or record.claims.get("cuda.name") or "unnamed part")
    identity = any(f.code == "identity" for f in findings)
    if identity:
        overall = "does not conform"
    elif overall == "conforms" and any(f.severity == "error" for f in findings):
        overall = "inconclusive"
    return Judgement(
        part,
        sheet,
        overall,
        delivered,
        _summary(part, sheet, overall, verdicts, identity),
        tuple(verdicts),
        tuple(findings),
        tuple(choice),
        record,
    )


# -- one metric against one sheet -------------------------------------------------------------------------


def _judge_metric(metric: Metric, measured: Measured, sheet: Sheet) -> Verdict:
    published = sheet.published_quantity(metric.published) if metric.published else None
    silicon = sheet.silicon_quantity(metric.published) if metric.published and metric.kind == "rate" else None
    capability = _capability(metric, measured, published, silicon)
    word, reason = _capability_verdict(metric, measured, capability, published)
    delivered, delivered_reason = _delivered_verdict(metric, measured, published, sheet, silicon)
    attribution = _attribution(metric, measured, published, sheet, silicon)
    if delivered_reason:
        reason = f"{reason}; {delivered_reason}"
    if delivered in ("below", "above") and word == "conforms":
        reason += _because(attribution, measured.causes)
    if measured.conditions:
        reason += f" ({measured.conditions})"
    relative = combined(measured.terms)
    return Verdict(
        metric=metric.name,
        title=metric.title,
        published=published.si if published else None,
        published_text=published.text if published else None,
        measured=measured.rate,
        unit=metric.unit,
        expanded_uncertainty=(
            COVERAGE_FACTOR * relative * measured.rate
            if measured.rate is not None and measured.dispersion_known
            else None
        ),
        share_of_published=measured.rate / published.si if published and measured.rate is not None else None,
        share_of_limit=capability.value / capability.limit if capability else None,
        verdict=word,
        delivered_verdict=delivered,
        reason=reason,
        quantity=metric.published,
        capability=capability,
        attribution=attribution,
        causes=measured.causes,
        rounds=measured.rounds,
        budget=measured.terms + _attainment_terms(metric) + _sheet_terms(published),
    )


def _compared(verdict: Verdict, per_clock: dict[str, float | None]) -> Verdict:
    """The verdict with the share of the metric that it is compared with, where both were measured."""
    other = metric(verdict.metric).compared_with
    ours, theirs = per_clock.get(verdict.metric), per_clock.get(other or "")
    if not ours or not theirs:
        return verdict
    share = ours / theirs
    return replace(verdict, share_of_other=share, reason=f"{share:.1%} of {other} per clock and SM; {verdict.reason}")


def _attainment_terms(metric: Metric) -> tuple[Term, ...]:
    if metric.attainment is None:
        return ()
    relative = metric.attainment.standard_uncertainty / metric.attainment.value
    return (Term("attainment", relative, "B", "normal", metric.attainment.source),)


def _sheet_terms(published: Quantity | None) -> tuple[Term, ...]:
    if published is None or published.rounding_half_width_si == 0:
        return ()
    return (rectangular("sheet rounding", published.rounding_half_width_si / published.si, published.text),)


def _capability(
    metric: Metric, measured: Measured, published: Quantity | None, silicon: Quantity | None
) -> Capability | None:
    """The rate per clock and SM over the silicon's; bandwidth over the published one."""
    if metric.attainment is None:
        return None
    if metric.kind == "bandwidth":
        if published is None or measured.rate is None:
            return None
        value, limit, unit = measured.rate, published.si, "B/s"
        terms = measured.terms + _attainment_terms(metric) + _sheet_terms(published)
    else:
        if silicon is None or measured.per_clock is None:
            return None
        value, limit, unit = measured.per_clock, silicon.si, silicon.unit
        terms = measured.clock_terms + _attainment_terms(metric)
    ratio = value / metric.attainment.value / limit
    return Capability(value, limit, unit, ratio, COVERAGE_FACTOR * combined(terms) * ratio, metric.tolerance, terms)


def _capability_verdict(
    metric: Metric, measured: Measured, capability: Capability | None, published: Quantity | None
) -> tuple[Word, str]:
    if capability is None:
        if metric.published is None or published is None:
            return "not published", "no sheet value to compare with"
        if metric.kind == "rate" and measured.per_clock is None:
            return "not measured", "no clock was recorded, so the rate per clock and SM is unknown"
        if metric.attainment is None:
            return "not published", "what a known-good part attains of it has not been measured, so it is not judged"
        return "not published", "the silicon's rate per clock and SM is not known"
    word = decide(capability.ratio, capability.expanded_uncertainty, capability.tolerance)
    text = _capability_text(capability, metric)
    if not measured.dispersion_known:
        # Without samples the dispersion may be anything up to what would make the instrument unfit for this
        # tolerance at all (JCGM 106, 7.6: measurement capability index below 1, U = half the tolerance interval).
        if (
            decide(
                capability.ratio,
                capability.expanded_uncertainty + capability.tolerance,
                capability.tolerance,
            )
            != word
        ):
            return "inconclusive", f"{text}; needs the samples, which were not kept"
        if word != "inconclusive":
            return word, f"{text}; holds for any dispersion the instrument may have had"
    if word == "inconclusive":
        text += f"; within U = {capability.expanded_uncertainty:.1%} of the limit of {capability.tolerance:.1%}"
    return word, text


def _capability_text(capability: Capability, metric: Metric) -> str:
    if metric.kind == "bandwidth":
        return (
            f"{capability.value / capability.limit:.1%} of the printed bandwidth, "
            f"{capability.ratio - 1:+.1%} against what a good part attains"
        )
    return f"{capability.value:.1f} of {capability.limit:.0f} {capability.unit}"


def _delivered_verdict(
    metric: Metric,
    measured: Measured,
    published: Quantity | None,
    sheet: Sheet,
    silicon: Quantity | None,
) -> tuple[Word, str]:
    if published is None or metric.attainment is None:
        return "not published", ""
    if measured.rate is None:
        return "not measured", ""
    ratio = measured.rate / metric.attainment.value / published.si
    uncertainty = (
        COVERAGE_FACTOR * combined(measured.terms + _attainment_terms(metric) + _sheet_terms(published)) * ratio
    )
    word = decide(ratio, uncertainty, metric.tolerance)
    if not measured.dispersion_known and decide(ratio, uncertainty + metric.tolerance, metric.tolerance) != word:
        return "inconclusive", ""
    if metric.kind == "bandwidth":
        return word, ""
    share = f"delivers {measured.rate / published.si:.1%} of the printed {published.text}"
    most = _attainable(sheet, silicon)
    if word == "below" and most is not None and published.si - published.rounding_half_width_si > most:
        return (
            "unattainable sheet",
            f"{share}, which no clock of this part reaches (at most {show(most, metric.unit)})",
        )
    return word, share


def _attainable(sheet: Sheet, silicon: Quantity | None) -> float | None:
    """SMs x rate per SM and clock x maximum clock: the most that the silicon can do, or None where unknown."""
    sms, clock = (
        _sm_count(sheet),
        sheet.silicon_quantity("clock.sm.max") or sheet.published_quantity("clock.sm.max"),
    )
    if silicon is None or sms is None or clock is None:
        return None
    return sms * silicon.si * clock.si


def _sm_count(sheet: Sheet) -> float | None:
    quantity = sheet.published_quantity("count.sm") or sheet.silicon_quantity("count.sm")
    return quantity.si if quantity else None


def _attribution(
    metric: Metric,
    measured: Measured,
    published: Quantity | None,
    sheet: Sheet,
    silicon: Quantity | None,
) -> dict[str, float]:
    """measured / published as a product of factors. For a rate: SMs, clock (against the one that the published
    figure implies), rate per SM and clock; `rest` is what they leave (launch cost, the tail of the launch). For
    bandwidth: the nominal bandwidth that the device claims, and the share of it attained."""
    if published is None or measured.rate is None:
        return {}
    total = measured.rate / published.si
    if metric.kind == "bandwidth":
        if measured.nominal_bytes_per_s is None:
            return {}
        nominal = measured.nominal_bytes_per_s / published.si
        return {"memory clock x bus width": nominal, "share of nominal attained": total / nominal}
    sms = _sm_count(sheet)
    if not (sms and silicon and measured.sm_count and measured.sm_clock_hz and measured.per_clock):
        return {}
    factors = {
        "SMs": measured.sm_count / sms,
        "clock": measured.sm_clock_hz / (published.si / sms / silicon.si),
        "rate per SM and clock": measured.per_clock / silicon.si,
    }
    return factors | {"rest": total / math.prod(factors.values())}


def _because(attribution: dict[str, float], causes: dict[str, float]) -> str:
    if not attribution:
        return ""
    name = max(attribution, key=lambda key: abs(math.log(attribution[key])))
    named = ", ".join(f"{cause} ({share:.0%} of the time)" for cause, share in causes.items())
    return f", cause: {name} x {attribution[name]:.3f}" + (f" ({named})" if named and name == "clock" else "")


def _count_verdicts(seen: int | None, how: str, sheet: Sheet) -> list[Verdict]:
    """The number of SMs is exact: no uncertainty, no tolerance."""
    published = sheet.published_quantity("count.sm") or sheet.silicon_quantity("count.sm")
    if seen is None:
        return []
    if published is None:
        word: Word = "not published"
        reason = how
    else:
        word = "conforms" if seen == published.si else "above" if seen > published.si else "below"
        reason = f"{seen} SMs, the sheet has {published.si:.0f} ({how})"
    return [
        Verdict(
            metric="count.sm",
            title=metric("count.sm").title,
            published=published.si if published else None,
            published_text=published.text if published else None,
            measured=float(seen),
            unit="1",
            expanded_uncertainty=0.0,
            share_of_published=seen / published.si if published else None,
            share_of_limit=seen / published.si if published else None,
            verdict=word,
            delivered_verdict=word,
            reason=reason,
            quantity="count.sm",
        )
    ]


def _not_measured(metric: Metric, sheet: Sheet, reason: str) -> Verdict:
    published = sheet.published_quantity(metric.published) if metric.published else None
    return Verdict(
        metric=metric.name,
        title=metric.title,
        published=published.si if published else None,
        published_text=published.text if published else None,
        measured=None,
        unit=metric.unit,
        expanded_uncertainty=None,
        share_of_published=None,
        share_of_limit=None,
        verdict="not measured",
        delivered_verdict="not measured",
        reason=reason,
        quantity=metric.published,
    )


def _undecided(verdict: Verdict, cause: str) -> Verdict:

    decided = ("conforms", "below", "above")
    return replace(
        verdict,
        verdict="inconclusive" if verdict.verdict in decided else verdict.verdict,
        delivered_verdict="inconclusive" if verdict.delivered_verdict in decided else verdict.delivered_verdict,
        reason=f"{cause}; {verdict.reason}",
    )


def _overall(
    words: list[tuple[str | None, Word]],
) -> Literal["conforms", "does not conform", "inconclusive"]:
    """By published quantity: one that any metric finds below or above fails the part; one that a metric finds
    conforming is met, for it is the best access pattern that shows what the part can do."""
    by_quantity: dict[str, set[Word]] = {}
    for quantity, word in words:
        if quantity is not None:
            by_quantity.setdefault(quantity, set()).add(word)
    if any(found & {"below", "above"} for found in by_quantity.values()):
        return "does not conform"
    measured = [q for q in by_quantity if q != "count.sm" and "conforms" in by_quantity[q]]
    undecided = any("inconclusive" in found and "conforms" not in found for found in by_quantity.values())
    return "inconclusive" if undecided or not measured else "conforms"


def _summary(part: str, sheet: Sheet, overall: str, verdicts: list[Verdict], identity: bool) -> str:
    """The answer in one line."""
    if overall == "conforms":
        text = f"{part} conforms to the {sheet.name} sheet in capability"
        late = _names((v.metric, v.delivered_verdict) for v in verdicts)
        return f"{text}; delivered rates: {late}" if late else text
    if overall == "inconclusive":
        return f"{part} against the {sheet.name} sheet: inconclusive"
    text = f"{part} is no {sheet.name}" if identity else f"{part} is not what the {sheet.name} sheet says"
    off = _names((v.metric, v.verdict) for v in verdicts)
    return f"{text}: {off}" if off else text


def _names(pairs: Iterable[tuple[str, Word]], shown: int = 3) -> str:
    """ "above: count.sm, tensor.bf16, tensor.fp16 and 4 more; below: memory.read"."""
    by_word: dict[str, list[str]] = {}
    for name, word in pairs:
        if word in ("above", "below"):
            by_word.setdefault(word, []).append(name)
    return "; ".join(
        f"{word}: {', '.join(names[:shown])}" + (f" and {len(names) - shown} more" if len(names) > shown else "")
        for word, names in by_word.items()
    )
