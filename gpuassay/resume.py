"""Going on with a run that was cut off: what of its record is finished, and on which GPU it may go on.

A benchmark (metric, toolchain, variant) is finished once the record has a line of the next one: nothing but that tells
that no round is missing. One that failed its check is finished at once: a wrong result is not tried away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import record as records
from .record import Record, RecordWriter, utc_now

__all__ = ["Benchmark", "ResumeError", "begin", "done", "other_gpu", "resumable"]

Benchmark = tuple[str, str, str | None]  # metric, toolchain, variant

# A part that differs in one of these is another part, or no longer in the same state. The UUID must be there.
SAME = ("uuid", "driver.version", "count.sm", "clock.sm.max", "clock.memory.max", "power.limit")


class ResumeError(Exception):
    """The run cannot go on. One sentence: what, and what to do."""


def benchmark_of(line: dict[str, Any]) -> Benchmark:
    """The benchmark that a kernel, round or not_measured line belongs to."""
    return str(line["metric"]), str(line.get("toolchain")), line.get("variant")


def finished(lines: Iterable[dict[str, Any]]) -> set[Benchmark]:
    """The benchmarks of which these lines hold everything."""
    found: set[Benchmark] = set()
    current: Benchmark | None = None
    measured = False  # the current one has a round
    for line in lines:
        kind, code = line["kind"], line.get("code")
        if kind == "round":
            measured = True
        # An end mark proves nothing: Ctrl-C may come between two rounds.
        elif kind in ("kernel", "audit", "not_measured") or code in ("resumed", "check-failed"):
            if current is not None and (measured or code == "check-failed"):
                found.add(current)
            current, measured = (benchmark_of(line) if kind == "kernel" else None), False
    return found


def done(path: Path) -> set[Benchmark]:
    """What a process that goes on with this record need not measure: what is finished and what was given up."""
    lines = records.read_lines(path)
    by_line = ("not_measured", "audit")  # a check's rows are written at once, when it is over
    return finished(lines) | {benchmark_of(line) for line in lines if line["kind"] in by_line and "metric" in line}


def other_gpu(taken: Record, claims: list[dict[str, Any]]) -> str | None:
    """Why the run of `taken` cannot go on on a device with these claims; None where it can."""
    now: dict[str, Any] = {}
    for claim in claims:
        now.setdefault(claim["quantity"], claim["value"])
    if taken.claims.get("uuid") is None:
        return "the record does not say which GPU it is of (no UUID), so the run cannot go on: measure anew"
    for quantity in SAME:
        before, after = taken.claims.get(quantity), now.get(quantity)
        if before != after:
            what = f"{quantity} was {before}, is {after}"
            return f"this is not the GPU of the record, or not in the same state ({what}): choose it with --device"
    return None


def resumable(path: Path) -> Record:
    """Reads a record that has something left to measure. Raises record.RecordError, ResumeError."""
    taken = records.read(path)
    if taken.complete:
        raise ResumeError(f"{path} is complete, there is nothing to resume: judge it with --replay {path}")
    if taken.run["samples"] != "kept":
        raise ResumeError(f"{path} keeps no samples, so it cannot be completed: measure anew")
    if not taken.claim_rows:
        raise ResumeError(f"{path} ends before it says which GPU it is of, so nothing is lost: measure anew")
    return taken


def begin(old: Path, new: Path, run_id: str) -> Record:
    """Makes the record `new` with what run `old` finished and the finding `resumed`; `old` is only read.

    Host times are copied as they are, or, where the host's clock started anew since (a reboot), moved before all times
    to come. Returns the old record. Raises record.RecordError, ResumeError, OSError.
    """
    taken = resumable(old)
    lines = records.read_lines(old)
    kept = [line for line in lines if _is_kept(line, finished(lines))]
    moved_s = _moved_s(kept)
    with RecordWriter(new) as writer:
        run = {**taken.run, "run_id": run_id, "started": utc_now(), "resumed_from": taken.run["run_id"]}
        writer.write("run", **{key: value for key, value in run.items() if key != "kind"})
        for line in kept:
            fields = {key: value for key, value in line.items() if key != "kind"}
            for key in {"host_s", "start_host_s"} & set(fields) if moved_s else ():
                if key == "start_host_s" or line["kind"] == "telemetry":
                    fields[key] += moved_s
            writer.write(line["kind"], **fields)
        writer.write("finding", code="resumed", severity="info", metric=None, text=_said(taken, lines, moved_s))
        writer.leave()
    return taken


def _is_kept(line: dict[str, Any], whole: set[Benchmark]) -> bool:
    kind = line["kind"]
    if kind in ("kernel", "round"):
        return benchmark_of(line) in whole
    if kind == "finding":
        return line["metric"] is None or line["metric"] in {metric for metric, _, _ in whole}
    return kind in ("device", "telemetry")


def _host_times(lines: list[dict[str, Any]]) -> list[float]:
    ends = [line["start_host_s"] + (line["host_s"] or 0.0) for line in lines if line["kind"] == "round"]
    return ends + [line["host_s"] for line in lines if line["kind"] == "telemetry"]


def _moved_s(kept: list[dict[str, Any]]) -> float:
    latest, now = max(_host_times(kept), default=0.0), time.monotonic()
    return now - 1.0 - latest if latest >= now else 0.0


def _said(taken: Record, lines: list[dict[str, Any]], moved_s: float) -> str:
    names = sorted({name if variant is None else f"{name} ({variant})" for name, _, variant in finished(lines)})
    times = _host_times(lines)
    length_s = max(times) - min(times) if times else 0.0
    text = (
        f"measured in run {taken.run['run_id']}, begun {taken.run['started']}, cut off after {length_s:.0f} s: "
        f"{', '.join(names) or 'nothing'}; everything else from {utc_now()} on"
    )
    return text + (
        f"; the host's clock began anew between, earlier times were moved by {moved_s:.0f} s" * bool(moved_s)
    )
