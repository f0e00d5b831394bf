"""Record + sheet -> a verdict per metric, with its uncertainty and the reason for any difference.

Terms are metrology's: GUM (JCGM 100:2008) for uncertainty, JCGM 106:2012 for the decision. Everything here is a pure
function of the record and the sheet: a run can be judged again on any machine. One metric is judged in
`conformity`; here they are brought together with what the instrument and the device say of themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from . import agreement, audit, calibration, contention, hierarchy, sustained
from .agreement import Finding
from .conformity import Capability, Factor, Verdict, Word, judge_metric, limit_share
from .decision import Rule
from .latency import shown_size
from .measured import measurements
from .metrics import Metric, metric, metrics
from .record import Record
from .sheet_audit import acceptance
from .sheets import Sheet
from .sustained import Variant

__all__ = ["Capability", "Factor", "Judgement", "Overall", "Verdict", "Word", "judge", "limit_shares"]

SCHEMA = "gpuassay.judgement/1"
# Findings that make a measurement invalid: what it says of the part cannot be told from what disturbed it.
DOUBTS = ("clocks-disagree", "other-process", "too-hot")
# ... and one that leaves a shown capability standing: where the CUDA C++ kernel reaches the limit, a slower Numba twin
# says something of its compiler. Only a shortfall, or an excess, that one toolchain alone shows is in doubt.
DOUBTS_OF_DIFFERENCES = (*DOUBTS, "toolchains-disagree")
# Of a virtual GPU only a shortfall is: what another guest takes is no fault of the part, and nobody gives it more.
DOUBTS_OF_SHORTFALLS = (*DOUBTS_OF_DIFFERENCES, "virtual-gpu")

MIG = "a MIG instance, and the sheet speaks of the whole part"

Overall = Literal["conforms", "does not conform", "inconclusive"]


@dataclass(frozen=True)
class Multiplicity:
    """How many comparisons the overall verdict rests on, and how many false alarms to expect among them: at the
    limit, were every true value exactly at a tolerance limit; for a good part, were every one exactly right."""

    comparisons: int
    risk_at_the_limit: float
    expected_false_alarms_at_the_limit: float
    expected_false_alarms_of_a_good_part: float


@dataclass(frozen=True)
class Judgement:
    """All verdicts of one record, or of one file of figures, against one sheet."""

    part: str
    sheet: Sheet
    overall: Overall
    overall_delivered: Overall
    summary: str
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    choice: tuple[str, ...]
    rule: Rule
    record: Record | None = None
    source: str = ""  # where the figures come from, where there is no record
    variants: tuple[Variant, ...] = ()  # curves and other data: shown, judged by no sheet
    hierarchy: hierarchy.Hierarchy | None = None  # sizes of L1, L2 and TLB reach, found by curves
    audit: tuple[audit.Row, ...] = ()  # what the device says of itself against what was measured; no sheet needed

    @property
    def multiplicity(self) -> Multiplicity:
        """Of the comparisons that could have failed the part."""
        judged = [v.capability for v in self.verdicts if v.capability is not None]
        return Multiplicity(
            len(judged),
            self.rule.risk_at_the_limit,
            len(judged) * self.rule.risk_at_the_limit,
            sum(c.false_alarm_probability for c in judged),
        )

    def to_json(self) -> dict[str, Any]:
        """The judgement as every `--json` prints it; schema "gpuassay.judgement/1"."""
        run = self.record.run if self.record else None
        document = {
            "schema": SCHEMA,
            "part": self.part,
            "sheet": self.sheet.name,
            "overall": self.overall,
            "overall_delivered": self.overall_delivered,
            "summary": self.summary,
            "decision_rule": asdict(self.rule) | {"text": self.rule.text},
            "multiplicity": asdict(self.multiplicity),
            "source": self.source or None,
            "record": None
            if run is None or self.record is None
            else {
                "run_id": run["run_id"],
                "started": run["started"],
                "instrument": run["instrument"],
                "samples": run["samples"],
                "complete": self.record.complete,
            },
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "findings": [asdict(finding) for finding in self.findings],
            "acceptance_lines": {
                v.metric: said
                for v in self.verdicts
                if v.measured is not None and (said := acceptance.would_say(self.sheet, v.metric, v.measured))
            },
            "variants": [asdict(variant) for variant in self.variants],
            # Without the map of each SM's L2 latency: it tells dies apart, and a judgement is made to be passed on.
            "hierarchy": asdict(replace(self.hierarchy, sm_map={})) if self.hierarchy else None,
            "audit_answer": audit.overall(self.audit),
            "audit": [row.line() for row in self.audit],
        }
        return {key: _finite(value) for key, value in document.items()}


def judge(
    record: Record,
    sheet: Sheet,
    choice: Iterable[str] = (),
    contradictions: Iterable[str] = (),
    rule: Rule | None = None,
) -> Judgement:
    """Judges every metric of `record` against `sheet` by `rule` (by default U at k = 2, guard bands of one U).

    `choice` explains how the sheet was chosen, `contradictions` are identity findings (sheets.choose).
    """
    rule = rule or Rule()
    findings = _findings(record, contradictions)
    if record.mig:
        sheet = _of_one_sm(sheet)
    itself = {str(record.run["run_id"])} | {str(record.claims[key]) for key in ("uuid",) if key in record.claims}
    capability = record.claims.get("compute_capability") or record.claims.get("cuda.compute_capability")
    if calibration.contains(itself):
        text = "this board is among those that calibrated the instrument: it is judged by the others, or by the prior"
        findings.append(Finding("calibration-excludes-itself", "info", None, text))
    verdicts = []
    taken = measurements(record)
    per_clock = {name: found.per_clock for name, found in taken}
    for name, found in taken:
        attained = calibration.attainment(metric(name).base, capability, itself)
        verdict = judge_metric(metric(name), found, sheet, attained, rule)
        if record.mig and verdict.quantity and verdict.verdict == "not published":
            verdict = replace(verdict, reason=f"{MIG}; {verdict.reason}")
        verdicts.append(_doubted(_compared(verdict, per_clock), findings))
    seen = {verdict.metric for verdict in verdicts}
    failed = {f.metric: f.text for f in findings if f.code == "check-failed"}
    # A point of a curve that was not measured says nothing of the metric.
    missing = {line["metric"]: line["reason"] for line in record.not_measured if not line.get("variant")} | failed
    for name, reason in missing.items():
        if name is not None and name not in seen:
            verdicts.append(_not_measured(metric(name), sheet, reason))
    order = {name: place for place, name in enumerate(metrics())}
    verdicts.sort(key=lambda v: order.get(v.metric, len(order)))
    part = str(record.claims.get("name") or record.claims.get("cuda.name") or "unnamed part")
    curves = tuple(sustained.variants(record.rounds(), record.telemetry())) if record.run["samples"] == "kept" else ()
    found_sizes = hierarchy.of_record(record, sheet)
    findings += hierarchy.findings(found_sizes, record)
    beside = {"choice": tuple(choice), "record": record, "variants": curves, "hierarchy": found_sizes}
    rows = tuple(audit.of_record(record, sheet))
    if names := audit.inconsistent(rows):
        text = f"the audit found the device's own account inconsistent in: {', '.join(names)}"
        findings.append(Finding("audit-inconsistent", "warning", None, text))
    return conclude(part, sheet, verdicts, findings, rule, **beside, audit=rows)


def conclude(
    part: str, sheet: Sheet, verdicts: list[Verdict], findings: list[Finding], rule: Rule, **rest: Any
) -> Judgement:
    """The overall verdict of `verdicts` and `findings`."""
    overall = _overall([(v.quantity, v.verdict) for v in verdicts])
    delivered = _overall([(v.quantity, v.delivered_verdict) for v in verdicts])
    identity = any(f.code == "identity" for f in findings)
    if identity:
        overall = "does not conform"
    elif overall == "conforms" and any(f.severity == "error" for f in findings):
        overall = "inconclusive"
    silicon = audit.silicon_of(rest.get("audit", ())) if identity else None
    summary = _summary(part, sheet, overall, verdicts, identity, silicon)
    if names := audit.inconsistent(rest.get("audit", ())):
        # Beside the verdict and not in it: a sheet does not promise what these rows look at.
        summary += f"; audit: inconsistent: {_listed(names)}"
    return Judgement(
        part, sheet, overall, delivered, summary, tuple(verdicts), tuple(findings), rule=rule, **{"choice": ()} | rest
    )


def limit_shares(record: Record, sheet: Sheet) -> dict[str, float]:
    """Per metric, measured over the sheet's nominal limit, without any correction: what `calibrate` collects."""
    found = {name: limit_share(metric(name), taken, sheet) for name, taken in measurements(record)}
    return {
        name: share for name, share in found.items() if share is not None and metric(name).kind in ("rate", "bandwidth")
    }


def _of_one_sm(sheet: Sheet) -> Sheet:
    """What the sheet says of any MIG instance: clocks, and what an SM does in a clock. The rest is the whole part's,
    and so are the acceptance lines that belong to its PCI id."""
    whole = ("count.sm", "die.area", "l2.size", "memory.bus_width", "memory.size")
    return sheet.model_copy(
        update={
            "published": {name: found for name, found in sheet.published.items() if name.startswith("clock.")},
            "silicon": {name: found for name, found in sheet.silicon.items() if name not in whole},
            "identity": sheet.identity.model_copy(update={"pci_device_ids": ()}),
        }
    )


def _mig_finding(record: Record) -> Finding:
    sms, size_bytes = record.claims.get("mig.count.sm"), record.claims.get("mig.memory.size")
    its = f" of {sms} SMs and {shown_size(float(size_bytes))} by its attributes" if sms and size_bytes else ""
    text = (
        f"this is a MIG instance{its}: the sheet speaks of the whole part, so counts, sizes, bandwidths and absolute "
        "rates are held against nothing; rates per clock and SM are judged"
    )
    return Finding("mig-instance", "info", None, text)


def _findings(record: Record, contradictions: Iterable[str]) -> list[Finding]:
    """What the record itself says, what identity says, and where instrument and device disagree."""
    findings = [Finding(f["code"], f["severity"], f.get("metric"), f["text"]) for f in record.findings]
    findings += [_mig_finding(record)] if record.mig else []
    if record.vgpu:
        text = (
            "this is a virtual GPU with the memory of its profile, whose SMs other guests may have in turns: what it "
            "lacks says nothing of the part"
        )
        findings.append(Finding("virtual-gpu", "warning", None, text))
    findings += [Finding("identity", "error", None, text) for text in contradictions]
    if not record.complete:
        findings.append(Finding("incomplete-record", "warning", None, record.problem or "the run did not finish"))
    if record.run["samples"] != "kept":
        text = (
            f"made by {record.run['instrument']}, samples not kept: each figure stands for itself, dispersion unknown"
        )
        findings.append(Finding("samples-not-kept", "warning", None, text))
    elif len(rounds := record.rounds()):
        plain, telemetry = sustained.plain(rounds), record.telemetry()
        findings += contention.findings(plain, telemetry)
        findings += agreement.findings(contention.clean(plain, telemetry), telemetry, record)
        findings += sustained.findings(rounds)
    return findings


def _compared(verdict: Verdict, per_clock: dict[str, float | None]) -> Verdict:
    """The verdict with the share of the metric that it is compared with, where both were measured."""
    other = metric(verdict.metric).compared_with
    ours, theirs = per_clock.get(verdict.metric), per_clock.get(other or "")
    if not ours or not theirs:
        return verdict
    share = ours / theirs
    return replace(verdict, share_of_other=share, reason=f"{share:.1%} of {other} per clock and SM; {verdict.reason}")


def _doubted(verdict: Verdict, findings: list[Finding]) -> Verdict:
    """The verdict, made inconclusive where a finding says that the measurement was not valid."""
    if verdict.metric == "count.sm":
        return verdict

    def cause(codes: tuple[str, ...]) -> str | None:
        return next((f.text for f in findings if f.code in codes and f.metric in (None, verdict.metric)), None)

    doubts = {"conforms": cause(DOUBTS), "above": cause(DOUBTS_OF_DIFFERENCES), "below": cause(DOUBTS_OF_SHORTFALLS)}
    changed = {name: why for name in ("verdict", "delivered_verdict") if (why := doubts.get(getattr(verdict, name)))}
    if not changed:
        return verdict
    words: dict[str, Any] = dict.fromkeys(changed, "inconclusive")
    return replace(verdict, **words, reason=f"{next(iter(changed.values()))}; {verdict.reason}")


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


def _overall(
    words: list[tuple[str | None, Word]],
) -> Overall:
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


def _summary(
    part: str, sheet: Sheet, overall: str, verdicts: list[Verdict], identity: bool, silicon: str | None
) -> str:
    """The answer in one line; `silicon`: the sheet of the part's silicon, where its labels are another part's."""
    if overall == "conforms":
        text = f"{part} conforms to the {sheet.name} sheet in capability"
        late = _names((v.metric, v.delivered_verdict) for v in verdicts)
        return f"{text}; delivered rates: {late}" if late else text
    if overall == "inconclusive":
        return f"{part} against the {sheet.name} sheet: inconclusive"
    text = f"{part} is no {sheet.name}" if identity else f"{part} is not what the {sheet.name} sheet says"
    if silicon == sheet.name:
        text = f"{part} has {silicon} silicon under a label that does not match"
    elif silicon:
        text += f", its silicon is that of {silicon}"
    off = _names((v.metric, v.verdict) for v in verdicts)
    return f"{text}: {off}" if off else text


def _names(pairs: Iterable[tuple[str, Word]], shown: int = 3) -> str:
    """ "above: count.sm, tensor.bf16, tensor.fp16 and 4 more; below: memory.read"."""
    by_word: dict[str, list[str]] = {}
    for name, word in dict.fromkeys(pairs):
        if word in ("above", "below"):
            by_word.setdefault(word, []).append(name)
    return "; ".join(f"{word}: {_listed(names, shown)}" for word, names in by_word.items())


def _listed(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _finite(value: Any) -> Any:
    """For JSON: infinite degrees of freedom are null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
