"""A judgement on the terminal: the answer in one line, then one row per metric, then what a reader must know."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .units import show
from .verdict import Judgement, Verdict

STYLES = {
    "conforms": "green",
    "below": "bold red",
    "above": "bold magenta",
    "does not conform": "bold red",
    "inconclusive": "yellow",
    "unattainable sheet": "yellow",
    "not measured": "dim",
    "not published": "dim",
}


def judgement(result: Judgement) -> RenderableType:
    """The whole terminal report."""
    parts: list[RenderableType] = [
        Text(result.summary, style=STYLES[result.overall]),
        Text(_provenance(result), style="dim"),
        "",
        _table(result),
    ]
    reasons = [(v.metric, v.reason) for v in result.verdicts if v.reason]
    if reasons:
        parts += ["", Text("Why", style="bold"), _pairs(reasons)]
    if result.findings:
        parts += [
            "",
            Text("Findings", style="bold"),
            _pairs([(f"{f.severity}: {f.code}", f.text) for f in result.findings]),
        ]
    if result.choice:
        parts += ["", Text(f"Why the {result.sheet.name} sheet", style="bold")]
        parts += [Text(f"  {line}") for line in result.choice]
    parts += [
        "",
        Text(
            "verdict: capability, that is work per clock and SM (bandwidth: of nominal) against the silicon or its "
            "cap. delivered: the absolute rate against the printed figure. U: expanded uncertainty, k = 2. "
            "Guard bands of U on either side of the tolerance limit (JCGM 106).",
            style="dim",
        ),
    ]
    return Group(*parts)


def _provenance(result: Judgement) -> str:
    run = result.record.run
    sheet = f"Sheet: {result.sheet.title}. {result.sheet.summary}"
    return f"Measured {str(run['started'])[:10]} by {run['instrument']}, run {str(run['run_id'])[:8]}. {sheet}"


def _table(result: Judgement) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "metric",
        "sheet",
        "measured",
        "U",
        "of sheet",
        "of limit",
        "verdict",
        "delivered",
    ):
        table.add_column(
            name,
            justify="left" if name in ("metric", "verdict", "delivered") else "right",
            # A narrow terminal may wrap a verdict, but must not cut a metric's name.
            min_width=max((len(v.metric) for v in result.verdicts), default=0) if name == "metric" else None,
        )
    for verdict in result.verdicts:
        table.add_row(*_row(verdict))
    return table


def _row(v: Verdict) -> Sequence[RenderableType]:
    return (
        v.metric,
        v.published_text or "-",
        "-" if v.measured is None else show(v.measured, v.unit),
        _uncertainty(v),
        _share(v.share_of_published),
        _share(v.share_of_limit),
        Text(v.verdict, style=STYLES[v.verdict]),
        Text(v.delivered_verdict, style=STYLES[v.delivered_verdict]),
    )


def _uncertainty(v: Verdict) -> str:
    if v.unit == "1":
        return "0"
    if v.expanded_uncertainty is None or not v.measured:
        return "unknown" if v.measured is not None else "-"
    return f"{v.expanded_uncertainty / v.measured:.2%}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _pairs(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(f"  {name}"), Text(text))
    return table


def console(*, stderr: bool = False) -> Console:
    """A console that keeps whole tables where output is not a terminal."""
    result = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return result if result.is_terminal else Console(stderr=stderr, highlight=False, width=160)
