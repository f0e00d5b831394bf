"""One metric held against one sheet: capability, delivery, the budget of both, and the factors of the difference.

*Capability*: work per clock and per SM (bandwidth: of the memory's nominal rate) against what the silicon, or its
cap, allows. *Delivery*: the absolute rate, at the clock that the part chose, against the printed figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from . import throughput
from .calibration import Attainment
from .decision import Comparison, Rule, compare
from .metrics import Metric
from .sheets import UNITS, Quantity, Sheet
from .uncertainty import Measured, Term, combined, coverage_factor, rectangular
from .units import show

Word = Literal[
    "conforms",
    "below",
    "above",
    "inconclusive",
    "unattainable sheet",
    "not published",
    "not measured",
]
EXACT = Rule()  # for what is counted


@dataclass(frozen=True)
class Capability:
    """A measured value over its limit, corrected for attainment: `ratio` 1 is the limit. `expanded_uncertainty` and
    the tolerance interval are of `ratio`; `conformance_probability` is of the true ratio being inside it."""

    value: float
    limit: float
    unit: str
    ratio: float
    expanded_uncertainty: float
    lower: float
    upper: float
    conformance_probability: float
    false_alarm_probability: float
    budget: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Factor:
    """One factor of measured / published, with the expanded uncertainty of that ratio (None where the record does not
    tell it). `nature`: permanent (of the part), transient (of the moment: power, temperature, load) or instrument (of
    this measurement)."""

    ratio: float
    expanded_uncertainty: float | None
    nature: Literal["permanent", "transient", "instrument"]

    @property
    def text(self) -> str:
        """The ratio, and its uncertainty where it is known."""
        known = self.expanded_uncertainty
        return f"{self.ratio:.4f}" + ("" if known is None else f" ± {known:.4f}")


@dataclass(frozen=True)
class Verdict:
    """One metric held against one sheet. SI units; None where absent. `expanded_uncertainty` is of `measured`,
    absolute, attainment not included; `budget` has its terms and those of the comparison with the sheet.
    `share_of_limit` is without correction for attainment."""

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
    attribution: dict[str, Factor] = field(default_factory=dict)
    causes: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    budget: tuple[Term, ...] = ()
    share_of_other: float | None = None  # per clock and SM, of the metric that metrics.toml compares this one with
    kind: str | None = None  # of a figure from elsewhere: limit or library
    source: str | None = None  # ... who measured it
    line: int | None = None  # ... and where in its file it stands

    @property
    def on_the_sheet(self) -> bool:
        """Whether the sheet, or a cap of the silicon, has something to hold the metric against."""
        return self.published is not None or self.verdict not in ("not published", "not measured")


def judge_metric(
    metric: Metric, measured: Measured, sheet: Sheet, attainment: Attainment | None, rule: Rule
) -> Verdict:
    """The verdict on one metric. `attainment` None: the figure is compared as it stands."""
    published = sheet.published_quantity(metric.published) if metric.published else None
    if metric.kind in ("count", "clock"):  # what no sheet prints, a device query knows
        published = published or sheet.silicon_quantity(str(metric.published))
    if metric.kind == "count":
        return _count(metric, measured, published)
    if measured.bounds_from_below:
        attainment = None  # a library is no calibrated kernel: what it reaches, the part can do at least
    limit = nominal_limit(metric, sheet)
    by_clock = metric.kind == "rate" and measured.per_clock is not None
    capability = capability_of(metric, measured, limit, attainment, rule)
    delivered = delivery_of(metric, measured, published, sheet, attainment, rule)
    if capability is not None:
        word, reason = _bounded(capability.word, measured), _capability_reason(metric, measured, capability, limit)
    elif delivered is not None and metric.kind in ("rate", "bandwidth", "size", "clock"):
        word, reason = _without_clock(metric, measured, published, sheet, attainment, delivered, rule)
    else:
        word, reason = _unjudged(metric, measured, published)
    delivered_word, share = _delivered_word(metric, measured, published, sheet, delivered)
    factors = attribution(metric, measured, published, sheet, rule)
    if share and by_clock:
        reason = f"{reason}; {share}"
    if delivered_word in ("below", "above") and word == "conforms" and by_clock:
        reason += _because(factors, measured.causes)
    if word in ("conforms", "below", "above", "inconclusive") and not measured.dispersion_known:
        reason += "; one value: type A is not estimated"
    if measured.conditions:
        reason += f" ({measured.conditions})"
    decisive = capability or delivered
    relative, freedom = combined(measured.terms)
    budget = measured.terms + _attainment_terms(attainment) + _sheet_terms(published)
    return Verdict(
        metric=metric.name,
        title=metric.title,
        published=published.si if published else None,
        published_text=published.text if published else None,
        measured=measured.rate,
        unit=metric.unit,
        expanded_uncertainty=(
            coverage_factor(freedom, rule.confidence) * relative * measured.rate
            if measured.rate is not None and measured.dispersion_known
            else None
        ),
        share_of_published=measured.rate / published.si if published and measured.rate is not None else None,
        share_of_limit=limit_share(metric, measured, sheet),
        verdict=word,
        delivered_verdict=delivered_word,
        reason=reason,
        quantity=metric.published,
        capability=_shown(metric, measured, decisive, limit, published, rule),
        attribution=factors,
        causes=measured.causes,
        rounds=measured.rounds,
        budget=budget,
    )


def nominal_limit(metric: Metric, sheet: Sheet) -> Quantity | float | None:
    """What bounds a metric: the silicon's rate per clock and SM; for bandwidth memory clock x width x 2 / 8 (B/s)
    where the sheet knows them (the printed figure is that product, rounded), else the printed bandwidth."""
    if metric.published is None:
        return None
    if metric.kind == "rate":
        return sheet.silicon_quantity(metric.published)
    if metric.kind == "bandwidth":
        clock, width = sheet.silicon_quantity("clock.memory"), sheet.silicon_quantity("memory.bus_width")
        clock = clock or sheet.published_quantity("clock.memory")
        width = width or sheet.published_quantity("memory.bus_width")
        if clock and width:
            return clock.si * width.si * 2 / 8
        return sheet.published_quantity(metric.published)
    return None


def limit_share(metric: Metric, measured: Measured, sheet: Sheet) -> float | None:
    """Measured over the nominal limit, as it stands; None where either is unknown. What no sheet prints is held
    against CUDA's throughput table."""
    limit = nominal_limit(metric, sheet)
    if limit is None and metric.kind == "rate" and metric.published is None and sheet.identity.compute_capability:
        limit = throughput.limit(metric.name, sheet.identity.compute_capability)
    value = measured.per_clock if metric.kind == "rate" else measured.rate
    return None if limit is None or value is None else float(value / _si(limit))


def attainable(metric: Metric, sheet: Sheet) -> float | None:
    """SMs x rate per SM and clock x maximum clock: the most that the silicon can do, or None where unknown."""
    silicon = sheet.silicon_quantity(metric.published) if metric.published and metric.kind == "rate" else None
    sms = sm_count(sheet)
    clock = sheet.silicon_quantity("clock.sm.max") or sheet.published_quantity("clock.sm.max")
    if silicon is None or sms is None or clock is None:
        return None
    return sms * silicon.si * clock.si


def sm_count(sheet: Sheet) -> float | None:
    """Number of SMs by the sheet, or None."""
    quantity = sheet.published_quantity("count.sm") or sheet.silicon_quantity("count.sm")
    return quantity.si if quantity else None


# -- capability ----------------------------------------------------------------------------------------------


def capability_of(
    metric: Metric, measured: Measured, limit: Quantity | float | None, attainment: Attainment | None, rule: Rule
) -> Comparison | None:
    """The rate per clock and SM over the silicon's; bandwidth over the nominal one; None where either is unknown."""
    value = measured.per_clock if metric.kind == "rate" else measured.rate if metric.kind == "bandwidth" else None
    if limit is None or value is None:
        return None
    of_limit = _sheet_terms(limit) if isinstance(limit, Quantity) else ()
    return compare(
        value / _value(attainment) / _si(limit),
        measured.clock_terms if metric.kind == "rate" else measured.terms,
        _attainment_terms(attainment) + of_limit,
        1 - metric.tolerance,
        1 + metric.tolerance,
        rule,
    )


def _capability_reason(metric: Metric, measured: Measured, found: Comparison, limit: Quantity | float | None) -> str:
    assert limit is not None
    if metric.kind == "bandwidth":
        text = f"{measured.rate / _si(limit):.1%} of the nominal {show(_si(limit), 'B/s')}"
        if not measured.bounds_from_below:
            text += f", {found.ratio - 1:+.1%} against what a good part attains"
    else:
        assert isinstance(limit, Quantity)
        text = f"{measured.per_clock:.1f} of {limit.si:.0f} {limit.unit}"
    return text + _doubt(found, measured)


def _doubt(found: Comparison, measured: Measured) -> str:
    if measured.bounds_from_below and found.word in ("below", "inconclusive"):
        return "; a library's figure: the part can do this much, and may do more"
    if measured.bounds_from_below and found.word == "conforms":
        return "; a library's figure: whether the part can do still more it does not show"
    if found.word == "inconclusive":
        edge = min(abs(found.ratio - found.lower), abs(found.ratio - found.upper))
        return f"; {edge:.1%} from a tolerance limit, with U = {found.expanded_uncertainty:.1%}"
    return ""


def _bounded(word: str, measured: Measured) -> Word:
    """A figure that bounds the capability from below can show conformity or excess, never a shortfall."""
    return "inconclusive" if measured.bounds_from_below and word == "below" else word  # type: ignore[return-value]


# -- delivery ------------------------------------------------------------------------------------------------


def delivery_of(
    metric: Metric,
    measured: Measured,
    published: Quantity | None,
    sheet: Sheet,
    attainment: Attainment | None,
    rule: Rule,
) -> Comparison | None:
    """The absolute value against the printed one. Where no clock is known, a rate may lie anywhere from the printed
    figure to what the maximum clock gives; a size from the decimal to the binary reading of its prefix."""
    if published is None or measured.rate is None:
        return None
    lower, upper = 1 - metric.tolerance, 1 + metric.tolerance
    if metric.kind == "rate" and measured.per_clock is None:
        most = attainable(metric, sheet)
        upper *= max(1.0, most / published.si) if most else 1.0
    elif metric.kind == "size":
        rounding = published.rounding_half_width_si / published.si
        lower, upper = 1 - rounding, _binary_over_decimal(published) * (1 + rounding)
    elif metric.kind == "clock":
        lower, upper = 0.0, 1.005  # up to the maximum, one step of 5 to 15 MHz included
    return compare(
        measured.rate / _value(attainment) / published.si,
        measured.terms,
        _attainment_terms(attainment) + (() if metric.kind == "size" else _sheet_terms(published)),
        lower,
        upper,
        rule,
    )


def _without_clock(
    metric: Metric,
    measured: Measured,
    published: Quantity | None,
    sheet: Sheet,
    attainment: Attainment | None,
    delivered: Comparison,
    rule: Rule,
) -> tuple[Word, str]:
    """What can be said of capability from an absolute figure alone."""
    assert published is not None
    share = f"{measured.rate / published.si:.1%} of the printed {published.text}"
    if metric.kind != "rate":
        return _bounded(delivered.word, measured), share + _doubt(delivered, measured)
    most = attainable(metric, sheet)
    if most is not None:
        beyond = compare(
            measured.rate / _value(attainment) / most,
            measured.terms,
            _attainment_terms(attainment),
            1 - metric.tolerance,
            1 + metric.tolerance,
            rule,
        )
        if beyond.word == "above":
            return "above", f"{share}; at no clock can the part's silicon do more than {show(most, metric.unit)}"
        if _unattainable(published, most):
            return (
                "unattainable sheet",
                f"{share}, which no clock of this part reaches (at most {show(most, metric.unit)})",
            )
    if delivered.word == "conforms":
        band = f" to {show(most, metric.unit)} at the maximum clock" if most and most > published.si else ""
        return "conforms", f"{share}; no clock was given, and this lies in the band from printed{band}" + _doubt(
            delivered, measured
        )
    if delivered.word == "below":
        return "inconclusive", f"{share}; no clock was given, and a lower clock would explain it" + _doubt(
            delivered, measured
        )
    return _bounded(delivered.word, measured), share + "; no clock was given" + _doubt(delivered, measured)


def _delivered_word(
    metric: Metric, measured: Measured, published: Quantity | None, sheet: Sheet, delivered: Comparison | None
) -> tuple[Word, str]:
    if metric.published is None or published is None:
        return "not published", ""
    if delivered is None:
        return "not measured", ""
    word = _bounded(delivered.word, measured)
    if metric.kind != "rate":
        return word, ""
    share = f"delivers {measured.rate / published.si:.1%} of the printed {published.text}"
    most = attainable(metric, sheet)
    if word != "above" and most is not None and _unattainable(published, most):
        return (
            "unattainable sheet",
            f"{share}, which no clock of this part reaches (at most {show(most, metric.unit)})",
        )
    return word, share


def _unattainable(published: Quantity, most: float) -> bool:
    return published.si - published.rounding_half_width_si > most


def _unjudged(metric: Metric, measured: Measured, published: Quantity | None) -> tuple[Word, str]:
    if metric.published is None or published is None:
        return "not published", "no sheet value to compare with"
    if metric.kind == "rate" and measured.per_clock is None:
        return "not measured", "no clock was recorded, so the rate per clock and SM is unknown"
    return "not published", "the silicon's rate per clock and SM is not known"


def _count(metric: Metric, measured: Measured, published: Quantity | None) -> Verdict:
    """A count is exact: no uncertainty, no tolerance."""
    seen = int(measured.rate)
    if published is None:
        word: Word = "not published"
        reason = measured.conditions
    else:
        word = "conforms" if seen == published.si else "above" if seen > published.si else "below"
        reason = f"{seen} SMs, the sheet has {published.si:.0f}"
        reason += f" ({measured.conditions})" if measured.conditions else ""
    share = seen / published.si if published else None
    return Verdict(
        metric=metric.name,
        title=metric.title,
        published=published.si if published else None,
        published_text=published.text if published else None,
        measured=float(seen),
        unit="1",
        expanded_uncertainty=0.0,
        share_of_published=share,
        share_of_limit=share,
        verdict=word,
        delivered_verdict=word,
        reason=reason,
        quantity=metric.published,
    )


# -- attribution ---------------------------------------------------------------------------------------------


def attribution(
    metric: Metric, measured: Measured, published: Quantity | None, sheet: Sheet, rule: Rule
) -> dict[str, Factor]:
    """measured / published as a product of factors. For a rate: SMs, clock (against the one that the published
    figure implies), rate per SM and clock; `rest` is what they leave (launch cost, the tail of the launch). For
    bandwidth: the nominal bandwidth that the device claims, and the share of it attained."""
    if published is None or measured.rate is None:
        return {}
    total = measured.rate / published.si
    sheet_terms = _sheet_terms(published)

    def of_rounds(ratio: float, terms: tuple[Term, ...]) -> float | None:
        return ratio * _relative(terms, rule) if measured.dispersion_known else None

    if metric.kind == "bandwidth":
        if measured.nominal_bytes_per_s is None:
            return {}
        nominal = measured.nominal_bytes_per_s / published.si
        share = total / nominal
        return {
            "memory clock x bus width": Factor(nominal, nominal * _relative(sheet_terms, rule), "permanent"),
            "share of nominal attained": Factor(share, of_rounds(share, measured.terms), "permanent"),
        }
    sms = sm_count(sheet)
    silicon = sheet.silicon_quantity(metric.published) if metric.published and metric.kind == "rate" else None
    if not (sms and silicon and measured.sm_count and measured.sm_clock_hz and measured.per_clock):
        return {}
    stamps = tuple(term for term in measured.clock_terms if term.name == "clock stamps")
    clock, rate = measured.sm_clock_hz / (published.si / sms / silicon.si), measured.per_clock / silicon.si
    factors = {
        "SMs": Factor(measured.sm_count / sms, 0.0, "permanent"),
        "clock": Factor(clock, clock * _relative(stamps + sheet_terms, rule), "transient"),
        "rate per SM and clock": Factor(rate, of_rounds(rate, measured.clock_terms), "permanent"),
    }
    rest = total / math.prod(factor.ratio for factor in factors.values())
    spread = tuple(term for term in measured.terms if term.evaluation == "A")
    return factors | {"rest": Factor(rest, of_rounds(rest, spread), "instrument")}


def _relative(terms: tuple[Term, ...], rule: Rule) -> float:
    relative, freedom = combined(terms)
    return float(coverage_factor(freedom, rule.confidence) * relative)


def _because(factors: dict[str, Factor], causes: dict[str, float]) -> str:
    if not factors:
        return ""
    name = max(factors, key=lambda key: abs(math.log(factors[key].ratio)))
    named = ", ".join(f"{cause} ({share:.0%} of the time)" for cause, share in causes.items())
    return f", cause: {name} x {factors[name].ratio:.3f}" + (f" ({named})" if named and name == "clock" else "")


# -- small things --------------------------------------------------------------------------------------------


def _shown(
    metric: Metric,
    measured: Measured,
    found: Comparison | None,
    limit: Quantity | float | None,
    published: Quantity | None,
    rule: Rule,
) -> Capability | None:
    if found is None:
        return None
    per_clock = metric.kind == "rate" and measured.per_clock is not None and limit is not None
    against = limit if per_clock or (metric.kind == "bandwidth" and limit is not None) else published
    assert against is not None
    return Capability(
        value=float(measured.per_clock if per_clock else measured.rate),
        limit=_si(against),
        unit=against.unit if per_clock and isinstance(against, Quantity) else metric.unit,
        ratio=float(found.ratio),
        expanded_uncertainty=float(found.expanded_uncertainty),
        lower=found.lower,
        upper=found.upper,
        conformance_probability=float(found.conformance_probability),
        false_alarm_probability=found.false_alarm_probability(rule.guard),
        budget=found.budget,
    )


def _attainment_terms(attainment: Attainment | None) -> tuple[Term, ...]:
    return () if attainment is None else (attainment.term,)


def _sheet_terms(published: Quantity | None) -> tuple[Term, ...]:
    if published is None or published.rounding_half_width_si == 0:
        return ()
    return (rectangular("sheet rounding", published.rounding_half_width_si / published.si, published.text),)


def _value(attainment: Attainment | None) -> float:
    return 1.0 if attainment is None else attainment.value


def _si(limit: Quantity | float) -> float:
    return limit.si if isinstance(limit, Quantity) else limit


def _binary_over_decimal(size: Quantity) -> float:
    """96 GB may mean 96 GiB: 1.0737 for G, 1.0486 for M; 1 where the unit is binary already."""
    binary = {"kB": "KiB", "MB": "MiB", "GB": "GiB"}.get(size.unit)
    return float(UNITS[binary].factor / UNITS[size.unit].factor) if binary else 1.0
