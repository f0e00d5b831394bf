"""Rounds of a pointer chase -> a latency with its budget of uncertainty.

A block's loads follow one another, so latency is its time over its loads: cycles by the SM's own clock, seconds by
the device's global timer, which is those cycles over the clock that the SM had meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import stamps
from .uncertainty import Measured, Term, dispersion, drift, rectangular

if TYPE_CHECKING:
    from pandas import DataFrame

# PTX leaves the step of %globaltimer to the implementation; this is taken as its bound, half a step at either end.
GLOBALTIMER_STEP_S = 1e-6


def cycles_per_load(rounds: DataFrame) -> Any:
    """One number per round: the median over its SMs of cycles by loads."""
    return stamps.medians(rounds["sm_cycles"], rounds["sm_work"])


def from_rounds(rounds: DataFrame, causes: dict[str, float], conditions: str = "") -> Measured:
    """The latency in s per load as `rate`; how many cycles that is stands in `conditions`."""
    cycles = cycles_per_load(rounds)
    seconds = cycles / rounds["sm_clock_hz"].to_numpy(float)
    clock_hz = float(np.median(rounds["sm_clock_hz"]))
    whole = stamps.medians(rounds["sm_cycles"])
    at_the_ends = stamps.CYCLES / float(np.median(whole))
    terms = (
        dispersion(seconds),
        drift(seconds),
        rectangular("clock stamps", at_the_ends, f"{stamps.CYCLES:.0f} cycles"),
        rectangular("global timer step", GLOBALTIMER_STEP_S * clock_hz / float(np.median(whole)), "1 us at either end"),
        Term("work count", 0.0, "B", "exact", "declared, and counted in the machine code (census)"),
    )
    text = f"{float(np.median(cycles)):.1f} cycles per load at {clock_hz / 1e9:.3f} GHz"
    if "footprint_bytes" in rounds and (footprint := int(rounds["footprint_bytes"].iloc[0])):
        text += f", over {shown_size(footprint)}"
    return Measured(
        rate=float(np.median(seconds)),
        sm_count=len(stamps.sms(rounds["sm_id"])),
        sm_clock_hz=clock_hz,
        terms=terms,
        rounds=len(rounds),
        dispersion_known=len(rounds) > 1,
        causes=causes,
        conditions=", ".join(part for part in (text, conditions) if part),
    )


def shown_size(size_bytes: float) -> str:
    """A size with a binary prefix and three digits: 50.0 MiB."""
    for factor, prefix in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {prefix}B"
    return f"{size_bytes:.0f} B"
