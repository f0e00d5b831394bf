"""What was measured between pairs of GPUs, as a matrix per way, beside what NVML claims of NVLink."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .conformity import Verdict
from .metrics import metric, metrics
from .record import Record
from .units import show


@dataclass
class Matrix:
    """One way over all pairs of CUDA ordinals: rates in B/s by (row, column), and why where there is none."""

    name: str
    rates: dict[tuple[int, int], float] = field(default_factory=dict)
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As metrics.toml has it, and what rows and columns are."""
        pairs = "from the row's device to the column's" if self.name == "peer.one_way" else "row and column"
        if self.name in ("peer.read", "peer.write"):
            pairs = "kernel on the row's device, memory of the column's"
        return f"{metrics()[self.name].title}: {pairs}"

    @property
    def devices(self) -> list[int]:
        """CUDA ordinals, in order."""
        return sorted({device for pair in (*self.rates, *self.reasons) for device in pair})

    def rows(self) -> list[tuple[str, ...]]:
        """A header cell and a cell per device, for each device."""
        return [(f"device {row}", *(self._cell(row, column) for column in self.devices)) for row in self.devices]

    def _cell(self, row: int, column: int) -> str:
        if (rate := self.rates.get((row, column))) is not None:
            return show(rate, "B/s")
        return "refused" if (row, column) in self.reasons else ""

    def refusals(self) -> list[tuple[str, str]]:
        """Each pair that has no rate, and the reason."""
        return [(f"{self.name}.{row}-{column}", why) for (row, column), why in sorted(self.reasons.items())]


def matrices(verdicts: Iterable[Verdict]) -> list[Matrix]:
    """One matrix per way that has pairs, in the order of the verdicts."""
    found: dict[str, Matrix] = {}
    for verdict in verdicts:
        if (pair := metric(verdict.metric).pair) is None:
            continue
        way = verdict.metric.rpartition(".")[0]
        matrix = found.setdefault(way, Matrix(way))
        if verdict.measured is None:
            matrix.reasons[pair] = verdict.reason
        else:
            matrix.rates[pair] = verdict.measured
    return list(found.values())


def nvlink(record: Record | None, found: Iterable[Matrix] = ()) -> str:
    """What NVML claims of the device's NVLink, and what share of that the fastest pair reached in one direction."""
    claims = record.claims if record else {}
    links, active, speed = (claims.get(f"nvlink.{name}") for name in ("count", "count.active", "speed"))
    if not active or not speed:
        return "NVML claims no active NVLink of this device"
    total = float(active) * float(speed)
    of = f" of {links}" if links else ""
    text = f"NVML claims {active}{of} NVLinks active, {show(float(speed), 'B/s')} each way and link"
    text += f", {show(total, 'B/s')} together"
    best = max((rate for m in found if not m.name.endswith("both_ways") for rate in m.rates.values()), default=None)
    return text if best is None else f"{text}; the fastest pair reached {best / total:.1%} of that"
