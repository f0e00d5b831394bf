"""A process of somebody else that comes during the run: its rounds are marked and left out, not averaged away.

A round is touched where another compute process was seen at either of the two telemetry samples that enclose any part
of it. A process that comes and goes between two samples is not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .agreement import Finding
from .metrics import metric

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["ENOUGH_ROUNDS", "clean", "findings", "touched"]

ENOUGH_ROUNDS = 10
"""The fewest clean rounds that stand for a metric: what the shortest measurement takes (timing.glimpse)."""


def touched(rounds: DataFrame, telemetry: DataFrame) -> Series[bool]:
    """For each round whether another process was seen beside it; `rounds`, `telemetry` as record.Record gives them."""
    import numpy as np
    import pandas as pd

    nowhere = pd.Series(False, index=rounds.index)
    if not len(telemetry) or "other_processes" not in telemetry:
        return nowhere
    asked = telemetry[telemetry["other_processes"].notna()].sort_values("host_s")
    others = asked["other_processes"]
    if "own_process_listed" in asked:
        # In a container NVML may list this run under the host's process id: one of the "others" is then this run.
        others = others - (1 - asked["own_process_listed"].fillna(1))
    seen = np.flatnonzero(others.to_numpy(float) > 0)
    times = np.concatenate([[-np.inf], asked["host_s"].to_numpy(float), [np.inf]])
    start = rounds["start_host_s"].to_numpy(float)
    stop = start + rounds["host_s"].fillna(rounds["event_s"]).fillna(0.0).to_numpy(float)
    for sample in seen:  # times[sample + 1] is its own time
        nowhere |= (start < times[sample + 2]) & (stop > times[sample])
    return nowhere


def clean(rounds: DataFrame, telemetry: DataFrame) -> DataFrame:
    """The rounds without the touched ones of each metric and toolchain that has enough others; the rest as it is."""
    return rounds.drop(index=[index for _, left_out, _ in _split(rounds, telemetry) for index in left_out])


def findings(rounds: DataFrame, telemetry: DataFrame) -> list[Finding]:
    """What was left out (`rounds-left-out`), and which metrics are in doubt (`other-process`)."""
    found = []
    for name, left_out, text in _split(rounds, telemetry):
        code = "rounds-left-out" if left_out else "other-process"
        found.append(Finding(code, "info" if left_out else "warning", name, f"{name}: {text}"))
    return found


def _split(rounds: DataFrame, telemetry: DataFrame) -> list[tuple[str, list[int], str]]:
    """(metric, index labels to leave out, what is said) of each metric and toolchain with a touched round."""
    marks = touched(rounds, telemetry)
    if not marks.any():
        return []
    found = []
    for (name, toolchain), group in rounds.groupby(["metric", "toolchain"], sort=False):
        ours = marks[group.index]
        count, total = int(ours.sum()), len(group)
        if not count:
            continue
        # A sustained rate is a history: what a guest heated or slowed stays in the rounds after it.
        history = metric(str(name)).sustained
        what = f"another process used this GPU during {count} of {total} rounds ({toolchain})"
        if total - count >= ENOUGH_ROUNDS and not history:
            found.append((str(name), list(group.index[ours]), f"{what}; they are left out"))
        else:
            found.append((str(name), [], f"{what}: stop it and measure again"))
    return found
