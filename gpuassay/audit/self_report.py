"""What the device says of itself, held against what its record shows. Needs no GPU and runs in every judgement.

A claim is a row of the record's `device` line (the source says which call made it) or a sensor reading; a measurement
comes from stamps that the kernels took themselves. Where the record does not hold both, the row is `not tested`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..record import Record
from . import Row, Word

if TYPE_CHECKING:
    from pandas import DataFrame

CLOCK_TOLERANCE = 0.02  # between NVML's clock and cycles over nanoseconds: the reading is one moment of a round
ENERGY_TOLERANCE = 0.05  # between two readings of one sensor chain, over a window long enough
SHORTEST_ENERGY_S = 5.0  # the counter steps every 100 ms or so, and the power reading is a mean of one second
POWER_MEAN_S = 1.0  # nvml.h: nvmlDeviceGetPowerUsage gives a 1 s average from Ampere on, GA100 excepted
SHORTEST_WARMING_S = 30.0
FEWEST_READINGS = 3
DROP = 0.10  # a clock that fell this far below the run's highest must have a reason bit
# FP32 lanes per SM, by compute capability (CUDA C++ Programming Guide, table of arithmetic instructions).
CORES_PER_SM = {"8.0": 64, "8.6": 128, "8.7": 128, "8.9": 128, "9.0": 128, "10.0": 128, "10.3": 128, "12.0": 128}
# Bytes per second and lane, after line coding (PCI-SIG base specifications 2.1 to 6.0; generation 6 before FLIT loss).
PCIE_LANE = {1: 0.25e9, 2: 0.5e9, 3: 8e9 / 8 * 128 / 130, 4: 16e9 / 8 * 128 / 130, 5: 32e9 / 8 * 128 / 130, 6: 8e9}
UNCHECKABLE = ("vbios.version", "serial", "uuid", "driver.version", "inforom.version", "gsp.version", "cc.state")
IDLE = 0x001


def rows(record: Record) -> list[Row]:
    """Every claim of `record` that can be held against something, in a fixed order."""
    from .. import sustained

    rounds = sustained.plain(record.rounds())
    telemetry = record.telemetry()
    checks: tuple[Callable[[Record, DataFrame, DataFrame], Row], ...] = (
        _name,
        _sm_count,
        _cores,
        _sm_clock,
        _highest_clock,
        _reasons,
        _memory_clock,
        _energy,
        _temperature,
        _utilisation,
        _pcie_width,
        _pcie_rate,
        _l2,
        _memory_size,
        _ecc,
        _capabilities,
        _uncheckable,
    )
    return [check(record, rounds, telemetry) for check in checks]


def compare(claim: float, measured: float, u: float, tolerance: float) -> Word:
    """Relative deviation against a tolerance, guarded by the expanded uncertainty `u` on the side of the accused: a
    deviation that U may explain decides nothing."""
    off = abs(measured / claim - 1)
    if off > tolerance + u:
        return "inconsistent"
    return "consistent" if off <= tolerance and u <= tolerance else "not tested"


def _missing(check: str, what: str, claim: Any = None, unit: str | None = None) -> Row:
    return Row(check, "not tested", f"The record does not hold {what}.", claim, unit=unit)


def _claimed(record: Record, *names: str) -> Any:
    return next((record.claims[name] for name in names if record.claims.get(name) is not None), None)


# -- identity -------------------------------------------------------------------------------------------------


def _name(record: Record, _: DataFrame, __: DataFrame) -> Row:
    from ..identify import IDENTIFIED, evidence_of, identify, known_parts, masked

    claim = _claimed(record, "name", "cuda.name")
    evidence = evidence_of(record)
    found = identify(evidence, str(claim or "unnamed part"))
    best = found.candidates[0]
    words: dict[str, Word] = {"consistent": "consistent"}
    # A class that is itself in doubt contradicts no label, except one that no published part has.
    if best.posterior >= IDENTIFIED or masked(evidence, known_parts()):
        words["label does not match class"] = "inconsistent"
    text = "SM count, rates per clock, bandwidth and sizes were weighed against every known part; "
    text += "; ".join(found.findings) if found.findings else f"the label: {found.label}"
    details = {"posterior": best.posterior, "label": found.label}
    return Row("name", words.get(found.label, "not observable"), text + ".", claim, best.name, details=details)


def _sm_count(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    claim = _claimed(record, "count.sm")
    seen = {int(sm) for ids in rounds["sm_id"] for sm in ids}
    if claim is None or not seen:
        return _missing("count.sm", "both a claimed SM count and rounds with stamps", claim, "1")
    word: Word = "consistent" if len(seen) == int(claim) else "inconsistent"
    text = "Distinct %smid that did work; a difference means hidden, disabled or invented SMs."
    return Row("count.sm", word, text, int(claim), len(seen), 0.0, "1", {"highest_smid": max(seen)})


def _cores(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    claim = _claimed(record, "count.core")
    lanes = CORES_PER_SM.get(str(_claimed(record, "compute_capability", "cuda.compute_capability")))
    seen = {int(sm) for ids in rounds["sm_id"] for sm in ids}
    if claim is None or lanes is None or not seen:
        return _missing("count.core", "a claimed number of cores, a known compute capability and stamps", claim, "1")
    word: Word = "consistent" if lanes * len(seen) == int(claim) else "inconsistent"
    text = f"SMs seen at work times {lanes} lanes of this compute capability; a difference means another die or cut."
    return Row("count.core", word, text, int(claim), lanes * len(seen), 0.0, "1")


def _memory_size(record: Record, _: DataFrame, __: DataFrame) -> Row:
    claim = _claimed(record, "memory.size", "cuda.memory.size")
    filled = next((line for line in record.audit if line["check"] == "memory.capacity"), None)
    if filled is None:
        return _missing("memory.size", "a keyed fill of the memory (`gpuassay audit` makes one)", claim, "B")
    text = "The keyed fill of all free memory; see the row memory.capacity for what was touched."
    return Row("memory.size", filled["verdict"], text, claim, filled["measured"], unit="B")


def _ecc(record: Record, _: DataFrame, __: DataFrame) -> Row:
    text = "The mode is a claim: HBM has its check bits beside the capacity, so that the size does not show it."
    return Row("ecc.mode", "not observable", text, _claimed(record, "ecc.mode"))


def _capabilities(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    """What was tried at all: the census of functions beyond the published ones is no longer than this list."""
    ran = sorted(set(rounds["metric"])) if len(rounds) else []
    refused = {str(line["metric"]): str(line["reason"])[:200] for line in record.not_measured}
    if not ran:
        return _missing("capabilities", "rounds of any kernel")
    text = (
        "Kernels that were tried: these ran, with checked results; the details say which did not. Rates above a sheet "
    )
    text += "are among the verdicts; what was not tried is unknown."
    return Row("capabilities", "not observable", text, None, len(ran), unit="1", details={"ran": ran, "not": refused})


def _uncheckable(record: Record, _: DataFrame, __: DataFrame) -> Row:
    named = [name for name in UNCHECKABLE if name in record.claims]
    text = "Claims that nothing here can check; they stand in the record and show what is said, not what runs."
    return Row("firmware and serials", "not observable", text, details={"claims": named})


def _l2(record: Record, _: DataFrame, __: DataFrame) -> Row:
    from ..hierarchy import agrees, curve_points, sizes

    claim = _claimed(record, "l2.size")
    found = [size for size in sizes(curve_points(record.rounds()), record) if size.level == "L2"]
    if claim is None or not found:
        return _missing("l2.size", "a curve of latency or bandwidth over footprint that has a knee", claim, "B")
    # A chase sees one of two partitions; the bandwidth of all SMs sees the whole.
    best = max(found, key=lambda size: size.seen_at_least)
    word: Word = "consistent" if agrees(best, claim) else "inconsistent"
    size = best.size_bytes
    text = "The knee of the curve over footprint; a larger or smaller cache than claimed means another die or cut."
    return Row("l2.size", word, text, claim, size, unit="B")


# -- clocks ---------------------------------------------------------------------------------------------------


def _pairs(rounds: DataFrame, telemetry: DataFrame) -> Any:
    """One row per sensor reading taken inside a round: NVML's clock, the clock the round stamped, the reasons."""
    import numpy as np
    import pandas as pd

    empty = pd.DataFrame({"metric": [], "claimed_hz": [], "measured_hz": [], "reasons": []}, dtype=float)
    if rounds["sm_clock_hz"].isna().all() or not len(telemetry):
        return empty
    rounds = rounds.sort_values("start_host_s")
    start = rounds["start_host_s"].to_numpy(float)
    stop = start + rounds["host_s"].to_numpy(float)
    at = telemetry["host_s"].to_numpy(float)
    place = np.searchsorted(start, at, side="right") - 1
    inside = (place >= 0) & (at <= stop[np.maximum(place, 0)])
    if not inside.any():
        return empty
    taken = telemetry[inside]
    return pd.DataFrame(
        {
            "metric": rounds["metric"].to_numpy()[place[inside]],
            "claimed_hz": taken["sm_clock_hz"].to_numpy(float),
            "measured_hz": rounds["sm_clock_hz"].to_numpy(float)[place[inside]],
            "reasons": taken["clock_event_reasons"].to_numpy(float, na_value=float("nan")),
        }
    )


def _sm_clock(_: Record, rounds: DataFrame, telemetry: DataFrame) -> Row:
    import numpy as np

    pairs = _pairs(rounds, telemetry).dropna(subset=["claimed_hz", "measured_hz"])
    if len(pairs) < FEWEST_READINGS:
        return _missing("clock.sm", f"{FEWEST_READINGS} readings of the SM clock inside rounds", unit="Hz")
    ratio = (pairs["measured_hz"] / pairs["claimed_hz"]).to_numpy(float)
    middle = float(np.median(ratio))
    # The median's standard error by the median absolute deviation: one reading beside its round cannot widen it.
    spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
    u = 2 * 1.2533 * spread / len(ratio) ** 0.5
    claim, word = float(pairs["claimed_hz"].median()), compare(1.0, middle, u, CLOCK_TOLERANCE)
    text = "clock64 over %globaltimer of the rounds that readings fell into; a difference means a misstated clock."
    return Row(
        "clock.sm", word, text, claim, claim * middle, claim * u, "Hz", {"readings": len(ratio), "ratio": middle}
    )


def _highest_clock(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    claim = _claimed(record, "clock.sm.max", "cuda.clock.sm.max")
    if claim is None or rounds["sm_clock_hz"].isna().all():
        return _missing("clock.sm.max", "both a maximum clock and rounds with stamps", claim, "Hz")
    measured = float(rounds["sm_clock_hz"].quantile(0.99))
    word: Word = "inconsistent" if measured > claim * (1 + CLOCK_TOLERANCE) else "consistent"
    text = "The 99th percentile of stamped clocks; above the maximum means a clock outside the published range."
    return Row("clock.sm.max", word, text, float(claim), measured, unit="Hz")


def _reasons(_: Record, rounds: DataFrame, telemetry: DataFrame) -> Row:
    import pandas as pd

    pairs = _pairs(rounds, telemetry).dropna(subset=["measured_hz", "reasons"])
    if len(pairs) < FEWEST_READINGS:
        return _missing("clock.event_reasons", f"{FEWEST_READINGS} readings of the clock-event reasons inside rounds")
    fallen = pairs["measured_hz"] < (1 - DROP) * pairs["measured_hz"].max()
    silent = fallen & (pairs["reasons"].astype(int) & ~IDLE == 0)
    # A reading is one moment of a round, and a power cap comes and goes: most of those that fell must be silent.
    of_metric = pd.DataFrame({"fallen": fallen, "silent": silent}).groupby(pairs["metric"]).sum()
    suspect = of_metric[(of_metric["silent"] >= FEWEST_READINGS) & (of_metric["silent"] > of_metric["fallen"] / 2)]
    unexplained = int(suspect["silent"].sum())
    word: Word = "inconsistent" if unexplained else "consistent"
    text = (
        f"Readings inside rounds whose clock lay {DROP:.0%} under the run's highest must have a reason bit; without "
        "one, something that the driver does not name slowed the part."
    )
    details = {"readings": len(pairs), "fallen": int(fallen.sum()), "metrics": [str(name) for name in suspect.index]}
    return Row("clock.event_reasons", word, text, 0, unexplained, 0.0, "1", details)


def _memory_clock(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    clock, width = _claimed(record, "clock.memory.max", "cuda.clock.memory"), _claimed(record, "memory.bus_width")
    memory = rounds[rounds["work_unit"] == "B"] if len(rounds) else rounds
    memory = memory[memory["metric"].str.startswith("memory.")] if len(memory) else memory
    if clock is None or width is None or not len(memory):
        return _missing("memory.clock x memory.bus_width", "memory clock, bus width and bandwidth rounds", unit="B/s")
    claim = 2 * float(clock) * float(width) / 8  # two transfers per clock
    best = max(float((part["work"] / part["event_s"]).median()) for _, part in memory.groupby("metric"))
    word: Word = "inconsistent" if best > claim * (1 + CLOCK_TOLERANCE) else "consistent"
    text = (
        "Large arrays read and written; more than clock and width allow means that one of the two is misstated. Less "
        "is for the verdict on memory bandwidth."
    )
    return Row("memory.clock x memory.bus_width", word, text, claim, best, unit="B/s", details={"share": best / claim})


# -- sensors --------------------------------------------------------------------------------------------------


def _energy(_: Record, __: DataFrame, telemetry: DataFrame) -> Row:
    import numpy as np

    both = telemetry.dropna(subset=["energy_j", "power_w"]).sort_values("host_s")
    span = float(both["host_s"].max() - both["host_s"].min()) if len(both) else 0.0
    if span < SHORTEST_ENERGY_S or len(both) < 10:
        what = f"energy and power readings over at least {SHORTEST_ENERGY_S:g} s"
        return _missing("power against energy", what, unit="W")
    power, at = both["power_w"].to_numpy(float), both["host_s"].to_numpy(float)
    counted = float(both["energy_j"].iloc[-1] - both["energy_j"].iloc[0]) / span
    integral = float(np.trapezoid(power, at)) / span
    # The power reading lags: what it misses at either end is at most its mean time times the range of power. Between
    # readings power may move by as much as readings differ, with either sign.
    lag = POWER_MEAN_S * float(np.ptp(power)) / span
    between = float(np.abs(np.diff(power)).mean()) / len(power) ** 0.5
    u = 2 * float(np.hypot(lag / 3**0.5, between))
    word = compare(integral, counted, u / integral, ENERGY_TOLERANCE) if integral > 0 else "inconsistent"
    text = (
        "The energy counter's differences against the power readings' integral: two readings of one sensor chain, so "
        "that agreement does not prove either; a difference means that one of them is misreported."
    )
    return Row("power against energy", word, text, integral, counted, u, "W", {"span_s": span, "readings": len(both)})


def _temperature(_: Record, __: DataFrame, telemetry: DataFrame) -> Row:
    both = telemetry.dropna(subset=["temperature_c", "power_w"])
    span = float(both["host_s"].max() - both["host_s"].min()) if len(both) else 0.0
    if span < SHORTEST_WARMING_S or both["power_w"].max() < 2 * both["power_w"].min():
        what = f"readings over {SHORTEST_WARMING_S:g} s and a change of power by a factor of two"
        return _missing("temperature", what, unit="degC")
    moved = float(both["temperature_c"].max() - both["temperature_c"].min())
    word: Word = "consistent" if moved > 0 else "inconsistent"
    text = "Power changed by a factor of two or more; a temperature that does not move at all is not measured."
    return Row("temperature", word, text, None, moved, unit="degC")


def _utilisation(_: Record, rounds: DataFrame, telemetry: DataFrame) -> Row:
    sustained_rounds = rounds[rounds["event_s"] >= 0.02] if len(rounds) else rounds
    if len(sustained_rounds) and sustained_rounds["event_s"].sum() >= SHORTEST_ENERGY_S:
        from ..agreement import _during

        longest = max(sustained_rounds.groupby("metric"), key=lambda pair: float(pair[1]["event_s"].sum()))[1]
        readings = _during(longest, telemetry)["gpu_utilisation"].dropna()
        span = float((longest["start_host_s"] + longest["host_s"]).max() - longest["start_host_s"].min())
        busy = float(longest["event_s"].sum()) / span
        if len(readings) >= FEWEST_READINGS and busy > 0.9 and span >= SHORTEST_ENERGY_S:
            claim = float(readings.median())
            word: Word = "consistent" if claim >= 0.8 else "inconsistent"
            text = "Share of time that kernels ran; a lower reading during back-to-back launches hides work."
            return Row("utilisation", word, text, claim, busy, unit="1", details={"readings": len(readings)})
    return _missing("utilisation", f"back-to-back launches for {SHORTEST_ENERGY_S:g} s", unit="1")


# -- the host link --------------------------------------------------------------------------------------------


def _pcie_width(record: Record, _: DataFrame, __: DataFrame) -> Row:
    claim, trained = _claimed(record, "pcie.width.max"), _claimed(record, "pcie.width.current")
    if claim is None or trained is None:
        return _missing("pcie.width", "the link's trained and greatest width", claim, "1")
    word: Word = "consistent" if int(trained) >= int(claim) else "inconsistent"
    text = "Lanes trained against lanes that card and slot can do; fewer means a bad slot, riser, contact or part."
    return Row("pcie.width", word, text, int(claim), int(trained), 0.0, "1")


def _pcie_rate(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    generation, width = _claimed(record, "pcie.generation.max"), _claimed(record, "pcie.width.max")
    names = ("pcie.h2d", "pcie.d2h")
    copies = rounds[rounds["metric"].isin(names)] if len(rounds) else rounds
    rates = [float((part["work"] / part["event_s"]).median()) for _, part in copies.groupby("metric")]
    rates += [float(line["value"]) for line in record.medians if line["metric"] in names and line["value"] is not None]
    if generation is None or width is None or int(generation) not in PCIE_LANE or not rates:
        what = "the link's claims and copies from or to pinned memory (an idle link lowers its generation)"
        return _missing("pcie.rate", what, unit="B/s")
    claim = PCIE_LANE[int(generation)] * int(width)
    best = max(rates)
    # More than half is more than the next lower generation, or half the lanes, could carry at all.
    word: Word = "inconsistent" if best <= claim / 2 else "consistent"
    text = "Copies from and to pinned memory; half the rate or less means a link trained below its claim."
    if best > claim * (1 + CLOCK_TOLERANCE):
        word, text = "not tested", "Copies were faster than the claimed PCIe link: they went another way (NVLink-C2C)."
    return Row("pcie.rate", word, text, claim, best, unit="B/s", details={"share": best / claim})
