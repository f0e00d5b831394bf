"""Sustained runs and variants: when a rate has settled, whether work per clock stayed constant, what energy it took.

A sustained run holds some 400 rounds of 50 ms. The power manager lowers the clock within seconds; the rate per clock
must not move. Variants (fewer SMs, other data) are curves beside a metric: shown, and judged by no sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from . import segments, stamps
from .agreement import Finding
from .metrics import ENERGY, SUSTAINED
from .uncertainty import Measured, rectangular

if TYPE_CHECKING:
    from pandas import DataFrame

PER_CLOCK_TOLERANCE = 0.005  # sustained on H100s the share per clock moved by 0.0002 (prototype, 2026-11-23)
SHORTEST_SETTLED = 0.2  # of the run: a change later than that, and the rate has not settled
BLOCKS = 200  # the rounds are averaged to so many points before change points are sought


@dataclass(frozen=True)
class Variant:
    """One point of a curve, or one sustained run on other data. `rate` in work units per s, `per_clock` per clock and
    SM; `power_w` the board's mean power by its energy counter, None where that says nothing."""

    metric: str
    variant: str
    sm_count: int
    rate: float
    per_clock: float
    sm_clock_hz: float
    power_w: float | None


def plain(rounds: DataFrame) -> DataFrame:
    """The rounds that are no variant: what the metrics are judged by."""
    return rounds[rounds["variant"].isna()] if "variant" in rounds else rounds


def variants(rounds: DataFrame, telemetry: DataFrame) -> list[Variant]:
    """Every variant of a record, in its order, each after the metric itself where that was measured."""
    if "variant" not in rounds or not rounds["variant"].notna().any():
        return []
    found = []
    counter = _counter(telemetry)
    with_variants = set(rounds[rounds["variant"].notna()]["metric"])
    ours = rounds[rounds["metric"].isin(with_variants) & (rounds["toolchain"] == "cuda c++")]
    ours = ours[ours["work_unit"] != "load"]  # a latency is no rate: hierarchy.py has its curves
    for (metric, variant), group in ours.fillna({"variant": ""}).groupby(["metric", "variant"], sort=False):
        if str(metric).endswith(SUSTAINED):
            group = group.iloc[settled_from(group) :]
        found.append(_point(str(metric), str(variant) or "all SMs, random data", group, counter))
    return found


def findings(rounds: DataFrame) -> list[Finding]:
    """Rates that did not settle, work per clock that moved, and a rate per SM that falls as more SMs work."""
    found = []
    for name, group in rounds[rounds["metric"].str.endswith(SUSTAINED)].groupby("metric", sort=False):
        group = plain(group)
        start = settled_from(group)
        if start > (1 - SHORTEST_SETTLED) * len(group):
            text = f"{name}: still changing at the end of the run; the last fifth of it is taken"
            found.append(Finding("not-settled", "warning", str(name), text))
        moved = _per_clock_moved(group)
        if moved > PER_CLOCK_TOLERANCE:
            text = f"{name}: work per clock and SM moved by {moved:.1%} during the run, which no clock explains"
            found.append(Finding("work-per-clock-moved", "warning", str(name), text))
    return found + _knees(rounds)


def settled_from(rounds: DataFrame) -> int:
    """Index of the first round after the last change point of the rate (least squares).

    The penalty is 4 ln(n) s^2 (s from successive differences), at which 200 stationary series of 600 points gave no
    false alarm (tried 2026-11-23); rounds are averaged in blocks first, because neighbours resemble each other.
    """
    import numpy as np

    rates = (rounds["work"] / rounds["event_s"]).to_numpy(float)
    size = max(1, len(rates) // BLOCKS)
    blocks = rates[: len(rates) // size * size].reshape(-1, size).mean(axis=1)
    if len(blocks) < 10:
        return 0
    sigma = 1.4826 * np.median(np.abs(np.diff(blocks))) / np.sqrt(2)
    penalty = 4 * np.log(len(blocks)) * max(sigma, 1e-9 * np.median(blocks)) ** 2
    changes = segments.ends(blocks, penalty, min_size=5)
    return int(changes[-2] * size) if len(changes) > 1 else 0


def settled(rounds: DataFrame) -> DataFrame:
    """The rounds of the settled part; at least the last fifth of the run."""
    return rounds.iloc[min(settled_from(rounds), int((1 - SHORTEST_SETTLED) * len(rounds))) :]


def energy(metric: str, rounds: DataFrame, telemetry: DataFrame) -> tuple[str, Measured] | None:
    """Operations per joule of board energy over the settled rounds; None without an energy counter.

    The counter steps: its reading at either end of the window is uncertain by one update of it. Not in the budget:
    the sensor itself, which on A100 and H100 watches about a quarter of the time (arXiv 2312.02741).
    """
    import numpy as np

    window = settled(rounds)
    start, stop = _window(window)
    joules, updates_s = _joules(_counter(telemetry), start, stop)
    if joules is None or joules <= 0:
        return None
    work = float(np.sum(window["work"]))
    # One rectangular half-width of half an update at either end.
    step = rectangular("energy counter update", np.sqrt(2) * updates_s / 2 / (stop - start), f"{updates_s:.3g} s")
    conditions = (
        f"board energy over {stop - start:.0f} s, {joules / (stop - start):.0f} W; the sensor's own error unknown"
    )
    return ENERGY + metric.removesuffix(SUSTAINED), Measured(work / joules, terms=(step,), conditions=conditions)


def _point(metric: str, variant: str, rounds: DataFrame, counter: _Counter) -> Variant:
    import numpy as np

    start, stop = _window(rounds)
    joules, updates_s = _joules(counter, start, stop)
    long_enough = stop - start > 10 * updates_s
    return Variant(
        metric,
        variant,
        len(stamps.sms(rounds["sm_id"])),
        float(np.median(rounds["work"].to_numpy(float) / rounds["event_s"].to_numpy(float))),
        float(np.median(_per_clock(rounds))),
        float(np.median(rounds["sm_clock_hz"].to_numpy(float))),
        joules / (stop - start) if joules is not None and long_enough else None,
    )


def _window(rounds: DataFrame) -> tuple[float, float]:
    start_s, took_s = rounds["start_host_s"].array, rounds["host_s"].array
    return float(start_s[0]), float(start_s[-1] + took_s[-1])


class _Counter(NamedTuple):
    """The energy counter's readings, (n,) each: the host's clock in s, joules; when it moved."""

    at_s: Any
    energy_j: Any
    moved_s: Any


def _counter(telemetry: DataFrame) -> _Counter:
    import numpy as np

    if "energy_j" not in telemetry:
        return _Counter(*[np.empty(0)] * 3)
    readings = telemetry[["host_s", "energy_j"]].dropna()
    at_s, energy_j = readings["host_s"].to_numpy(float), readings["energy_j"].to_numpy(float)
    return _Counter(at_s, energy_j, at_s[1:][np.diff(energy_j) > 0])


def _joules(counter: _Counter, start: float, stop: float) -> tuple[float | None, float]:
    """Energy between two times on the host's clock, and the time between two updates of the counter."""
    import numpy as np

    if len(counter.at_s) < 3 or counter.at_s[0] > start or counter.at_s[-1] < stop:
        return None, 0.0
    updates_s = float(np.median(np.diff(counter.moved_s))) if len(counter.moved_s) > 2 else stop - start
    first, last = np.interp([start, stop], counter.at_s, counter.energy_j)
    return float(last - first), updates_s


def _per_clock(rounds: DataFrame) -> Any:
    return stamps.medians(rounds["sm_work"], rounds["sm_cycles"])


def _per_clock_moved(rounds: DataFrame) -> float:
    """The largest difference between tenths of the run, over its median."""
    import numpy as np

    values = _per_clock(rounds)
    medians = [float(np.median(part)) for part in np.array_split(values, 10) if len(part)]
    return (max(medians) - min(medians)) / float(np.median(values))


def _knees(rounds: DataFrame) -> list[Finding]:
    """A healthy part's SMs do not feel each other; a cap on the chip shows as work per clock and SM that falls."""
    found = []
    curve: dict[str, dict[int, float]] = {}
    for point in variants(rounds, rounds[:0]):
        if point.variant.endswith("SMs") or point.variant.startswith("all SMs"):
            curve.setdefault(point.metric, {})[point.sm_count] = point.per_clock
    for metric, points in curve.items():
        if len(points) < 3 or metric.endswith(SUSTAINED):
            continue
        few = points[min(points)]
        knee = next((sms for sms in sorted(points) if points[sms] < (1 - 2 * PER_CLOCK_TOLERANCE) * few), None)
        if knee is not None:
            share = f"{points[knee] / few:.1%} of what one of {min(points)} does"
            text = f"{metric}: each of {knee} SMs does {share} per clock: a limit that acts on the chip, not on the SM"
            found.append(Finding("rate-per-sm-falls", "warning", metric, text))
    return found
