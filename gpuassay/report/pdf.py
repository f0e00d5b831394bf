"""A document as PDF, set from its HTML by WeasyPrint in a process of its own.

WeasyPrint takes half a second to load, which it does while the pictures are drawn here; and what a stranger's text does
to its text and font libraries stays there.
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from . import html, typeset
from .html import MissingExtra
from .model import Document


class PdfError(Exception):
    """WeasyPrint gave nothing. One sentence."""


class Setter:
    """The process; a context manager. It loads from the first moment on, and sets one document."""

    def __init__(self) -> None:
        # -P: nothing beside the script or in the working directory is meant.
        command = [sys.executable, "-P", typeset.__file__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)

    def __enter__(self) -> Setter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._process as process:  # closes its pipes, and waits
            process.kill()

    def write(self, document: Document) -> bytes:
        """The whole file. Nothing is fetched. Raises MissingExtra, PdfError."""
        pdf, said = self._process.communicate(html.write(document, dark=False).encode())
        if self._process.returncode == typeset.UNAVAILABLE:
            raise MissingExtra(
                "a PDF report needs WeasyPrint and Pango: pip install 'gpuassay[report,pdf]' "
                f"({said.decode(errors='replace').strip()})"
            )
        if self._process.returncode != 0 or not pdf:
            reason = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise PdfError(
                f"WeasyPrint set no PDF (exit code {self._process.returncode}): {reason or 'it said nothing'}"
            )
        return pdf


def write(document: Document) -> bytes:
    """The whole file. Nothing is fetched. Raises MissingExtra, PdfError."""
    with Setter() as setter:
        return setter.write(document)
