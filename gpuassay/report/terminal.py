"""A judgement on the terminal: the answer in one line, then one row per metric, then what a reader must know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .. import peers
from ..audit import inconsistent
from ..hierarchy import Hierarchy, spread
from ..latency import shown_size
from ..metrics import metric
from ..sheet_audit import acceptance, rules
from ..units import show
from ..verdict import Judgement, Verdict

if TYPE_CHECKING:
    from ..identify import Identification

BAR = 30  # characters
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


def judgement(result: Judgement, details: bool = False) -> RenderableType:
    """The terminal report: what a sheet judges and what calls for a look; with `details` all else that was found."""
    shown = [v for v in result.verdicts if metric(v.metric).headline and (details or v.on_the_sheet)]
    parts: list[RenderableType] = [
        Text(result.summary, style=_summary_style(result)),
        Text(_provenance(result), style="dim"),
        "",
        _table(shown),
    ]
    if details and (curves := _curves(result)) is not None:
        parts += _part("Rate per clock and SM over the shape of wgmma, of the rate at n = 256", curves)
    if reasons := [(v.metric, v.reason) for v in shown if v.reason]:
        parts += _part("Why", _pairs(reasons))
    if details and result.variants:
        parts += _part("Curves and variants (judged by no sheet)", _variants(result))
    if result.hierarchy is not None and result.hierarchy.sizes:
        parts += _part("Sizes found (by the knees of curves over footprint)", _sizes(result.hierarchy))
    if details and result.hierarchy is not None and result.hierarchy.sm_map:
        parts += _part("Distance of each SM to L2", Text(f"  {spread(result.hierarchy.sm_map)}"))
    parts += _peers(result, details)
    differing = [v for v in result.verdicts if v.attribution and v.delivered_verdict in ("below", "above")]
    if details and differing:
        parts += _part("Where the difference to the printed figure comes from", _waterfall(differing))
    if found := [f for f in result.findings if details or f.severity != "info"]:
        parts += _part("Findings", _pairs([(f"{f.severity}: {f.code}", f.text) for f in found]))
    if result.audit:
        from ..audit.show import table

        parts += _part("What the device says of itself (gpuassay audit)", table(result.audit, untested=False))
    parts += _about_the_sheet(result) if details else ["", Text(_left_out(result, shown))]
    decision = (
        "verdict: capability, that is work per clock and SM (bandwidth: of nominal) against the silicon or its "
        "cap. delivered: the absolute rate against the printed figure. Both are corrected for what a good part "
        f"attains. Decision rule: {result.rule.text}. {_multiplicity(result)}"
    )
    return Group(*parts, "", Text(decision, style="dim"))


def _part(title: str, *shown: RenderableType) -> list[RenderableType]:
    return ["", Text(title, style="bold"), *shown]


def _left_out(result: Judgement, shown: Sequence[Verdict]) -> str:
    """What `details` adds, in one line."""
    names = {v.metric for v in shown}
    others = [v for v in result.verdicts if v.metric not in names]
    unmeasured = sum(v.verdict == "not measured" for v in others)
    told = sum(f.severity == "info" for f in result.findings)
    counts = (
        (len(others) - unmeasured, "metrics that the sheet does not print"),
        (unmeasured, "metrics that were not measured"),
        (told, "findings for information"),
    )
    counted = ", ".join(f"{count} {what}" for count, what in counts if count) or "why this sheet"
    return f"Not shown: {counted}. --details shows all there is; `gpuassay report` writes it as a document."


def _about_the_sheet(result: Judgement) -> list[RenderableType]:
    """What others would make of the figures, and why this sheet."""
    parts: list[RenderableType] = []
    if others := [(v.metric, said) for v in result.verdicts if (said := _acceptance(result, v))]:
        parts += _part("What NVIDIA's own acceptance line would have said", _pairs(others))
    tested = rules.of_judgement(result).independent_test()
    figures = _pairs([(f.quantity, f"{f.text} {f.basis or ''}; {a.text}: {a.words}") for f, a in tested])
    parts += _part("Figures of an independent test by 91 FR 1684 (arithmetic, not legal advice)", figures)
    if result.choice:
        parts += _part(f"Why the {result.sheet.name} sheet", *(Text(f"  {line}") for line in result.choice))
    return parts


def _summary_style(result: Judgement) -> str:
    """Never the colour of a good part where the part's own account is inconsistent."""
    good = result.overall == "conforms"
    return STYLES["inconclusive" if good and inconsistent(result.audit) else result.overall]


def _multiplicity(result: Judgement) -> str:
    found = result.multiplicity
    return (
        f"Of {found.comparisons} comparisons, {found.expected_false_alarms_of_a_good_part:.2g} false alarms are "
        f"expected of a part that is exactly right, {found.expected_false_alarms_at_the_limit:.2g} at most of one "
        "that is exactly at every tolerance limit."
    )


def _variants(result: Judgement) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("  metric", "variant", "SMs", "rate", "per clock and SM", "SM clock", "board power"):
        table.add_column(name, justify="left" if name in ("  metric", "variant") else "right")
    units = {verdict.metric: verdict.unit for verdict in result.verdicts}
    previous = ""
    for v in result.variants:
        table.add_row(
            f"  {v.metric}" if v.metric != previous else "",
            v.variant,
            str(v.sm_count),
            show(v.rate, units.get(v.metric, "FLOP/s")),
            f"{v.per_clock:.1f}",
            show(v.sm_clock_hz, "Hz"),
            "-" if v.power_w is None else f"{v.power_w:.0f} W",
        )
        previous = v.metric
    return table


def _peers(result: Judgement, details: bool) -> list[RenderableType]:
    """A matrix per way over the pairs of GPUs; nothing where the run asked for no peer, or has one GPU and no
    `details`."""
    found = peers.matrices(result.verdicts)
    if not found and not (details and any(v.metric.startswith("peer.") for v in result.verdicts)):
        return []
    parts: list[RenderableType] = [
        "",
        Text("Other GPUs", style="bold"),
        Text(f"  {peers.nvlink(result.record, found)}"),
    ]
    for matrix in found:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("")
        for device in matrix.devices:
            table.add_column(f"device {device}", justify="right")
        for name, *cells in matrix.rows():
            table.add_row(f"  {name}", *cells)
        parts += [Text(f"  {matrix.title}", style="bold"), table]
        parts += [_pairs(matrix.refusals())] if matrix.reasons else []
    return parts


def _sizes(found: Hierarchy) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("  level", "by", "found", "interval", "driver claims", "sheet"):
        table.add_column(name, justify="left" if name in ("  level", "by") else "right")
    for size in found.sizes:
        claimed = "-" if size.claimed_bytes is None else shown_size(size.claimed_bytes)
        table.add_row(
            f"  {size.level}",
            size.curve + (f", {size.seen_at_least:.0%} of it or more" if size.seen_at_least < 1 else ""),
            shown_size(size.size_bytes),
            f"{shown_size(size.lower_bytes)} to {shown_size(size.upper_bytes)}",
            Text(claimed, style="bold red" if size.claim_agrees is False else ""),
            Text(size.published_text or "-", style="bold red" if size.sheet_agrees is False else ""),
        )
    return table


def _acceptance(result: Judgement, verdict: Verdict) -> str | None:
    return None if verdict.measured is None else acceptance.would_say(result.sheet, verdict.metric, verdict.measured)


def _waterfall(verdicts: Sequence[Verdict]) -> Table:
    """measured / published, factor by factor: each bar begins where the one above it ends."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for justify in ("left", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for verdict in verdicts:
        reached, rows = 0.0, []
        for name, factor in verdict.attribution.items():
            rows.append((name, factor, reached, reached + math.log(factor.ratio)))
            reached += math.log(factor.ratio)
        ends = [end for _, _, start, stop in rows for end in (start, stop)]
        low, width = min(ends), max(max(ends) - min(ends), 0.02)
        for place, (name, factor, start, stop) in enumerate(rows):
            left, right = sorted(round((end - low) / width * BAR) for end in (start, stop))
            bar = Text(" " * left + "\u2588" * max(right - left, 0) + ("\u258f" if left == right else ""))
            bar.stylize("red" if stop < start else "magenta" if stop > start else "dim")
            label = f"{name} ({factor.nature})"
            table.add_row(f"  {verdict.metric}" if place == 0 else "", label, f"x {factor.text}", bar)
        total = Text(f"= x {math.exp(reached):.4f}", style="bold")
        named = ", ".join(f"{cause} {share:.0%} of the time" for cause, share in verdict.causes.items())
        table.add_row("", "measured / published", total, Text(named, style="dim"))
    return table


def _provenance(result: Judgement) -> str:
    sheet = f"Sheet: {result.sheet.title}. {result.sheet.summary}"
    if result.record is None:
        return f"Figures from {result.source}, as their makers gave them. {sheet}"
    run = result.record.run
    return f"Measured {str(run['started'])[:10]} by {run['instrument']}, run {str(run['run_id'])[:8]}. {sheet}"


def _table(shown: Sequence[Verdict]) -> Table:
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
            min_width=max((len(v.metric) for v in shown), default=0) if name == "metric" else None,
        )
    for verdict in shown:
        table.add_row(*_row(verdict))
    return table


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


def identification(found: Identification) -> RenderableType:
    """The most probable part, and what each item of evidence said for it and for its nearest rivals."""
    best = found.candidates[0]
    answer = (
        f"{found.part} is {best.name} ({best.posterior:.4f})"
        if found.identified
        else f"{found.part}: not identified; most probable: {best.name} ({best.posterior:.4f})"
    )
    shown = [candidate for candidate in found.candidates if candidate.posterior > 1e-4][:4]
    shown += [c for c in found.candidates[: 4 - len(shown) + 1] if c not in shown]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("evidence, log10 of its weight against none of these")
    for candidate in shown:
        table.add_column(candidate.name, justify="right")
    for item in best.contributions:
        table.add_row(item, *(f"{candidate.contributions[item]:+.1f}" for candidate in shown))
    table.add_row("posterior probability", *(f"{candidate.posterior:.4f}" for candidate in shown), style="bold")
    parts: list[RenderableType] = [Text(f"{answer}; {found.label}", style="bold"), "", table]
    return Group(*parts, *(Text(f"  {finding}") for finding in found.findings))


def console(*, stderr: bool = False) -> Console:
    """A console that keeps whole tables where output is not a terminal."""
    # Without markup: much of what is shown is text from outside.
    result = Console(stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False)
    if result.is_terminal:
        return result
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=160)
