"""Can a sheet's figures be true of one part? Arithmetic on the sheet alone; nothing is measured and nothing is stored.

Peak rate = SMs x rate per SM and clock x clock. A sheet that prints the first, with the second and third known, says
at which clock it was computed, and that clock can be held against the part's maximum and against the sheet's other
figures. Every figure is taken within its rounding: half a unit of the last printed digit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

from ..metrics import metrics
from ..sheets import UNITS, Quantity, Sheet
from ..units import show
from .bounds import Bounds, exact, printed

SCHEMA = "gpuassay.audit/1"

Severity = Literal["info", "warning", "error"]

#: Two figures are told apart only beyond this, on either side. Our choice: sheets often halve a printed sparse peak,
#: and the digits of the half then promise more than was printed (L4: 242.5 is half of 485).
SLACK = 0.0025
#: A figure that is off by more than this is off even where its rounding would cover it. Our choice.
COARSE = 0.05
#: Printed peaks are quoted below the maximum clock, but not by this much: the lowest known is the H100 NVL's
#: 1.544 of 1.785 GHz, 0.865. Below it, the rate per SM and clock is the likelier mistake. Our choice.
LOWEST_CLOCK_SHARE = 0.7


@dataclass(frozen=True)
class Finding:
    """One objection or remark. `text` holds the arithmetic in one line, `values` its numbers (SI), `sources` the keys
    of the sheet's sources that it involves."""

    severity: Severity
    code: str
    quantities: tuple[str, ...]
    text: str
    sources: tuple[str, ...]
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImpliedClock:
    """The clock (Hz) at which a published rate was computed, with the bounds that the figure's rounding leaves."""

    quantity: str
    published: str
    chosen: bool
    source: str
    sm_count: int
    rate_per_clock: float
    clock_hz: float
    low_hz: float
    high_hz: float
    max_clock_hz: float | None


@dataclass(frozen=True)
class Room:
    """What a published peak leaves open below the silicon's limit at maximum clock: a genuine part may land anywhere
    up to `limit` (SI). `room` is limit over published, less 1; negative where the sheet promises too much."""

    quantity: str
    published: str
    published_si: float
    rounding_half_width_si: float
    limit_si: float
    limit: str
    room: float
    max_clock_hz: float


@dataclass(frozen=True)
class Audit:
    """What `audit` found in one sheet."""

    sheet: Sheet
    findings: tuple[Finding, ...]
    clocks: tuple[ImpliedClock, ...]
    room: tuple[Room, ...]

    @property
    def objections(self) -> tuple[Finding, ...]:
        """The findings that are worse than a remark."""
        return tuple(f for f in self.findings if f.severity != "info")

    @property
    def summary(self) -> str:
        """The answer in one line."""
        errors = sum(f.severity == "error" for f in self.findings)
        warnings = len(self.objections) - errors
        remarks = len(self.findings) - len(self.objections)
        if not self.objections:
            return f"{self.sheet.name}: nothing to object to" + (f" ({_count(remarks, 'remark')})" if remarks else "")
        counts = [_count(n, word) for n, word in ((errors, "error"), (warnings, "warning"), (remarks, "remark")) if n]
        return f"{self.sheet.name}: {', '.join(counts)}"

    def to_json(self) -> dict[str, Any]:
        """The audit as `--json` prints it; schema "gpuassay.audit/1"."""
        return {
            "schema": SCHEMA,
            "sheet": self.sheet.name,
            "summary": self.summary,
            "objections": len(self.objections),
            "findings": [
                asdict(f) | {"sources": [_source_json(self.sheet, key) for key in f.sources]} for f in self.findings
            ],
            "clocks": [asdict(row) for row in self.clocks],
            "room": [asdict(row) for row in self.room],
        }


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _source_json(sheet: Sheet, key: str) -> dict[str, str | None]:
    source = sheet.sources[key]
    return {"key": key, "title": source.title, "confidence": source.confidence, "date": source.date, "url": source.url}


def audit(sheet: Sheet) -> Audit:
    """Every finding about `sheet`, worst first; its implied clocks; and the room that its peaks leave."""
    findings: list[Finding] = []
    for check in _CHECKS:
        findings += check(sheet)
    findings.sort(key=lambda f: ("error", "warning", "info").index(f.severity))
    return Audit(sheet, tuple(findings), tuple(implied_clocks(sheet)), tuple(room(sheet)))


# -- what the silicon can do ------------------------------------------------------------------------------


def known(sheet: Sheet, name: str) -> Quantity | None:
    """A count, clock or width: what a device shows goes before what was printed. None where neither is known."""
    return sheet.silicon_quantity(name) or sheet.published_quantity(name)


def silicon_limit(sheet: Sheet, name: str) -> float | None:
    """SMs x rate per SM and clock x maximum clock, in operations per second; None where one of them is not known."""
    rate, sms, clock = sheet.silicon_quantity(name), known(sheet, "count.sm"), known(sheet, "clock.sm.max")
    if rate is None or sms is None or clock is None or "/clk/SM" not in rate.unit:
        return None
    return sms.si * rate.si * clock.si


def nominal_bandwidth(sheet: Sheet) -> Bounds | None:
    """Memory clock x 2 transfers x bus width / 8, in bytes per second; None where clock or width is not known."""
    clock, width = known(sheet, "clock.memory"), known(sheet, "memory.bus_width")
    return None if clock is None or width is None else printed(clock).scaled(2 * width.si / 8)


def implied_clocks(sheet: Sheet) -> Iterator[ImpliedClock]:
    """The clock behind every published rate (unchosen ones too) whose SM count and rate per clock are known."""
    sms, clock = known(sheet, "count.sm"), known(sheet, "clock.sm.max")
    if sms is None:
        return
    for name, figures in sheet.published.items():
        rate = sheet.silicon_quantity(name)
        if rate is None or not _is_rate(name):
            continue
        for figure in figures:
            implied = printed(figure).scaled(1 / (sms.si * rate.si))
            yield ImpliedClock(
                name,
                figure.text,
                figure.chosen,
                figure.source,
                int(sms.si),
                rate.si,
                implied.value,
                implied.low,
                implied.high,
                clock.si if clock else None,
            )


def room(sheet: Sheet) -> Iterator[Room]:
    """Published peak beside the silicon's limit at maximum clock, for every rate where both are known."""
    clock = known(sheet, "clock.sm.max")
    for name in sheet.published:
        figure, limit = sheet.published_quantity(name), silicon_limit(sheet, name)
        if figure is None or limit is None or clock is None or not _is_rate(name):
            continue
        yield Room(
            name,
            figure.text,
            figure.si,
            figure.rounding_half_width_si,
            limit,
            _in_unit(limit, figure.unit),
            limit / figure.si - 1,
            clock.si,
        )


def _is_rate(name: str) -> bool:
    return name.startswith(("tensor.", "vector."))


def _in_unit(si: float, unit: str, digits: int | None = None) -> str:
    """In the figure's own unit, so that the two can be compared at a glance: four digits, two below one."""
    value = si / float(UNITS[unit].factor)
    if digits is None:
        digits = 4 if value >= 100 else 3 if value >= 1 else 2
    return f"{show(value, '', digits)} {unit}" if unit != "1" else show(value, "", digits)


def _ghz(hz: float, digits: int = 3) -> str:
    return f"{hz / 1e9:.{digits}f} GHz"


def _clock_text(hz: float) -> str:
    """1.98 GHz, but 1.755 GHz: as many digits as clocks in steps of 5 MHz need."""
    return _ghz(hz, 2 if round(hz / 1e6) % 10 == 0 else 3)


# -- the checks -------------------------------------------------------------------------------------------


def _rates(sheet: Sheet) -> Iterator[tuple[ImpliedClock, Quantity, Quantity]]:
    """Every implied clock with its published figure and the silicon rate."""
    figures = {(name, f.text, f.source): f for name, rows in sheet.published.items() for f in rows}
    for row in implied_clocks(sheet):
        rate = sheet.silicon_quantity(row.quantity)
        assert rate is not None  # implied_clocks gives no row without one
        yield row, figures[row.quantity, row.published, row.source], rate


def _reach(sheet: Sheet) -> Iterator[Finding]:
    """Figures that no clock of the part reaches, or that its rate per SM and clock contradicts."""
    clock = known(sheet, "clock.sm.max")
    sms = known(sheet, "count.sm")
    if clock is None or sms is None:
        return
    highest = printed(clock).widened(SLACK).high
    for row, figure, rate in _rates(sheet):
        limit = silicon_limit(sheet, row.quantity)
        assert limit is not None
        product = f"{sms.si:.0f} SM x {rate.si:g} {rate.unit}"
        most = f"{product} x {_clock_text(clock.si)} = {_in_unit(limit, figure.unit)}"
        sources = (figure.source, rate.source, sms.source, clock.source)
        values = {
            "published": figure.si,
            "limit": limit,
            "implied_clock_hz": row.clock_hz,
            "implied_clock_low_hz": row.low_hz,
            "implied_clock_high_hz": row.high_hz,
            "max_clock_hz": clock.si,
        }

        def finding(
            severity: Severity,
            code: str,
            text: str,
            row: ImpliedClock = row,
            sources: tuple[str, ...] = sources,
            values: dict[str, float] = values,
        ) -> Finding:
            if not row.chosen:
                severity, text = "info", f"{text}; not the figure judged against"
            return Finding(severity, code, (row.quantity,), f"{row.quantity}: {text}", _unique(sources), values)

        if row.low_hz * (1 - SLACK) > highest:
            yield finding(
                "error",
                "unreachable",
                f"{figure.text} / ({product}) = {_clock_text(_rounded(row.clock_hz))} ({row.low_hz / 1e9:.3f} to "
                f"{row.high_hz / 1e9:.3f} by its rounding), but the part ends at {_clock_text(clock.si)}; "
                f"at most {most}",
            )
        elif figure.si > limit * (1 + COARSE):
            yield finding(
                "warning",
                "contradicts-silicon-rate",
                f"{figure.text}, but {most} (rate by {sheet.sources[rate.source].confidence}); only the figure's "
                f"rounding, {_in_unit(printed(figure).low, figure.unit, 2)} to "
                f"{_in_unit(printed(figure).high, figure.unit, 2)}, covers that",
            )
        elif row.high_hz < clock.si * LOWEST_CLOCK_SHARE:
            yield finding(
                "warning",
                "contradicts-silicon-rate",
                f"{figure.text} / ({product}) = {_clock_text(_rounded(row.clock_hz))}, under "
                f"{LOWEST_CLOCK_SHARE:.0%} of the maximum of {_clock_text(clock.si)}; the silicon could do {most}",
            )


def _rounded(hz: float) -> float:
    return round(hz / 1e7) * 1e7


def _unique(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))


@dataclass(frozen=True)
class _Group:
    """Chosen dense figures that one clock explains."""

    rows: tuple[ImpliedClock, ...]

    @property
    def clock_hz(self) -> float:
        """The clock of the figure with the finest rounding."""
        return min(self.rows, key=lambda r: (r.high_hz - r.low_hz) / r.clock_hz).clock_hz

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.quantity for row in self.rows)


def clock_groups(sheet: Sheet) -> list[tuple[float, tuple[str, ...]]]:
    """The fewest clocks (Hz, ascending) that explain the chosen dense figures, with the figures of each.

    Figures too coarse to imply a clock (rounding beyond 5 %) belong to no group.
    """
    return [(group.clock_hz, group.names) for group in _groups(sheet)]


def _groups(sheet: Sheet) -> list[_Group]:
    rows = [
        row
        for row in implied_clocks(sheet)
        if row.chosen and not row.quantity.endswith(".sparse") and row.high_hz - row.low_hz <= 2 * COARSE * row.clock_hz
    ]
    # The classic way to stab intervals with the fewest points: take the lowest upper end, drop what it hits, repeat.
    rows.sort(key=lambda row: row.high_hz)
    groups: list[_Group] = []
    while rows:
        point = rows[0].high_hz * (1 + SLACK)
        groups.append(_Group(tuple(row for row in rows if row.low_hz * (1 - SLACK) <= point)))
        rows = [row for row in rows if row not in groups[-1].rows]
    # A coarse figure may fit two of the clocks: it goes to the nearer one. No group empties, for the figure that
    # gives a group its clock is nearest to that clock.
    clocks = sorted(group.clock_hz for group in groups)
    members: dict[float, list[ImpliedClock]] = {clock: [] for clock in clocks}
    for group in groups:
        for row in group.rows:
            members[min(clocks, key=lambda clock: abs(clock - row.clock_hz))].append(row)
    order = list(sheet.published)
    return [_Group(tuple(sorted(rows, key=lambda r: order.index(r.quantity)))) for rows in members.values()]


def _mixed_clocks(sheet: Sheet) -> Iterator[Finding]:
    groups = _groups(sheet)
    if len(groups) < 2:
        return

    def says(group: _Group) -> bool:
        """Whether every figure's basis names its clock."""
        return all(_stated_clock(_chosen(sheet, name)) is not None for name in group.names)

    # Where all groups but one name their clock, the sheet says that it mixes them.
    disclosed = sum(not says(group) for group in groups) <= 1
    parts = [f"{_ghz(group.clock_hz)} ({', '.join(group.names)})" for group in groups]
    yield Finding(
        "info" if disclosed else "warning",
        "mixed-clocks",
        tuple(name for group in groups for name in group.names),
        f"the figures imply {len(groups)} clocks: {'; '.join(parts)}" + ("; the sheet says so" if disclosed else ""),
        _unique(row.source for group in groups for row in group.rows),
        {f"clock_{index}_hz": group.clock_hz for index, group in enumerate(groups, 1)},
    )


def _below_maximum(sheet: Sheet) -> Iterator[Finding]:
    clock = known(sheet, "clock.sm.max")
    if clock is None:
        return
    for group in _groups(sheet):
        if max(row.high_hz for row in group.rows) * (1 + SLACK) >= clock.si * (1 - SLACK):
            continue
        row = min(group.rows, key=lambda r: (r.high_hz - r.low_hz) / r.clock_hz)
        limit = silicon_limit(sheet, row.quantity)
        assert limit is not None
        figure = _chosen(sheet, row.quantity)
        yield Finding(
            "info",
            "below-maximum-clock",
            group.names,
            f"{', '.join(group.names)}: computed at {_ghz(row.clock_hz)} ({figure.text} / ({row.sm_count} SM x "
            f"{row.rate_per_clock:g}) for {row.quantity}), not at the maximum of {_clock_text(clock.si)}, where it "
            f"would be {_in_unit(limit, figure.unit)}, {limit / figure.si - 1:.1%} more",
            _unique([row.source for row in group.rows] + [clock.source]),
            {"implied_clock_hz": row.clock_hz, "max_clock_hz": clock.si, "limit": limit, "room": limit / figure.si - 1},
        )


def _chosen(sheet: Sheet, name: str) -> Quantity:
    figure = sheet.published_quantity(name)
    assert figure is not None
    return figure


def _stated_clock(figure: Quantity) -> float | None:
    """The clock (Hz) that a figure's basis names."""
    found = re.search(r"(\d+(?:\.\d+)?)\s*([MG])Hz", figure.basis or "")
    return float(found[1]) * {"M": 1e6, "G": 1e9}[found[2]] if found else None


def _stated_clocks(sheet: Sheet) -> Iterator[Finding]:
    for row, figure, rate in _rates(sheet):
        stated = _stated_clock(figure)
        if stated is None or row.low_hz * (1 - SLACK) <= stated <= row.high_hz * (1 + SLACK):
            continue
        yield Finding(
            "warning" if row.chosen else "info",
            "stated-clock",
            (row.quantity,),
            f"{row.quantity}: its basis names {_clock_text(stated)}, but {figure.text} / ({row.sm_count} SM x "
            f"{rate.si:g} {rate.unit}) = {_ghz(row.clock_hz)}",
            _unique((figure.source, rate.source)),
            {"stated_clock_hz": stated, "implied_clock_hz": row.clock_hz},
        )


def _sparse(sheet: Sheet) -> Iterator[Finding]:
    for name in sheet.published:
        dense, sparse = sheet.published_quantity(name), sheet.published_quantity(f"{name}.sparse")
        if dense is None or sparse is None:
            continue
        ratio = printed(sparse) / printed(dense)
        if ratio.widened(SLACK).overlaps(exact(2.0)):
            continue
        yield Finding(
            "warning",
            "sparse-not-double",
            (name, f"{name}.sparse"),
            f"{name}: sparse {sparse.text} / dense {dense.text} = {ratio.value:.3f} ({ratio.low:.3f} to "
            f"{ratio.high:.3f}), where 2:4 sparsity makes 2",
            _unique((sparse.source, dense.source)),
            {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high},
        )


def _bandwidth(sheet: Sheet) -> Iterator[Finding]:
    figure, nominal = sheet.published_quantity("memory.bandwidth"), nominal_bandwidth(sheet)
    clock, width = known(sheet, "clock.memory"), known(sheet, "memory.bus_width")
    if figure is None or nominal is None or clock is None or width is None:
        return
    arithmetic = f"{width.text} x {clock.text} x 2 / 8 = {_in_unit(nominal.value, figure.unit)}"
    sources = _unique((figure.source, clock.source, width.source))
    values = {"published": figure.si, "nominal": nominal.value, "ratio": figure.si / nominal.value}
    derived = [q.name for q in (clock, width) if sheet.sources[q.source].confidence == "derived"]
    if printed(figure).widened(SLACK).overlaps(nominal.widened(SLACK)):
        if derived:
            yield Finding(
                "info",
                "bandwidth-circular",
                ("memory.bandwidth", *derived),
                f"memory.bandwidth: {figure.text} agrees with {arithmetic}, but this sheet derives "
                f"{' and '.join(derived)}, so that checks nothing",
                sources,
                values,
            )
        return
    above = figure.si > nominal.value
    yield Finding(
        "error" if above and not derived else "warning",
        "bandwidth-unlike-clock",
        ("memory.bandwidth", "clock.memory", "memory.bus_width"),
        f"memory.bandwidth: {figure.text}, but {arithmetic}; the figure is {figure.si / nominal.value - 1:+.1%} off"
        + (", more than that clock and width can carry" if above else ""),
        sources,
        values,
    )


@cache
def _tolerances() -> dict[str, float]:
    """Sheet quantity -> the narrowest tolerance by which a metric is judged against it (metrics.toml)."""
    result: dict[str, float] = {}
    for metric in metrics().values():
        if metric.published and metric.tolerance:
            result[metric.published] = min(metric.tolerance, result.get(metric.published, math.inf))
    return result


def _rounding(sheet: Sheet) -> Iterator[Finding]:
    """Figures whose last digit is coarser than the tolerance by which a part is judged."""
    for name, tolerance in _tolerances().items():
        figure = sheet.published_quantity(name)
        if figure is None:
            continue
        half = figure.rounding_half_width_si / figure.si
        if half > tolerance:
            yield Finding(
                "warning" if half > 2 * COARSE else "info",
                "coarse-rounding",
                (name,),
                f"{name}: {figure.text} is printed to +-{half:.1%}, wider than the tolerance of {tolerance:.1%} by "
                "which a part is judged",
                (figure.source,),
                {"relative_half_width": half, "tolerance": tolerance},
            )


def _conflicts(sheet: Sheet) -> Iterator[Finding]:
    for section in (sheet.published, sheet.silicon):
        for name, figures in section.items():
            if len(figures) < 2:
                continue
            kind = figures[0].kind
            chosen = next(f for f in figures if f.chosen)
            lowest, highest = min(f.si for f in figures), max(f.si for f in figures)
            rounding = all(printed(a).widened(SLACK).overlaps(printed(b)) for a in figures for b in figures)
            spread = (highest - lowest) / chosen.si
            listed = ", ".join(f"{f.text} ({f.source}{', chosen' if f.chosen else ''})" for f in figures)
            yield Finding(
                "info" if rounding else "warning",
                "sources-agree" if rounding else "sources-conflict",
                (name,),
                f"{name} ({kind}): {listed}: "
                + ("one figure, rounded differently" if rounding else f"a spread of {spread:.1%} of the chosen one"),
                _unique(f.source for f in figures),
                {"spread": spread, "lowest": lowest, "highest": highest},
            )


def _unlike_silicon(sheet: Sheet) -> Iterator[Finding]:
    for name in ("count.sm", "clock.sm.max", "clock.memory", "memory.bus_width"):
        figure, shown = sheet.published_quantity(name), sheet.silicon_quantity(name)
        if figure is None or shown is None or printed(figure).widened(SLACK).overlaps(printed(shown)):
            continue
        yield Finding(
            "warning",
            "published-unlike-silicon",
            (name,),
            f"{name}: published {figure.text}, the silicon {shown.text}, {figure.si / shown.si - 1:+.1%}",
            _unique((figure.source, shown.source)),
            {"published": figure.si, "silicon": shown.si},
        )


def _unchecked(sheet: Sheet) -> Iterator[Finding]:
    """What the sheet does not hold, and which figures cannot be checked for it."""
    rates = [name for name in sheet.published if _is_rate(name)]
    missing: dict[str, list[str]] = {}
    for name in rates:
        if name.endswith(".sparse") and sheet.silicon_quantity(name) is None:
            continue  # the ratio to the dense figure is checked instead
        for need in ("count.sm", "clock.sm.max"):
            if known(sheet, need) is None:
                missing.setdefault(need, []).append(name)
        if sheet.silicon_quantity(name) is None:
            missing.setdefault("rate per SM and clock", []).append(name)
    if "memory.bandwidth" in sheet.published:
        for need in ("clock.memory", "memory.bus_width"):
            if known(sheet, need) is None:
                missing.setdefault(need, []).append("memory.bandwidth")
    for need, names in missing.items():
        yield Finding("info", "cannot-check", tuple(names), f"no {need} is known, so unchecked: {', '.join(names)}", ())


def _labels(sheet: Sheet) -> Iterator[Finding]:
    """A basis that says dense and sparse at once, or the opposite of the figure's name; and none at all."""
    unlabelled: list[Quantity] = []
    for name, figures in sheet.published.items():
        if not name.startswith("tensor."):
            continue
        for figure in figures:
            basis = (figure.basis or "").casefold()
            words = {word for word in ("dense", "sparse") if re.search(rf"\b{word}\b", basis)}
            meant = "sparse" if name.endswith(".sparse") else "dense"
            if len(words) == 2 or (words and meant not in words):
                problem = "labels it dense and sparse at once" if len(words) == 2 else f"calls a {meant} figure {basis}"
                yield Finding(
                    "warning",
                    "basis-ambiguous",
                    (name,),
                    f"{name}: the basis of {figure.text} {problem}: {figure.basis!r}",
                    (figure.source,),
                )
            # FP64 has no sparse mode on any of these parts, so nothing need be said.
            elif not words and name != "tensor.fp64":
                unlabelled.append(figure)
    if unlabelled:
        yield Finding(
            "info",
            "basis-unlabelled",
            _unique(f.name for f in unlabelled),
            f"neither dense nor sparse is said of {', '.join(_unique(f'{f.name} {f.text}' for f in unlabelled))}",
            _unique(f.source for f in unlabelled),
        )


_CHECKS: tuple[Callable[[Sheet], Iterator[Finding]], ...] = (
    _reach,
    _mixed_clocks,
    _stated_clocks,
    _below_maximum,
    _sparse,
    _bandwidth,
    _conflicts,
    _unlike_silicon,
    _labels,
    _rounding,
    _unchecked,
)
