"""Sizes found, not read: where L1, L2 and the TLB end, by the curves of latency and of bandwidth over footprint.

The driver's claim and the sheet are looked at only afterwards, to say whether they agree with what was found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import stamps
from .agreement import Finding
from .knees import Knee, knees
from .latency import cycles_per_load, shown_size

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from .record import Record
    from .sheets import Sheet

LATENCY, BANDWIDTH, TRANSLATION, ALL_SMS = "latency.memory", "memory.read", "latency.tlb", "latency.l2.all_sms"
WRITING = "memory.write"  # a curve to look at: no size is found in it
LARGEST_L1_BYTES, LARGEST_L2_BYTES = 2**20, 2**29  # between every L1 and every L2; beyond every L2
ACCURACY = 0.10  # of a size found this way: a claim may lie this much outside the interval and still agree

# L2 of an A100 has two partitions, and each keeps what its own SMs read (NVIDIA A100 Tensor Core GPU Architecture
# whitepaper, "A100 L2 cache"). A chase on one SM may then see as little as half of L2: its home lines and copies of all
# others in one partition. On an H100 80GB HBM3 that claims 50 MiB, the prototype's chase (292 cycles at 24 MiB, 524 at
# 40, 682 in memory) bends at 26 MiB by gradual replacement and at 38 by steep, while the reads of all SMs (8.3 TB/s to
# 32 MiB, 4.4 at 48, 3.4 at 64) bend at 47 MiB. Other architectures are not known here, so that the same may hold.
ONE_PARTITION = ("8.6", "8.9")  # NVIDIA's GA102 and Ada whitepapers describe no partitions of L2
LEAST_OF_TWO = 0.5


@dataclass(frozen=True)
class Point:
    """One footprint of one curve: median cost in s per load or per byte."""

    curve: str
    footprint_bytes: int
    cost_s: float


@dataclass(frozen=True)
class Size:
    """A level's size by one curve, in bytes, with its interval.

    `seen_at_least`: that curve sees this share of the level or more, so that the level may be as large as the upper end
    over it. `claim_agrees` and `sheet_agrees` are None where there is nothing to compare with. `replacement` is what
    the curve's rise resembles (knees.py).
    """

    level: str
    curve: str
    size_bytes: float
    lower_bytes: float
    upper_bytes: float
    seen_at_least: float
    replacement: str
    claimed_bytes: float | None = None
    claim_agrees: bool | None = None
    published_bytes: float | None = None
    published_text: str | None = None
    sheet_agrees: bool | None = None


@dataclass(frozen=True)
class Hierarchy:
    """What a record's curves say; `sm_map` is each SM's L2 latency over the mean of all SMs, by SM number: as private
    as a serial number, and in no report."""

    points: tuple[Point, ...]
    sizes: tuple[Size, ...]
    sm_map: dict[int, float]


def of_record(record: Record, sheet: Sheet) -> Hierarchy | None:
    """The hierarchy of a record with samples; None where it has no curve and no map."""
    rounds = record.rounds()
    if record.run["samples"] != "kept" or not len(rounds):
        return None
    points = curve_points(rounds)
    found = Hierarchy(tuple(points), tuple(compared(sizes(points, record), record, sheet)), sm_map(record))
    return found if found.points or found.sm_map else None


def curve_points(rounds: DataFrame) -> list[Point]:
    """Every point of the curves, by curve and footprint; a metric without variants is no curve."""
    if "variant" not in rounds or "footprint_bytes" not in rounds:
        return []
    found = []
    curves = (LATENCY, BANDWIDTH, TRANSLATION, WRITING)
    ours = rounds[(rounds["toolchain"] == "cuda c++") & rounds["metric"].isin(curves)]
    for name, group in ours.groupby("metric", sort=False):
        variants = group["variant"].fillna("").astype(str)
        if not variants.str.endswith(" B").any():
            continue
        of_curve = group[variants.str.endswith(" B") | (variants == "")]
        costs = _costs_s(of_curve).groupby(of_curve["footprint_bytes"].astype("int64")).median()
        found += [Point(str(name), size, cost) for size, cost in zip(costs.index.tolist(), costs, strict=True) if size]
    return found


def _costs_s(rounds: DataFrame) -> Series[float]:
    """Each round's cost in s per load or per byte; all of one metric."""
    loads = rounds["work_unit"].iloc[0] == "load"
    cost: Series[float] = (
        cycles_per_load(rounds) / rounds["sm_clock_hz"] if loads else rounds["event_s"] / rounds["work"]
    )
    return cost


def sizes(points: list[Point], record: Record) -> list[Size]:
    """Every level that a curve shows the end of."""
    found = []
    for curve in (LATENCY, BANDWIDTH, TRANSLATION):
        of_curve = [point for point in points if point.curve == curve]
        bends = knees([p.footprint_bytes for p in of_curve], [p.cost_s for p in of_curve])
        for level, knee in _named(curve, bends):
            seen = LEAST_OF_TWO if (level, curve) == ("L2", LATENCY) and not _one_partition(record) else 1.0
            bounds = knee.size_bytes, knee.lower_bytes, knee.upper_bytes
            found.append(Size(level, curve, *bounds, seen, knee.replacement))
    return found


def _named(curve: str, bends: list[Knee]) -> list[tuple[str, Knee]]:
    """Which bend is which level's: by where it lies, and of several the one that rises most."""
    if curve == TRANSLATION:
        return [("TLB reach", knee) for knee in bends]
    named = []
    for level, least, most in (("L1", 0.0, LARGEST_L1_BYTES), ("L2", LARGEST_L1_BYTES, LARGEST_L2_BYTES)):
        there = [knee for knee in bends if least < knee.size_bytes <= most]
        if there and not (level == "L1" and curve == BANDWIDTH):
            named.append((level, max(there, key=lambda knee: knee.after / knee.before)))
    return named


def compared(found: list[Size], record: Record, sheet: Sheet) -> list[Size]:
    """The sizes of L2 beside the driver's claim and the sheet's figure: what the silicon is known to have, else what
    is published. A decimal prefix may be meant binary. Under MIG the sheet speaks of more than the instance."""
    claimed = record.claims.get("l2.size")
    quantity = sheet.silicon_quantity("l2.size") or sheet.published_quantity("l2.size")
    rows = []
    for size in found:
        if size.level == "L2" and claimed:
            size = replace(size, claimed_bytes=float(claimed), claim_agrees=agrees(size, float(claimed)))
        if size.level == "L2" and quantity is not None and not record.mig:
            binary = 1.0 if "i" in quantity.unit else 2**20 / 1e6
            same = agrees(size, quantity.si) or agrees(size, quantity.si * binary)
            size = replace(size, published_bytes=quantity.si, published_text=quantity.text, sheet_agrees=same)
        rows.append(size)
    return rows


def agrees(size: Size, figure_bytes: float) -> bool:
    """Whether a level of `figure_bytes` may be what the curve shows, within ACCURACY."""
    return size.lower_bytes * (1 - ACCURACY) <= figure_bytes <= size.upper_bytes / size.seen_at_least * (1 + ACCURACY)


def findings(found: Hierarchy | None, record: Record) -> list[Finding]:
    """L2 is not what the driver claims, or not what the sheet says: where every curve that sees all of it disagrees,
    or every curve where none sees all."""
    of_l2 = [size for size in found.sizes if size.level == "L2"] if found else []
    decisive = [size for size in of_l2 if size.seen_at_least == 1] or of_l2
    rows = []
    for code, verdicts, figure in (
        ("l2-size-claim", [s.claim_agrees for s in decisive], "the driver claims"),
        ("l2-size-sheet", [s.sheet_agrees for s in decisive], "the sheet says"),
    ):
        if not verdicts or any(verdict is not False for verdict in verdicts):
            continue
        said = shown_size(decisive[0].claimed_bytes or 0) if code == "l2-size-claim" else decisive[0].published_text
        text = f"L2 is found to be {', '.join(map(_in_words, decisive))}; {figure} {said}"
        rows.append(Finding(code, "warning", "size.l2", text))
    return rows


def _in_words(size: Size) -> str:
    text = f"{shown_size(size.size_bytes)} ({shown_size(size.lower_bytes)} to {shown_size(size.upper_bytes)})"
    seen = f", which sees {size.seen_at_least:.0%} of it or more" if size.seen_at_least < 1 else ""
    return f"{text} by {size.curve}{seen}"


def sm_map(record: Record) -> dict[int, float]:
    """L2 latency of each SM over the mean of all: SMs differ in their distance to L2. Empty where not measured."""
    import numpy as np

    rounds = record.rounds()
    rounds = rounds[rounds["metric"] == ALL_SMS]
    medians = stamps.by_sm(rounds["sm_id"], rounds["sm_cycles"], rounds["sm_work"])
    mean = float(np.mean(list(medians.values()))) if medians else 1.0
    return {sm: value / mean for sm, value in medians.items()}


def spread(of_sms: dict[int, float]) -> str:
    """The nearest and the farthest SM of a map, in words."""
    near, far = min(of_sms, key=of_sms.__getitem__), max(of_sms, key=of_sms.__getitem__)
    return (
        f"L2 latency of {len(of_sms)} SMs: nearest SM {near} ({of_sms[near]:.2%} of the mean), farthest SM {far} "
        f"({of_sms[far]:.2%})"
    )


def _one_partition(record: Record) -> bool:
    capability = record.claims.get("compute_capability") or record.claims.get("cuda.compute_capability")
    return capability in ONE_PARTITION
