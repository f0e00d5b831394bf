"""Does the instrument agree with itself, and the device with the instrument? Disagreement is a finding.

Three clocks time each launch (CUDA events, %globaltimer, the host), two toolchains ask each question, and what the
device claims (its SM clock, its SM count) is held against what its own SMs stamped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import stamps
from .record import Record
from .telemetry import reason_names
from .units import show

if TYPE_CHECKING:
    from pandas import DataFrame

TWIN_TOLERANCE = 0.02  # CUDA C++ and Numba must agree within 2 %
CLOCK_TOLERANCE = 0.02  # NVML's SM clock and the one measured by the kernels
GAP_TOLERANCE = 0.02  # event time may exceed the kernel's own time by launch cost, but not by more
EARLY_TOLERANCE = 0.002  # ... and no clock may show less time than passed, beyond its resolution
UNUSUAL = 6.0  # standard deviations, by the median absolute deviation
SLOW_SM = 0.02  # an SM this much slower than the median of its siblings is named


@dataclass(frozen=True)
class Finding:
    """Something that a reader must know; `severity` is info, warning or error."""

    code: str
    severity: str
    metric: str | None
    text: str


def findings(rounds: DataFrame, telemetry: DataFrame, record: Record) -> list[Finding]:
    """All disagreements of a run with samples."""
    found: list[Finding] = []
    telemetry = telemetry.filter(["host_s", "sm_clock_hz", "temperature_c", "clock_event_reasons"])
    rounds = rounds[rounds["sm_id"].map(len) > 0]  # operations of the host carry no stamps to compare
    for name, group in rounds.groupby("metric", sort=False):
        metric = str(name)
        ours = group[group["toolchain"] == "cuda c++"]
        texts = [("toolchains-disagree", _toolchains(group))]
        if len(ours):
            texts += [
                ("clocks-disagree", _clocks(ours)),
                ("clock-claim", _clock_claim(ours, telemetry)),
                ("slow-sm", _slow_sms(ours)),
            ]
        texts.append(("too-hot", _too_hot(group, telemetry, record)))
        found += [Finding(code, "warning", metric, f"{metric}: {text}") for code, text in texts if text]
    full = rounds[rounds["work_unit"] != "load"]  # a chase runs on as few SMs as its question needs
    claimed, seen = record.claims.get("count.sm"), stamps.sms(full["sm_id"])
    if claimed is not None and seen and len(seen) != int(claimed):
        text = f"the device claims {claimed} SMs, {len(seen)} were seen at work"
        found.append(Finding("sm-count-claim", "error", "count.sm", text))
    return found


def _during(rounds: DataFrame, telemetry: DataFrame) -> DataFrame:
    """The sensor readings taken while these rounds ran."""
    import numpy as np

    start_s = rounds["start_host_s"].to_numpy(float)
    stop_s = start_s + np.nan_to_num(rounds["host_s"].to_numpy(float))
    at_s = telemetry["host_s"].to_numpy(float)
    during = (at_s >= start_s.min(initial=math.inf)) & (at_s <= stop_s.max(initial=-math.inf))
    found: DataFrame = telemetry.loc[during]
    return found


def _too_hot(rounds: DataFrame, telemetry: DataFrame, record: Record) -> str | None:
    """A part above its slowdown limit, or slowed for heat, is not in the state that a sheet speaks of."""
    window = _during(rounds, telemetry)
    slowdown_c = record.claims.get("temperature.slowdown")
    # NVML's call for the limit is deprecated from Ada on, and may answer 0.
    if slowdown_c and "temperature_c" in window and (window["temperature_c"] >= float(slowdown_c)).any():
        hottest = float(window["temperature_c"].max())
        return f"at {hottest:.0f} degC the part is at its slowdown limit of {float(slowdown_c):.0f} degC: cool it"
    if "clock_event_reasons" in window:
        masks = [int(mask) for mask in window["clock_event_reasons"].dropna()]
        slowed = sum(any("Thermal" in name for name in reason_names(mask)) for mask in masks)
        if slowed:
            return f"slowed down for heat in {slowed / len(masks):.0%} of the readings: cool it and measure again"
    return None


def _toolchains(group: DataFrame) -> str | None:
    """By %globaltimer: Numba's dearer launch is no property of its compiler."""
    import numpy as np

    rates = group["work"].to_numpy(float) / group["globaltimer_s"].to_numpy(float)
    ours, twin = ((group["toolchain"] == name).to_numpy(bool) for name in ("cuda c++", "numba"))
    if not (ours.any() and twin.any()):
        return None
    ratio = float(np.median(rates[twin]) / np.median(rates[ours]))
    return f"Numba reaches {ratio:.1%} of CUDA C++" if abs(ratio - 1) > TWIN_TOLERANCE else None


def clock_gaps(event_s: Any, globaltimer_s: Any, host_s: Any) -> tuple[Any, Any, Any]:
    """Relative excess of CUDA events over %globaltimer and over the host's clock (medians over the last axis), and
    whether either is more than the clocks' resolutions and a launch explain."""
    import numpy as np

    by_kernel = np.median(event_s / globaltimer_s, axis=-1) - 1
    by_host = np.median(event_s / host_s, axis=-1) - 1
    disagree = (by_kernel <= -EARLY_TOLERANCE) | (by_kernel >= GAP_TOLERANCE) | (by_host > EARLY_TOLERANCE)
    return by_kernel, by_host, disagree


def _clocks(ours: DataFrame) -> str | None:
    columns = (ours[name].to_numpy(float) for name in ("event_s", "globaltimer_s", "host_s"))
    by_kernel, by_host, disagree = clock_gaps(*columns)
    if not disagree:
        return None
    if by_host > EARLY_TOLERANCE:
        return f"CUDA events count {by_host:+.1%} more time than the host's clock"
    return f"CUDA events and %globaltimer differ by {by_kernel:+.1%}"


def _clock_claim(ours: DataFrame, telemetry: DataFrame) -> str | None:
    if "sm_clock_hz" not in telemetry:
        return None
    claims = _during(ours, telemetry)["sm_clock_hz"].dropna()
    measured_hz = float(ours["sm_clock_hz"].median())
    if len(claims) < 3 or abs(float(claims.median()) / measured_hz - 1) <= CLOCK_TOLERANCE:
        return None
    return f"NVML said {show(float(claims.median()), 'Hz')} while the kernels measured {show(measured_hz, 'Hz')}"


def _slow_sms(ours: DataFrame) -> str | None:
    """Only where all SMs did the same work: of chunks that are handed out a far SM rightly takes fewer. Nor of a chase,
    where it rightly waits longer."""
    import numpy as np

    if ours["work_unit"].iloc[0] == "load" or any(np.ptp(work) for work in ours["sm_work"]):
        return None
    medians = stamps.by_sm(ours["sm_id"], ours["sm_work"], ours["sm_cycles"])
    rates = np.array(list(medians.values()))
    typical = float(np.median(rates))
    # Where SMs differ by place or by luck (distributed shared memory, contended atomics), one must stand out from that.
    usual = UNUSUAL * 1.4826 * float(np.median(np.abs(rates / typical - 1)))
    slow = {sm: rate / typical for sm, rate in medians.items() if rate < (1 - max(SLOW_SM, usual)) * typical}
    if not slow:
        return None
    return "slower than their siblings: " + ", ".join(f"SM {sm} at {share:.1%}" for sm, share in sorted(slow.items()))
