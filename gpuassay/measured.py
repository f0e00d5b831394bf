"""Rounds -> measured values, each with its budget of uncertainty. No sheet is looked at here.

Terms are those of the GUM (JCGM 100:2008): type A from dispersion, type B from what is known of the instrument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import contention, latency, stamps, sustained
from .metrics import metric, metrics
from .record import Record
from .telemetry import reason_names
from .uncertainty import Measured, Term, dispersion, drift, rectangular

if TYPE_CHECKING:
    from pandas import DataFrame

EVENT_RESOLUTION_S = 0.5e-6  # cudaEventElapsedTime: "resolution of approximately 0.5 microseconds"
HOST_RESOLUTION_S = 0.2e-6  # two calls of CLOCK_MONOTONIC through Python take less
# Share per clock on an H100 with random data, sustained: 0.9996 to 0.9998 (prototype instrument, 2026-11-23); half the
# range, doubled for parts not seen.
DATA_DEPENDENCE = 0.0002


def measurements(record: Record) -> list[tuple[str, Measured]]:
    """Every metric of a record with its measured values; CUDA C++ where both toolchains measured."""
    if "measurements" not in record.derived:
        record.derived["measurements"] = _measurements(record)
    return list(record.derived["measurements"])


def _measurements(record: Record) -> list[tuple[str, Measured]]:
    if record.run["samples"] != "kept":
        claimed = record.claims.get("count.sm")
        found = [("count.sm", Measured(claimed, conditions="as the device claims; nothing here counted them"))]
        return [pair for pair in found if pair[1].rate is not None] + [
            (line["metric"], from_median(line))
            for line in record.medians
            if line["metric"] in metrics() and not line.get("variant")
        ]
    telemetry = record.telemetry()
    rounds = contention.clean(sustained.plain(record.rounds()), telemetry)
    # A chase runs on as few SMs as its question needs: it says nothing of how many there are.
    seen = stamps.sms(rounds[rounds["work_unit"] != "load"]["sm_id"])
    found = [("count.sm", Measured(len(seen), conditions="distinct %smid at work"))] if seen else []
    for key, of_metric in rounds.groupby("metric", sort=False):
        name, ours = str(key), of_metric[of_metric["toolchain"] == "cuda c++"]
        ours = ours if len(ours) else of_metric
        if not ours["sm_id"].map(len).any():
            found.append((name, from_operation(ours, metric(name).unit == "s")))
            continue
        conditions = ""
        if metric(name).sustained:
            everything, ours = ours, sustained.settled(ours)
            conditions = (
                f"settled: the last {float(ours['event_s'].sum()):.0f} s of {everything['event_s'].sum():.0f} s"
            )
            per_joule = sustained.energy(name, everything, telemetry)
            found += [per_joule] if per_joule else []
        found.append((name, from_rounds(ours, record, telemetry, conditions)))
    return found


def from_rounds(rounds: DataFrame, record: Record, telemetry: DataFrame, conditions: str = "") -> Measured:
    """The measured values of one metric and toolchain; `rounds` as record.Record.rounds gives them."""
    import numpy as np

    if rounds["work_unit"].iloc[0] == "load":
        return latency.from_rounds(rounds, _causes(rounds, telemetry), conditions)
    return estimate(
        work=rounds["work"].to_numpy(float),
        event_s=rounds["event_s"].to_numpy(float),
        globaltimer_s=rounds["globaltimer_s"].to_numpy(float),
        per_clock=stamps.medians(rounds["sm_work"], rounds["sm_cycles"]),
        cycles=stamps.medians(rounds["sm_cycles"]),
        left_in_l2=_left_in_l2(record, rounds),
        sm_count=len(stamps.sms(rounds["sm_id"])),
        sm_clock_hz=float(np.median(rounds["sm_clock_hz"])),
        nominal_bytes_per_s=_nominal_bytes_per_s(record),
        causes=_causes(rounds, telemetry),
        conditions=conditions,
    )


def from_operation(rounds: DataFrame, in_seconds: bool) -> Measured:
    """The measured value of an operation timed from outside: work per second, or seconds per call. By CUDA events
    where they timed it, else by the host's clock."""
    import numpy as np

    by_events = bool(rounds["event_s"].notna().all())
    seconds = rounds["event_s" if by_events else "host_s"].to_numpy(float)
    values = seconds / rounds["work"].to_numpy(float)
    values = values if in_seconds else 1 / values
    resolution_s = EVENT_RESOLUTION_S if by_events else HOST_RESOLUTION_S
    clock = "CUDA events" if by_events else "host clock"
    timer = rectangular("timer resolution", resolution_s / float(np.median(seconds)), clock)
    return Measured(
        rate=float(np.median(values)),
        terms=(dispersion(values), drift(values), timer),
        rounds=len(rounds),
        dispersion_known=len(rounds) > 1,
        conditions=f"by {clock}",
    )


def estimate(
    *, work: Any, event_s: Any, globaltimer_s: Any, per_clock: Any, cycles: Any, left_in_l2: float = 0.0, **known: Any
) -> Measured:
    """The estimate itself, on arrays of shape (..., rounds); `known` fills further fields of Measured.

    `work` in the metric's unit times seconds; `per_clock` is each round's median over SMs of work per clock, each SM
    by its own clock; `cycles` its median over SMs; `left_in_l2` the share of a pass's bytes that L2 may have served.
    """
    import numpy as np

    rates = work / event_s
    seconds = np.median(event_s, axis=-1)
    launch_s = np.maximum(0.0, np.median(event_s - globaltimer_s, axis=-1))
    n = int(np.shape(event_s)[-1])
    terms = [
        dispersion(rates),
        drift(rates),
        rectangular("event timer resolution", EVENT_RESOLUTION_S / seconds, "CUDA events"),
        rectangular("launch cost inside the round", launch_s / seconds, "event time less %globaltimer"),
    ]
    if left_in_l2:
        terms.append(rectangular("left in L2 by the pass before", left_in_l2, "L2 size over footprint"))
    clock_terms = (
        dispersion(per_clock),
        drift(per_clock),
        rectangular("clock stamps", stamps.CYCLES / np.median(cycles, axis=-1), f"{stamps.CYCLES:.0f} cycles"),
        rectangular("data dependence", DATA_DEPENDENCE, "random data, burst against sustained, H100"),
    )
    exact = Term("work count", 0.0, "B", "exact", "declared, and counted in the machine code (census)")
    return Measured(
        rate=_plain(np.median(rates, axis=-1)),
        per_clock=_plain(np.median(per_clock, axis=-1)),
        terms=(*terms, exact),
        clock_terms=(*clock_terms, exact),
        rounds=n,
        dispersion_known=n > 1,
        **known,
    )


def _plain(value: Any) -> Any:
    return float(value) if value.ndim == 0 else value


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


def _nominal_bytes_per_s(record: Record) -> float | None:
    clock_hz, width_bit = record.claims.get("clock.memory.max"), record.claims.get("memory.bus_width")
    return float(clock_hz) * 2 * float(width_bit) / 8 if clock_hz and width_bit else None


def _left_in_l2(record: Record, rounds: DataFrame) -> float:
    if not str(rounds["metric"].iloc[0]).startswith("memory."):
        return 0.0  # to be served by L2 is what an L2 kernel is for, and shared memory and L1 never reach it
    footprint_bytes, l2_bytes = _footprint_bytes(record, rounds), record.claims.get("l2.size")
    return float(l2_bytes) / footprint_bytes if footprint_bytes and l2_bytes else 0.0


def _footprint_bytes(record: Record, rounds: DataFrame) -> float | None:
    """Of the kernel line that these rounds belong to: points of a curve have lines, and footprints, of their own."""
    first = rounds.iloc[0]
    variant = first.get("variant")
    wanted = (first["metric"], first["toolchain"], variant if isinstance(variant, str) else None)
    for kernel in record.kernels:
        found = (kernel["metric"], kernel["toolchain"], kernel.get("variant"))
        if found == wanted and kernel.get("footprint_bytes"):
            return float(kernel["footprint_bytes"])
    return None


def _causes(rounds: DataFrame, telemetry: DataFrame) -> dict[str, float]:
    """Share of the telemetry samples during these rounds that carried each clock-event reason."""
    if not len(telemetry) or "clock_event_reasons" not in telemetry:
        return {}
    start = float(rounds["start_host_s"].min())
    stop = float((rounds["start_host_s"] + rounds["host_s"]).max())
    during = telemetry["host_s"].between(start, stop).to_numpy()
    masks = telemetry["clock_event_reasons"].array[during].dropna()
    counted: dict[str, int] = {}
    for mask in masks:
        for name in reason_names(int(mask)):
            counted[name] = counted.get(name, 0) + 1
    return {name: count / len(masks) for name, count in counted.items()}
