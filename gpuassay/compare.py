"""Two records or more, metric by metric: the ratio to the first, with its interval, and what differs beyond it.

Ratios are taken of the rate per clock and SM where both runs know it, which no power limit changes, and of the
absolute rate. A difference counts where Student's t of ln(ratio), over the combined standard uncertainty of both runs,
is improbable, after Benjamini and Hochberg (Journal of the Royal Statistical Society B 57, 1995, 289-300): among the
metrics named as different, the expected share of false ones is at most `LEVEL`. The uncertainty is that of each run;
how far the same board moves from run to run is for `gpuassay history`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .record import Record
from .store import estimates_of
from .uncertainty import coverage_factor

SCHEMA = "gpuassay.comparison/1"
LEVEL = 0.05
Answer = Literal["alike", "differs", "unknown", "not comparable", "measured once"]
Basis = Literal["per clock and SM", "absolute"]


@dataclass(frozen=True)
class Ratio:
    """One metric of one record over the first record's. `ratio` and `expanded_uncertainty` (95 %) are relative; None
    where not known. `why` says what makes the two not comparable."""

    metric: str
    basis: Basis
    record: int
    reference_value: float | None
    value: float | None
    unit: str
    ratio: float | None
    expanded_uncertainty: float | None
    probability: float | None
    answer: Answer
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """`runs` describe the records in their order; `differences` what besides the figures is not the same."""

    runs: tuple[dict[str, Any], ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    ratios: tuple[Ratio, ...]

    @property
    def differs(self) -> bool:
        """Whether any metric differs beyond its uncertainty."""
        return any(row.answer == "differs" for row in self.ratios)

    def to_json(self) -> dict[str, Any]:
        """As `--format json` prints it; schema "gpuassay.comparison/1"."""
        return {
            "schema": SCHEMA,
            "level": LEVEL,
            "runs": list(self.runs),
            "differences": {name: list(values) for name, values in self.differences},
            "ratios": [asdict(row) for row in self.ratios],
        }


def compare(records: Sequence[Record]) -> Comparison:
    """Every metric of `records`, the first being the reference."""
    tables = [{row["metric"]: row for row in estimates_of(record)} for record in records]
    runs = tuple(_about(record) for record in records)
    raw = [
        row
        for place, table in enumerate(tables[1:], 1)
        for name in dict.fromkeys((*tables[0], *table))
        for row in _ratios(name, tables[0].get(name), table.get(name), place)
    ]
    names = tuple(runs[0])
    differing = tuple(
        (name, tuple(str(run[name]) for run in runs)) for name in names if len({str(run[name]) for run in runs}) > 1
    )
    return Comparison(runs, differing, tuple(_decided(raw)))


def _about(record: Record) -> dict[str, Any]:
    rows = estimates_of(record)
    first = rows[0] if rows else {}
    return {
        "run_id": str(record.run["run_id"]),
        "started": str(record.run["started"]),
        "part": first.get("part", "unnamed part"),
        "uuid": first.get("uuid"),
        "driver": record.claims.get("driver.version"),
        "program": f"gpuassay {record.run['program']['version']}",
        "commit": record.run["program"]["commit"],
        "profile": record.run["profile"],
        "format": record.run["schema"],
        "complete": record.complete,
        "samples": record.run["samples"],
    }


def _ratios(name: str, reference: dict[str, Any] | None, other: dict[str, Any] | None, place: int) -> list[Ratio]:
    if reference is None or other is None:
        held = reference or other
        assert held is not None
        first, second = (held["value"], None) if other is None else (None, held["value"])
        why = "only the first run has it" if other is None else "the first run has it not"
        return [Ratio(name, "absolute", place, first, second, held["unit"], None, None, None, "measured once", why)]
    absolute = _ratio(name, "absolute", "value", "", reference, other, place)
    if math.isnan(reference["per_clock"]) or math.isnan(other["per_clock"]):
        return [absolute]
    return [_ratio(name, "per clock and SM", "per_clock", "per_clock_", reference, other, place), absolute]


def _ratio(
    name: str, basis: Basis, key: str, prefix: str, reference: dict[str, Any], other: dict[str, Any], place: int
) -> Ratio:
    first, second = reference[key], other[key]
    unit = f"{reference['unit'].removesuffix('/s')}/clk/SM" if prefix else reference["unit"]
    why = ""
    if reference["unit"] != other["unit"]:
        why = f"the units differ: {reference['unit']} and {other['unit']}"
    elif None not in (reference["source_sha256"], other["source_sha256"]) and (
        reference["source_sha256"] != other["source_sha256"]
    ):
        why = "the kernels' sources differ, so that the work may"
    if why or not first or not second:
        why = why or "one of the two is zero"
        return Ratio(name, basis, place, first, second, unit, None, None, None, "not comparable", why)
    uncertainties = [row[f"{prefix}standard_uncertainty"] / row[key] for row in (reference, other)]
    freedoms = [row[f"{prefix}degrees_of_freedom"] for row in (reference, other)]
    u = math.hypot(*uncertainties)
    if reference["unit"] == "1":  # a count is exact
        return Ratio(
            name, basis, place, first, second, unit, second / first, 0.0, 1.0 if first == second else 0.0, "unknown"
        )
    if math.isnan(u) or u == 0:
        return Ratio(
            name, basis, place, first, second, unit, second / first, None, None, "unknown", "no dispersion known"
        )
    freedom = u**4 / max(sum(x**4 / f for x, f in zip(uncertainties, freedoms, strict=True) if f > 0), 1e-300)
    from scipy.special import stdtr

    probability = float(2 * stdtr(min(freedom, 1e9), -abs(math.log(second / first)) / u))
    expanded = float(coverage_factor(freedom, 0.95)) * u * second / first
    return Ratio(name, basis, place, first, second, unit, second / first, expanded, probability, "unknown")


def _decided(rows: list[Ratio]) -> list[Ratio]:
    """With each answer, by the false discovery rate over all ratios that have a probability."""
    from dataclasses import replace

    from scipy.stats import false_discovery_control

    open_rows = [row for row in rows if row.probability is not None]
    if not open_rows:
        return rows
    adjusted = false_discovery_control([row.probability for row in open_rows])
    answers = dict(zip(map(id, open_rows), adjusted, strict=True))
    return [
        replace(row, answer="differs" if answers[id(row)] <= LEVEL else "alike") if id(row) in answers else row
        for row in rows
    ]
