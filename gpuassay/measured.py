"""Rounds -> measured values, each with its budget of uncertainty. No sheet is looked at here.

Terms are those of the GUM (JCGM 100:2008): type A from dispersion, type B from what is known of the instrument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .record import Record
from .telemetry import reason_names

if TYPE_CHECKING:
    from pandas import DataFrame

COVERAGE_FACTOR = 2.0  # k = 2: about 95 % coverage for a normal distribution (GUM 6.3.3)
EVENT_RESOLUTION_S = 0.5e-6  # cudaEventElapsedTime: "resolution of approximately 0.5 microseconds"
STAMP_CYCLES = 100.0  # barrier and stamp at either end of a kernel; an upper bound, reads of clock64 take tens


@dataclass(frozen=True)
class Term:
    """One line of the uncertainty budget; `relative` is a relative standard uncertainty (1 = 100 %)."""

    name: str
    relative: float
    evaluation: Literal["A", "B"]
    distribution: str
    source: str


@dataclass(frozen=True)
class Measured:
    """One metric's measured values, before any sheet is looked at. None where not known.

    `rate` is absolute (SI, in the metric's unit); `per_clock` is work per clock and SM. Each has its own budget:
    `terms` for `rate`, `clock_terms` for `per_clock`.
    """

    rate: float | None
    per_clock: float | None
    sm_count: int | None
    sm_clock_hz: float | None
    nominal_bytes_per_s: float | None  # two transfers per claimed memory clock x claimed bus width
    terms: tuple[Term, ...] = ()
    clock_terms: tuple[Term, ...] = ()
    rounds: int = 0
    dispersion_known: bool = False
    causes: dict[str, float] = field(default_factory=dict)  # clock-event reasons, share of the samples
    conditions: str = ""  # what an importer knows of how the figure came about


def from_rounds(rounds: DataFrame, record: Record, telemetry: DataFrame) -> Measured:
    """The measured values of one metric and toolchain; `rounds` as record.Record.rounds gives them."""
    import numpy as np

    event_s = rounds["event_s"].to_numpy(float)
    rates = rounds["work"].to_numpy(float) / event_s
    # Per round the median over SMs; each SM by its own clock, so no clock need be known.
    per_clock = np.array(
        [
            np.median(np.asarray(work, float) / np.asarray(cycles, float))
            for work, cycles in zip(rounds["sm_work"], rounds["sm_cycles"], strict=True)
        ]
    )
    seconds = float(np.median(event_s))
    cycles = float(np.median([np.median(c) for c in rounds["sm_cycles"]]))
    launch_s = max(0.0, float(np.median(event_s - rounds["globaltimer_s"].to_numpy(float))))
    terms = [
        _dispersion(rates),
        rectangular("event timer resolution", EVENT_RESOLUTION_S / seconds, "CUDA events"),
        rectangular("launch cost inside the round", launch_s / seconds, "event time less %globaltimer"),
    ]
    footprint_bytes, l2_bytes = _footprint_bytes(record, rounds), record.claims.get("l2.size")
    if footprint_bytes and l2_bytes:
        terms.append(
            rectangular("left in L2 by the pass before", float(l2_bytes) / footprint_bytes, "L2 size over footprint")
        )
    return Measured(
        rate=float(np.median(rates)),
        per_clock=float(np.median(per_clock)),
        sm_count=len({sm for ids in rounds["sm_id"] for sm in ids}),
        sm_clock_hz=float(np.median(rounds["sm_clock_hz"])),
        nominal_bytes_per_s=_nominal_bytes_per_s(record),
        terms=tuple(terms),
        clock_terms=(
            _dispersion(per_clock),
            rectangular("clock stamps", STAMP_CYCLES / cycles, f"{STAMP_CYCLES:.0f} cycles of {cycles:.3g}"),
        ),
        rounds=len(rounds),
        dispersion_known=len(rounds) > 1,
        causes=_causes(rounds, telemetry),
    )


def from_median(line: dict[str, Any]) -> Measured:
    """The measured values of a `median` line: a figure whose samples were not kept, hence no dispersion."""

    def number(key: str) -> float | None:
        return None if line.get(key) is None else float(line[key])

    sms = line.get("sm_count")
    return Measured(
        rate=number("value"),
        per_clock=number("per_sm_and_clock"),
        sm_count=None if sms is None else int(sms),
        sm_clock_hz=number("sm_clock_hz"),
        nominal_bytes_per_s=number("nominal_bytes_per_s"),
        conditions=", ".join(str(line[key]) for key in ("duration", "note") if line.get(key)),
    )


def _dispersion(values: Any) -> Term:
    import numpy as np

    relative = median_uncertainty(values) / float(np.median(values))
    return Term("dispersion of the median", relative, "A", "order statistics", f"{len(values)} rounds")


def _nominal_bytes_per_s(record: Record) -> float | None:
    clock_hz, width_bit = record.claims.get("clock.memory.max"), record.claims.get("memory.bus_width")
    return float(clock_hz) * 2 * float(width_bit) / 8 if clock_hz and width_bit else None


def median_uncertainty(values: Any) -> float:
    """Standard uncertainty of the median of `values` (their unit), distribution-free.

    Half the 95 % order-statistic interval over k = 2 (SciPy's quantile test); half the range where there are too
    few values for such an interval; 0 for one value, where nothing is known and the caller must say so.
    """
    import numpy as np
    from scipy.special import bdtrik  # scipy.stats.binom.ppf is the same and takes 1.5 s to import

    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    if n < 2:
        return 0.0
    # The interval from the r-th smallest to the r-th largest covers the median with probability 1 - 2 P(B < r),
    # B binomial(n, 1/2) (H. A. David, Order Statistics, 7.1).
    r = math.ceil(bdtrik(0.025, n, 0.5))
    if r < 1:
        return float(ordered[-1] - ordered[0]) / 2
    return float(ordered[n - r] - ordered[r - 1]) / 2 / COVERAGE_FACTOR


def rectangular(name: str, half_width: float, source: str) -> Term:
    """GUM 4.3.7: the standard uncertainty of a rectangular distribution is its half-width over sqrt(3)."""
    return Term(name, half_width / math.sqrt(3), "B", "rectangular", source)


def _footprint_bytes(record: Record, rounds: DataFrame) -> float | None:
    wanted = (rounds["metric"].iloc[0], rounds["toolchain"].iloc[0])
    for kernel in record.kernels:
        if (kernel["metric"], kernel["toolchain"]) == wanted and kernel.get("footprint_bytes"):
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


def combined(terms: Iterable[Term]) -> float:
    """Relative combined standard uncertainty of uncorrelated factors (GUM 5.1.6, equation 12)."""
    return math.sqrt(sum(term.relative**2 for term in terms))
