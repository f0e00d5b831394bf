"""The honesty audit: what the part says of itself, what it hides, what it keeps.

Every check gives rows: a claim, what was measured, its uncertainty, a verdict, and one sentence that says what was
touched and what a disagreement would mean. No row is evidence that a function does not exist (docs/audit.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..record import Record
    from ..sheets import Sheet

Word = Literal["consistent", "inconsistent", "not tested", "not observable", "not permitted", "not supported"]

LIMITS = (
    "A consistent row says that what was tried, on this unit, with this driver, on this date, matched the claim within "
    "the stated uncertainty. It is no evidence that a dormant function does not exist: triggers that were not tried, "
    "firmware that lies consistently, out-of-band channels and a compromised host or driver cannot be seen from here."
)


@dataclass(frozen=True)
class Row:
    """One line of the audit. `claim` and `measured` are in `unit`, and so is `expanded_uncertainty` (k = 2)."""

    check: str
    verdict: Word
    text: str
    claim: Any = None
    measured: Any = None
    expanded_uncertainty: float | None = None
    unit: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """The fields of a record's `audit` line."""
        return asdict(self)


def of_lines(lines: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows that a record's `audit` lines hold."""
    names = Row.__dataclass_fields__
    return [Row(**{name: line[name] for name in names}) for line in lines]


def of_record(record: Record, sheet: Sheet | None = None) -> list[Row]:
    """What the record's claims are worth, then the rows of checks that ran on the device; `sheet`: the part's, for
    the rows that hold something against it."""
    from .self_report import rows

    return rows(record, sheet) + of_lines(record.audit)


def inconsistent(rows: Iterable[Row]) -> list[str]:
    """The names of the checks that found something inconsistent."""
    return [row.check for row in rows if row.verdict == "inconsistent"]


def silicon_of(rows: Iterable[Row]) -> str | None:
    """The sheet whose silicon this is, where the part's labels are another's and one known part alone fits."""
    return next(
        (row.details.get("part") for row in rows if row.check == "name" and row.verdict == "inconsistent"), None
    )


def overall(rows: Iterable[Row]) -> Word:
    """ "inconsistent" where any row is, "consistent" where any is and none is not; "not observable" where nothing was
    left to try; else "not tested"."""
    words = {row.verdict for row in rows}
    if words == {"not observable"}:
        return "not observable"
    return "inconsistent" if "inconsistent" in words else "consistent" if "consistent" in words else "not tested"
