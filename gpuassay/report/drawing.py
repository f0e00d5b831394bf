"""What all pictures share: colours, style, and how a picture says that its data are missing."""

from __future__ import annotations

from typing import Any

INK = "#1b1f24"
# Told apart by people who see no red or green too (Okabe and Ito 2008); words stand beside them.
COLOURS = {"good": "#00704f", "bad": "#b3400a", "open": "#8a6200", "quiet": "#57606a"}
LINES = ("#0072b2", "#b3400a", "#00704f", "#a0438a", "#8a6200", "#57606a")


class MissingData(Exception):
    """Why a picture cannot be drawn, as words that follow "Not drawn:"."""


def style() -> dict[str, Any]:
    """matplotlib's settings. Text from outside is never parsed as mathematics."""
    return {
        "svg.hashsalt": "gpuassay",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.edgecolor": "#8a949e",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": "white",
    }
