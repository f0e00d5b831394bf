"""One sheet beside another, and one sheet's place among all of them.

Ratios are of published figures; what the silicon does per SM and clock stands beside them, because that is where a cap
shows: an H20 has the lanes, the SMs' clock and the memory of its siblings, and a quarter of their tensor rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..sheets import CONFIDENCES, QUANTITIES, Quantity, Sheet
from ..units import show
from .audit import known, silicon_limit
from .bounds import printed

#: Ratios nearer to 1 than this are no cap but rounding. Our choice, that of audit.SLACK on either side.
SAME = 0.005


@dataclass(frozen=True)
class Ratio:
    """A over B for one quantity, within the rounding of both; None where one of them is not published. Texts say
    "(silicon)" where nobody published a count, clock or width, and what the device shows stands in."""

    quantity: str
    a: str | None
    b: str | None
    ratio: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Factors:
    """A over B for one rate as a product: SMs x maximum clock x rate per SM and clock = total silicon limit.

    A factor is None where one of the sheets does not know it. `capped` says in words what is held down, if anything.
    """

    quantity: str
    sms: float | None
    clock: float | None
    per_sm_and_clock: float | None
    total: float | None
    capped: str | None


@dataclass(frozen=True)
class Difference:
    """Two sheets compared."""

    a: Sheet
    b: Sheet
    ratios: tuple[Ratio, ...]
    factors: tuple[Factors, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it; schema "gpuassay.diff/1"."""
        return {
            "schema": "gpuassay.diff/1",
            "a": self.a.name,
            "b": self.b.name,
            "ratios": [asdict(row) for row in self.ratios],
            "factors": [asdict(row) for row in self.factors],
        }


def diff(a: Sheet, b: Sheet) -> Difference:
    """Every quantity that either sheet publishes, and every rate that both know per SM and clock."""
    return Difference(a, b, tuple(_ratios(a, b)), tuple(_factors(a, b)))


def _ratios(a: Sheet, b: Sheet) -> Iterator[Ratio]:
    for name in QUANTITIES:
        first, second = _shown(a, name), _shown(b, name)
        if first is None and second is None:
            continue
        ratio = printed(first) / printed(second) if first and second else None
        yield Ratio(
            name,
            _text(first) if first else None,
            _text(second) if second else None,
            ratio.value if ratio else None,
            ratio.low if ratio else None,
            ratio.high if ratio else None,
        )


def _shown(sheet: Sheet, name: str) -> Quantity | None:
    """The published figure; a count, clock or width that nobody published is taken from the silicon."""
    found = sheet.published_quantity(name)
    return found or (sheet.silicon_quantity(name) if name.startswith(("count.", "clock.", "memory.bus")) else None)


def _text(figure: Quantity) -> str:
    return figure.text if figure.kind == "published" else f"{figure.text} (silicon)"


def _factors(a: Sheet, b: Sheet) -> Iterator[Factors]:
    sms = _quotient(known(a, "count.sm"), known(b, "count.sm"))
    clock = _quotient(known(a, "clock.sm.max"), known(b, "clock.sm.max"))
    for name in QUANTITIES:
        if not name.startswith(("tensor.", "vector.")):
            continue
        rate = _quotient(a.silicon_quantity(name), b.silicon_quantity(name))
        if rate is None:
            continue
        limits = silicon_limit(a, name), silicon_limit(b, name)
        total = limits[0] / limits[1] if limits[0] is not None and limits[1] is not None else None
        yield Factors(name, sms, clock, rate, total, _capped(a, b, rate, total))


def _quotient(a: Quantity | None, b: Quantity | None) -> float | None:
    return a.si / b.si if a is not None and b is not None else None


def _capped(a: Sheet, b: Sheet, rate: float, total: float | None) -> str | None:
    """Only silicon of one compute capability is the same SM: a lower rate there is a cap, elsewhere a design."""
    if abs(math.log(rate)) < SAME or a.identity.compute_capability != b.identity.compute_capability:
        return None
    low, high, share = (a, b, rate) if rate < 1 else (b, a, 1 / rate)
    text = f"{low.name} is held to {share:.1%} of {high.name} per SM and clock"
    if total is not None:
        text += f", {total if low is a else 1 / total:.1%} in total"
    return text


# -- standing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """One part's place for one figure: rank 1 is the highest of the `of` parts that have it.

    `of_best` and `of_median` are ratios to the highest and to the median; `confidence` is that of the weakest source
    that the figure rests on. `best_comparison_only`: the best is no part that this instrument measures.
    """

    figure: str
    value: float
    text: str
    rank: int
    of: int
    best: str
    best_text: str
    best_comparison_only: bool
    of_best: float
    of_median: float
    confidence: str


@dataclass(frozen=True)
class _Value:
    value: float
    unit: str
    confidence: str

    @property
    def text(self) -> str:
        if self.unit in ("B/FLOP", "B/OP"):
            return f"{self.value:.4f} {self.unit}"
        if self.unit == "FLOP/J":
            return f"{self.value / 1e12:.3f} TFLOP/J"
        return show(self.value, self.unit)


#: What is ranked: label -> the quantity, or quantity over quantity.
FIGURES: dict[str, tuple[str, str | None]] = {
    **{name: (name, None) for name in QUANTITIES if name.startswith("tensor.") and not name.endswith(".sparse")},
    "vector.fp32": ("vector.fp32", None),
    "vector.fp64": ("vector.fp64", None),
    "memory.bandwidth": ("memory.bandwidth", None),
    "memory.size": ("memory.size", None),
    "bandwidth per BF16 operation": ("memory.bandwidth", "tensor.bf16"),
    "BF16 operations per joule": ("tensor.bf16", "power.limit"),
    "FP8 operations per joule": ("tensor.fp8", "power.limit"),
}

_SI_UNITS = {"flop rate": "FLOP/s", "op rate": "OP/s", "bandwidth": "B/s", "size": "B"}


def standing(sheet: Sheet, catalogue: Iterable[Sheet]) -> tuple[Standing, ...]:
    """Rank and ratio of every published figure of `sheet` among `catalogue` (which need not hold the sheet itself).

    Parts that share a value share the better rank. Parts without the figure do not count.
    """
    others = [other for other in catalogue if other.name != sheet.name]
    rows = []
    for label in FIGURES:
        own = _value(sheet, label)
        if own is None:
            continue
        field = [(sheet, own)] + [(other, found) for other in others if (found := _value(other, label)) is not None]
        ordered = sorted((found.value for _, found in field), reverse=True)
        best_sheet, best = max(field, key=lambda row: row[1].value)
        rows.append(
            Standing(
                label,
                own.value,
                own.text,
                1 + sum(value > own.value for value in ordered),
                len(field),
                best_sheet.name,
                best.text,
                is_comparison_only(best_sheet),
                own.value / best.value,
                own.value / _median(ordered),
                own.confidence,
            )
        )
    return tuple(rows)


def is_comparison_only(sheet: Sheet) -> bool:
    """Whether the sheet is in the catalogue for comparison only, because its part cannot be measured here."""
    return bool(getattr(sheet, "comparison_only", False))


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _value(sheet: Sheet, label: str) -> _Value | None:
    name, over = FIGURES[label]
    figure = sheet.published_quantity(name)
    if figure is None:
        return None
    if over is None:
        unit = _SI_UNITS[QUANTITIES[name]["published"]]
        return _Value(figure.si, unit, sheet.source_of(figure).confidence)
    divisor = sheet.published_quantity(over)
    if divisor is None:
        return None
    confidences = [sheet.source_of(q).confidence for q in (figure, divisor)]
    unit = "B/FLOP" if name == "memory.bandwidth" else "FLOP/J"
    return _Value(figure.si / divisor.si, unit, max(confidences, key=CONFIDENCES.index))
