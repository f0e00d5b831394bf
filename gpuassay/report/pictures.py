"""The pictures."""

from __future__ import annotations

from ..record import Record
from ..verdict import Judgement
from .model import Picture


def draw(judgement: Judgement, record: Record) -> dict[str, tuple[Picture, ...]]:
    """Per section its pictures."""
    return {}
