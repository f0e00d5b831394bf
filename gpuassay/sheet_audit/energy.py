"""Operations per joule: by a sheet (peak over power figure) and by a record (measured rate over measured power).

No pass and no fail: a rule of energy efficiency was reported (China's NDRC, by the Financial Times of 2025-03-26), but
no publication of its figure, its data type, its workload and its basis of power was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..sheets import Sheet
from ..sustained import plain
from .bounds import printed

if TYPE_CHECKING:
    from ..verdict import Judgement

NO_THRESHOLD = "No threshold is applied: no published one was found, with its data type and its basis of power."


@dataclass(frozen=True)
class Efficiency:
    """Operations per joule (= operations per second and watt) of one quantity or metric, with its basis.

    `low` and `high` are the bounds that the rounding of both figures leaves; equal to the value for a measurement,
    whose power reading has no stated uncertainty. `confidences` are those of the rate and of the power figure.
    """

    quantity: str
    rate: str
    power: str
    per_joule: float
    low: float
    high: float
    unit: str
    chosen: bool
    confidences: tuple[str, ...]
    sources: tuple[str, ...]


def by_sheet(sheet: Sheet) -> Iterator[Efficiency]:
    """Every chosen dense tensor rate over every published power figure: where sources disagree, all stand."""
    for name in sheet.published:
        rate = sheet.published_quantity(name)
        if rate is None or not name.startswith("tensor.") or name.endswith(".sparse"):
            continue
        for power in sheet.published.get("power.limit", ()):
            ratio = printed(rate) / printed(power)
            yield Efficiency(
                name,
                rate.text,
                power.text,
                ratio.value,
                ratio.low,
                ratio.high,
                "FLOP/J" if "FLOP" in rate.unit else "OP/J",
                power.chosen,
                (sheet.source_of(rate).confidence, sheet.source_of(power).confidence),
                (rate.source, power.source),
            )


def by_record(judgement: Judgement) -> Iterator[Efficiency]:
    """Measured rate over the median of the power readings during its rounds, for metrics with two readings or more.

    The readings are the driver's (NVML), which from Ampere on are means over a second; their accuracy is not known
    here. Yields nothing for a record without samples.
    """
    record = judgement.record
    if record is None or record.run["samples"] != "kept":
        return
    rounds, telemetry = plain(record.rounds()), record.telemetry()
    if not len(rounds) or not len(telemetry) or "power_w" not in telemetry:
        return
    for verdict in judgement.verdicts:
        if verdict.measured is None or verdict.unit not in ("FLOP/s", "OP/s"):
            continue
        of_metric = rounds[rounds["metric"] == verdict.metric]
        ours = of_metric[of_metric["toolchain"] == "cuda c++"]
        of_metric = ours if len(ours) else of_metric
        if not len(of_metric):
            continue
        start = float(of_metric["start_host_s"].min())
        stop = float((of_metric["start_host_s"] + of_metric["host_s"]).max())
        inside = telemetry[(telemetry["host_s"] >= start) & (telemetry["host_s"] <= stop)]
        watts = inside["power_w"].dropna()
        if len(watts) < 2 or not float(watts.median()) > 0:
            continue
        power = float(watts.median())
        per_joule = verdict.measured / power
        yield Efficiency(
            verdict.metric,
            f"{verdict.measured / 1e12:.4g} T{verdict.unit}",
            f"{power:.0f} W, median of {len(watts)} readings",
            per_joule,
            per_joule,
            per_joule,
            verdict.unit.replace("/s", "/J"),
            True,
            ("measured", "measured"),
            ("record", "record"),
        )
