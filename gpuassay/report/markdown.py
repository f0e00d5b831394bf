"""A document as GitHub-flavoured Markdown; text from outside is escaped, so none of it becomes markup.

Pictures are left out: a file of text cannot hold them, and the tables say what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .model import Document, Section, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!@$])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line. Links and mentions are not made of it either."""
    line = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?i)\b(https?|ftp|www)(://|\.)", lambda m: f"{m[1]}&#8203;{m[2]}", line)


def write(document: Document) -> str:
    """The whole text."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"# {escape(document.title)}: {escape(document.part)}"
    yield ""
    if document.incomplete:
        yield f"**{escape(document.incomplete)}**"
        yield ""
    yield f"**{escape(document.verdict.text)}**: {escape(document.summary)}"
    yield ""
    for name, value in (*document.facts, ("Identification", document.identification)):
        yield f"- {escape(name)}: {escape(value)}"
    for number, section in enumerate(document.sections, 1):
        yield ""
        yield f"## {number} {escape(section.title)}"
        yield from _section(section)
    yield ""
    yield f"*{escape(document.end)}*"


def _section(section: Section) -> Iterator[str]:
    for text in section.paragraphs:
        yield ""
        yield escape(text)
    for table in section.tables:
        yield ""
        yield f"**{escape(table.caption)}**"
        yield ""
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(escape(name) for name in table.columns) + " |"
    yield "|" + "|".join(" ---: " if place in table.numeric else " --- " for place in range(len(table.columns))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(escape(cell.text) for cell in row) + " |"
