"""What all pictures share: colours, style, margins, and how a picture says that its data are missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

INK = "#1b1f24"
SOFT, LINE, PAPER = "#57606a", "#8a949e", "#ffffff"
TOLERANCE, INSIDE = "#d9dee4", "#bfe3c8"
# Told apart by people who see no red or green too (Okabe and Ito 2008); words stand beside them.
COLOURS = {"good": "#00704f", "bad": "#b3400a", "open": "#8a6200", "quiet": SOFT}
LINES = ("#0072b2", "#b3400a", "#00704f", "#a0438a", "#8a6200", "#57606a")
#: The same colours on dark paper, for a reader whose browser is set to dark (html.py).
ON_DARK = {
    INK: "#e6e9ed",
    SOFT: "#a4adb7",
    LINE: "#6e7781",
    PAPER: "#12161b",
    TOLERANCE: "#363d46",
    INSIDE: "#1d4d2e",
    "#0072b2": "#5ab4f0",
    "#b3400a": "#ff9d6c",
    "#00704f": "#5fd3a6",
    "#a0438a": "#e58fd0",
    "#8a6200": "#e5b94e",
}
WIDTH = 8.0  # inches; as wide as the page
_LETTER = 0.078  # inches: a letter of DejaVu Sans at 8.5 points, on the generous side


class MissingData(Exception):
    """Why a picture cannot be drawn, as words that follow "Not drawn:"."""


def style() -> dict[str, Any]:
    """matplotlib's settings. Text from outside is never parsed as mathematics."""
    return {
        "svg.hashsalt": "gpuassay",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "text.color": INK,
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.edgecolor": LINE,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.minor.visible": False,
        "ytick.minor.visible": False,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
    }


def width_of(texts: Iterable[str]) -> float:
    """Inches that the longest of `texts` needs."""
    return _LETTER * max((len(text) for text in texts), default=0)


def dots(axes: Any, x: Any, y: Any, **rest: Any) -> None:
    """Points as one path, of strokes without length and with round ends: a marker for each makes a file of thousands
    of elements, and a PDF of it takes seconds."""
    import numpy as np

    pairs = [
        np.column_stack([values, values, np.full(len(values), np.nan)]).ravel() for values in map(np.asarray, (x, y))
    ]
    (line,) = axes.plot(*pairs, solid_capstyle="round", linewidth=3, **rest)
    line.get_path().should_simplify = False  # which would leave strokes without length out


def panels(figure: Any, heights: list[float], left: float, right: float, gap: float = 0.25) -> list[Any]:
    """Axes above each other, inches; the figure is as high as they need.

    Margins are reckoned from the words that stand in them: matplotlib's own layouts draw each picture three times.
    """
    above, below = 0.3, 0.55
    total = above + below + sum(heights) + gap * (len(heights) - 1)
    figure.set_size_inches(WIDTH, total)
    made: list[Any] = []
    top = total - above
    for height in heights:
        area = (left / WIDTH, (top - height) / total, (WIDTH - left - right) / WIDTH, height / total)
        made.append(figure.add_axes(area, sharex=made[0] if made else None))
        top -= height + gap
    for axes in made[:-1]:
        axes.tick_params(labelbottom=False)
    return made
