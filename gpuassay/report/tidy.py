"""A judgement as tidy CSV: one row per metric, SI units, empty where absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ..untrusted import cell
from ..verdict import Judgement

COLUMNS = (
    "metric",
    "title",
    "unit",
    "published",
    "measured",
    "expanded_uncertainty",
    "share_of_published",
    "share_of_limit",
    "verdict",
    "delivered_verdict",
    "rounds",
    "conformance_probability",
    "reason",
    "part",
    "sheet",
    "run_id",
    "record_complete",
)


def write(judgement: Judgement) -> str:
    """The whole table, with a header line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    record = judgement.record
    for v in judgement.verdicts:
        more = {
            "conformance_probability": v.capability.conformance_probability if v.capability else None,
            "part": judgement.part,
            "sheet": judgement.sheet.name,
            "run_id": record.run["run_id"] if record else None,
            "record_complete": record.complete if record else None,
        }
        row = (more[column] if column in more else getattr(v, column) for column in COLUMNS)
        writer.writerow([cell(value) for value in row])
    return out.getvalue()


def rows(found: Sequence[dict[str, Any]]) -> str:
    """Rows that all have the same keys, with a header line; an absent value (None, NaN) is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(found[0] if found else ())
    writer.writerows(["" if value != value else cell(value) for value in row.values()] for row in found)
    return out.getvalue()
