"""The fleet report as one HTML file that needs no network: pictures inside, drill-down by details and summary."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

from gpuassay.units import show

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
figure { display: inline-block; margin: .5rem; } summary { cursor: pointer; }
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
{% if pull %}<ul>{% for key, reasons in pull.items() %}<li><details><summary>{{ key }}: {{ reasons[0] }}</summary>
<ul>{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul></details></li>{% endfor %}</ul>
{% else %}<p>none</p>{% endif %}
{% for title, items in lists %}<h2>{{ title }}</h2>
<ul>{% for item in items %}<li>{{ item }}</li>{% else %}<li>none</li>{% endfor %}</ul>{% endfor %}
<h2>Metrics</h2>
{% for m in metrics %}<figure>{{ m.svg }}<figcaption>{{ m.text }}</figcaption></figure>{% endfor %}
<h2>Nodes</h2>
{% for node, gpus in nodes.items() %}<details><summary>{{ node }}: {{ gpus|length }} GPU(s)</summary>
{% for s in gpus %}<details><summary>{{ s.slot }} {{ s.uuid }} ({{ s.phase }}): {{ s.overall or s.state }}
{%- if s.retried %}, tried twice{% endif %}</summary>
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
        lists=[("Patterns", fleet.patterns), ("All GPUs of a node at once", fleet.together)],
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
            | {"value": "" if row["value"] != row["value"] else show(float(row["value"]), row["unit"])}
            | {"z": "" if row["z"] != row["z"] else f"{row['z']:+.1f}"}
            for row in rows
        ]
        for key, rows in fleet.details.items()
    }


def _picture(picture: tuple[Any, Any, Any], found: dict[str, Any], text: str) -> str:
    """A histogram of all GPUs over a strip of the outliers: as large for ten thousand points as for ten."""
    from html import escape

    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    counts, edges, odd = picture
    figure = Figure(figsize=(4.2, 2.4))
    bars, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    figure.subplots_adjust(left=0.18, right=0.96, top=0.9, bottom=0.22, hspace=0.1)
    bars.stairs(counts, edges, fill=True, color="#4269a5")
    if counts.sum() > 100:
        bars.set_yscale("symlog", linthresh=1)  # a single outlier must show beside ten thousand others
        bars.yaxis.set_major_formatter("{x:g}")  # the scale's own, powers of ten as formulas, takes most of the time
    bars.set_title(found["metric"], y=1.0, fontsize=9, parse_math=False)  # y: a place sought for it takes long
    bars.set_ylabel("GPUs", fontsize=8)
    odd = odd[np.argsort(-np.abs(odd - found["median"]))][:MOST_MARKS]
    strip.plot(odd, [0] * len(odd), "|", color="#b3261e", markersize=12)
    strip.set_yticks([0], ["outliers"], fontsize=8)
    strip.set_xlabel(found["unit"], fontsize=8)
    for axes in (bars, strip):
        axes.tick_params(labelsize=7)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # Names inside an SVG are the page's: make them this picture's own.
    mark = f"m{zlib.crc32(text.encode()):x}"
    for use in ('id="', 'href="#', "url(#"):
        svg = svg.replace(use, use + mark)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(text)}"', 1)
