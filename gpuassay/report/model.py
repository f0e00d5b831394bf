"""What a document is made of, whatever it is written as: sections of paragraphs, tables and pictures, all plain text.

No writer adds words of its own, so every format says the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GOOD, BAD, OPEN, QUIET = "good", "bad", "open", "quiet"
TONES = {
    "conforms": GOOD,
    "below": BAD,
    "above": BAD,
    "does not conform": BAD,
    "inconsistent": BAD,
    "consistent": GOOD,
    "inconclusive": OPEN,
    "unattainable sheet": OPEN,
    "not measured": QUIET,
    "not tested": QUIET,
    "not observable": QUIET,
    "not permitted": QUIET,
    "not supported": QUIET,
    "not published": QUIET,
}


class MissingExtra(Exception):
    """A library of an optional extra is not installed. One sentence with the command that installs it."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table. `tone` says what a verdict word means, for writers that have colour."""

    text: str
    tone: str | None = None


@dataclass(frozen=True)
class Table:
    """`numeric` are the columns aligned at their ends; the first column heads its row. `note`: the last column is
    long, and may stand under its row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    note: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG, the words that stand for it, and how to read it; or the reason why it cannot be drawn."""

    title: str
    alternative: str
    svg: str | None = None
    reading: str = ""


@dataclass(frozen=True)
class Section:
    """One numbered part of the document. `key` is its anchor."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report. `identification` stands on every page, `end` after the last line."""

    title: str
    identification: str
    part: str
    verdict: Cell
    summary: str
    incomplete: str | None
    sections: tuple[Section, ...]
    end: str
    language: str = "en"
    facts: tuple[tuple[str, str], ...] = field(default=())
