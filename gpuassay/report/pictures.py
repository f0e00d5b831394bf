"""The pictures, as SVG that is the same for the same record. What cannot be drawn says why."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ..metrics import metric
from ..record import Record
from ..verdict import Judgement
from . import curves
from .drawing import COLOURS, INK, MissingData, style
from .model import TONES, Picture

_Plot = Callable[[Any, Judgement, Record], str]


def draw(judgement: Judgement, record: Record) -> dict[str, tuple[Picture, ...]]:
    """Per section its pictures. Without matplotlib every picture is left out, and says so."""
    plots: dict[str, tuple[tuple[str, _Plot], ...]] = {
        "matrix": (("Sheet against measured", _intervals), ("Roofline", curves.roofline)),
        "capped": (("Where the difference comes from", _waterfall), ("Shape curve", curves.shape)),
        "conditions": (("The run over time", curves.series),),
        "variants": (
            ("Latency and bandwidth over footprint", curves.footprint),
            ("Rate of each SM", curves.sm_map),
            ("Distance of each SM to L2", curves.l2_distance),
        ),
    }
    return {key: tuple(_picture(title, plot, judgement, record) for title, plot in row) for key, row in plots.items()}


def _picture(title: str, plot: _Plot, judgement: Judgement, record: Record) -> Picture:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return Picture(title, "Not drawn: matplotlib is missing; pip install 'gpuassay[report]'.")
    settings: Any = style()
    with matplotlib.rc_context(settings):
        figure = Figure(layout="constrained")
        try:
            alternative = plot(figure, judgement, record)
        except MissingData as missing:
            return Picture(title, f"Not drawn: {missing}.")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(title, alternative, out.getvalue())


def _intervals(figure: Any, judgement: Judgement, _: Record) -> str:
    """Each metric's ratio to its limit, with U, its tolerance interval and the guard bands inside it."""
    shown = [v for v in judgement.verdicts if v.capability and metric(v.metric).curve_point is None][::-1]
    if not shown:
        raise MissingData("no metric was compared with a limit")
    figure.set_size_inches(8, 1.3 + 0.3 * len(shown))
    axes = figure.subplots()
    for place, v in enumerate(shown):
        c = v.capability
        assert c is not None
        guard = judgement.rule.guard * c.expanded_uncertainty
        axes.barh(place, c.upper - c.lower, left=c.lower, height=0.7, color="#d9dee4")
        if c.upper - c.lower > 2 * guard:
            axes.barh(place, c.upper - c.lower - 2 * guard, left=c.lower + guard, height=0.7, color="#bfe3c8")
        colour = COLOURS[TONES.get(v.verdict, "quiet")]
        axes.errorbar(c.ratio, place, xerr=c.expanded_uncertainty, fmt="o", ms=4.5, capsize=3, color=colour)
        axes.annotate(
            v.verdict, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour
        )
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [v.metric for v in shown])
    axes.set_xlabel("measured / limit, corrected for attainment; grey: tolerance, green: inside the guard bands")
    listed = ", ".join(f"{v.metric} {v.capability.ratio:.3f}" for v in shown[::-1] if v.capability)
    return f"Measured over limit with expanded uncertainty: {listed}."


def _waterfall(figure: Any, judgement: Judgement, _: Record) -> str:
    """measured / published as steps from 1, one per factor; the metrics that differ most."""
    differing = [v for v in judgement.verdicts if v.attribution and v.delivered_verdict in ("below", "above")]
    shown = sorted(differing, key=lambda v: -abs(1 - (v.share_of_published or 1)))[:4]
    if not shown:
        raise MissingData("no delivered rate differs from its printed figure by factors that are known")
    place, labels, words = 0, {}, []
    figure.set_size_inches(8, 0.9 + 0.25 * sum(2 + len(v.attribution) for v in shown))
    axes = figure.subplots()
    for v in shown:
        reached = 1.0
        for name, factor in v.attribution.items():
            colour = COLOURS["bad"] if factor.ratio < 1 else COLOURS["good"]
            axes.barh(place, reached * factor.ratio - reached, left=reached, height=0.65, color=colour)
            axes.annotate(f"x {factor.ratio:.4f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
            labels[place] = name
            reached *= factor.ratio
            place += 1
        axes.plot([reached], [place], "d", color=INK, ms=5)
        axes.annotate(f"= {reached:.4f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
        labels[place] = f"{v.metric}: measured / published"
        place += 2
        factors = ", ".join(f"{name} {factor.ratio:.4f}" for name, factor in v.attribution.items())
        words.append(f"{v.metric}: {factors}, together {reached:.4f}")
    axes.set_yticks(list(labels), list(labels.values()))
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.06)
    axes.set_xlabel("running product, from 1 (the published figure)")
    return f"Measured over published as a product, {len(shown)} of {len(differing)} metrics. " + "; ".join(words) + "."
