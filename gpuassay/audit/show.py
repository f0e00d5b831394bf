"""The audit on the terminal: one row a check. Everything a device says of itself is text from outside, never markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..units import show
from ..untrusted import printable
from . import LIMITS, Row

STYLES = {"consistent": "green", "inconsistent": "bold red"}


def table(rows: Sequence[Row], *, untested: bool = True) -> RenderableType:
    """Every row; without `untested`, only those with an answer, and how many others there are."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("  check", "verdict", "claim", "measured", "U"):
        made.add_column(name, justify="left" if name in ("  check", "verdict") else "right")
    answered = [row for row in rows if row.verdict in STYLES]
    for row in rows if untested else answered:
        made.add_row(
            Text(printable(f"  {row.check}")),
            Text(row.verdict, style=STYLES.get(row.verdict, "dim")),
            *(Text(_value(value, row.unit)) for value in (row.claim, row.measured, row.expanded_uncertainty)),
        )
    parts: list[RenderableType] = [made]
    if not untested and len(answered) < len(rows):
        parts.append(Text(f"  and {len(rows) - len(answered)} not tested or not observable", style="dim"))
    parts += [Text(printable(f"  {row.check}: {row.text}")) for row in rows if row.verdict == "inconsistent"]
    census = [c for row in rows if row.check == "capabilities" for c in row.details.get("capabilities", ())]
    if untested and census:
        parts += ["", Text("Functions that were tried, beside the sheet", style="bold"), *_census(census), ""]
    parts += [Text(LIMITS, style="dim")]
    return Group(*parts)


def _census(census: Sequence[dict[str, Any]]) -> list[RenderableType]:
    from .capabilities import grouped  # which imports CUDA's kernels

    return [Text(printable(f"  {answer}, {by}: {names}")) for answer, by, names in grouped(census)]


def _value(value: Any, unit: str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return show(float(value), unit or "1")
    return printable(str(value))[:40]
