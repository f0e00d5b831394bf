"""What the device says of itself, held against what its record shows. Needs no GPU and runs in every judgement.

A claim is a row of the record's `device` line (the source says which call made it) or a sensor reading; a measurement
comes from stamps that the kernels took themselves. Where the record does not hold both, the row is `not tested`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .. import stamps
from ..latency import GLOBALTIMER_STEP_S
from ..links import line_rate
from ..record import Record
from ..telemetry import STANDING_REASONS
from . import Row, Word
from .host import CONFIDENTIAL

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..sheets import Sheet

CLOCK_TOLERANCE = 0.02  # between NVML's clock and cycles over nanoseconds: the reading is one moment of a round
CAPPED_TOLERANCE = 0.05  # ... the same where only rounds under a power cap have readings: there the clock moves
ENERGY_TOLERANCE = 0.05  # between two readings of one sensor chain, over a window long enough
SHORTEST_ENERGY_S = 5.0  # the counter steps every 100 ms or so, and the power reading is a mean of one second
POWER_MEAN_S = 1.0  # nvml.h: nvmlDeviceGetPowerUsage gives a 1 s average from Ampere on, GA100 excepted
SHORTEST_WARMING_S = 30.0
GAP = 20.0  # times the usual time between readings
FEWEST_READINGS = 3
HELD_BACK = 0.95  # of the claimed memory: the least that says something of the claim
LEAST_SHARE = 0.5  # of what clock and bus width allow: no sound memory attains less (calibration.toml: 0.80 and more)
STREAMED = ("memory.read", "memory.write", "memory.copy", "memory.triad")
TEMPERATURE_STEP_C = 1.0  # NVML gives whole degrees
DROP = 0.10  # a clock that fell this far below the run's highest must have a reason bit
# FP32 lanes per SM, by compute capability (CUDA C++ Programming Guide, table of arithmetic instructions).
CORES_PER_SM = {"8.0": 64, "8.6": 128, "8.7": 128, "8.9": 128, "9.0": 128, "10.0": 128, "10.3": 128, "12.0": 128}
# ECC in GDDR6 keeps its check bits in the memory itself: 1/16 of it (6.25 %, "GPUHammer", 2025, of an A6000). HBM has
# its own bits for them (NVIDIA A100 Tensor Core GPU Architecture whitepaper). GDDR6: as GA10x and AD10x have it.
ECC_SHARE = 1 / 16
GDDR6 = ("8.6", "8.9")
LOAD_BEGINS_S = 10.0  # a fan may cool what load has heated, but not as soon
UNCHECKABLE = ("vbios.version", "serial", "uuid", "driver.version", "inforom.version", "gsp.version", "cc.state")


def rows(record: Record, sheet: Sheet | None = None) -> list[Row]:
    """Every claim of `record` that can be held against something, in a fixed order."""
    from .. import sustained
    from . import capabilities

    rounds = sustained.plain(record.rounds())
    telemetry = record.telemetry()
    checks: tuple[Callable[[Record, DataFrame, DataFrame], Row], ...] = (
        _name,
        lambda r, _, __: _pci_id(r, sheet, "device_id"),
        lambda r, _, __: _pci_id(r, sheet, "subsystem_id"),
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
        _nvlink,
        _l2,
        _memory_size,
        lambda r, _, __: _ecc(r, sheet),
        lambda r, _, __: capabilities.row(r, sheet),
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
    details = {"posterior": best.posterior, "label": found.label, "part": found.identified}
    return Row("name", words.get(found.label, "not observable"), text + ".", claim, best.name, details=details)


def _pci_id(record: Record, sheet: Sheet | None, which: str) -> Row:
    """NVML's PCI id against the one that the device's own configuration space shows to the kernel."""
    check = f"pci.{which}"
    claim, seen = _claimed(record, check), _claimed(record, f"pci.config.{which}")
    if claim is None or seen is None:
        return _missing(check, "both NVML's PCI id and the configuration space's", claim)
    listed = getattr(sheet.identity, f"pci_{which}s") if sheet is not None else ()
    text = "NVML's id against the one in the configuration space, which the kernel reads without NVIDIA's driver; a "
    text += "difference means that the driver or its library does not say what the board says"
    text += "; the sheet lists this id" if claim in listed else "; the sheet does not list this id" if listed else ""
    word: Word = "consistent" if claim == seen else "inconsistent"
    return Row(check, word, text + ".", claim, seen, details={"on_sheet": claim in listed if listed else None})


def _sm_count(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    claim = _claimed(record, "count.sm")
    seen = stamps.sms(rounds["sm_id"])
    if claim is None or not seen:
        return _missing("count.sm", "both a claimed SM count and rounds with stamps", claim, "1")
    word: Word = "consistent" if len(seen) == int(claim) else "inconsistent"
    text = "Distinct %smid that did work; a difference means hidden, disabled or invented SMs."
    return Row("count.sm", word, text, int(claim), len(seen), 0.0, "1", {"highest_smid": max(seen)})


def _cores(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    claim = _claimed(record, "count.core")
    lanes = CORES_PER_SM.get(str(_claimed(record, "compute_capability", "cuda.compute_capability")))
    seen = stamps.sms(rounds["sm_id"])
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
    measured, word = filled["measured"], filled["verdict"]
    if word == "consistent" and claim is not None and not HELD_BACK <= measured / claim <= 1:
        word = "inconsistent" if measured > claim else "not tested"
    text = (
        "Bytes that held a keyed hash each, all at once, against the size that is claimed; more than claimed means a "
        f"misstated size, under {HELD_BACK:.0%} of it decides nothing: driver and other processes hold the rest."
    )
    return Row("memory.size", word, text, claim, measured, 0.0, "B")


def _ecc(record: Record, sheet: Sheet | None) -> Row:
    """ECC's mode against the capacity that it costs, where it costs any."""
    mode, size = _claimed(record, "ecc.mode"), _claimed(record, "memory.size", "cuda.memory.size")
    if str(_claimed(record, "compute_capability", "cuda.compute_capability")) not in GDDR6:
        text = "The mode is a claim: HBM has its check bits beside the capacity, so that the size does not show it."
        return Row("ecc.mode", "not observable", text, mode)
    printed = sheet.published_quantity("memory.size") if sheet is not None else None
    if mode is None or size is None or printed is None:
        return _missing("ecc.mode", "the mode, the memory's size and a sheet that prints it", mode)
    missing = 1 - float(size) / (printed.si * 2**30 / 1e9)  # 48 GB are printed, 48 GiB are meant
    # The driver keeps up to one percent for itself.
    costs = {"enabled": ECC_SHARE - 0.005 <= missing <= ECC_SHARE + 0.02, "disabled": -0.005 <= missing <= 0.02}
    word: Word = "consistent" if costs.get(mode) else "inconsistent" if any(costs.values()) else "not tested"
    text = (
        f"{missing:.1%} of the printed memory is missing; ECC in GDDR6 takes {ECC_SHARE:.2%}. Another share than the "
        "mode says means that the mode is misstated."
    )
    return Row("ecc.mode", word, text, mode, f"{missing:.1%} missing", details={"missing": missing})


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
    u = (best.upper_bytes - best.lower_bytes) / 2
    text = "The knee of the curve over footprint; a larger or smaller cache than claimed means another die or cut."
    details = {"curve": best.curve, "seen_at_least": best.seen_at_least}
    return Row("l2.size", word, text, claim, best.size_bytes, u, "B", details)


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
    # Under a cap the clock goes to and fro within a round, and a reading is one moment of it.
    free = pairs[pairs["reasons"].fillna(0).astype(int) & ~STANDING_REASONS == 0]
    capped = len(free) < FEWEST_READINGS
    pairs = pairs if capped else free
    ratio = (pairs["measured_hz"] / pairs["claimed_hz"]).to_numpy(float)
    middle = float(np.median(ratio))
    # The median's standard error by the median absolute deviation: one reading beside its round cannot widen it.
    spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
    u = 2 * 1.2533 * spread / len(ratio) ** 0.5
    claim = float(pairs["claimed_hz"].median())
    word = compare(1.0, middle, u, CAPPED_TOLERANCE if capped else CLOCK_TOLERANCE)
    text = "clock64 over %globaltimer of the rounds that readings fell into; a difference means a misstated clock."
    text += f" All fell under a cap: {CAPPED_TOLERANCE:.0%} are allowed." if capped else ""
    return Row(
        "clock.sm", word, text, claim, claim * middle, claim * u, "Hz", {"readings": len(ratio), "ratio": middle}
    )


def _highest_clock(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    claim = _claimed(record, "clock.sm.max", "cuda.clock.sm.max")
    if claim is None or rounds["sm_clock_hz"].isna().all():
        return _missing("clock.sm.max", "both a maximum clock and rounds with stamps", claim, "Hz")
    clocks = rounds["sm_clock_hz"].dropna()
    measured = float(clocks.quantile(0.99))
    # Each of a round's two stamps of %globaltimer may be a step off.
    u = 2 * measured * GLOBALTIMER_STEP_S / 3**0.5 / float(rounds["globaltimer_s"].median())
    word = compare(float(claim), measured, u / measured, CLOCK_TOLERANCE)
    text = "The 99th percentile of stamped clocks; above the maximum means a clock outside the published range"
    if word == "inconsistent" and measured < claim:
        word = "not tested"
        text += "; nothing here ran at the maximum, which power, heat or a setting may forbid"
    return Row("clock.sm.max", word, text + ".", float(claim), measured, u, "Hz")


def _reasons(_: Record, rounds: DataFrame, telemetry: DataFrame) -> Row:
    import pandas as pd

    pairs = _pairs(rounds, telemetry).dropna(subset=["measured_hz", "reasons"])
    if len(pairs) < FEWEST_READINGS:
        return _missing("clock.event_reasons", f"{FEWEST_READINGS} readings of the clock-event reasons inside rounds")
    fallen = pairs["measured_hz"] < (1 - DROP) * pairs["measured_hz"].max()
    silent = fallen & (pairs["reasons"].astype(int) & ~STANDING_REASONS == 0)
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


def _memory_clock(record: Record, rounds: DataFrame, telemetry: DataFrame) -> Row:
    clock, width = _claimed(record, "clock.memory.max", "cuda.clock.memory"), _claimed(record, "memory.bus_width")
    memory = rounds[rounds["work_unit"] == "B"] if len(rounds) else rounds
    memory = memory[memory["metric"].str.startswith("memory.")] if len(memory) else memory
    if clock is None or width is None or not len(memory):
        return _missing("memory.clock x memory.bus_width", "memory clock, bus width and bandwidth rounds", unit="B/s")
    claim = 2 * float(clock) * float(width) / 8  # two transfers per clock
    best, u = _best_rate([part for _, part in memory.groupby("metric")])
    word: Word = "inconsistent" if best > claim * (1 + CLOCK_TOLERANCE) else "consistent"
    if best + u < LEAST_SHARE * claim:
        # An instance has some of the slices, a neighbour takes a share, and random sectors alone say nothing.
        shared = record.mig or record.vgpu or _others(telemetry)
        decides = memory["metric"].isin(STREAMED).any() and not shared
        word = "inconsistent" if decides else "not tested"
    text = (
        "Large arrays read and written; more than clock and width allow, or less than half of it, means that one of "
        "the two is misstated or that something holds the memory back. What lies between is for the verdict on memory "
        "bandwidth."
    )
    return Row("memory.clock x memory.bus_width", word, text, claim, best, u, "B/s", {"share": best / claim})


def _others(telemetry: DataFrame) -> bool:
    """Whether another process was seen on the GPU while it was measured."""
    return "other_processes" in telemetry and bool((telemetry["other_processes"].fillna(0) > 0).any())


def _best_rate(groups: Iterable[DataFrame]) -> tuple[float, float]:
    """The highest median of work over time among groups of rounds, and U of that median by its dispersion."""
    import numpy as np

    best = (0.0, 0.0)
    for group in groups:
        rates = (group["work"] / group["event_s"]).to_numpy(float)
        middle = float(np.median(rates))
        spread = 1.4826 * float(np.median(np.abs(rates - middle)))
        best = max(best, (middle, 2 * 1.2533 * spread / len(rates) ** 0.5))
    return best


# -- sensors --------------------------------------------------------------------------------------------------


def _energy(_: Record, __: DataFrame, telemetry: DataFrame) -> Row:
    import numpy as np

    both = telemetry.dropna(subset=["energy_j", "power_w"]).sort_values("host_s")
    power, at = both["power_w"].to_numpy(float), both["host_s"].to_numpy(float)
    steps, near = np.diff(at), _near(at)
    span = float(steps[near].sum())
    if span < SHORTEST_ENERGY_S or len(both) < 10:
        what = f"energy and power readings over at least {SHORTEST_ENERGY_S:g} s"
        return _missing("power against energy", what, unit="W")
    counted = float(np.diff(both["energy_j"].to_numpy(float))[near].sum()) / span
    integral = float(((power[1:] + power[:-1]) / 2 * steps)[near].sum()) / span
    # The power reading lags: what it misses at either end, and of either side of a gap, is at most its mean time times
    # the range of power. Between readings power may move by as much as readings differ, with either sign.
    lag = POWER_MEAN_S * float(np.ptp(power)) * (1 + int((~near).sum())) / span
    between = float(np.abs(np.diff(power)).mean()) / len(power) ** 0.5
    u = 2 * float(np.hypot(lag / 3**0.5, between))
    word = compare(integral, counted, u / integral, ENERGY_TOLERANCE) if integral > 0 else "inconsistent"
    text = (
        "The energy counter's differences against the power readings' integral: two readings of one sensor chain, so "
        "that agreement does not prove either; a difference means that one of them is misreported."
    )
    return Row("power against energy", word, text, integral, counted, u, "W", {"span_s": span, "readings": len(both)})


def _near(at_s: Any) -> Any:
    """Which readings follow the one before as readings do, and not after a gap: a run that was cut off and resumed says
    nothing of the time between. One value fewer than `at_s`."""
    import numpy as np

    steps = np.diff(at_s)
    return steps <= GAP * np.median(steps) if len(steps) else np.zeros(0, bool)


def _temperature(_: Record, __: DataFrame, telemetry: DataFrame) -> Row:
    both = telemetry.dropna(subset=["temperature_c", "power_w"])
    span = float(both["host_s"].max() - both["host_s"].min()) if len(both) else 0.0
    if span < SHORTEST_WARMING_S or both["power_w"].max() < 2 * both["power_w"].min():
        what = f"readings over {SHORTEST_WARMING_S:g} s and a change of power by a factor of two"
        return _missing("temperature", what, unit="degC")
    moved = float(both["temperature_c"].max() - both["temperature_c"].min())
    fell, loads = _falls_under_load(both)
    word: Word = "inconsistent" if moved <= 0 or fell > TEMPERATURE_STEP_C else "consistent"
    text = (
        f"Power changed by a factor of two or more, {loads} times from low to a load of {LOAD_BEGINS_S:g} s; a "
        f"temperature that does not move at all, or falls by more than {TEMPERATURE_STEP_C:g} degC while load begins, "
        "is not measured."
    )
    return Row("temperature", word, text, None, moved, TEMPERATURE_STEP_C, "degC", {"loads": loads, "fell": fell})


def _falls_under_load(readings: DataFrame) -> tuple[float, int]:
    """How far the temperature fell at most, in K, within the first seconds of a load that followed low power, and how
    many such loads there were."""
    import numpy as np

    readings = readings.sort_values("host_s")
    power, at = readings["power_w"].to_numpy(float), readings["host_s"].to_numpy(float)
    celsius = readings["temperature_c"].to_numpy(float)
    high, low = power >= 0.7 * power.max(), power <= 0.5 * power.max()
    worst, loads, rested, near = 0.0, 0, False, _near(at)
    for place in range(len(power)):
        rested = rested or bool(low[place])
        if not (rested and high[place]):
            continue
        rested = False  # until power is low again
        during = (at >= at[place]) & (at <= at[place] + LOAD_BEGINS_S)
        if at[-1] < at[place] + LOAD_BEGINS_S or not high[during].all() or not near[during[1:] & during[:-1]].all():
            continue
        loads += 1
        of_load = celsius[during]
        worst = max(worst, float((np.maximum.accumulate(of_load) - of_load).max()))
    return worst, loads


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
            u = 2 * float(readings.std(ddof=0)) / len(readings) ** 0.5
            return Row("utilisation", word, text, claim, busy, u, "1", {"readings": len(readings)})
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
    found: list[tuple[float, float | None]] = []
    if len(copies):
        found.append(_best_rate(part for _, part in copies.groupby("metric")))
    given = [line["value"] for line in record.medians if line["metric"] in names and line["value"] is not None]
    found += [(float(value), None) for value in given]
    claim = None if generation is None or width is None else line_rate(int(generation), int(width))
    if claim is None or not found:
        what = "the link's claims and copies from or to pinned memory (an idle link lowers its generation)"
        return _missing("pcie.rate", what, unit="B/s")
    best, u = max(found, key=lambda pair: pair[0])
    if any(row["check"] == CONFIDENTIAL and (row["details"] or {}).get("ccFeature") for row in record.audit):
        text = "Confidential computing is on: copies are encrypted through bounce buffers, and say little of the link."
        return Row("pcie.rate", "not tested", text, claim, best, u, "B/s", {"share": best / claim})
    # More than half is more than the next lower generation, or half the lanes, could carry at all.
    word: Word = "inconsistent" if best <= claim / 2 else "consistent"
    text = "Copies from and to pinned memory; half the rate or less means a link trained below its claim."
    if best > claim * (1 + CLOCK_TOLERANCE):
        word, text = "not tested", "Copies were faster than the claimed PCIe link: they went another way (NVLink-C2C)."
    return Row("pcie.rate", word, text, claim, best, u, "B/s", {"share": best / claim})


def _nvlink(record: Record, rounds: DataFrame, _: DataFrame) -> Row:
    """All active links' speed in one direction against the fastest copy to another GPU."""
    links, speed = _claimed(record, "nvlink.count.active", "nvlink.count"), _claimed(record, "nvlink.speed")
    claim = None if links is None or speed is None else int(links) * float(speed)
    copies = rounds[rounds["metric"].str.startswith("peer.one_way")] if len(rounds) else rounds
    if claim is None or not len(copies):
        what = "NVLink's active links and speed, and copies to a second GPU"
        return _missing("nvlink", what, claim, "B/s")
    best, u = _best_rate(part for _, part in copies.groupby("metric"))
    share = best / claim
    word: Word = "inconsistent" if share > 1 + CLOCK_TOLERANCE else "consistent" if share > 0.5 else "not tested"
    text = (
        f"{links} active links at the speed that NVML claims, one direction, against copies to another GPU; faster "
        "than that means misstated links. Half or less decides nothing: not every link need lead to that GPU."
    )
    details = {"links": links, "link_speed": speed, "existing": _claimed(record, "nvlink.count"), "share": share}
    return Row("nvlink", word, text, claim, best, u, "B/s", details)
