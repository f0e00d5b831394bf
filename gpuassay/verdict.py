"""Record + sheet -> a verdict per metric, with its uncertainty and the reason for any difference.

Terms are metrology's: GUM (JCGM 100:2008) for uncertainty, JCGM 106:2012 for the decision. Two questions, two
verdicts. *Capability*: work per clock and per SM (bandwidth: of the memory's nominal rate) against what the silicon,
or its cap, allows. *Delivery*: the absolute rate, at the clock that the part chose, against the printed figure.

Everything here is a pure function of the record and the sheet: a run can be judged again on any machine.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from .record import Record
from .sheets import Quantity, Sheet
from .telemetry import reason_names
from .units import show

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = "gpuassay.judgement/1"
COVERAGE_FACTOR = 2.0  # k = 2: about 95 % coverage for a normal distribution (GUM 6.3.3)
EVENT_RESOLUTION_S = 0.5e-6  # cudaEventElapsedTime: "resolution of approximately 0.5 microseconds"
STAMP_CYCLES = 100.0  # barrier and stamp at either end of a kernel; an upper bound, reads of clock64 take tens
TWIN_TOLERANCE = 0.02  # CUDA C++ and Numba must agree within 2 %
CLOCK_TOLERANCE = 0.02  # NVML's SM clock and the one measured by the kernels
GAP_TOLERANCE = 0.02  # event time may exceed the kernel's own time by launch cost, but not by more

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
class Attainment:
    """Share of a nominal limit that the instrument attains on a known-good part."""

    value: float
    standard_uncertainty: float
    source: str


@dataclass(frozen=True)
class Metric:
    """One entry of metrics.toml."""

    name: str
    title: str
    kind: Literal["count", "rate", "bandwidth"]
    unit: str
    published: str | None = None
    tolerance: float = 0.0
    attainment: Attainment | None = None


@dataclass(frozen=True)
class Term:
    """One line of the uncertainty budget; `relative` is a relative standard uncertainty (1 = 100 %)."""

    name: str
    relative: float
    evaluation: Literal["A", "B"]
    distribution: str
    source: str


@dataclass(frozen=True)
class Capability:
    """Work per clock and SM (or bandwidth over nominal), corrected for attainment, over the limit: 1 is the limit."""

    value: float
    limit: float
    unit: str
    ratio: float
    expanded_uncertainty: float
    tolerance: float


@dataclass(frozen=True)
class Verdict:
    """One metric held against one sheet. SI units; None where absent. `expanded_uncertainty` is of `measured`,
    absolute, k = 2, attainment not included; `share_of_limit` is without correction for attainment."""

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


@dataclass(frozen=True)
class Finding:
    """Something that a reader must know; `severity` is info, warning or error."""

    code: str
    severity: str
    metric: str | None
    text: str


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


@cache
def metrics() -> dict[str, Metric]:
    """The metrics of metrics.toml, in its order."""
    table = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text(encoding="utf-8"))
    result = {}
    for name, entry in table["metric"].items():
        attainment = entry.pop("attainment", None)
        if attainment:
            attainment = Attainment(**attainment | {"source": table["source"][attainment["source"]]})
        result[name] = Metric(name, attainment=attainment, **entry)
    return result


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
                f"made by {record.run['instrument']}, samples not kept: dispersion is unknown, and a verdict that needs "
                "it is inconclusive",
            )
        )
    verdicts = _count_verdicts(record, sheet)
    if record.run["samples"] == "kept":
        rounds, telemetry = record.rounds(), record.telemetry()
        findings += _cross_checks(rounds, telemetry, record)
        disturbed = {f.metric for f in findings if f.code in ("toolchains-disagree", "clocks-disagree")}
        other = next((f for f in findings if f.code == "other-process"), None)
        for metric in dict.fromkeys(rounds["metric"]) if len(rounds) else ():
            selected = rounds[(rounds["metric"] == metric) & (rounds["toolchain"] == "cuda c++")]
            selected = selected if len(selected) else rounds[rounds["metric"] == metric]
            verdict = _judge_metric(_known(metric), _measured_from(selected, record, telemetry), sheet)
            if metric in disturbed or other:
                cause = other.text if other else next(f.text for f in findings if f.metric == metric)
                verdict = _undecided(verdict, cause)
            verdicts.append(verdict)
    else:
        for line in record.medians:
            if line["metric"] in metrics() and not line.get("variant"):
                verdicts.append(_judge_metric(metrics()[line["metric"]], _measured_from_median(line), sheet))
    seen = {verdict.metric for verdict in verdicts}
    failed = {f.metric: f.text for f in findings if f.code == "check-failed"}
    missing = {line["metric"]: line["reason"] for line in record.not_measured} | failed
    for metric, reason in missing.items():
        if metric not in seen and metric is not None:
            verdicts.append(_not_measured(_known(metric), sheet, reason))
    order = {name: place for place, name in enumerate(metrics())}
    verdicts.sort(key=lambda v: order.get(v.metric, len(order)))
    overall = _overall([(v.quantity, v.verdict) for v in verdicts])
    delivered = _overall([(v.quantity, v.delivered_verdict) for v in verdicts])
    part = str(record.claims.get("name") or record.claims.get("cuda.name") or "unnamed part")
    if any(f.code in ("identity", "check-failed") and f.severity == "error" for f in findings):
        overall = "does not conform"
    return Judgement(
        part,
        sheet,
        overall,
        delivered,
        _summary(part, sheet, overall, delivered, verdicts),
        tuple(verdicts),
        tuple(findings),
        tuple(choice),
        record,
    )


# -- what was measured ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """One metric's measured values, before any sheet is looked at."""

    rate: float | None  # absolute, in the metric's unit
    per_clock: float | None  # work per clock and SM
    sm_count: int | None
    sm_clock_hz: float | None
    nominal_bytes_per_s: float | None  # memory clock x bus width that the device claims
    terms: tuple[Term, ...]
    rounds: int
    dispersion_known: bool
    causes: dict[str, float] = field(default_factory=dict)
    conditions: str = ""  # what an importer knows of how the figure came about


def _measured_from(rounds: DataFrame, record: Record, telemetry: DataFrame) -> _Measured:
    import numpy as np

    event_s = rounds["event_s"].to_numpy(float)
    work = rounds["work"].to_numpy(float)
    rates = work / event_s
    per_clock = np.array(
        [
            np.median(np.asarray(w, float) / np.asarray(c, float))
            for w, c in zip(rounds["sm_work"], rounds["sm_cycles"], strict=True)
        ]
    )
    is_flop = rounds["work_unit"].iloc[0] == "FLOP"
    judged = per_clock if is_flop else rates
    cycles = float(np.median([np.median(c) for c in rounds["sm_cycles"]]))
    terms = [
        Term(
            "dispersion of the median",
            median_uncertainty(judged) / float(np.median(judged)),
            "A",
            "order statistics",
            f"{len(judged)} rounds",
        ),
    ]
    if is_flop:
        terms.append(_rectangular("clock stamps", STAMP_CYCLES / cycles, f"{STAMP_CYCLES:.0f} cycles of {cycles:.3g}"))
    else:
        seconds = float(np.median(event_s))
        gap = max(0.0, float(np.median(event_s - rounds["globaltimer_s"].to_numpy(float))))
        terms.append(_rectangular("event timer resolution", EVENT_RESOLUTION_S / seconds, "CUDA events"))
        terms.append(_rectangular("launch cost inside the round", gap / seconds, "event time less %globaltimer"))
        footprint = _footprint(record, rounds["metric"].iloc[0])
        l2 = record.claims.get("l2.size")
        if footprint and l2:
            terms.append(_rectangular("left in L2 by the pass before", float(l2) / footprint, "L2 size over footprint"))
    claims = record.claims
    nominal = None
    if claims.get("clock.memory.max") and claims.get("memory.bus_width"):
        nominal = float(claims["clock.memory.max"]) * 2 * float(claims["memory.bus_width"]) / 8
    return _Measured(
        rate=float(np.median(rates)),
        per_clock=float(np.median(per_clock)),
        sm_count=len({sm for ids in rounds["sm_id"] for sm in ids}),
        sm_clock_hz=float(np.median(rounds["sm_clock_hz"])),
        nominal_bytes_per_s=nominal,
        terms=tuple(terms),
        rounds=len(rounds),
        dispersion_known=len(rounds) > 1,
        causes=_causes(rounds, telemetry),
    )


def _measured_from_median(line: dict[str, Any]) -> _Measured:
    def number(key: str) -> float | None:
        return None if line.get(key) is None else float(line[key])

    sms = line.get("sm_count")
    return _Measured(
        rate=number("value"),
        per_clock=number("per_sm_and_clock"),
        sm_count=None if sms is None else int(sms),
        sm_clock_hz=number("sm_clock_hz"),
        nominal_bytes_per_s=number("nominal_bytes_per_s"),
        terms=(),
        rounds=0,
        dispersion_known=False,
        conditions=", ".join(str(line[key]) for key in ("duration", "note") if line.get(key)),
    )


def median_uncertainty(values: Any) -> float:
    """Standard uncertainty of the median of `values` (their unit), distribution-free.

    Half the 95 % order-statistic interval over k = 2 (SciPy's quantile test); half the range where there are too
    few values for such an interval; 0 for one value, where nothing is known and the caller must say so.
    """
    import numpy as np
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    if n < 2:
        return 0.0
    # The interval from the r-th smallest to the r-th largest covers the median with probability 1 - 2 P(B < r),
    # B binomial(n, 1/2) (H. A. David, Order Statistics, 7.1).
    r = int(binom.ppf(0.025, n, 0.5))
    if r < 1:
        return float(ordered[-1] - ordered[0]) / 2
    return float(ordered[n - r] - ordered[r - 1]) / 2 / COVERAGE_FACTOR


def _rectangular(name: str, half_width: float, source: str) -> Term:
    """GUM 4.3.7: the standard uncertainty of a rectangular distribution is its half-width over sqrt(3)."""
    return Term(name, half_width / math.sqrt(3), "B", "rectangular", source)


def _footprint(record: Record, metric: str) -> float | None:
    for kernel in record.kernels:
        if kernel["metric"] == metric and kernel["toolchain"] == "cuda c++" and kernel.get("footprint_bytes"):
            return float(kernel["footprint_bytes"])
    return None


def _causes(rounds: DataFrame, telemetry: DataFrame) -> dict[str, float]:
    """Share of the telemetry samples during these rounds that carried each clock-event reason."""
    if not len(telemetry) or "clock_event_reasons" not in telemetry:
        return {}
    start = float(rounds["start_host_s"].min())
    stop = float((rounds["start_host_s"] + rounds["host_s"]).max())
    window = telemetry[(telemetry["host_s"] >= start) & (telemetry["host_s"] <= stop)]
    masks = [int(mask) for mask in window["clock_event_reasons"].dropna()]
    names = [name for mask in masks for name in reason_names(mask)]
    return {name: names.count(name) / len(masks) for name in dict.fromkeys(names)}


# -- one metric against one sheet -------------------------------------------------------------------------


def _known(name: str) -> Metric:
    """A metric that metrics.toml does not list is shown, and judged against nothing."""
    return metrics().get(name, Metric(name, name, "rate", "FLOP/s"))


def _judge_metric(metric: Metric, measured: _Measured, sheet: Sheet) -> Verdict:
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


def combined(terms: Iterable[Term]) -> float:
    """Relative combined standard uncertainty of uncorrelated factors (GUM 5.1.6, equation 12)."""
    return math.sqrt(sum(term.relative**2 for term in terms))


def _attainment_terms(metric: Metric) -> tuple[Term, ...]:
    if metric.attainment is None:
        return ()
    relative = metric.attainment.standard_uncertainty / metric.attainment.value
    return (Term("attainment", relative, "B", "normal", metric.attainment.source),)


def _sheet_terms(published: Quantity | None) -> tuple[Term, ...]:
    if published is None or published.rounding_half_width_si == 0:
        return ()
    return (_rectangular("sheet rounding", published.rounding_half_width_si / published.si, published.text),)


def _capability(
    metric: Metric, measured: _Measured, published: Quantity | None, silicon: Quantity | None
) -> Capability | None:
    """The rate per clock and SM over the silicon's; bandwidth over the published one."""
    if metric.attainment is None:
        return None
    terms = measured.terms + _attainment_terms(metric)
    if metric.kind == "bandwidth":
        if published is None or measured.rate is None:
            return None
        value, limit, unit = measured.rate, published.si, "B/s"
        terms += _sheet_terms(published)
    else:
        if silicon is None or measured.per_clock is None:
            return None
        value, limit, unit = measured.per_clock, silicon.si, silicon.unit
    ratio = value / metric.attainment.value / limit
    return Capability(value, limit, unit, ratio, COVERAGE_FACTOR * combined(terms) * ratio, metric.tolerance)


def _capability_verdict(
    metric: Metric, measured: _Measured, capability: Capability | None, published: Quantity | None
) -> tuple[Word, str]:
    if capability is None:
        if metric.published is None or published is None:
            return "not published", "no sheet value to compare with"
        if metric.kind == "rate" and measured.per_clock is None:
            return "not measured", "no clock was recorded, so the rate per clock and SM is unknown"
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
        return f"{capability.value / capability.limit:.1%} of nominal, {_percent(capability.ratio)} for a good part"
    return f"{capability.value:.1f} of {capability.limit:.0f} {capability.unit}"


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+.1%} against what is expected"


def _delivered_verdict(
    metric: Metric,
    measured: _Measured,
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
    measured: _Measured,
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


def _count_verdicts(record: Record, sheet: Sheet) -> list[Verdict]:
    metric = metrics()["count.sm"]
    published = sheet.published_quantity("count.sm") or sheet.silicon_quantity("count.sm")
    seen: int | None = None
    if record.run["samples"] == "kept":
        ids = [sm for row in record.rounds()["sm_id"] for sm in row] if len(record.rounds()) else []
        seen = len(set(ids)) or None
        how = "distinct %smid at work"
    else:
        how = "as the device claims; nothing here counted them"
        seen = record.claims.get("count.sm")
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
            title=metric.title,
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
    from dataclasses import replace

    decided = ("conforms", "below", "above")
    return replace(
        verdict,
        verdict="inconclusive" if verdict.verdict in decided else verdict.verdict,
        delivered_verdict="inconclusive" if verdict.delivered_verdict in decided else verdict.delivered_verdict,
        reason=f"{cause}; {verdict.reason}",
    )


# -- the whole record -------------------------------------------------------------------------------------


def _cross_checks(rounds: DataFrame, telemetry: DataFrame, record: Record) -> list[Finding]:
    """Does the instrument agree with itself, and the device with the instrument?"""
    import numpy as np

    findings = []
    for metric, group in rounds.groupby("metric", sort=False):
        by_toolchain = {
            toolchain: float(np.median(part["work"] / part["globaltimer_s"]))
            for toolchain, part in group.groupby("toolchain")
        }
        if len(by_toolchain) == 2:
            ratio = by_toolchain["numba"] / by_toolchain["cuda c++"]
            if abs(ratio - 1) > TWIN_TOLERANCE:
                findings.append(
                    Finding(
                        "toolchains-disagree",
                        "warning",
                        str(metric),
                        f"{metric}: Numba reaches {ratio:.1%} of CUDA C++, over {TWIN_TOLERANCE:.0%} apart",
                    )
                )
        ours = group[group["toolchain"] == "cuda c++"]
        excess = ours["event_s"] / ours["globaltimer_s"] - 1
        if len(ours) and not -0.002 < float(excess.median()) < GAP_TOLERANCE:
            findings.append(
                Finding(
                    "clocks-disagree",
                    "warning",
                    str(metric),
                    f"{metric}: CUDA events and %globaltimer differ by {float(excess.median()):+.1%}",
                )
            )
        late = ours["event_s"] / ours["host_s"] - 1
        if len(ours) and float(late.median()) > 0.002:
            findings.append(
                Finding(
                    "clocks-disagree",
                    "warning",
                    str(metric),
                    f"{metric}: CUDA events count {float(late.median()):+.1%} more than the host's clock",
                )
            )
        if len(ours) and len(telemetry) and "sm_clock_hz" in telemetry:
            start, stop = (
                float(ours["start_host_s"].min()),
                float((ours["start_host_s"] + ours["host_s"]).max()),
            )
            window = telemetry[(telemetry["host_s"] >= start) & (telemetry["host_s"] <= stop)]["sm_clock_hz"].dropna()
            measured = float(ours["sm_clock_hz"].median())
            if len(window) >= 3 and abs(float(window.median()) / measured - 1) > CLOCK_TOLERANCE:
                findings.append(
                    Finding(
                        "clock-claim",
                        "warning",
                        str(metric),
                        f"{metric}: NVML said {show(float(window.median()), 'Hz')} while the kernels measured "
                        f"{show(measured, 'Hz')}",
                    )
                )
    if "other_processes" in telemetry and (telemetry["other_processes"].fillna(0) > 0).any():
        findings.append(
            Finding(
                "other-process",
                "warning",
                None,
                "another process used this GPU during the run: stop it and measure again",
            )
        )
    claimed = record.claims.get("count.sm")
    seen = len({sm for ids in rounds["sm_id"] for sm in ids}) if len(rounds) else None
    if seen is not None and claimed is not None and seen != int(claimed):
        findings.append(
            Finding("sm-count-claim", "error", "count.sm", f"the device claims {claimed} SMs, {seen} were seen at work")
        )
    return findings


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


def _summary(part: str, sheet: Sheet, overall: str, delivered: str, verdicts: list[Verdict]) -> str:
    """The answer in one line."""
    off = [f"{v.title} {v.verdict}" for v in verdicts if v.verdict in ("below", "above")]
    if overall == "conforms":
        text = f"{part} conforms to the {sheet.name} sheet in capability"
        late = [f"{v.title} {v.delivered_verdict}" for v in verdicts if v.delivered_verdict in ("below", "above")]
        return text + (f"; delivered: {', '.join(late)}" if late else "")
    if overall == "does not conform":
        return f"{part} is not what the {sheet.name} sheet says" + (f": {', '.join(off)}" if off else "")
    return f"{part} against the {sheet.name} sheet: inconclusive"
