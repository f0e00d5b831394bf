"""What it costs a GPU that all others of its node work too: the phases "together" and "alone", beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .store import SENSORS

if TYPE_CHECKING:
    from pandas import DataFrame


def costs(rows: DataFrame) -> list[dict[str, Any]]:
    """One entry per metric and part that both phases measured; `rows` as spill.Spill.rows gives them.

    `change`: relative change of the value per GPU, the median over GPUs, with `p05` and `p95`; `sensors`: of each of
    store.SENSORS the medians [alone, together] over the GPUs that have both.
    """
    if not {"alone", "together"} <= set(rows["phase"].cat.categories):
        return []
    return list(_costs(rows))


def _costs(rows: DataFrame) -> Iterator[dict[str, Any]]:
    import numpy as np

    columns = ["value", *SENSORS]
    for (metric, part), group in rows.groupby(["metric", "part"], observed=True):
        alone, together = (
            group[group["phase"] == phase].drop_duplicates("run").set_index("uuid")[columns]
            for phase in ("alone", "together")
        )
        alone, together = alone.align(together, join="inner", axis=0)
        change = (together["value"] / alone["value"] - 1).dropna()
        if not len(change):
            continue
        low, median, high = (float(v) for v in np.quantile(change, (0.05, 0.5, 0.95)))
        yield {
            "metric": str(metric),
            "part": str(part),
            "gpus": len(change),
            "change": median,
            "p05": low,
            "p95": high,
            "sensors": dict(_sensors(alone, together)),
        }


def _sensors(alone: DataFrame, together: DataFrame) -> Iterator[tuple[str, list[float]]]:
    for name in SENSORS:
        both = alone[name].notna() & together[name].notna()
        if both.any():
            yield name, [float(phase.loc[both, name].median()) for phase in (alone, together)]


def text(cost: dict[str, Any]) -> str:
    """One line: the change, and where the sensors say so power, heat and clock, each alone to together."""
    found = [
        f"{cost['metric']}, {cost['part']}: {cost['change']:+.1%} with all GPUs of the node at work "
        f"(90 % of {cost['gpus']} GPUs from {cost['p05']:+.1%} to {cost['p95']:+.1%})"
    ]
    shown = (
        ("power_w", "power", 1, " W"),
        ("power_limited", "limited by power", 0.01, " % of the time"),
        ("temperature_c", "temperature", 1, " °C"),
        ("heat_limited", "slowed by heat", 0.01, " % of the time"),
        ("sm_clock_hz", "SM clock", 1e6, " MHz"),
    )
    for name, words, factor, unit in shown:
        if name in cost["sensors"]:
            alone, together = (f"{value / factor:.0f}" for value in cost["sensors"][name])
            found.append(f"{words} {alone}{unit}" if alone == together else f"{words} {alone} to {together}{unit}")
    return "; ".join(found)
