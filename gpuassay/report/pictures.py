"""The pictures, as SVG that is the same for the same record. What cannot be drawn says why."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ..metrics import metric
from ..record import Record
from ..verdict import Judgement, Verdict
from . import curves
from .drawing import COLOURS, INK, INSIDE, LINES, SOFT, TOLERANCE, MissingData, panels, style, width_of
from .model import TONES, Picture

_Plot = Callable[[Any, Judgement, Record], str]
NATURES = {"permanent": LINES[1], "transient": LINES[0], "instrument": SOFT}
FARTHEST = 0.5  # from 1: what lies farther stands at the edge, with its figure beside it

# Title, how to read it, and what draws it, by the section that it stands in.
PLOTS: dict[str, tuple[tuple[str, str, _Plot], ...]] = {}


def draw(judgement: Judgement, record: Record) -> dict[str, tuple[Picture, ...]]:
    """Per section its pictures. Without matplotlib every picture is left out, and says so."""
    return {key: tuple(_picture(*plot, judgement, record) for plot in row) for key, row in PLOTS.items()}


def _picture(title: str, reading: str, plot: _Plot, judgement: Judgement, record: Record) -> Picture:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return Picture(title, "Not drawn: matplotlib is missing; pip install 'gpuassay[report]'.")
    settings: Any = style()
    with matplotlib.rc_context(settings):
        figure = Figure()
        try:
            alternative = plot(figure, judgement, record)
        except MissingData as missing:
            return Picture(title, f"Not drawn: {missing}.")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(title, alternative, out.getvalue(), reading)


def _intervals(figure: Any, judgement: Judgement, _: Record) -> str:
    """Each metric's ratio to its limit, with U, its tolerance interval and the guard bands inside it."""
    shown = [v for v in judgement.verdicts if v.capability and metric(v.metric).curve_point is None][::-1]
    if not shown:
        raise MissingData("no metric was compared with a limit")
    (axes,) = panels(figure, [0.2 + 0.26 * len(shown)], width_of(v.metric for v in shown) + 0.25, 1.15)
    values = [1.0]
    for v in shown:
        assert v.capability is not None
        values += [v.capability.lower, v.capability.upper, v.capability.ratio]
        values += [v.share_of_published] if v.share_of_published else []
    near = [value for value in values if abs(value - 1) <= FARTHEST]
    low, high = min(near) - 0.03, max(near) + 0.03
    # Room for what stands at an edge because it lies beyond.
    low, high = low - 0.05 * (min(values) < low), high + 0.05 * (max(values) > high)
    for place, v in enumerate(shown):
        _interval(axes, place, v, judgement.rule.guard, (low, high))
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_yticks(range(len(shown)), [v.metric for v in shown])
    axes.tick_params(axis="y", length=0, pad=9)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("measured / limit (dot with U), delivered / printed (diamond)")
    listed = ", ".join(f"{v.metric} {v.capability.ratio:.3f}" for v in shown[::-1] if v.capability)
    return f"Measured over limit with expanded uncertainty: {listed}."


def _interval(axes: Any, place: int, v: Verdict, guarded: float, ends: tuple[float, float]) -> None:
    """One row of the picture above."""
    c = v.capability
    assert c is not None
    guard = guarded * c.expanded_uncertainty
    axes.barh(place, c.upper - c.lower, left=c.lower, height=0.62, color=TOLERANCE)
    if c.upper - c.lower > 2 * guard:
        axes.barh(place, c.upper - c.lower - 2 * guard, left=c.lower + guard, height=0.62, color=INSIDE)
    colour = COLOURS[TONES.get(v.verdict, "quiet")]
    low, high = ends
    if v.share_of_published is not None and low < v.share_of_published < high:
        axes.plot([v.share_of_published], [place], "D", ms=4, mfc="none", mec=SOFT, zorder=2.5)
    if low < c.ratio < high:
        reach = (max(c.ratio - c.expanded_uncertainty, low), min(c.ratio + c.expanded_uncertainty, high))
        axes.plot(reach, [place, place], color=colour, linewidth=1.6)
        axes.plot([c.ratio], [place], "o", ms=4.5, color=colour)
    else:
        edge, mark, side, shift = (high, ">", "right", -8) if c.ratio >= high else (low, "<", "left", 8)
        axes.plot([edge], [place], mark, ms=5, color=colour, clip_on=False)
        text = f"{c.ratio:.1%}"
        axes.annotate(text, (edge, place), (shift, 0), textcoords="offset points", ha=side, va="center", color=colour)
    axes.annotate(v.verdict, (1.015, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)


def _waterfall(figure: Any, judgement: Judgement, _: Record) -> str:
    """measured / published as steps from 1, one per factor; the metrics that differ most."""
    differing = [v for v in judgement.verdicts if v.attribution and v.delivered_verdict in ("below", "above")]
    shown = sorted(differing, key=lambda v: -abs(1 - (v.share_of_published or 1)))[:4]
    if not shown:
        raise MissingData("no delivered rate differs from its printed figure by factors that are known")
    place, labels, words, natures = 0, {}, [], {}
    left = width_of(name for v in shown for name in (f"{v.metric} =", *v.attribution)) + 0.3
    (axes,) = panels(figure, [0.2 * sum(2 + len(v.attribution) for v in shown)], left, 0.85)
    beside = {"xycoords": ("axes fraction", "data"), "va": "center"}
    for v in shown:
        reached = 1.0
        for name, factor in v.attribution.items():
            following, colour = reached * factor.ratio, NATURES[factor.nature]
            natures[factor.nature] = axes.barh(place, following - reached, left=reached, height=0.7, color=colour)
            axes.plot([following] * 2, [place - 0.35, place + 1.35], color=SOFT, linewidth=0.6)
            axes.annotate(f"x {factor.ratio:.4f}", (1.015, place), **beside)
            labels[place] = name
            reached = following
            place += 1
        axes.plot([reached], [place], "d", color=INK, ms=5)
        axes.annotate(f"= {reached:.4f}", (1.015, place), weight="bold", **beside)
        labels[place] = f"{v.metric} ="
        place += 2
        factors = ", ".join(f"{name} {factor.ratio:.4f}" for name, factor in v.attribution.items())
        words.append(f"{v.metric}: {factors}, together {reached:.4f}")
    axes.set_yticks(list(labels), list(labels.values()))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_ylim(place - 1.3, -0.7)
    axes.margins(x=0.06)
    axes.legend(natures.values(), natures.keys(), ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    axes.set_xlabel("running product, from 1 (the published figure)")
    return f"Measured over published as a product, {len(shown)} of {len(differing)} metrics. " + "; ".join(words) + "."


PLOTS |= {
    "matrix": (
        (
            "Sheet against measured",
            "Grey is the tolerance interval, green what the guard bands leave of it: a dot whose interval lies inside "
            "conforms. What lies beyond the edges has its figure beside it.",
            _intervals,
        ),
        (
            "Roofline",
            "Dashed is the published roof, solid the measured one; a point is where measured rate and measured "
            "bandwidth meet.",
            curves.roofline,
        ),
    ),
    "capped": (
        (
            "Where the difference comes from",
            "Each bar multiplies what stands above it. Permanent factors are of the part, transient ones of the moment "
            "(power, temperature, load), the instrument's of this measurement.",
            _waterfall,
        ),
        (
            "Shape curve",
            "The rate per clock and SM over the width n of the tensor instruction: silicon that is slowed down as a "
            "whole keeps this shape at a lower level.",
            curves.shape,
        ),
    ),
    "conditions": (
        (
            "The run over time",
            "Rates are of sustained runs, each against its own highest. Shaded is the time during which the driver "
            "named a reason for a lower clock.",
            curves.series,
        ),
    ),
    "variants": (
        (
            "Latency and bandwidth over footprint",
            "Each line is a knee, where a level of the hierarchy ends; shaded is its interval.",
            curves.footprint,
        ),
        ("Rate of each SM", "One square per SM number; where there is none, there is no such SM.", curves.sm_map),
        (
            "L2 latency of each SM",
            "One square per SM number: SMs differ in their distance to L2.",
            curves.l2_distance,
        ),
    ),
}
