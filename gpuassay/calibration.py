"""How much of a nominal limit this instrument attains on a known-good part: calibration.toml, and how it is made.

A measured value is divided by the attainment before it is judged. A part is never judged by its own calibration:
`attainment` leaves a record's own figures out, and what remains may be the prior alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .metrics import metrics
from .uncertainty import Term, coverage_factor

if TYPE_CHECKING:
    from .record import Record
    from .sheets import Sheet


class CalibrationError(Exception):
    """Records that cannot calibrate. One sentence: what, and what to do."""


@dataclass(frozen=True)
class Attainment:
    """Share of a nominal limit (1 = all of it), with its relative standard uncertainty and provenance."""

    value: float
    relative_uncertainty: float
    degrees_of_freedom: float
    source: str
    distribution: str = "normal"

    @property
    def term(self) -> Term:
        """Its line of the uncertainty budget."""
        return Term(
            "attainment", self.relative_uncertainty, "B", self.distribution, self.source, self.degrees_of_freedom
        )


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("calibration.toml").read_text(encoding="utf-8"))


def attainment(metric: str, compute_capability: str | None, exclude: Collection[str] = ()) -> Attainment | None:
    """What a known-good part attains of the limit of `metric`; None where nothing is known.

    Calibrated boards of the same compute capability, without those in `exclude` (run ids and UUIDs); the prior where
    none is left. The uncertainty is that of one further board: spread between boards and of their mean together.
    """
    table = _table()
    boards = [
        board
        for board in table.get("board", ())
        if board["compute_capability"] == compute_capability
        and board["run_id"] not in exclude
        and board["board"] not in exclude
        and metric in board["attained"]
    ]
    prior = _prior(metric)
    if not boards:
        return prior
    return _from_boards([float(board["attained"][metric]) for board in boards], metric, boards)


def contains(exclude: Collection[str]) -> bool:
    """Whether any of these run ids or UUIDs is among the calibrated boards."""
    return any(board["run_id"] in exclude or board["board"] in exclude for board in _table().get("board", ()))


def _prior(metric: str) -> Attainment | None:
    """The widest that known-good parts were seen to attain, as a rectangular distribution."""
    for name, entry in _table()["prior"].items():
        if metric == name or metric.startswith(name + "."):
            low, high = entry["range"]
            middle = (low + high) / 2
            return Attainment(
                middle, (high - low) / 2 / 3**0.5 / middle, float("inf"), f"prior: {entry['source']}", "rectangular"
            )
    return None


def _from_boards(shares: list[float], metric: str, boards: list[dict[str, Any]]) -> Attainment:
    import statistics

    n, mean = len(shares), statistics.fmean(shares)
    spread = _spread(metric)
    names = ", ".join(sorted({f"{board['part']} ({board['started'][:10]})" for board in boards}))
    if n < 3:
        # Too few boards to see their spread: the stated one, for each of them and for the next one.
        relative, freedom, how = spread["relative"] * (1 + 1 / n) ** 0.5, float("inf"), spread["source"]
    else:
        # The next board lies within t s sqrt(1 + 1/n) of the mean (a prediction interval).
        relative, freedom, how = statistics.stdev(shares) / mean * (1 + 1 / n) ** 0.5, float(n - 1), "spread seen"
    return Attainment(mean, relative, freedom, f"{n} board{'s' * (n > 1)}: {names}; between boards: {how}")


def _spread(metric: str) -> dict[str, Any]:
    """The stated standard deviation between boards, for want of enough of them."""
    entries: dict[str, dict[str, Any]] = _table()["between_boards"]
    return next(entry for name, entry in entries.items() if metric == name or metric.startswith(name + "."))


# -- making one ---------------------------------------------------------------------------------------------


def calibrate(
    records: Iterable[tuple[Record, Sheet, dict[str, float]]], *, single_board: bool = False
) -> dict[str, Any]:
    """The boards of known-good parts as calibration.toml lists them: {"board": [...]}.

    One entry a record: what it attained of its sheet's limits, per metric (verdict.limit_shares). Raises
    CalibrationError for a run listed twice, a run that measured nothing, and for a single board unless `single_board`
    says that this is known: its part would then be judged by itself.
    """
    boards: list[dict[str, Any]] = []
    for record, sheet, shares in records:
        run_id = str(record.run["run_id"])
        if any(board["run_id"] == run_id for board in boards):
            raise CalibrationError(f"run {run_id[:8]} was given twice: name each recording once")
        attained = {name: float(f"{share:.5g}") for name, share in shares.items() if name in metrics()}
        if not attained:
            raise CalibrationError(f"run {run_id[:8]} measured nothing that the {sheet.name} sheet has a limit for")
        claims = record.claims
        boards.append(
            {
                "run_id": run_id,
                "part": str(claims.get("name") or claims.get("cuda.name") or "unnamed part"),
                "board": str(claims.get("uuid") or "not recorded"),
                "compute_capability": str(
                    claims.get("compute_capability") or claims.get("cuda.compute_capability") or ""
                ),
                "sheet": sheet.name,
                "started": str(record.run["started"]),
                "instrument": str(record.run["instrument"]),
                "samples": str(record.run["samples"]),
                "attained": attained,
            }
        )
    known = {board["board"] for board in boards if board["board"] != "not recorded"}
    if not single_board and len(known) + sum(board["board"] == "not recorded" for board in boards) < 2:
        raise CalibrationError(
            "one board alone would be judged by itself: give recordings of two boards or more, or say that this is "
            "meant with --single-board"
        )
    return {"board": boards}


def expanded(value: Attainment) -> float:
    """Relative expanded uncertainty of an attainment (k for its degrees of freedom), for display."""
    return float(coverage_factor(value.degrees_of_freedom) * value.relative_uncertainty)
