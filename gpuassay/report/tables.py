"""Comparisons and histories as documents: the same writers set them as the report of one record."""

from __future__ import annotations

from ..compare import LEVEL, Comparison, Ratio
from ..history import Series
from ..units import show
from .junit import Case
from .model import BAD, GOOD, OPEN, QUIET, Cell, Document, Section, Table

ABOUT = {
    "run_id": "run id",
    "started": "measured",
    "part": "part",
    "uuid": "UUID",
    "driver": "driver",
    "program": "program",
    "commit": "commit",
    "profile": "profile",
    "format": "record format",
    "complete": "complete",
    "samples": "samples",
}
TONES = {"alike": GOOD, "differs": BAD, "unknown": OPEN, "not comparable": OPEN, "measured once": QUIET}


def _said(value: object) -> str:
    return {None: "not stated", True: "yes", False: "no"}.get(value) or str(value)  # type: ignore[call-overload]


def comparison(found: Comparison) -> Document:
    """A comparison of runs."""
    reference = found.runs[0]
    headings = ("", *(f"run {place}" for place in range(len(found.runs))))
    about = [(ABOUT[name], *(_said(run[name]) for run in found.runs)) for name in reference]
    unlike = [ABOUT[name] for name, _ in found.differences if name not in ("run_id", "started")]
    rows = [_ratio_row(row) for row in found.ratios]
    columns = ("metric", "of", "run", "run 0", "this run", "ratio", "U", "answer", "remark")
    count = sum(row.answer == "differs" for row in found.ratios)
    verdict = Cell("differs", BAD) if found.differs else Cell("alike", GOOD)
    return Document(
        title="Comparison",
        identification=f"gpuassay comparison {' '.join(run['run_id'][:8] for run in found.runs)}",
        part=" / ".join(dict.fromkeys(str(run["part"]) for run in found.runs)),
        verdict=verdict,
        summary=f"{count} of {len(found.ratios)} ratios differ from 1 beyond their uncertainty.",
        incomplete=None if all(run["complete"] for run in found.runs) else "incomplete: a run did not finish",
        sections=(
            Section(
                "runs",
                "The runs",
                (f"Not the same in all: {', '.join(unlike)}.",) if unlike else (),
                (_table("Runs; run 0 is the reference", headings, about),),
            ),
            Section(
                "ratios",
                "Ratios to run 0",
                (
                    "U is at 95 %, of both runs together. 'differs' holds the expected share of false differences at "
                    f"{LEVEL:.0%} (Benjamini and Hochberg 1995).",
                ),
                (Table("Ratios", columns, tuple(rows), frozenset((2, 3, 4, 5, 6))),),
            ),
        ),
        end="End of the comparison",
    )


def comparison_cases(found: Comparison) -> list[Case]:
    """One test case per ratio: what differs fails, what cannot be told is skipped."""
    return [
        Case(
            f"{row.metric} ({row.basis}, run {row.record})",
            "failure" if row.answer == "differs" else "passed" if row.answer == "alike" else "skipped",
            row.answer,
            row.why or ("" if row.ratio is None else f"ratio {row.ratio:.4f} ± {row.expanded_uncertainty or 0:.4f}"),
        )
        for row in found.ratios
    ]


def history_cases(series: list[Series]) -> list[Case]:
    """One test case per metric of a board: a drift, or a step that nothing else explains, fails."""
    return [
        Case(
            f"{row.part} {row.uuid or 'no UUID'}: {row.metric}",
            "failure" if row.drifts or any(not step.changed for step in row.steps) else "passed",
            "moved" if row.drifts or row.steps else "steady",
            _steps(row),
        )
        for row in series
    ]


def _ratio_row(row: Ratio) -> tuple[Cell, ...]:
    def value(found: float | None) -> str:
        if found is None:
            return "-"
        return f"{found:.1f}" if row.basis == "per clock and SM" else show(found, row.unit)

    ratio = "-" if row.ratio is None else f"{row.ratio:.4f}"
    u = "-" if row.expanded_uncertainty is None else f"{row.expanded_uncertainty:.4f}"
    texts = (row.metric, row.basis, str(row.record), value(row.reference_value), value(row.value), ratio, u)
    return (*map(Cell, texts), Cell(row.answer, TONES[row.answer]), Cell(row.why))


def history(series: list[Series], skipped: int) -> Document:
    """Every board's metrics over time."""
    moved = [row for row in series if row.steps or row.drifts]
    boards = dict.fromkeys((row.part, row.uuid) for row in series)
    sections = []
    for number, (part, uuid) in enumerate(boards, 1):
        ours = [row for row in series if (row.part, row.uuid) == (part, uuid)]
        columns = ("metric", "of", "runs", "first", "last", "drift per year", "steps")
        name = f"{part}, {uuid or 'no UUID'}"
        table = Table(name, columns, tuple(_series_row(row) for row in ours), frozenset((2, 3, 4, 5)))
        sections.append(Section(f"board-{number}", name, (), (table,)))
    verdict = Cell("moved", BAD) if moved else Cell("steady", GOOD)
    note = f" {skipped} files were no records and were left out." if skipped else ""
    return Document(
        title="History",
        identification="gpuassay history",
        part=f"{len(boards)} boards",
        verdict=verdict,
        summary=f"{len(moved)} of {len(series)} series have a step or a drift.{note}",
        incomplete=None,
        sections=tuple(sections),
        end="End of the history",
    )


def _series_row(row: Series) -> tuple[Cell, ...]:
    def value(found: float) -> str:
        return f"{found:.1f}" if row.basis == "per clock and SM" else show(found, row.unit)

    drift = "-"
    if row.drift_per_day is not None and row.drift_interval is not None:
        low, high = (365.25 * end for end in row.drift_interval)
        drift = f"{365.25 * row.drift_per_day:+.2%} ({low:+.2%} to {high:+.2%})"
    steps = _steps(row)
    texts = (row.metric, row.basis, str(len(row.runs)), value(row.values[0]), value(row.values[-1]))
    tones = (BAD if row.drifts else None, BAD if any(not step.changed for step in row.steps) else None)
    return (*map(Cell, texts), Cell(drift, tones[0]), Cell(steps or "-", tones[1] if row.steps else None))


def _steps(row: Series) -> str:
    return "; ".join(
        f"{step.started[:10]} x {step.ratio:.4f}, "
        + (f"together with {', '.join(step.changed)}" if step.changed else "and nothing else changed: the board itself")
        for step in row.steps
    )


def _table(caption: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    return Table(caption, columns, tuple(tuple(map(Cell, row)) for row in rows))
