"""A document in another language: a gettext catalogue (locale/*/LC_MESSAGES/gpuassay.po) applied to its texts.

Sentences are composed far from here, with numbers in them, and stand in English in every record. So a msgid may hold
named places such as `{value}`: it is matched against the whole text, or against what stands between two semicolons,
and what its places hold is put, translated where it can be, into the msgstr. What a place may hold goes by its name
(`_SHAPES`): any words, one word, or a number with its unit. Metric names, units, numbers, hashes, and the names and
words of the device, its driver and the sheets' sources stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from .model import Cell, Document, MissingExtra, Picture, Section, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

#: By code, the HTML `lang` attribute's value and the catalogue's folder.
LANGUAGES = {"en": ("en", ""), "zh": ("zh-Hans", "zh_CN")}
_PLACE = re.compile(r"\\\{(\w+)\\\}")
_WORDS, _CLAUSE, _WORD = r".+?", r"[^;]+?", r"[^\s;]+"
_NUMBER = r"[^\s;,()]*\d[^\s;,()]*(?: [^\s;,()]+)?"
_SHAPES = dict.fromkeys(
    (
        *(
            "cause",
            "causes",
            "conditions",
            "error",
            "evidence",
            "kept",
            "kinds",
            "label",
            "list",
            "names",
            "path",
            "quoted",
        ),
        *("rest", "rule", "summary", "what", "why"),
    ),
    _WORDS,
)
_SHAPES |= dict.fromkeys(
    (
        *("claim", "item", "level", "name", "other", "others", "part", "range", "reasons", "sheet", "size", "that"),
        *("this", "who"),
    ),
    _CLAUSE,
)
_SHAPES |= dict.fromkeys(("curve", "dtype", "field", "id", "kind", "metric", "reason", "schema"), _WORD)
_NODE = re.compile(r"(<text\b[^>]*>)([^<]+)(</text>)")


class _Catalogue(NamedTuple):
    exact: dict[str, str]
    templates: list[tuple[re.Pattern[str], str]]


def translator(code: str) -> Callable[[str], str]:
    """What puts a text into the language `code`, a key of LANGUAGES.

    Raises MissingExtra where Babel, which reads catalogues, is not installed.
    """
    return (lambda text: text) if code == "en" else lambda text: _translated(text, _catalogue(LANGUAGES[code][1]))


def translated(document: Document, code: str) -> Document:
    """The document with every text of it put into the language `code`. Raises MissingExtra."""
    said = translator(code)

    def picture(found: Picture) -> Picture:
        svg = found.svg and _NODE.sub(lambda m: m[1] + said(m[2]) + m[3], found.svg)
        words = {name: said(getattr(found, name)) for name in ("title", "alternative", "reading")}
        return replace(found, svg=svg, **words)

    def table(found: Table) -> Table:
        rows = tuple(tuple(Cell(said(cell.text), cell.tone) for cell in row) for row in found.rows)
        return replace(found, caption=said(found.caption), columns=tuple(map(said, found.columns)), rows=rows)

    def section(found: Section) -> Section:
        return replace(
            found,
            title=said(found.title),
            paragraphs=tuple(map(said, found.paragraphs)),
            tables=tuple(map(table, found.tables)),
            pictures=tuple(map(picture, found.pictures)),
        )

    return replace(
        document,
        title=said(document.title),
        identification=said(document.identification),
        verdict=Cell(said(document.verdict.text), document.verdict.tone),
        summary=said(document.summary),
        incomplete=document.incomplete and said(document.incomplete),
        sections=tuple(map(section, document.sections)),
        end=said(document.end),
        facts=tuple((said(name), said(text)) for name, text in document.facts),
        language=LANGUAGES[code][0],
    )


def translated_lines(shown: RenderableType, code: str) -> RenderableType:
    """What rich prints, put into the language `code`: texts and tables, inside groups. Raises MissingExtra."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    said = translator(code)

    def line(text: str) -> str:
        inner = text.strip()
        return text.replace(inner, said(inner), 1) if inner else text

    if code == "en":
        return shown
    if isinstance(shown, Group):
        return Group(*(translated_lines(part, code) for part in shown.renderables))
    if isinstance(shown, Grid):
        for column in shown.columns:
            column.header = translated_lines(column.header, code)
            column._cells = [translated_lines(cell, code) for cell in column._cells]
        return shown
    if isinstance(shown, Text):
        return Text(line(shown.plain), style=shown.style)
    return line(shown) if isinstance(shown, str) else shown


@cache
def _catalogue(folder: str) -> _Catalogue:
    try:
        from babel.messages.pofile import read_po
    except ImportError as error:
        raise MissingExtra("another language needs Babel: pip install 'gpuassay[report]'") from error
    path = files("gpuassay").joinpath("locale", folder, "LC_MESSAGES", "gpuassay.po")
    with path.open("rb") as file:
        found = {str(m.id): str(m.string) for m in read_po(file) if m.id and m.string}
    templates = [
        (re.compile(_PLACE.sub(_shaped, re.escape(msgid)), re.DOTALL), msgstr)
        for msgid, msgstr in found.items()
        if _PLACE.search(re.escape(msgid))
    ]
    # The template with most words of its own first: the others would match parts of what it means.
    templates.sort(key=lambda row: -len(re.sub(r"\(\?P<.*?>.*?\)", "", row[0].pattern)))
    return _Catalogue(found, templates)


def _shaped(place: re.Match[str]) -> str:
    return f"(?P<{place[1]}>{_SHAPES.get(place[1], _NUMBER)})"


def _translated(text: str, catalogue: _Catalogue, depth: int = 0) -> str:
    if text in catalogue.exact:
        return catalogue.exact[text]
    if depth > 8 or not re.search("[A-Za-z]{2}", text):
        return text
    if text.endswith("."):
        inner = _translated(text[:-1], catalogue, depth + 1)
        return text if inner == text[:-1] else inner + "\u3002"
    for pattern, msgstr in catalogue.templates:
        if match := pattern.fullmatch(text):
            held = {name: _translated(value, catalogue, depth + 1) for name, value in match.groupdict().items()}
            return msgstr.format(**held)
    for mark, joined in ((". ", "\u3002"), ("; ", "\uff1b"), (", ", "\u3001")):
        parts = _split(text, mark)
        if len(parts) > 1:
            return joined.join(_translated(part, catalogue, depth + 1) for part in parts)
    return text


def _split(text: str, mark: str) -> list[str]:
    """At each `mark` that stands in no parentheses."""
    parts, start, deep = [], 0, 0
    for place, character in enumerate(text):
        deep += {"(": 1, ")": -1}.get(character, 0)
        if deep == 0 and text.startswith(mark, place):
            parts.append(text[start:place])
            start = place + len(mark)
    return [*parts, text[start:]]
