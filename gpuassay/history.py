"""What became of each board: its metrics over time, steps and drift, and what changed at the same time.

A step is a change of level between runs (least squares, a penalty per step) that
is larger than the metric's own uncertainty. Where driver, program or kernel source changed with it, that is said: the
board need not have. Drift is Theil and Sen's median slope with its interval (scipy.stats.theilslopes), of the runs
since the last step.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import segments

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = "gpuassay.history/1"
CONTEXT = ("driver", "program", "source_sha256")
FEWEST_FOR_STEP, FEWEST_FOR_DRIFT = 4, 4
LEVEL = 0.95
DAY_S = 86_400.0


@dataclass(frozen=True)
class Step:
    """A change of level: the first run after it, new level over old, and what else changed between the two runs."""

    run_id: str
    started: str
    ratio: float
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One metric of one board. `values` per clock and SM where known, else absolute, by time; `drift_per_day` is
    relative, with its 95 % interval; None for fewer than four runs since the last step."""

    part: str
    uuid: str | None
    metric: str
    basis: str
    unit: str
    runs: tuple[str, ...]
    started: tuple[str, ...]
    values: tuple[float, ...]
    standard_uncertainties: tuple[float | None, ...]
    steps: tuple[Step, ...] = field(default=())
    drift_per_day: float | None = None
    drift_interval: tuple[float, float] | None = None

    @property
    def drifts(self) -> bool:
        """Whether the interval of the drift excludes none."""
        return self.drift_interval is not None and (self.drift_interval[0] > 0 or self.drift_interval[1] < 0)


def history(estimates: DataFrame) -> list[Series]:
    """Every metric of every board in `estimates` (store.estimates), boards and metrics in their order there."""
    if estimates.empty:
        return []
    # Without a UUID two boards cannot be told apart: their runs stand together, under no UUID.
    ordered = estimates[estimates["unit"] != "1"].sort_values("started", kind="stable")
    groups = ordered.groupby(["part", "uuid", "metric"], dropna=False, sort=False)
    return [_series(group) for _, group in groups]


def _series(group: DataFrame) -> Series:
    import pandas as pd

    per_clock = bool(group["per_clock"].notna().all())
    column, u = ("per_clock", "per_clock_standard_uncertainty") if per_clock else ("value", "standard_uncertainty")
    values = group[column].to_numpy(float)
    uncertainties = group[u].to_numpy(float)
    times = pd.to_datetime(group["started"], utc=True, format="ISO8601")
    days = (times - times.iloc[0]).dt.total_seconds().to_numpy(float) / DAY_S
    places = _steps(values, uncertainties)
    steps = tuple(_step(group, values, places, index) for index in range(len(places)))
    since = places[-1] if places else 0
    slope, interval = _drift(days[since:], values[since:])
    first = group.iloc[0]
    return Series(
        part=str(first["part"]),
        uuid=None if pd.isna(first["uuid"]) else str(first["uuid"]),
        metric=str(first["metric"]),
        basis="per clock and SM" if per_clock else "absolute",
        unit=str(first["unit"]),
        runs=tuple(group["run_id"]),
        started=tuple(group["started"]),
        values=tuple(map(float, values)),
        standard_uncertainties=tuple(None if math.isnan(x) else float(x) for x in uncertainties),
        steps=steps,
        drift_per_day=slope,
        drift_interval=interval,
    )


def _steps(values: Any, uncertainties: Any) -> list[int]:
    """Where a new level begins."""
    import numpy as np

    if len(values) < FEWEST_FOR_STEP or not np.all(values > 0):
        return []
    logs = np.log(values)
    known = uncertainties[np.isfinite(uncertainties)] / np.median(values)
    # The spread between neighbours shows how far a board moves from run to run, where nothing stepped.
    between = np.median(np.abs(np.diff(logs))) / 0.954 if len(logs) > 2 else 0.0  # 0.954: of a normal difference
    sigma = max(float(np.median(known)) if len(known) else 0.0, float(between), 1e-6)
    return segments.ends(logs, (3 * math.log(len(logs)) + 6) * sigma**2)[:-1]


def _step(group: DataFrame, values: Any, places: list[int], index: int) -> Step:
    import numpy as np

    place = places[index]
    before = values[places[index - 1] if index else 0 : place]
    after = values[place : places[index + 1] if index + 1 < len(places) else len(values)]
    old, new = group.iloc[place - 1], group.iloc[place]
    changed = tuple(
        f"{name} {old[name]} -> {new[name]}" if name != "source_sha256" else "kernel source"
        for name in CONTEXT
        if str(old[name]) != str(new[name])
    )
    return Step(str(new["run_id"]), str(new["started"]), float(np.median(after) / np.median(before)), changed)


def _drift(days: Any, values: Any) -> tuple[float | None, tuple[float, float] | None]:
    from scipy.stats import theilslopes

    if len(values) < FEWEST_FOR_DRIFT or days[-1] <= days[0]:
        return None, None
    middle = float(sorted(values)[len(values) // 2])
    found = theilslopes(values / middle, days, LEVEL)
    return float(found.slope), (float(found.low_slope), float(found.high_slope))


def to_json(series: list[Series]) -> dict[str, Any]:
    """As `--format json` prints it; schema "gpuassay.history/1"."""
    return {"schema": SCHEMA, "series": [asdict(row) for row in series]}
