"""Export-control arithmetic: a part's figures against the thresholds of each rule. Arithmetic, not legal advice.

The rules are data (rules.toml: date, thresholds, source, whether published or known from the press). The figures come
from a sheet, or from a measured record; bounds or expanded uncertainty (k = 2) are carried through, and a threshold
inside them is answered "within uncertainty". What a figure needs and does not have is named, never filled in.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from ..sheets import Sheet
from .audit import known, nominal_bandwidth, silicon_limit
from .bounds import Bounds, exact, highest, open_above, printed

if TYPE_CHECKING:
    from ..verdict import Judgement

SCHEMA = "gpuassay.rules/1"
HEADING = "Arithmetic, not legal advice."

Answer = Literal["met", "not met", "within uncertainty", "cannot be computed"]

#: Bits of an operation, by data type. TF32: the 19 bits of its format (rules.toml says why).
BITS: Mapping[str, int] = {
    "fp64": 64,
    "tf32": 19,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "fp6": 6,
    "fp4": 4,
    "int4": 4,
}
_UNITS = {
    "tpp": "",
    "performance_density": "per mm2",
    "dram_bandwidth": "GB/s",
    "io_bandwidth": "GB/s",
    "dram_plus_io": "GB/s",
    "memory_bandwidth_density": "GB/s per mm2",
}


@dataclass(frozen=True)
class Figure:
    """One quantity of the rules, in their unit. `bounds` is None where nothing is known; `missing` names what would
    complete it, and its upper bound is then open. `basis` says what it was computed from."""

    quantity: str
    bounds: Bounds | None
    missing: tuple[str, ...] = ()
    basis: str = ""

    @property
    def unit(self) -> str:
        """The unit in which the rules state this quantity."""
        return _UNITS[self.quantity]

    @property
    def text(self) -> str:
        """The figure as shown: "2368 (2364 to 2372)", "at least 900 GB/s", or "unknown"."""
        if self.bounds is None:
            return "unknown"
        unit = f" {self.unit}" if self.unit else ""
        value, low, high = self.bounds
        if math.isinf(high):
            return f"at least {_number(low)}{unit}" if low > 0 else f"{_number(value)}{unit}, bounds unknown"
        if _number(low) == _number(high):
            return f"{_number(value)}{unit}"
        return f"{_number(value)} ({_number(low)} to {_number(high)}){unit}"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; null where a bound is open or nothing is known."""
        value, low, high = self.bounds if self.bounds is not None else (None, None, None)
        return {
            "quantity": self.quantity,
            "unit": self.unit or None,
            "value": value,
            "low": low,
            "high": None if high is None or math.isinf(high) else high,
            "missing": list(self.missing),
            "basis": self.basis,
        }


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


@dataclass(frozen=True)
class Threshold:
    """`quantity` compared with `value`: "at_least", "above" or "below"."""

    quantity: str
    comparison: Literal["at_least", "above", "below"]
    value: float

    @property
    def text(self) -> str:
        """For example "tpp >= 4800"."""
        sign = {"at_least": ">=", "above": ">", "below": "<"}[self.comparison]
        return f"{self.quantity} {sign} {self.value:g}"


@dataclass(frozen=True)
class Test:
    """One paragraph of a rule: met where all thresholds of one alternative are met."""

    __test__ = False  # not one of pytest's

    name: str
    any_of: tuple[tuple[Threshold, ...], ...]


@dataclass(frozen=True)
class Rule:
    """One version of the rules, from rules.toml."""

    id: str
    title: str
    date: str
    status: Literal["published rule", "press", "guidance"]
    source: str
    note: str
    effective: str | None = None
    url: str | None = None
    independent_test: bool = False
    tests: tuple[Test, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A threshold or a whole test with its answer; `missing` says what an uncomputable answer lacks."""

    text: str
    answer: Answer
    missing: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The answer as shown."""
        return f"{self.answer} (missing {', '.join(self.missing)})" if self.missing else self.answer


@dataclass(frozen=True)
class TestAnswer:
    """One test of one rule, answered, with every threshold of it."""

    __test__ = False

    rule: Rule
    test: Test
    answer: Answered
    thresholds: tuple[Answered, ...]


@dataclass(frozen=True)
class Assessment:
    """The figures of one basis (a sheet's published figures, its silicon, a record) and every rule's answer.

    `label` is the basis in one word, `basis` in a phrase; `remarks` are the findings of a record that a reader of its
    figures must know.
    """

    subject: str
    label: Literal["published", "silicon", "measured"]
    basis: str
    figures: dict[str, Figure]
    answers: tuple[TestAnswer, ...]
    remarks: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The assessment as `--json` prints it."""
        by_rule: dict[str, list[TestAnswer]] = {}
        for row in self.answers:
            by_rule.setdefault(row.rule.id, []).append(row)
        return {
            "subject": self.subject,
            "label": self.label,
            "basis": self.basis,
            "remarks": list(self.remarks),
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
            "independent_test": [
                figure.to_json() | {"threshold": answered.text, "answer": answered.answer}
                for figure, answered in self.independent_test()
            ],
            "rules": [
                {
                    "id": rule.id,
                    "title": rule.title,
                    "date": rule.date,
                    "effective": rule.effective,
                    "status": rule.status,
                    "source": rule.source,
                    "url": rule.url,
                    "note": rule.note,
                    "tests": [
                        {
                            "name": row.test.name,
                            "answer": row.answer.answer,
                            "missing": list(row.answer.missing),
                            "thresholds": [
                                {"threshold": t.text, "answer": t.answer, "missing": list(t.missing)}
                                for t in row.thresholds
                            ],
                        }
                        for row in by_rule.get(rule.id, ())
                    ],
                }
                for rule in rules()
            ],
        }

    def independent_test(self) -> tuple[tuple[Figure, Answered], ...]:
        """What an independent test of the performance specifications reports: exactly the quantities on which the
        rule that asks for one (91 FR 1684) turns, each with its threshold answered."""
        return tuple(
            (self.figures[threshold.quantity], compare(self.figures[threshold.quantity], threshold))
            for rule in rules()
            if rule.independent_test
            for test in rule.tests
            for alternative in test.any_of
            for threshold in alternative
        )


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule of rules.toml, in the order of their dates."""
    result = []
    for entry in _data()["rule"]:
        tests = tuple(
            Test(test["name"], tuple(tuple(_threshold(t) for t in row) for row in test["any_of"]))
            for test in entry.pop("test", ())
        )
        result.append(Rule(tests=tests, **entry))
    return tuple(result)


@cache
def definitions() -> dict[str, dict[str, str]]:
    """How the quantities are defined: name -> text and source."""
    return dict(_data()["definition"])


def _data() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("rules.toml").read_text(encoding="utf-8"))


def _threshold(entry: dict[str, Any]) -> Threshold:
    (comparison,) = (key for key in ("at_least", "above", "below") if key in entry)
    return Threshold(entry["quantity"], comparison, float(entry[comparison]))


# -- the quantities ---------------------------------------------------------------------------------------


def tpp(rates: Mapping[str, Bounds], missing: Iterable[str] = ()) -> Figure:
    """TPP from dense rates (operations per second, by quantity name): the highest tensor rate x bits, in tera.

    Sparse and vector rates do not count (rules.toml says why). `missing` names rates that could be higher: they leave
    the upper bound open.
    """
    products = {
        name: rate.scaled(BITS[name.removeprefix("tensor.")] / 1e12) for name, rate in rates.items() if _counts(name)
    }
    missing = tuple(missing)
    if not products:
        return Figure("tpp", None, missing or ("any dense tensor rate",), "")
    best = max(products, key=lambda name: products[name].value)
    found = highest(products.values())
    basis = f"{best} x {BITS[best.removeprefix('tensor.')]} bits, the highest of {len(products)} data types"
    return Figure("tpp", open_above(found) if missing else found, missing, basis)


def performance_density(total: Figure, die_area_m2: Bounds | None) -> Figure:
    """TPP per mm2 of die."""
    if die_area_m2 is None:
        return Figure("performance_density", None, (*total.missing, "die.area"))
    if total.bounds is None:
        return Figure("performance_density", None, total.missing)
    area = die_area_m2.scaled(1e6)
    return Figure(
        "performance_density", total.bounds / area, total.missing, f"over {area.value:g} mm2 of die, by the sheet"
    )


def _bandwidth(quantity: str, parts: Mapping[str, Bounds | None], basis: str) -> Figure:
    """The sum of `parts` (B/s) in GB/s; parts that are None are missing and leave the upper bound open."""
    known_parts = {name: part for name, part in parts.items() if part is not None}
    missing = tuple(name for name in parts if name not in known_parts)
    if not known_parts:
        return Figure(quantity, None, missing)
    low, value, high = (
        sum(part[index] for part in known_parts.values()) / 1e9 for index in (1, 0, 2)
    )  # bounds add linearly: rounding is no random error
    return Figure(quantity, Bounds(value, low, math.inf if missing else high), missing, basis)


def _figures(
    total: Figure, die_area_m2: Bounds | None, dram: Figure, io_parts: Mapping[str, Bounds | None]
) -> dict[str, Figure]:
    io = _bandwidth("io_bandwidth", io_parts, " + ".join(n for n, part in io_parts.items() if part is not None))
    both = [figure.bounds for figure in (dram, io) if figure.bounds is not None]
    missing = tuple(dict.fromkeys((*dram.missing, *io.missing)))
    dram_plus_io = Figure("dram_plus_io", None, missing)
    if both:
        summed = Bounds(*(sum(part[index] for part in both) for index in range(3)))
        dram_plus_io = Figure("dram_plus_io", open_above(summed) if missing else summed, missing, "DRAM + I/O")
    return {
        "tpp": total,
        "performance_density": performance_density(total, die_area_m2),
        "dram_bandwidth": dram,
        "io_bandwidth": io,
        "dram_plus_io": dram_plus_io,
        "memory_bandwidth_density": Figure(
            "memory_bandwidth_density", None, ("area of a memory package, which no sheet prints",)
        ),
    }


def of_sheet(sheet: Sheet, basis: Literal["published", "silicon"] = "published") -> Assessment:
    """The figures of a sheet against every rule.

    "published": the chosen figures, within their rounding. "silicon": SMs x rate per SM and clock x maximum clock,
    and memory clock x bus width; this is what the part could do if nothing held its clock below the maximum.
    """
    if basis == "published":
        rates = {name: printed(q) for name in sheet.published if (q := sheet.published_quantity(name)) is not None}
        bandwidth = rates.get("memory.bandwidth")
        text = "published figures, within their rounding"
    else:
        limits = {name: silicon_limit(sheet, name) for name in sheet.silicon}
        rates = {name: exact(limit) for name, limit in limits.items() if limit is not None}
        bandwidth = nominal_bandwidth(sheet)
        clock = known(sheet, "clock.sm.max")
        text = "silicon limit at " + (f"the maximum clock of {clock.text}" if clock else "maximum clock (not known)")
    # A published type whose rate per SM and clock is not known could be the highest.
    missing = [f"limit of {name}" for name in sheet.published if _counts(name) and name not in rates]
    needs = [name for name in ("count.sm", "clock.sm.max") if basis == "silicon" and known(sheet, name) is None]
    total = tpp(rates, needs or missing)
    missing_bandwidth = "memory.bandwidth" if basis == "published" else "clock.memory x memory.bus_width"
    dram = _bandwidth("dram_bandwidth", {missing_bandwidth: bandwidth}, missing_bandwidth)
    return _assess(sheet.name, basis, text, _figures(total, _die_area(sheet), dram, _io(sheet)), ())


def _io(sheet: Sheet) -> dict[str, Bounds | None]:
    """NVLink and PCIe, both directions together, as published; None where the sheet has none."""
    return {
        name: None if (found := sheet.published_quantity(name)) is None else printed(found)
        for name in ("nvlink.bandwidth", "pcie.bandwidth")
    }


def _die_area(sheet: Sheet) -> Bounds | None:
    area = sheet.published_quantity("die.area")
    return None if area is None else printed(area)


def of_measured(
    subject: str,
    sheet: Sheet,
    measured: Mapping[str, tuple[float, float | None]],
    remarks: Iterable[str] = (),
) -> Assessment:
    """Measured figures against every rule, over their expanded uncertainty (k = 2, the guard band of JCGM 106).

    `measured`: sheet quantity -> (value, standard uncertainty; None where it is not known), SI. Rates that the sheet
    prints and nobody measured are named, because the highest could be among them. Die area is the sheet's; I/O
    bandwidth is not measured here.
    """
    bounds = {
        name: Bounds(value, 0.0, math.inf) if u is None else Bounds(value, max(0.0, value - 2 * u), value + 2 * u)
        for name, (value, u) in measured.items()
    }
    missing = [f"{name} (not measured)" for name in sheet.published if _counts(name) and name not in bounds]
    if any(u is None for name, (_, u) in measured.items() if _counts(name)):
        missing.append("the uncertainty of the measured rates")
    total = tpp(bounds, missing)
    dram = _bandwidth("dram_bandwidth", {"memory.bandwidth (not measured)": bounds.get("memory.bandwidth")}, "measured")
    if dram.bounds is not None and math.isinf(dram.bounds.high):
        dram = Figure("dram_bandwidth", dram.bounds, ("the uncertainty of memory.bandwidth",), "measured")
    io: dict[str, Bounds | None] = {"I/O bandwidth (not measured)": None}
    return _assess(
        subject,
        "measured",
        "as delivered at the clock that the part chose; expanded uncertainty, k = 2",
        _figures(total, _die_area(sheet), dram, io),
        tuple(remarks),
    )


def _counts(name: str) -> bool:
    """Whether a quantity enters TPP: a dense tensor rate."""
    return name.startswith("tensor.") and name.removeprefix("tensor.") in BITS


def of_judgement(judgement: Judgement) -> Assessment:
    """The measured rates of a judged record against every rule; per quantity the metric that reached most."""
    best: dict[str, tuple[float, float | None]] = {}
    whole = judgement.record is None or not judgement.record.mig  # the rules speak of whole parts, not of MIG instances
    for verdict in judgement.verdicts if whole else ():
        if verdict.quantity is None or verdict.measured is None or verdict.quantity == "count.sm":
            continue
        if verdict.quantity not in best or verdict.measured > best[verdict.quantity][0]:
            expanded = verdict.expanded_uncertainty
            best[verdict.quantity] = (verdict.measured, None if expanded is None else expanded / 2)
    remarks = [f"{f.severity}: {f.code}: {f.text}" for f in judgement.findings if f.severity != "info"]
    run = f"run {str(judgement.record.run['run_id'])[:8]}" if judgement.record else judgement.source
    return of_measured(f"{judgement.part}, {run}", judgement.sheet, best, remarks)


# -- the answers ------------------------------------------------------------------------------------------


def compare(figure: Figure, threshold: Threshold) -> Answered:
    """One threshold: decided only where the whole of the figure's bounds lies on one side."""
    if figure.bounds is None:
        return Answered(threshold.text, "cannot be computed", figure.missing)
    _, low, high = figure.bounds
    limit = threshold.value
    if threshold.comparison == "at_least":
        surely, surely_not = low >= limit, high < limit
    elif threshold.comparison == "above":
        surely, surely_not = low > limit, high <= limit
    else:
        surely, surely_not = high < limit, low >= limit
    if surely or surely_not:
        return Answered(threshold.text, "met" if surely else "not met")
    if math.isinf(high):
        return Answered(threshold.text, "cannot be computed", figure.missing)
    return Answered(threshold.text, "within uncertainty")


def _all(rows: Iterable[Answered]) -> Answered:
    rows = tuple(rows)
    text = " and ".join(row.text for row in rows)
    return _first(text, rows, ("not met", "cannot be computed", "within uncertainty"), "met")


def _any(rows: Iterable[Answered]) -> Answered:
    rows = tuple(rows)
    text = " or ".join(f"({row.text})" if len(rows) > 1 else row.text for row in rows)
    return _first(text, rows, ("met", "cannot be computed", "within uncertainty"), "not met")


def _first(text: str, rows: tuple[Answered, ...], order: tuple[Answer, ...], otherwise: Answer) -> Answered:
    """The first answer of `order` that a row has: one certain row decides, then what is missing, then doubt."""
    for answer in order:
        found = [row for row in rows if row.answer == answer]
        if found:
            return Answered(text, answer, tuple(dict.fromkeys(m for row in found for m in row.missing)))
    return Answered(text, otherwise)


def _assess(
    subject: str,
    label: Literal["published", "silicon", "measured"],
    basis: str,
    figures: dict[str, Figure],
    remarks: tuple[str, ...],
) -> Assessment:
    answers = []
    for rule in rules():
        for test in rule.tests:
            rows = [[compare(figures[t.quantity], t) for t in alternative] for alternative in test.any_of]
            answers.append(
                TestAnswer(rule, test, _any(_all(row) for row in rows), tuple(a for row in rows for a in row))
            )
    return Assessment(subject, label, basis, figures, tuple(answers), remarks)
