"""Sheets on the terminal: shown, audited, compared, ranked, and held against rules. Rendering only, no arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..sheets import Sheet, all_sheets
from . import acceptance, energy, rules
from .audit import Audit
from .compare import Difference, Standing, is_comparison_only
from .crosscheck import Crosscheck

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
ANSWER_STYLES = {"met": "bold", "not met": "", "within uncertainty": "yellow", "cannot be computed": "dim"}


def _columns(*names: str, right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold" if name in fold else "ellipsis"
        )
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
    parts: list[RenderableType] = [Text(found.title, style="bold"), Text(found.summary)]
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
                # As Text, because someone else's "[/b]" is no markup.
                words = (Text(text) for text in (value.basis or "", source.confidence, source.title, note))
                table.add_row(mark, value.text, *words)
        parts += ["", table]
    return Group(*parts, *_energy(found), *_acceptance(found))


def _energy(found: Sheet) -> list[RenderableType]:
    """Operations per joule, every published power figure side by side."""
    rows = list(energy.by_sheet(found))
    if not rows:
        return []
    powers = {row.power: row for row in rows}
    heads = [f"at {power}{'' if row.chosen else ' (not chosen)'}" for power, row in powers.items()]
    table = _columns("T(FL)OP per joule", "peak", *heads, right=heads)
    for name in dict.fromkeys(row.quantity for row in rows):
        of_name = {row.power: row for row in rows if row.quantity == name}
        cells = [f"{of_name[power].per_joule / 1e12:.3f}" if power in of_name else "-" for power in powers]
        table.add_row(name, next(iter(of_name.values())).rate, *cells)
    sources = "; ".join(f"{power}: {row.confidences[1]}" for power, row in powers.items())
    return ["", table, Text(f"Power by {sources}. {energy.NO_THRESHOLD}", style="dim")]


def _acceptance(found: Sheet) -> list[RenderableType]:
    """What NVIDIA's own diagnostic would accept of this part."""
    lines = acceptance.describe(found)
    if not lines:
        return []
    head = Text("What NVIDIA's DCGM accepts", style="bold")
    return ["", head, *(Text(f"  {line}") for line in lines), Text(f"  [{acceptance.source()}]", style="dim")]


def audit(found: Audit) -> RenderableType:
    """Findings, worst first; the implied clocks; the room that the published peaks leave."""
    worst = found.findings[0].severity if found.objections else None
    parts: list[RenderableType] = [Text(found.summary, style=SEVERITY_STYLES[worst] if worst else "green")]
    for finding in found.findings:
        sources = f" [{', '.join(finding.sources)}]" if finding.sources else ""
        parts.append(
            Text.assemble(
                (f"  {finding.severity}: ", SEVERITY_STYLES[finding.severity]),
                (finding.code, "bold"),
                f"  {finding.text}",
                (sources, "dim"),
            )
        )
    if found.clocks:
        table = _columns(
            "Implied clock", "figure", "SMs", "per SM and clock", "GHz", "by rounding", right=("SMs", "GHz")
        )
        for row in found.clocks:
            table.add_row(
                row.quantity if row.chosen else f"{row.quantity} (not chosen)",
                row.published,
                str(row.sm_count),
                f"{row.rate_per_clock:g}",
                f"{row.clock_hz / 1e9:.3f}",
                f"{row.low_hz / 1e9:.3f} to {row.high_hz / 1e9:.3f}",
            )
        parts += ["", table]
    if found.room:
        clock = f"{found.room[0].max_clock_hz / 1e9:g} GHz"
        table = _columns(
            "Room left by the published peak", "published", f"silicon at {clock}", "room", right=("published", "room")
        )
        for room in found.room:
            table.add_row(room.quantity, room.published, room.limit, f"{room.room:+.1%}")
        parts += ["", table, Text("A genuine part may land anywhere up to the silicon's limit.", style="dim")]
    return Group(*parts)


def assessments(found: Sequence[rules.Assessment]) -> RenderableType:
    """Figures and answers of every rule, one column per basis."""
    labels = [one.label for one in found]
    parts: list[RenderableType] = [Text(rules.HEADING, style="bold yellow")]
    for one in found:
        parts.append(Text(f"{one.label}: {one.subject}, {one.basis}"))
        parts += [Text(f"  {remark}", style="yellow") for remark in one.remarks]
    table = _columns("Figure", *labels, "missing", fold=(*labels, "missing"))
    for name in found[0].figures:
        figures = [one.figures[name] for one in found]
        missing = dict.fromkeys(text for figure in figures for text in figure.missing)
        table.add_row(name, *(figure.text for figure in figures), Text(", ".join(missing), style="dim"))
    parts += ["", table]
    table = _columns("Rule", "date", "status", "test", *labels, "condition", fold=(*labels, "condition"))
    for rule in rules.rules():
        for index, test in enumerate(rule.tests):
            rows = [next(a for a in one.answers if a.rule == rule and a.test == test) for one in found]
            head = (rule.id, rule.date, rule.status) if index == 0 else ("", "", "")
            answers = [Text(row.answer.answer, style=ANSWER_STYLES[row.answer.answer]) for row in rows]
            table.add_row(*head, test.name, *answers, Text(rows[0].answer.text, style="dim"))
    parts += ["", table, "", Text("What an independent test reports (91 FR 1684)", style="bold")]
    for one in found:
        for figure, answer in one.independent_test():
            basis = f" [{figure.basis}]" if figure.basis else ""
            parts.append(Text(f"  {one.label}: {figure.quantity} {figure.text}{basis}; {answer.text}: {answer.words}"))
    parts += ["", Text("Notes", style="bold")]
    parts += [Text(f"  {rule.id} ({rule.date}, {rule.source}): {rule.note}") for rule in rules.rules()]
    parts += ["", *(Text(f"{d['text']} [{d['source']}]", style="dim") for d in rules.definitions().values())]
    return Group(*parts)


def difference(found: Difference) -> RenderableType:
    """A table of ratios, then what the silicon does and what is capped."""
    a, b = found.a.name, found.b.name
    table = _columns("Published", a, b, f"{a} / {b}", "by rounding", right=(f"{a} / {b}",))
    for row in found.ratios:
        bounds = "-" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        table.add_row(
            row.quantity, row.a or "-", row.b or "-", "-" if row.ratio is None else f"{row.ratio:.3f}", bounds
        )
    parts: list[RenderableType] = [Text(f"{found.a.title} beside {found.b.title}", style="bold"), "", table]
    if found.factors:
        head = f"Silicon, {a} / {b}"
        table = _columns(head, "SMs", "max clock", "per SM and clock", "total", "capped", fold=("capped",))
        for factors in found.factors:
            numbers = (factors.sms, factors.clock, factors.per_sm_and_clock, factors.total)
            shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
            table.add_row(factors.quantity, *shown, factors.capped or "")
        parts += ["", table]
    return Group(*parts)


def draw_difference(found: Difference, path: Path) -> None:
    """The ratios as bars on a logarithmic scale, as SVG. Raises ImportError without matplotlib, OSError where `path`
    exists or cannot be written."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = [row for row in found.ratios if row.ratio is not None][::-1]
    # One salt, so that the same sheets give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "gpuassay", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 1.2 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        ratios = [row.ratio or 1.0 for row in rows]
        colours = ["#b2182b" if ratio < 1 else "#2166ac" for ratio in ratios]
        # Bars start at 1, the line of equality, and run to the ratio.
        axes.barh([row.quantity for row in rows], [r - 1 for r in ratios], left=1, color=colours)
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)
        for index, ratio in enumerate(ratios):
            axes.annotate(
                f"{ratio:.3g}",
                (ratio, index),
                xytext=(3 if ratio >= 1 else -3, 0),
                textcoords="offset points",
                ha="left" if ratio >= 1 else "right",
                va="center",
                fontsize=8,
            )
        axes.margins(x=0.15)
        axes.set_xlabel(f"published figure of {found.a.name} / {found.b.name} (logarithmic)")
        with path.open("x", encoding="utf-8") as file:
            figure.savefig(file, format="svg", metadata={"Date": None})


def standing(found: Sheet, rows: Iterable[Standing]) -> RenderableType:
    """Rank and ratio in the whole catalogue, with the confidence of each figure; operations per joule below."""
    table = _columns(
        "figure",
        "value",
        "rank",
        "of best",
        "of median",
        "best",
        "confidence",
        right=("value", "rank", "of best", "of median"),
    )
    for row in rows:
        table.add_row(
            row.figure,
            row.text,
            f"{row.rank} of {row.of}",
            f"{row.of_best:.1%}",
            f"{row.of_median:.2f}",
            f"{row.best}{' (comparison only)' if row.best_comparison_only else ''}, {row.best_text}",
            row.confidence,
        )
    label = " (in the catalogue for comparison only)" if is_comparison_only(found) else ""
    note = "Published figures; confidence is that of the weakest source behind the part's own figure."
    return Group(
        Text(f"{found.title}{label} among the shipped sheets", style="bold"),
        "",
        table,
        Text(note, style="dim"),
        *_energy(found),
    )


def crosscheck(found: Crosscheck) -> RenderableType:
    """The differences, and how many figures agree."""
    agreeing = len(found.compared) - len(found.differences)
    head = (
        f"{found.sheet} beside TechPowerUp's {found.entry} ({found.package}): {agreeing} of {len(found.compared)} agree"
    )
    parts: list[RenderableType] = [Text(head, style="bold"), Text(found.url or "", style="dim")]
    if found.differences:
        table = _columns("Different", "sheet", "half", "database", "sheet / database", right=("sheet / database",))
        for row in found.differences:
            table.add_row(row.quantity, row.sheet, row.kind, f"{row.database:g} {row.unit}", f"{row.ratio:.3f}")
        parts += ["", table]
    parts.append(Text("Nothing of this enters a sheet: the database is one more source.", style="dim"))
    return Group(*parts)
