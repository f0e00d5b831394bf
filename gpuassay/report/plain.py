"""A document on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from .model import BAD, GOOD, OPEN, QUIET, Cell, Document, Table

STYLES = {GOOD: "green", BAD: "bold red", OPEN: "yellow", QUIET: "dim", None: ""}


def lines(document: Document) -> RenderableType:
    """Answer first, then each section's paragraphs and tables; pictures are left out."""
    parts: list[RenderableType] = [
        Text(f"{document.part}: {document.verdict.text}. {document.summary}", style=STYLES[document.verdict.tone])
    ]
    if document.incomplete:
        parts.append(Text(document.incomplete, style="yellow"))
    for section in document.sections:
        parts += ["", Text(section.title, style="bold"), *(Text(text, style="dim") for text in section.paragraphs)]
        parts += [_grid(table) for table in section.tables]
    return Group(*parts)


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for place, name in enumerate(table.columns):
        grid.add_column(Text(name), justify="right" if place in table.numeric else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(_cell(cell) for cell in row))
    return grid


def _cell(cell: Cell) -> Text:
    return Text(cell.text, style=STYLES[cell.tone])
