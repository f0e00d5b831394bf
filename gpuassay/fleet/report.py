"""A fleet's store -> one report: counts, distributions, outliers, patterns, and the GPUs to pull with the reason."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from gpuassay.units import show
from gpuassay.untrusted import cell

from .outliers import FALSE_ALARM_SHARE, adjusted, scores
from .spill import Spill, by_metric
from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

PATTERN_ALPHA = 0.01  # of a node or slot being named, corrected by Benjamini-Hochberg too
MOST_DETAILED = 500  # GPUs to pull whose metrics a page lists; a whole fleet that fails needs no table each


@dataclass
class Fleet:
    """Everything that a report says. `pull`: key -> reasons."""

    statuses: list[dict[str, Any]]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    pull: dict[str, list[str]] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)
    together: list[str] = field(default_factory=list)
    # For a page: (bin counts, bin edges, outliers' x) beside each entry of `metrics`, and the rows of the GPUs to pull.
    pictures: list[tuple[Any, Any, Any]] = field(default_factory=list)
    details: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether any GPU was simulated."""
        return any(status.get("simulated") for status in self.statuses)

    @property
    def verdicts(self) -> dict[str, int]:
        """GPUs and phases by verdict, or by state where they have none."""
        return dict(Counter(status.get("overall") or status["state"] for status in self.statuses).most_common())


def build(store: Store, details: bool = False) -> Fleet:
    """Reads the store, one metric's rows at a time, and finds what stands out; for a page its details too."""
    import pandas as pd

    fleet = Fleet(list(store.statuses()))
    counted = {status["run_id"] for status in fleet.statuses if status["state"] == "ok"}
    with by_metric(store, counted) as spill:
        suspects, failed, hot, tests = [], [], set[str](), 0
        for name in spill.metrics():
            rows = scores(spill.rows(name))
            if details:
                spill.keep_scored(name, rows)
            tests += int(rows["p"].notna().sum())
            suspects.append(rows[rows["p"] <= FALSE_ALARM_SHARE])
            failed.append(rows[rows["verdict"].isin(["below", "above"])])
            hot |= set(rows.loc[rows["throttled"] >= 0.5, "uuid"].astype(str))
            fleet.together += _together(name, rows)
            for found, picture in _metrics(name, rows):
                fleet.metrics.append(found)
                fleet.pictures.append(picture)
        if not suspects:
            _pull(fleet, (), ())
            return fleet
        odd = pd.concat(suspects, ignore_index=True)
        odd["p_adjusted"] = adjusted(odd["p"], tests)
        odd = odd[odd["p_adjusted"] <= FALSE_ALARM_SHARE]
        _count_outliers(fleet, odd)
        _pull(fleet, pd.concat(failed).itertuples(), odd.itertuples())
        fleet.patterns = _patterns(fleet.statuses, set(odd["uuid"].astype(str)), hot)
        fleet.details = _details(spill, list(fleet.pull)[:MOST_DETAILED] if details else [])
    return fleet


def _metrics(name: str, rows: DataFrame) -> Iterator[tuple[dict[str, Any], tuple[Any, Any, Any]]]:
    """Each part and phase of one metric: what a report says of it, and its histogram."""
    import numpy as np

    for (part, phase), group in rows.groupby(["part", "phase"], observed=True):
        x = group["x"].dropna().to_numpy()
        if not len(x):
            continue
        low, median, high = (float(v) for v in np.quantile(x, (0.05, 0.5, 0.95)))
        per_clock = bool(group["per_clock"].notna().any()) and not name.startswith("memory.")
        unit = "/clk/SM" if per_clock else str(group["unit"].iloc[0])
        found = {
            "metric": name,
            "part": str(part),
            "phase": str(phase),
            "unit": unit,
            "gpus": len(x),
            "median": median,
            "p05": low,
            "p95": high,
            "mad": float(np.median(np.abs(x - median))),
            "outliers": 0,
            "verdicts": {str(k): int(v) for k, v in group["verdict"].value_counts().items() if v},
        }
        yield found, (*np.histogram(x, bins=min(60, max(5, int(len(x) ** 0.5)))), np.array([]))


def _count_outliers(fleet: Fleet, odd: DataFrame) -> None:
    texts = odd[["metric", "part", "phase"]].astype(str)
    groups = dict(list(odd["x"].groupby([texts[name] for name in texts])))
    for place, found in enumerate(fleet.metrics):
        x = groups.get((found["metric"], found["part"], found["phase"]))
        if x is not None:
            found["outliers"] = len(x)
            counts, edges, _ = fleet.pictures[place]
            fleet.pictures[place] = (counts, edges, x.to_numpy())


def _details(spill: Spill, keys: list[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    uuids = {key.rpartition(".")[0] for key in keys}
    for name in spill.metrics() if keys else ():
        row: Any
        for row in spill.scored(name, uuids).itertuples():
            if (key := f"{row.uuid}.{row.phase}") in found:
                found[key].append(
                    {"metric": name, "value": row.value, "unit": str(row.unit), "z": row.z, "verdict": str(row.verdict)}
                )
    return found


def _pull(fleet: Fleet, failed: Iterable[Any], outliers: Iterable[Any]) -> None:
    def add(uuid: str, phase: str, reason: str) -> None:
        fleet.pull.setdefault(f"{uuid}.{phase}", []).append(reason)

    for s in fleet.statuses:
        if s["state"] == "failed":
            add(s["uuid"], s["phase"], f"no result: {s['reason']}")
        for text in s.get("identity", ()):
            add(s["uuid"], s["phase"], f"identity: {text}")
        for code in s.get("findings", ()):
            if code in ("too-hot", "check-failed", "sm-count-claim", "slow-sm"):
                add(s["uuid"], s["phase"], f"finding: {code}")
    for row in failed:
        add(str(row.uuid), str(row.phase), f"{row.metric} {row.verdict} the sheet: {row.reason}")
    for row in outliers:
        z, whose = (
            (row.z, "part's") if abs(row.z) >= abs(row.z_node) or row.z_node != row.z_node else (row.z_node, "node's")
        )
        add(
            str(row.uuid),
            str(row.phase),
            f"{row.metric} unlike its siblings: {z:+.1f} robust standard deviations from the {whose} median"
            f" (adjusted p {row.p_adjusted:.1g})",
        )


def _patterns(statuses: list[dict[str, Any]], odd: set[str], hot: set[str]) -> list[str]:
    """Nodes and slots with more outliers than chance explains, and what throttles."""
    import pandas as pd
    from scipy import stats

    places = {s["uuid"]: (s["node"], s["slot"]) for s in statuses if s["state"] == "ok"}
    gpus = pd.DataFrame.from_dict(places, orient="index", columns=["node", "slot"])
    gpus["odd"] = gpus.index.isin(list(odd))
    said, share = [], gpus["odd"].mean()
    for place in ("node", "slot"):
        counts = gpus.groupby(place)["odd"].agg(["sum", "count"])
        if len(counts) < 2 or not share:
            continue
        p = stats.false_discovery_control(stats.binom.sf(counts["sum"] - 1, counts["count"], share))
        for (name, row), value in zip(counts.iterrows(), p, strict=True):
            if value <= PATTERN_ALPHA:
                said.append(f"{place} {name}: {row['sum']} of {row['count']} GPUs are outliers (fleet: {share:.1%})")
    return said + [f"{u} on {places[u][0]}: slowed down in half of its samples or more" for u in sorted(hot)]


def _together(name: str, rows: DataFrame) -> list[str]:
    """What measuring all GPUs of a node at once costs in one metric: the median ratio of rates."""
    if not {"alone", "together"} <= set(rows["phase"].cat.categories):
        return []
    alone, together = (
        rows[rows["phase"] == word].groupby("uuid", observed=True)["value"].mean() for word in ("alone", "together")
    )
    ratio = (together / alone).median()
    return [f"{name}: {ratio - 1:+.2%} with all GPUs of the node at work"] if ratio == ratio else []


# -- formats ------------------------------------------------------------------------------------------------


def document(fleet: Fleet) -> dict[str, Any]:
    """The report for a program; schema "gpuassay.fleet-report/1"."""
    return {
        "schema": "gpuassay.fleet-report/1",
        "simulated": fleet.simulated,
        "false_alarm_share": FALSE_ALARM_SHARE,
        "counts": fleet.verdicts,
        "retried": [s["key"] for s in fleet.statuses if s.get("retried")],
        "metrics": fleet.metrics,
        "patterns": fleet.patterns,
        "together": fleet.together,
        "pull": fleet.pull,
    }


def render(fleet: Fleet, form: str, base: str | None = None) -> str:
    """The report as html, md, csv, json or junit; `base`: see page.page."""
    if form == "html":
        from .page import page

        return page(fleet, base)
    if form == "json":
        return json.dumps(document(fleet), indent=2, allow_nan=False)
    return {"md": _markdown, "csv": _csv, "junit": _junit}[form](fleet)


def _csv(fleet: Fleet) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["uuid", "node", "slot", "phase", "part", "state", "overall", "retried", "simulated", "reasons"])
    for s in fleet.statuses:
        reasons = "; ".join(fleet.pull.get(s["key"], ()))
        row = [s["uuid"], s["node"], s["slot"], s["phase"], s.get("part", ""), s["state"], s.get("overall", "")]
        row += [bool(s.get("retried")), bool(s.get("simulated")), reasons]
        writer.writerow([cell(c) for c in row])
    return out.getvalue()


def _junit(fleet: Fleet) -> str:
    suite = ET.Element("testsuite", name="gpuassay fleet", tests=str(len(fleet.statuses)))
    failures = 0
    for s in fleet.statuses:
        case = ET.SubElement(suite, "testcase", classname=s["node"], name=s["key"])
        reasons = fleet.pull.get(s["key"])
        if reasons:
            failures += 1
            ET.SubElement(case, "failure", message=_xml(reasons[0])).text = _xml("\n".join(reasons))
        elif s["state"] != "ok":
            ET.SubElement(case, "skipped", message=s["state"])
    suite.set("failures", str(failures))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 forbids."""
    return "".join(c if c in "\t\n" or c >= " " else "?" for c in text)


def _markdown(fleet: Fleet) -> str:
    lines = ["# Fleet report", ""]
    if fleet.simulated:
        lines += ["**SIMULATED: no GPU was measured here.**", ""]
    lines += [f"- {_plain(word)}: {count}" for word, count in fleet.verdicts.items()]
    lines += ["", f"Outliers: of those named, {FALSE_ALARM_SHARE:.0%} are expected to be false alarms.", ""]
    lines += ["| metric | part | GPUs | median | 5 % to 95 % | outliers |", "|---|---|--:|--:|---|--:|"]
    for m in fleet.metrics:
        median, low, high = (show(m[name], m["unit"]) for name in ("median", "p05", "p95"))
        lines.append(
            f"| {_plain(m['metric'])} ({m['phase']}) | {_plain(m['part'])} | {m['gpus']} | {median} | {low} to {high} |"
            f" {m['outliers']} |"
        )
    for title, items in (("Patterns", fleet.patterns), ("All GPUs of a node at once", fleet.together)):
        lines += ["", f"## {title}", "", *(f"- {_plain(item)}" for item in items or ["none"])]
    lines += ["", "## GPUs to pull", ""]
    for key, reasons in fleet.pull.items():
        lines += [f"- **{_plain(key)}**", *(f"  - {_plain(reason)}" for reason in reasons)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Untrusted text without what Markdown or the HTML in it could mean."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, "\\" + mark if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())
