"""A judgement on the terminal: the answer in one line, then one row per metric, then what a reader must know."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .metrics import metric
from .sheets import Sheet, all_sheets
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
    curves = _curves(result)
    if curves is not None:
        parts += [
            "",
            Text("Rate per clock and SM over the shape of wgmma, of the rate at n = 256", style="bold"),
            curves,
        ]
    reasons = [(v.metric, v.reason) for v in _headlines(result) if v.reason]
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
            min_width=max((len(v.metric) for v in _headlines(result)), default=0) if name == "metric" else None,
        )
    for verdict in _headlines(result):
        table.add_row(*_row(verdict))
    return table


def _headlines(result: Judgement) -> list[Verdict]:
    """Everything but the points of curves, which would drown it."""
    return [v for v in result.verdicts if metric(v.metric).curve_point is None]


def _curves(result: Judgement) -> Table | None:
    """One row per curve and where A lies, one column per n; None where there is no point."""
    curves: dict[str, dict[str, str]] = {}
    for verdict in result.verdicts:
        described = metric(verdict.metric)
        if described.curve_point is None:
            continue
        n, _, register = described.curve_point.partition(".")
        row = f"  {described.compared_with}, A in {'registers' if register else 'shared memory'}"
        curves.setdefault(row, {} if register else {"256": _share(1.0)})[n.removeprefix("n")] = _share(
            verdict.share_of_other
        )
    if not curves:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    columns = sorted({n for row in curves.values() for n in row}, key=int)
    for n in columns:
        table.add_column(f"n = {n}", justify="right")
    for row, shares in curves.items():
        table.add_row(row, *(shares.get(n, "") for n in columns))
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


def sheet_list() -> Table:
    """One row per shipped sheet."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "part", "SMs", "BF16 dense", "memory", "bandwidth", "PCI ids"):
        table.add_column(name)
    for sheet in all_sheets():
        cells = [sheet.name, sheet.title]
        for quantity in ("count.sm", "tensor.bf16", "memory.size", "memory.bandwidth"):
            found = sheet.published_quantity(quantity) or sheet.silicon_quantity(quantity)
            cells.append(found.text if found else "-")
        table.add_row(*cells, " ".join(sheet.identity.pci_device_ids))
    return table


def sheet(found: Sheet) -> RenderableType:
    """Every value of one sheet, conflicting ones included, with source and confidence."""
    parts: list[RenderableType] = [Text(found.title, style="bold"), found.summary]
    for heading, quantities in (("Published", found.published), ("Silicon", found.silicon)):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(heading, no_wrap=True)
        for name in ("value", "basis", "confidence", "source", "note"):
            table.add_column(name, overflow="fold")
        for name, values in quantities.items():
            chosen = found.published_quantity(name) if heading == "Published" else found.silicon_quantity(name)
            for value in values:
                mark = name if value is chosen or len(values) == 1 else f"{name} (not chosen)"
                source = found.sources[value.source]
                note = " ".join(text for text in (value.reason, value.note) if text)
                table.add_row(mark, value.text, value.basis or "", source.confidence, source.title, note)
        parts += ["", table]
    return Group(*parts)


def console(*, stderr: bool = False) -> Console:
    """A console that keeps whole tables where output is not a terminal."""
    result = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return result if result.is_terminal else Console(stderr=stderr, highlight=False, width=160)
