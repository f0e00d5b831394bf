"""The fleet report as one HTML file that needs no network: pictures inside, drill-down by details and summary."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

from gpuassay.units import scale, show

from .outliers import FALSE_ALARM_SHARE

if TYPE_CHECKING:
    from .report import Fleet

MOST_MARKS = 200  # outliers drawn per picture; the histogram holds all
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Fleet report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; }
table { border-collapse: collapse; } td, th { padding: .1rem .6rem; text-align: left; border-bottom: 1px solid #ccc; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; width: 21rem; margin: .5rem; vertical-align: top; } summary { cursor: pointer; }
figure svg { width: 100%; height: auto; } figcaption { font-size: .8rem; }
.sim { background: #fff3b0; padding: .5rem; }
details details { margin-left: 1.5rem; }
</style></head><body><main>
<h1>Fleet report</h1>
{% if simulated %}<p class="sim"><strong>SIMULATED: no GPU was measured here.</strong></p>{% endif %}
<h2>Verdicts</h2>
<table><tr><th scope="col">verdict</th><th scope="col">GPUs</th></tr>
{% for word, count in verdicts.items() %}<tr><td>{{ word }}</td><td class="n">{{ count }}</td></tr>{% endfor %}</table>
<p>Of the outliers named here, {{ "%.0f"|format(100 * alarm) }}&nbsp;% are expected to be false alarms
(Benjamini-Hochberg over all GPUs and metrics).</p>
<h2>GPUs to pull: {{ pull|length }}</h2>
{% if pull %}<table><tr><th scope="col">GPU</th><th scope="col">node, slot</th><th scope="col">why</th></tr>
{% for key, reasons in pull.items() %}<tr><td><a href="#{{ places[key][2] }}">{{ key }}</a></td>
<td>{{ places[key][0] }}<br>{{ places[key][1] }}</td><td>{% if reasons|length > 1 %}<details>
<summary>{{ reasons[0] }} (and {{ reasons|length - 1 }} more)</summary><ul>
{% for reason in reasons[1:] %}<li>{{ reason }}</li>{% endfor %}</ul></details>
{%- else %}{{ reasons[0] }}{% endif %}</td></tr>{% endfor %}</table>{% else %}<p>none</p>{% endif %}
{% for title, items in lists %}<h2>{{ title }}</h2>
<ul>{% for item in items %}<li>{{ item }}</li>{% else %}<li>none</li>{% endfor %}</ul>{% endfor %}
<h2>Metrics</h2>
{% for m in metrics %}<figure>{{ m.svg }}<figcaption>{{ m.text }}</figcaption></figure>{% endfor %}
<h2>Nodes</h2>
<p>Each GPU names its record, which holds every sample; <code>gpuassay report STORE/records/NAME</code> shows it.</p>
{% for node, gpus in nodes.items() %}<details><summary>{{ node }}: {{ gpus|length }} GPU(s)
{%- with n = gpus|selectattr("key", "in", pull)|list|length %}{% if n %}, <strong>{{ n }} to pull</strong>{% endif %}
{%- endwith %}</summary>
{% for s in gpus %}<details id="{{ places[s.key][2] }}"><summary>{{ s.slot }} {{ s.uuid }} ({{ s.phase }}):
{{ s.overall or s.state }}{% if s.retried %}, tried twice{% endif %}</summary>
<p>{{ s.summary or s.reason }}
{% if s.record %}Every sample: {% if base %}<a href="{{ base }}/{{ s.record|urlencode }}">{{ s.record }}</a>
{%- else %}records/{{ s.record }} in the store{% endif %}{% endif %}
</p>{% if s.key in details %}<table><tr><th scope="col">metric</th><th scope="col">value</th><th scope="col">z</th>
<th scope="col">verdict</th></tr>{% for r in details[s.key] %}<tr><td>{{ r.metric }}</td>
<td class="n">{{ r.value }}</td>
<td class="n">{{ r.z }}</td><td>{{ r.verdict }}</td></tr>{% endfor %}</table>{% endif %}</details>
{% endfor %}</details>{% endfor %}
</main></body></html>
"""


def page(fleet: Fleet, base: str | None) -> str:
    """The whole page; `base` is the URL of the records' folder, None for no links.

    Metric tables stand only with the GPUs to pull; the others link to their record.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True)
    nodes: dict[str, list[dict[str, Any]]] = {}
    for status in fleet.statuses:
        nodes.setdefault(status["node"], []).append(status)
    metrics = []
    for found, picture in zip(fleet.metrics, fleet.pictures, strict=True):
        text = _caption(found)
        metrics.append({"svg": Markup(_picture(picture, found, text)), "text": text})  # matplotlib escapes its texts
    return environment.from_string(TEMPLATE).render(
        simulated=fleet.simulated,
        verdicts=fleet.verdicts,
        alarm=FALSE_ALARM_SHARE,
        pull=fleet.pull,
        places={s["key"]: (s["node"], s["slot"], f"gpu{n}") for n, s in enumerate(fleet.statuses)},
        lists=fleet.lists,
        metrics=metrics,
        nodes=nodes,
        details=_details(fleet),
        base=base,
    )


def _caption(found: dict[str, Any]) -> str:
    median, low, high = (show(found[name], found["unit"]) for name in ("median", "p05", "p95"))
    return (
        f"{found['metric']}, {found['part']}, {found['phase']}: {found['gpus']} GPUs, median {median}, "
        f"90 % from {low} to {high}, {found['outliers']} outlier(s)"
    )


def _details(fleet: Fleet) -> dict[str, list[dict[str, str]]]:
    return {
        key: [
            row
            | {"value": "" if row["value"] is None else show(row["value"], row["unit"])}
            | {"z": "" if row["z"] != row["z"] else f"{row['z']:+.1f}"}
            for row in rows
        ]
        for key, rows in fleet.details.items()
    }


def _picture(picture: tuple[Any, Any, Any], found: dict[str, Any], text: str) -> str:
    """A histogram of all GPUs over a row of the outliers: as large for ten thousand points as for ten."""
    from html import escape

    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator

    counts, edges, odd = picture
    factor, unit = scale(found["median"], found["unit"])
    figure = Figure(figsize=(4.2, 2.4))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.16, right=0.96, top=0.9, bottom=0.3)
    axes.stairs(counts, edges / factor, fill=True, color="#4269a5")
    most = int(counts.max())
    if counts.sum() > 100:
        axes.set_yscale("symlog", linthresh=1)  # a single outlier must show beside ten thousand others
        # The scale's own ticks, with formulas and eight small ones to each large, take most of a picture's time.
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticks(ticks := [0, *(10**n for n in range(len(str(most)) + 1))], [f"{n:g}" for n in ticks])
    axes.set_ylim(0, 1.3 * most)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_title(found["metric"], y=1.0, fontsize=9, parse_math=False)  # y: a place sought for it takes long
    axes.set_ylabel("GPUs", fontsize=8)
    axes.set_xlabel(unit, fontsize=8)
    odd = np.sort(odd[np.argsort(-np.abs(odd - found["median"]), kind="stable")][:MOST_MARKS]) / factor
    # Under the axis, in shares of its height.
    rug = axes.get_xaxis_transform()
    axes.plot(odd, [-0.3] * len(odd), "|", color="#b3261e", markersize=9, transform=rug, clip_on=False)
    axes.text(-0.03, -0.3, "outliers", color="#b3261e", fontsize=8, transform=axes.transAxes, ha="right", va="center")
    axes.tick_params(labelsize=7)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpuassay"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # Names inside an SVG are the page's: make them this picture's own.
    mark = f"m{zlib.crc32(text.encode()):x}"
    for use in ('id="', 'href="#', "url(#"):
        svg = svg.replace(use, use + mark)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(text)}"', 1)
