"""Reports of a judgement: on the terminal, and as a document in several formats that share one content model."""

from __future__ import annotations

from .terminal import console, identification, judgement

__all__ = ["console", "identification", "judgement"]
