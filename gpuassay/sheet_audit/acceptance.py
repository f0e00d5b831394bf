"""What others would accept: the floors of NVIDIA's own diagnostic (DCGM), beside our verdicts and never part of them.

The lines are data (acceptance.toml, with source). They are one-sided, hand-set and not clock-normalised; two of them
carry wrong units or digits and are given as they stand, with the remark that they are slips.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..metrics import metric as find_metric
from ..sheets import Sheet
from ..units import show

#: DCGM's FP32 floor is for a GEMM; the vector rate is what a GEMM of that type is made of.
_FP32 = "vector.fp32"
_BANDWIDTH = "memory.bandwidth"


@dataclass(frozen=True)
class Line:
    """One part's floors (W, FLOP/s, B/s; None where DCGM has none) and the readings that they were taken from."""

    pci_device_id: str
    name: str
    target_power_w: float | None = None
    fp32: float | None = None
    fp32_reading: float | None = None
    bandwidth: float | None = None
    bandwidth_reading: float | None = None
    slip: str | None = None


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("acceptance.toml").read_text(encoding="utf-8"))


def source() -> str:
    """Title and date of the document that the lines come from."""
    return f"{_data()['source']['title']}, {_data()['source']['date']}"


@cache
def _lines() -> tuple[Line, ...]:
    def scaled(entry: dict[str, Any], key: str, factor: float) -> float | None:
        return None if key not in entry else float(entry[key]) * factor

    return tuple(
        Line(
            entry["pci_device_id"],
            entry["name"],
            scaled(entry, "target_power_w", 1.0),
            scaled(entry, "fp32_gflops", 1e9),
            scaled(entry, "fp32_reading_gflops", 1e9),
            scaled(entry, "bandwidth_mb_s", 1e6),
            scaled(entry, "bandwidth_reading_mb_s", 1e6),
            entry.get("slip"),
        )
        for entry in _data()["line"]
    )


def lines(sheet: Sheet) -> tuple[Line, ...]:
    """DCGM's lines for the PCI ids of `sheet`; none where DCGM does not know the part."""
    return tuple(line for line in _lines() if line.pci_device_id in sheet.identity.pci_device_ids)


def describe(sheet: Sheet) -> list[str]:
    """DCGM's lines in words, one per PCI id, with their share of the published figures."""
    result = []
    for line in lines(sheet):
        parts = []
        if line.target_power_w is not None:
            least = line.target_power_w * _data()["pass"]["power_share"]
            parts.append(f"power driven to {line.target_power_w:.0f} W, at least {least:.0f} W")
        if line.fp32 is not None:
            least = line.fp32 * _data()["pass"]["fp32_share"]
            parts.append(f"FP32 GEMM at least {show(least, 'FLOP/s', 3)}{_share(sheet, _FP32, least)}")
        if line.bandwidth is not None:
            parts.append(f"memory at least {show(line.bandwidth, 'B/s')}{_share(sheet, _BANDWIDTH, line.bandwidth)}")
        text = f"{line.name} ({line.pci_device_id}): {', '.join(parts)}"
        result.append(f"{text}. A slip: {line.slip}" if line.slip else text)
    return result


def _share(sheet: Sheet, quantity: str, value: float) -> str:
    published = sheet.published_quantity(quantity)
    return "" if published is None else f" ({value / published.si * 100:.2g} % of the published {published.text})"


def would_say(sheet: Sheet, metric: str, measured_si: float) -> str | None:
    """What DCGM's line would have said of a measured value (FLOP/s or B/s), or None where it has no line for `metric`.

    `metric` is a metric's name, such as "vector.fp32" or "memory.read". DCGM measures with kernels of its own, so
    this says what its threshold makes of our value, not what DCGM would have measured.
    """
    quantity = find_metric(metric).published
    answers = []
    for line in lines(sheet):
        floor = {_FP32: line.fp32, _BANDWIDTH: line.bandwidth}.get(quantity or "")
        if floor is None:
            continue
        least = floor * (_data()["pass"]["fp32_share"] if quantity == _FP32 else 1.0)
        unit = "FLOP/s" if quantity == _FP32 else "B/s"
        word = "pass" if measured_si >= least else "fail"
        wanted = f"at least {show(least, unit, 3)}{_share(sheet, quantity or '', least)}"
        text = f"DCGM would {word} it as {line.name}: {wanted}"
        slip = line.slip if quantity == _BANDWIDTH else None
        answers.append(f"{text}; a slip: {slip}" if slip else text)
    return "; ".join(answers) or None
