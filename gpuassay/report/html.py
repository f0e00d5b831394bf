"""A document as one self-contained HTML file: no network, no script."""

from __future__ import annotations

import base64
import re
from importlib.resources import files

from rich.cells import cell_len

from .drawing import ON_DARK
from .language import LANGUAGES, translator
from .model import Document, MissingExtra, Table

LETTERS = 120  # about as many of a table's size stand beside each other on an A4 page
LABELS = {"identification": "Identification", "contents": "Contents"}  # the page's own words


def write(document: Document, *, dark: bool = True) -> str:
    """The whole file; `dark` lets its pictures follow a dark browser. Raises MissingExtra."""
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtra("an HTML report needs Jinja2: pip install 'gpuassay[report]'") from error
    code = next(code for code, (lang, _) in LANGUAGES.items() if lang == document.language)
    labels = {name: translator(code)(text) for name, text in LABELS.items()}
    here = files(__package__)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["widths"] = _widths
    environment.filters["data_uri"] = lambda svg: _data_uri(_darkened(str(svg)) if dark else str(svg))
    template = environment.from_string(here.joinpath("template.html.j2").read_text(encoding="utf-8"))
    css = here.joinpath("template.css").read_text(encoding="utf-8")
    css = css.replace("IDENTIFICATION", _css_string(document.identification))
    return template.render(d=document, css=Markup(css), labels=labels) + "\n"


def _widths(table: Table) -> list[str]:
    """Each column's share of the width on paper, by its longest texts: measuring every cell takes a PDF ten times as
    long. Words alone may break, so the others keep what they need. A note stands under its row."""
    columns = list(zip(table.columns, *([cell.text for cell in row] for row in table.rows), strict=True))
    columns = columns[:-1] if table.note else columns
    need = [  # a heading in two lines, most often
        max(cell_len(heading) // 2, *map(cell_len, [*heading.split(), *texts]), 6) + 2 for heading, *texts in columns
    ]
    stiff = {0, *table.numeric, *(place for place, width in enumerate(need) if width <= 16)}
    soft = sum(min(60, width) for place, width in enumerate(need) if place not in stiff)
    left = LETTERS - sum(width for place, width in enumerate(need) if place in stiff)
    shrink = min(1.0, max(left, 0.3 * LETTERS) / soft) if soft else 1.0
    weights = [width if place in stiff else min(60, width) * shrink for place, width in enumerate(need)]
    return [f"{100 * weight / sum(weights):.1f}%" for weight in weights]


def _css_string(text: str) -> str:
    """A CSS string that holds `text`, whatever it holds: everything but letters and digits is escaped."""
    return '"' + re.sub(r"[^A-Za-z0-9]", lambda found: f"\\{ord(found[0]):x} ", text) + '"'


def _darkened(svg: str) -> str:
    """The picture with colours for dark paper too. Colours stand in style attributes, which `!important` overrides."""
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in ON_DARK.items()
        for name in ("fill", "stroke")
        if f"{name}: {light}" in svg
    )
    plain = "text:not([style*='fill:']){fill:" + ON_DARK["#1b1f24"] + "}"
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}{plain}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + style, svg, count=1)


def _data_uri(svg: str) -> str:
    """An SVG inside an img element runs no script and loads nothing, whatever text it holds."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
