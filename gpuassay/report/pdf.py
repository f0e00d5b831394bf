"""A document as PDF, set from its HTML by WeasyPrint in a process of its own.

WeasyPrint takes half a second to load, which it does while the pictures are drawn here; and what a stranger's text does
to its text and font libraries stays there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from . import html, typeset
from .model import Document, MissingExtra


class PdfError(Exception):
    """WeasyPrint gave nothing. One sentence."""


@contextmanager
def setter() -> Iterator[Callable[[Document], bytes]]:
    """A function that sets one document, once: the whole file, for which nothing is fetched. WeasyPrint loads from the
    first moment on. The function raises MissingExtra, PdfError."""
    # -P: nothing beside the script or in the working directory is meant.
    command = [sys.executable, "-P", typeset.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield partial(_set, process)
        finally:
            process.kill()


def _set(process: subprocess.Popen[bytes], document: Document) -> bytes:
    pdf, said = process.communicate(html.write(document, dark=False).encode())
    told = said.decode(errors="replace").strip()
    if process.returncode == typeset.UNAVAILABLE:
        raise MissingExtra(f"a PDF report needs WeasyPrint and Pango: pip install 'gpuassay[report,pdf]' ({told})")
    if process.returncode != 0 or not pdf:
        reason = told.rpartition("\n")[2] or "it said nothing"
        raise PdfError(f"WeasyPrint set no PDF (exit code {process.returncode}): {reason}")
    return pdf


def write(document: Document) -> bytes:
    """The whole file. Nothing is fetched. Raises MissingExtra, PdfError."""
    with setter() as set_document:
        return set_document(document)
