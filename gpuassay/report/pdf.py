"""A document as PDF, set from its HTML."""

from __future__ import annotations

from typing import Any, NoReturn

from . import html
from .html import MissingExtra
from .model import Document


def write(document: Document) -> bytes:
    """The whole file. Nothing is fetched. Raises MissingExtra."""
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as error:  # OSError: Pango is missing
        raise MissingExtra(
            f"a PDF report needs WeasyPrint and Pango: pip install 'gpuassay[report,pdf]' ({error})"
        ) from error
    result: Any = HTML(string=html.write(document), url_fetcher=_fetch).write_pdf()
    return bytes(result)


def _fetch(url: str, *rest: Any, **more: Any) -> Any:
    """Only what the file itself holds."""
    from weasyprint import default_url_fetcher

    return default_url_fetcher(url, *rest, **more) if url.startswith("data:") else _refuse(url)


def _refuse(url: str) -> NoReturn:
    raise ValueError(f"a report loads nothing: {url[:80]}")
