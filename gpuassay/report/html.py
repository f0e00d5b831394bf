"""A document as one self-contained HTML file: no network, no script."""

from __future__ import annotations

import base64
from importlib.resources import files

from .model import Document, Table

LABELS = {"identification": "Identification", "contents": "Contents"}  # the page's own words


class MissingExtra(Exception):
    """A library of an optional extra is not installed. One sentence with the command that installs it."""


def write(document: Document) -> str:
    """The whole file. Raises MissingExtra."""
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtra("an HTML report needs Jinja2: pip install 'gpuassay[report]'") from error
    from .language import LANGUAGES, translator

    code = next(code for code, (lang, _) in LANGUAGES.items() if lang == document.language)
    labels = {name: translator(code)(text) for name, text in LABELS.items()}
    here = files(__package__)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"data_uri": _data_uri, "widths": _widths}
    template = environment.from_string(here.joinpath("template.html.j2").read_text(encoding="utf-8"))
    css = Markup(here.joinpath("template.css").read_text(encoding="utf-8"))
    return template.render(d=document, css=css, labels=labels) + "\n"


def _widths(table: Table) -> list[str]:
    """Each column's share of the width on paper, by its longest texts: measuring every cell takes a PDF ten times as
    long."""
    columns = zip(table.columns, *([cell.text for cell in row] for row in table.rows), strict=True)
    weights = [min(60, max(6, *(len(text) for text in texts))) for texts in columns]
    return [f"{100 * weight / sum(weights):.1f}%" for weight in weights]


def _data_uri(svg: str) -> str:
    """An SVG inside an img element runs no script and loads nothing, whatever text it holds."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
