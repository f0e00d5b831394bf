"""A document as PDF, set from its HTML."""

from __future__ import annotations

from typing import Any

from . import html
from .html import MissingExtra
from .model import Document


def write(document: Document) -> bytes:
    """The whole file. Nothing is fetched. Raises MissingExtra."""
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError) as error:  # OSError: Pango is missing
        raise MissingExtra(
            f"a PDF report needs WeasyPrint and Pango: pip install 'gpuassay[report,pdf]' ({error})"
        ) from error
    # Only what the file itself holds: text from outside must not make the host fetch anything.
    fetcher = URLFetcher(allowed_protocols=("data",))
    result: Any = HTML(string=html.write(document, dark=False), url_fetcher=fetcher).write_pdf()
    return bytes(result)
