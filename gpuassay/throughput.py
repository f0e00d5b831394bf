"""What CUDA's documents say an SM can do per clock, where no sheet prints it: the data of throughput.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Throughput:
    """Nominal work of one metric per clock and SM, counted as the metric counts it (an FMA is two operations).

    `values` has more than one where sources disagree, the one held for right first, and none where no source says.
    `reference` names row, sources and reservations, for a reader.
    """

    values: tuple[float, ...]
    reference: str


@cache
def _table() -> dict[str, dict[str, dict[str, object]]]:
    return tomllib.loads(files(__package__).joinpath("throughput.toml").read_text(encoding="utf-8"))


def throughput(metric: str, compute_capability: str) -> Throughput | None:
    """The nominal rate of `metric` on a compute capability such as "9.0"; None for a metric that is not in the table.

    A part may have less than its compute capability: where a sheet states the silicon's rate, that counts.
    """
    table = _table()
    if (entry := table["metric"].get(metric)) is None:
        return None
    rate = table["rate"][str(entry["rate"])]
    results, work, sources = rate["results"], entry["work"], rate["sources"]
    assert isinstance(results, dict) and isinstance(sources, list) and isinstance(work, int)  # noqa: PT018
    found = results.get(compute_capability, [])
    values = tuple(float(work * value) for value in (found if isinstance(found, list) else [found]))
    text = f'"{rate["row"]}" ({"; ".join(str(table["source"][source]) for source in sources)})'
    if len(values) > 1:
        text += f"; sources disagree: {' or '.join(f'{value:g}' for value in values)}, measurement settles it"
    if note := rate.get("note"):
        text += f"; {note}"
    return Throughput(values, text)


def limit(metric: str, compute_capability: str) -> float | None:
    """Work per clock and SM held for right, in the metric's unit (FLOP or OP), or None where no source gives one."""
    found = throughput(metric, compute_capability)
    return found.values[0] if found and found.values else None
