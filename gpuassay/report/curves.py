"""Pictures of samples: SM map, roofline, shape curve, run over time, footprint."""

from __future__ import annotations

from typing import Any

from .. import stamps, sustained
from ..metrics import metric
from ..record import Record
from ..telemetry import reason_names
from ..units import show
from ..verdict import Judgement
from .drawing import INK, LINES, MissingData
from .evidence import uncapped

_NO_SAMPLES = "the record keeps no samples"
IDLE = ("GpuIdle", "ApplicationsClocksSetting")  # no cause of a lower clock under load


def sm_map(figure: Any, judgement: Judgement, record: Record) -> str:
    """Work per clock of every SM, of one metric, as a grid of SM numbers."""
    import numpy as np

    rounds = sustained.plain(record.rounds())
    rounds = rounds[[len(ids) > 0 for ids in rounds["sm_id"]]]
    if not len(rounds):
        raise MissingData("no SM was timed by itself" if record.run["samples"] == "kept" else _NO_SAMPLES)
    names = list(rounds["metric"])
    name = next((n for n in ("tensor.bf16", "vector.fp32") if n in names), names[0])
    of_metric = rounds[rounds["metric"] == name]
    medians = stamps.by_sm(of_metric["sm_id"], of_metric["sm_work"], of_metric["sm_cycles"])
    width = 16
    grid = np.full((max(medians) // width + 1, width), np.nan)
    middle = float(np.median(list(medians.values())))
    for sm, value in medians.items():
        grid[sm // width, sm % width] = 100 * value / middle
    figure.set_size_inches(8, 1.2 + 0.3 * len(grid))
    axes = figure.subplots()
    reach = max(1.0, float(np.nanmax(np.abs(grid - 100))))
    image = axes.imshow(grid, cmap="PuOr", vmin=100 - reach, vmax=100 + reach, aspect="auto")
    figure.colorbar(image, label="% of the median SM")
    axes.set_xticks(np.arange(width) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(grid)) - 0.5, minor=True)
    axes.grid(which="minor", color="#8a949e", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_yticks(range(len(grid)), [f"SM {row * width}" for row in range(len(grid))])
    axes.set_xlabel(f"SM number, {width} to a row; {name}, work per clock")
    slowest, fastest = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    return (
        f"{len(medians)} SMs at {name}: median {middle:.1f} per clock, slowest SM {slowest} "
        f"({medians[slowest] / middle:.2%} of it), fastest SM {fastest} ({medians[fastest] / middle:.2%})."
    )


def roofline(figure: Any, judgement: Judgement, _: Record) -> str:
    """The published roof, and the measured rates as roofs of their own."""
    import numpy as np

    published = judgement.sheet.published_quantity("memory.bandwidth")
    reads = [
        v.measured for v in judgement.verdicts if v.metric.startswith("memory.") and v.unit == "B/s" and v.measured
    ]
    rates = [
        v
        for v in judgement.verdicts
        if v.measured and v.published and v.unit.endswith("OP/s") and metric(v.metric).curve_point is None
    ]
    rates = [
        v for v in rates if v.metric in ("tensor.bf16", "tensor.fp8_e4m3", "tensor.fp64", "vector.fp32", "vector.fp64")
    ]
    if not (published and reads and rates):
        raise MissingData("a roof needs a published bandwidth, a measured one, and a measured rate")
    bandwidth = max(reads)
    figure.set_size_inches(8, 4.2)
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of device memory", ylabel="operations per s")
    top = max(float(v.published or 0) for v in rates)
    x = np.geomspace(1, 8 * top / published.si, 200)
    words = []
    for place, v in enumerate(rates):
        colour = LINES[place % len(LINES)]
        assert v.measured
        assert v.published
        axes.plot(x, np.minimum(x * published.si, v.published), color=colour, linestyle="--", linewidth=1)
        axes.plot(x, np.minimum(x * bandwidth, v.measured), color=colour, label=v.metric)
        axes.plot([v.measured / bandwidth], [v.measured], "o", color=colour)
        words.append(f"{v.metric} {show(v.measured, v.unit)} of {show(v.published, v.unit)}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: show(value, "FLOP/s", 3).replace("FLOP/s", "OP/s"))
    axes.legend(frameon=False, title="solid: measured, dashed: published")
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
    figure.set_size_inches(8, 3.6)
    axes = figure.subplots()
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
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=7.5)
    listed = "; ".join(
        f"{name}: " + ", ".join(f"n = {n} {points[n]:.1%}" for n in sorted(points)) for name, points in curves.items()
    )
    return f"Rate per clock and SM of n = 256: {listed}."


def series(figure: Any, _: Judgement, record: Record) -> str:
    """Sustained rate, clock, power and temperature on one time axis, clock-event reasons shaded."""
    telemetry, rounds = record.telemetry(), sustained.plain(record.rounds())
    columns = (("sm_clock_hz", "SM clock, MHz", 1e6), ("power_w", "power, W", 1), ("temperature_c", "°C", 1))
    held = [c for c in columns if len(telemetry) and telemetry[c[0]].notna().sum() > 1]
    if not held:
        raise MissingData("the record holds no telemetry over time")
    start = float(telemetry["host_s"].min())
    names = [n for n in dict.fromkeys(rounds["metric"]) if metric(n).sustained]
    rows = len(held) + bool(names)
    figure.set_size_inches(8, 0.8 + 1.25 * rows)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for place, name in enumerate(names):
        of_metric = rounds[rounds["metric"] == name]
        rate = of_metric["work"] / of_metric["event_s"] / 1e12
        axes[0].plot(of_metric["start_host_s"] - start, rate, ".", ms=3, color=LINES[place % 6], label=name)
    if names:
        axes[0].set_ylabel("tera per s")
        axes[0].legend(frameon=False, fontsize=7)
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
    figure.set_size_inches(8, 0.6 + 2.1 * len(curves))
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    words = []
    for place, (axes, (name, points)) in enumerate(zip(panels, curves.items(), strict=True)):
        latency = name.startswith("latency.")
        values = [cost * 1e9 if latency else 1e-12 / cost for _, cost in points]
        axes.plot([size / 2**20 for size, _ in points], values, "o-", ms=3, color=LINES[place % 6])
        axes.set_ylabel(f"{name}, {'ns' if latency else 'TB/s'}")
        axes.set_ylim(0, None)
        for size in (size for size in found.sizes if size.curve == name):
            axes.axvspan(size.lower_bytes / 2**20, size.upper_bytes / 2**20, color=LINES[1], alpha=0.15, linewidth=0)
            axes.axvline(size.size_bytes / 2**20, color=LINES[1], linewidth=1)
            axes.annotate(
                size.level, (size.size_bytes / 2**20, max(values)), (3, -2), textcoords="offset points", va="top"
            )
            words.append(f"{size.level} by {name} {size.size_bytes / 2**20:.3g} MiB")
        words.append(f"{name} {min(values):.3g} to {max(values):.3g} {'ns' if latency else 'TB/s'}")
    panels[-1].set_xscale("log", base=2)
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[-1].set_xlabel("footprint, MiB; shaded: the interval of each size found")
    return "Curves over the footprint: " + "; ".join(words) + "."
