"""Pictures of samples: SM map, roofline, shape curve, run over time, footprint."""

from __future__ import annotations

from typing import Any

from .. import hierarchy, stamps, sustained
from ..latency import shown_size
from ..metrics import metric
from ..record import Record
from ..telemetry import reason_names
from ..units import show
from ..verdict import Judgement
from .drawing import INK, LINES, PAPER, SOFT, MissingData, dots, panels, width_of
from .evidence import uncapped

_NO_SAMPLES = "the record keeps no samples"
ROOFS = ("tensor.bf16", "tensor.fp8_e4m3", "tensor.fp64", "vector.fp32", "vector.fp64")
IDLE = ("GpuIdle", "ApplicationsClocksSetting")  # no cause of a lower clock under load


def sm_map(figure: Any, judgement: Judgement, record: Record) -> str:
    """Work per clock of every SM, of one metric, as a grid of SM numbers."""
    import numpy as np

    rounds = sustained.plain(record.rounds())
    # A chase's stamps stay out: the map of latencies is private.
    timed = zip(rounds["sm_id"], rounds["work_unit"], strict=True)
    rounds = rounds[[len(ids) > 0 and unit != "load" for ids, unit in timed]]
    if not len(rounds):
        raise MissingData("no SM was timed by itself" if record.run["samples"] == "kept" else _NO_SAMPLES)
    names = list(dict.fromkeys(rounds["metric"]))
    name = next((n for n in ("tensor.bf16", "vector.fp32") if n in names), names[0])
    of_metric = rounds[rounds["metric"] == name]
    medians = stamps.by_sm(of_metric["sm_id"], of_metric["sm_work"], of_metric["sm_cycles"])
    middle = float(np.median(list(medians.values())))
    slowest, fastest = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    _grid(figure, {sm: value / middle for sm, value in medians.items()}, f"{name}, work per clock, % of the median SM")
    return (
        f"{len(medians)} SMs at {name}: median {middle:.1f} per clock, slowest SM {slowest} "
        f"({medians[slowest] / middle:.2%} of it), fastest SM {fastest} ({medians[fastest] / middle:.2%})."
    )


def l2_distance(figure: Any, judgement: Judgement, _: Record) -> str:
    """L2 latency of every SM over the mean of all, as a grid of SM numbers: how far each lies from the slices of L2."""
    found = judgement.hierarchy.sm_map if judgement.hierarchy else {}
    if not found:
        raise MissingData("L2 latency was not measured on every SM")
    _grid(figure, found, "latency of L2, % of the mean of all SMs")
    return f"{hierarchy.spread(found)}."


def _grid(figure: Any, shares: dict[int, float], label: str) -> None:
    import numpy as np

    width = 22  # six rows for an H100
    grid = np.full((max(shares) // width + 1, width), np.nan)
    for sm, value in shares.items():
        grid[sm // width, sm % width] = 100 * value
    (axes,) = panels(figure, [0.25 * len(grid)], 0.75, 1.1)
    reach = max(1.0, float(np.nanmax(np.abs(grid - 100))))
    cells = axes.pcolormesh(grid, cmap="PuOr", vmin=100 - reach, vmax=100 + reach, edgecolors=PAPER, linewidth=1)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(grid)) + 0.5, [f"SM {row * width}" for row in range(len(grid))])
    axes.set_xticks(np.arange(0, width, 2) + 0.5, [f"+{column}" for column in range(0, width, 2)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    area = axes.get_position()
    beside = figure.add_axes((area.x1 + 0.02, area.y0, 0.015, area.height))
    figure.colorbar(cells, cax=beside, ticks=[100 - reach, 100, 100 + reach], format="%.4g %%").outline.set_visible(
        False
    )
    axes.set_xlabel(label)


def roofline(figure: Any, judgement: Judgement, _: Record) -> str:
    """The published roof, and the measured rates as roofs of their own."""
    import numpy as np

    published = judgement.sheet.published_quantity("memory.bandwidth")
    reads = [
        v.measured for v in judgement.verdicts if v.metric.startswith("memory.") and v.unit == "B/s" and v.measured
    ]
    rates = [v for v in judgement.verdicts if v.measured and v.published and v.metric in ROOFS]
    if not (published and reads and rates):
        raise MissingData("a roof needs a published bandwidth, a measured one, and a measured rate")
    bandwidth = max(reads)
    rates.sort(key=lambda v: -float(v.measured or 0))
    words = [f"{v.metric} {show(v.measured or 0, v.unit)} of {show(v.published or 0, v.unit)}" for v in rates]
    (axes,) = panels(figure, [3.2], 0.95, width_of(words))
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of device memory", ylabel="operations per s")
    top = max(max(float(v.published or 0), float(v.measured or 0)) for v in rates)
    low = min(min(float(v.published or 0), float(v.measured or 0)) for v in rates)
    right, left = 4 * top / min(bandwidth, published.si), 0.25 * low / max(bandwidth, published.si)
    levels = []
    for place, v in enumerate(rates):
        colour = LINES[place % len(LINES)]
        assert v.measured
        assert v.published
        axes.plot([v.published / published.si, right], [v.published] * 2, color=colour, linestyle="--", linewidth=1)
        axes.plot([v.measured / bandwidth, right], [v.measured] * 2, color=colour, linewidth=1.6)
        axes.plot([v.measured / bandwidth], [v.measured], "o", color=colour, ms=5)
        levels.append(float(np.log(v.measured)))
    ridge = np.array([left, top / published.si]), np.array([left, top / bandwidth])
    axes.plot(ridge[0], ridge[0] * published.si, color=SOFT, linestyle="--", linewidth=1)
    axes.plot(ridge[1], ridge[1] * bandwidth, color=INK, linewidth=1.6)
    axes.set_xlim(left, right)
    axes.set_ylim(left * min(bandwidth, published.si), 1.6 * top)
    # Labels beside their lines, from the top, none on another.
    span = np.log(1.6 * top) - np.log(left * min(bandwidth, published.si))
    at = 1.0
    for place, (level, text) in enumerate(zip(levels, words, strict=True)):
        at = min(1 - (np.log(1.6 * top) - level) / span, at - 0.055)
        axes.annotate(text, (1.01, at), xycoords="axes fraction", va="center", color=LINES[place % len(LINES)])
    memory = f"memory {show(bandwidth, 'B/s')} of {show(published.si, 'B/s')}"
    at_byte = 0.6 * min(v.measured or 0 for v in rates) / bandwidth
    axes.annotate(memory, (at_byte, at_byte * bandwidth), (8, 0), textcoords="offset points", va="top")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: show(value, "OP/s", 3))
    axes.minorticks_off()
    return (
        f"Memory {show(bandwidth, 'B/s')} measured, {show(published.si, 'B/s')} published; {'; '.join(words)}. "
        "Points are where the measured rate and bandwidth meet."
    )


def shape(figure: Any, judgement: Judgement, _: Record) -> str:
    """The tensor path's rate over n, beside full-rate silicon and a quarter of it."""
    curves: dict[str, dict[int, float]] = {}
    for v in judgement.verdicts:
        point = metric(v.metric).curve_point
        if point is None or v.share_of_other is None:
            continue
        n, register = point.partition(".")[::2]
        if n[1:].isdigit():
            row = f"{metric(v.metric).compared_with}, A in {'registers' if register else 'shared memory'}"
            curves.setdefault(row, {} if register else {256: 1.0})[int(n[1:])] = v.share_of_other
    if not curves:
        raise MissingData("the run measured no points of a shape curve")
    (axes,) = panels(figure, [2.9], 0.75, width_of([*curves, "full rate (H100-SXM)"]) + 0.5)
    for place, (name, points) in enumerate(sorted(curves.items())):
        axes.plot(sorted(points), [points[n] for n in sorted(points)], "o-", ms=4, label=name, color=LINES[place % 6])
    sheet, sibling = judgement.sheet, uncapped(judgement.sheet, "tensor.bf16")
    own = sheet.silicon_quantity("tensor.bf16")
    if own and sibling:
        axes.axhline(sibling[1] / own.si, color=INK, linewidth=0.8, label=f"full rate ({sibling[0]})")
        axes.axhline(sibling[1] / own.si / 4, color=INK, linewidth=0.8, linestyle=":", label="a quarter of it")
    axes.set_xscale("log", base=2)
    ticks = sorted({n for points in curves.values() for n in points})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set(xlabel="n of the matrix instruction", ylabel="rate per clock and SM, n = 256 is 1", ylim=(0, None))
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
    listed = "; ".join(
        f"{name}: " + ", ".join(f"n = {n} {points[n]:.1%}" for n in sorted(points)) for name, points in curves.items()
    )
    return f"Rate per clock and SM of n = 256: {listed}."


def series(figure: Any, _: Judgement, record: Record) -> str:
    """Sustained rate, clock, power and temperature on one time axis, clock-event reasons shaded."""
    telemetry, rounds = record.telemetry(), sustained.plain(record.rounds())
    columns = (
        ("sm_clock_hz", "SM clock, MHz", 1e6),
        ("power_w", "power, W", 1),
        ("temperature_c", "temperature, °C", 1),
    )
    held = [c for c in columns if len(telemetry) and telemetry[c[0]].notna().sum() > 1]
    if not held:
        raise MissingData("the record holds no telemetry over time")
    start = float(telemetry["host_s"].min())
    names = [n for n in dict.fromkeys(rounds["metric"]) if metric(n).sustained]
    right = 0.2 if not names else width_of(names) + 0.3
    axes = panels(figure, [1.0] * (len(held) + bool(names)), 0.75, right, 0.18)
    for place, name in enumerate(names):
        of_metric = rounds[rounds["metric"] == name]
        rate = of_metric["work"] / of_metric["event_s"]
        share = 100 * rate / rate.max()
        dots(axes[0], of_metric["start_host_s"] - start, share, color=LINES[place % 6], label=name)
    if names:
        axes[0].set_ylabel("rate, %")
        of_any = rounds[rounds["metric"].isin(names)]
        first, last = of_any["start_host_s"].min() - start, of_any["start_host_s"].max() - start
        axes[0].set_xlim(first - 0.1 * (last - first), last + 0.1 * (last - first))  # all axes share it
        axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1)
    for row, (column, label, factor) in zip(axes[bool(names) :], held, strict=True):
        row.plot(telemetry["host_s"] - start, telemetry[column] / factor, color=LINES[0], linewidth=1.1)
        row.set_ylabel(label)
    reasons = _shade(axes, telemetry, start)
    axes[-1].set_xlabel("seconds since the first sample" + (f"; shaded: {', '.join(reasons)}" if reasons else ""))
    words = [
        f"{label} {telemetry[column].min() / factor:.0f} to {telemetry[column].max() / factor:.0f}"
        for column, label, factor in held
    ]
    return "; ".join(words) + f"; clock-event reasons: {', '.join(reasons) or 'none'}."


def _shade(axes: Any, telemetry: Any, start: float) -> list[str]:
    """Shades each stretch in which the same reasons stood; returns their names."""
    seen: dict[str, str] = {}
    held = telemetry[["host_s", "clock_event_reasons"]].dropna()
    times = [float(t) - start for t in held["host_s"]]
    names = [", ".join(n for n in reason_names(int(m)) if n not in IDLE) for m in held["clock_event_reasons"]]
    first = 0
    for place in range(1, len(names) + 1):
        if place < len(names) and names[place] == names[first]:
            continue
        if names[first]:
            colour = seen.setdefault(names[first], LINES[(len(seen) + 1) % len(LINES)])
            for row in axes:
                row.axvspan(times[first], times[min(place, len(times) - 1)], color=colour, alpha=0.15, linewidth=0)
        first = place
    return list(seen)


def footprint(figure: Any, judgement: Judgement, _: Record) -> str:
    """Latency and bandwidth over the footprint, and the sizes that their knees show."""
    found = judgement.hierarchy
    curves: dict[str, list[tuple[int, float]]] = {}
    for point in found.points if found else ():
        curves.setdefault(point.curve, []).append((point.footprint_bytes, point.cost_s))
    curves = {name: sorted(points) for name, points in curves.items() if len(points) > 2}
    if not curves or found is None:
        raise MissingData("the run measured no curve over footprints")
    made = panels(figure, [1.6] * len(curves), 0.75, 0.2)
    words = []
    for place, (axes, (name, points)) in enumerate(zip(made, curves.items(), strict=True)):
        latency = name.startswith("latency.")
        values = [cost * 1e9 if latency else 1e-12 / cost for _, cost in points]
        axes.plot([size for size, _ in points], values, color=LINES[place % 6], linewidth=1)
        dots(axes, [size for size, _ in points], values, color=LINES[place % 6])
        axes.set_ylabel("ns" if latency else "TB/s")
        axes.annotate(name, (0.01, 1.02), xycoords="axes fraction", weight="bold", color=LINES[place % 6])
        axes.set_ylim(0, 1.12 * max(values))
        for size in (size for size in found.sizes if size.curve == name):
            axes.axvspan(size.lower_bytes, size.upper_bytes, color=SOFT, alpha=0.2, linewidth=0)
            axes.axvline(size.size_bytes, color=INK, linewidth=0.9)
            text = f"{size.level}: {shown_size(size.size_bytes)}"
            axes.annotate(text, (size.size_bytes, 0), (4, 4), textcoords="offset points")
            words.append(f"{size.level} by {name} {shown_size(size.size_bytes)}")
        words.append(f"{name} {min(values):.3g} to {max(values):.3g} {'ns' if latency else 'TB/s'}")
    smallest, largest = (end(size for points in curves.values() for size, _ in points) for end in (min, max))
    made[-1].set_xscale("log", base=2)
    ticks = [2**power for power in range(10, 50, 3) if smallest / 2 <= 2**power <= largest * 2]
    made[-1].set_xticks(ticks, [shown_size(tick) for tick in ticks])
    made[-1].minorticks_off()
    made[-1].set_xlabel("footprint")
    return "Curves over the footprint: " + "; ".join(words) + "."
