"""Many records as one pandas DataFrame: all rounds, or one estimate per record and metric."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .record import Record, RecordError, read

if TYPE_CHECKING:
    from pandas import DataFrame

ESTIMATE_COLUMNS: dict[str, str] = {
    "run_id": "object",
    "path": "object",
    "started": "object",
    "complete": "bool",
    "part": "object",
    "uuid": "object",
    "driver": "object",
    "program": "object",
    "metric": "object",
    "source_sha256": "object",
    "value": "float64",
    "unit": "object",
    "standard_uncertainty": "float64",
    "degrees_of_freedom": "float64",
    "per_clock": "float64",
    "per_clock_standard_uncertainty": "float64",
    "per_clock_degrees_of_freedom": "float64",
    "sm_clock_hz": "float64",
    "sm_count": "float64",
    "rounds": "int64",
}
"""Columns of `estimates`, in order. ``started`` is ISO 8601 in UTC; ``program`` "gpuassay <version>"; ``source_sha256``
of the kernel's source; ``value`` in ``unit`` (SI), ``per_clock`` in work per clock and SM; the standard uncertainties
are in the same units, and do not hold what a good part attains of its limit; NaN where not known."""


def load(path: str | Path) -> DataFrame:
    """The rounds of one record, of all records in a directory, or of those that a glob names, one row each.

    The columns are those of `Record.rounds`; of several records, with ``run_id``, ``part`` and ``uuid`` in front.

    Raises:
        RecordError: as `read` does; where a directory or a glob holds no record.
    """
    import pandas as pd

    if Path(path).is_file() or not (Path(path).is_dir() or glob.has_magic(str(path))):
        return read(path).rounds()
    frames = []
    for _, record in records([path]):
        frame = record.rounds()
        for place, (name, value) in enumerate(_identity(record).items()):
            frame.insert(place, name, value)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def estimates(
    paths: str | Path | Iterable[str | Path], skipped: Callable[[RecordError], None] | None = None
) -> DataFrame:
    """One row per record and metric, columns `ESTIMATE_COLUMNS`, in the order of the files and of their metrics.

    `paths`: records, directories of them, globs; `skipped` as in `records`. Where both toolchains measured a metric,
    CUDA C++ stands for it.

    Raises:
        RecordError: as `load` does.
    """
    import pandas as pd

    named = [paths] if isinstance(paths, str | Path) else list(paths)
    rows = [row for path, record in records(named, skipped) for row in estimates_of(record, path)]
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in ESTIMATE_COLUMNS.items()}
    )


def records(
    paths: Iterable[str | Path], skipped: Callable[[RecordError], None] | None = None
) -> Iterator[tuple[Path, Record]]:
    """Each record that `paths` (files, directories, globs) name, once, by name.

    `skipped` is told of files of directories and globs that are no record; without it they raise. A file that was
    named itself always raises. Raises RecordError where a directory or a glob holds no .jsonl file.
    """
    seen: set[Path] = set()
    for path in map(Path, paths):
        several = path.is_dir() or (not path.exists() and glob.has_magic(str(path)))
        found = (
            sorted(path.glob("**/*.jsonl") if path.is_dir() else map(Path, glob.glob(str(path)))) if several else [path]
        )
        if not found:
            raise RecordError(path, "no record (.jsonl) is there: name records, a directory or a glob")
        for file in found:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                yield file, read(file)
            except RecordError as error:
                if skipped is None or not several:
                    raise
                skipped(error)


def estimates_of(record: Record, path: Path | None = None) -> list[dict[str, Any]]:
    """The rows of `estimates` for one record."""
    from .measured import measurements
    from .metrics import metric
    from .uncertainty import combined

    program = record.run["program"]
    claims = record.claims
    sources = {line["metric"]: line["source_sha256"] for line in record.kernels if line["toolchain"] == "cuda c++"}
    rows = []
    for name, found in measurements(record):
        if found.rate is None:
            continue
        known = found.dispersion_known
        relative, freedom = combined(found.terms) if known else (float("nan"), float("nan"))
        clock_relative, clock_freedom = combined(found.clock_terms) if known else (float("nan"), float("nan"))
        per_clock = float("nan") if found.per_clock is None else float(found.per_clock)
        rows.append(
            _identity(record)
            | {
                "path": str(path or ""),
                "started": str(record.run["started"]),
                "complete": record.complete,
                "driver": claims.get("driver.version"),
                "program": f"gpuassay {program['version']}",
                "metric": name,
                "source_sha256": sources.get(name),
                "value": float(found.rate),
                "unit": metric(name).unit,
                "standard_uncertainty": 0.0 if metric(name).kind == "count" else float(relative) * float(found.rate),
                "degrees_of_freedom": float(freedom),
                "per_clock": per_clock,
                "per_clock_standard_uncertainty": float(clock_relative) * per_clock,
                "per_clock_degrees_of_freedom": float(clock_freedom),
                "sm_clock_hz": float("nan") if found.sm_clock_hz is None else float(found.sm_clock_hz),
                "sm_count": float("nan") if found.sm_count is None else float(found.sm_count),
                "rounds": found.rounds,
            }
        )
    return rows


def _identity(record: Record) -> dict[str, Any]:
    claims = record.claims
    part = str(claims.get("name") or claims.get("cuda.name") or "unnamed part")
    return {"run_id": str(record.run["run_id"]), "part": part, "uuid": claims.get("uuid")}
