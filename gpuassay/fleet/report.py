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

from . import sharing
from .outliers import FALSE_ALARM_SHARE, adjusted, scores
from .spill import FAILED, Spill, by_metric
from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

PATTERN_ALPHA = 0.01  # of a node or slot being named, corrected by Benjamini-Hochberg too
MOST_DETAILED = 500  # GPUs to pull whose metrics a page lists; a whole fleet that fails needs no table each


@dataclass
class Fleet:
    """Everything that a report says. `pull`: key -> reasons."""

    statuses: list[dict[str, Any]]
    unserved: list[str] = field(default_factory=list)  # workers of the last run that measured nothing
    metrics: list[dict[str, Any]] = field(default_factory=list)
    pull: dict[str, list[str]] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)
    throttlers: list[str] = field(default_factory=list)
    together: list[dict[str, Any]] = field(default_factory=list)  # sharing.costs
    # For a page: (bin counts, bin edges, outliers' x) beside each entry of `metrics`, and the rows of the GPUs to pull.
    pictures: list[tuple[Any, Any, Any]] = field(default_factory=list)
    details: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether any GPU was simulated."""
        return any(status.get("simulated") for status in self.statuses)

    @property
    def identities(self) -> list[str]:
        """The GPUs that are not what their name says."""
        return [f"{s['uuid']} on {s['node']}: {text}" for s in self.statuses for text in s.get("identity", ())]

    @property
    def lists(self) -> list[tuple[str, list[str]]]:
        """What a page and Markdown list between the numbers: titles and lines."""
        return [
            ("Workers that measured nothing", self.unserved),
            ("Not what their name says", self.identities),
            ("Throttlers", self.throttlers),
            ("Nodes and slots with many outliers", self.patterns),
            (
                "All GPUs of a node at once",
                [sharing.text(cost) for cost in sorted(self.together, key=lambda cost: -abs(cost["change"]))],
            ),
        ]

    @property
    def verdicts(self) -> dict[str, int]:
        """GPUs and phases by verdict, or by state where they have none."""
        return dict(Counter(status.get("overall") or status["state"] for status in self.statuses).most_common())


def build(store: Store, details: bool = False) -> Fleet:
    """Reads the store, a few metrics' rows at a time, and finds what stands out; for a page its details too."""
    import numpy as np
    import pandas as pd

    fleet = Fleet(list(store.statuses()), store.unserved())
    with by_metric(store, fleet.statuses) as spill:
        suspects, failed, hot, tests = [], [], set[str](), 0
        z: dict[str, Any] = {}
        for names in spill.groups():
            rows = scores(spill.rows(names))
            tests += int(rows["p"].notna().sum())
            suspects.append(rows[rows["p"] <= FALSE_ALARM_SHARE])
            failed.append(rows[rows["verdict"].isin(FAILED)])
            hot |= set(rows.loc[rows["throttled"] >= 0.5, "uuid"].astype(str))
            fleet.together += sharing.costs(rows)
            for name, of_metric in rows.groupby("metric", observed=True):
                for found, picture in _metrics(str(name), of_metric):
                    fleet.metrics.append(found)
                    fleet.pictures.append(picture)
                z[str(name)] = np.full(len(fleet.statuses), np.nan, np.float32)
                z[str(name)][of_metric["run"]] = of_metric["z"]
        if not suspects:
            _pull(fleet, (), ())
            return fleet
        odd = pd.concat(suspects, ignore_index=True)
        odd["p_adjusted"] = adjusted(odd["p"], tests)
        odd = odd[odd["p_adjusted"] <= FALSE_ALARM_SHARE].sort_values("p_adjusted")
        _count_outliers(fleet, odd)
        _pull(fleet, pd.concat(failed).itertuples(), odd.itertuples())
        fleet.patterns, fleet.throttlers = _patterns(fleet.statuses, set(odd["uuid"].astype(str)), hot)
        if details:
            fleet.details = _details(fleet, spill, z)
    return fleet


def _metrics(name: str, rows: DataFrame) -> Iterator[tuple[dict[str, Any], tuple[Any, Any, Any]]]:
    """Each part and phase of one metric: what a report says of it, and its histogram."""
    import numpy as np

    for (part, phase), group in rows.groupby(["part", "phase"], observed=True):
        x = group["x"].dropna().to_numpy()
        if not len(x):
            continue
        low, median, high = (float(v) for v in np.quantile(x, (0.05, 0.5, 0.95)))
        found = {
            "metric": name,
            "part": str(part),
            "phase": str(phase),
            "unit": "/clk/SM" if group["by_clock"].any() else str(group["unit"].iloc[0]),
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


def _details(fleet: Fleet, spill: Spill, z: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """key -> the rows of each GPU to pull."""
    wanted = set(list(fleet.pull)[:MOST_DETAILED])
    keys = {place: s["key"] for place, s in enumerate(fleet.statuses) if s["key"] in wanted}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in spill.of_runs(list(keys)):
        found.setdefault(keys[row["run"]], []).append(row | {"z": float(z[row["metric"]][row["run"]])})
    return found


def _pull(fleet: Fleet, failed: Iterable[Any], outliers: Iterable[Any]) -> None:
    def add(status: dict[str, Any], reason: str) -> None:
        fleet.pull.setdefault(status["key"], []).append(reason)

    for s in fleet.statuses:
        if s["state"] == "failed":
            add(s, f"no result: {s.get('reason') or 'no reason is known'}")
        for text in s.get("identity", ()):
            add(s, f"identity: {text}")
        for code in s.get("findings", ()):
            if code in ("too-hot", "check-failed", "sm-count-claim", "slow-sm"):
                add(s, f"finding: {code}")
    for row in failed:
        add(fleet.statuses[row.run], f"{row.metric} {row.verdict} the sheet: {row.reason}")
    for row in outliers:
        z, whose = (
            (row.z, "part's") if abs(row.z) >= abs(row.z_node) or row.z_node != row.z_node else (row.z_node, "node's")
        )
        add(
            fleet.statuses[row.run],
            f"{row.metric} unlike its siblings: {z:+.1f} robust standard deviations from the {whose} median"
            f" (adjusted p {row.p_adjusted:.1g})",
        )


def _patterns(statuses: list[dict[str, Any]], odd: set[str], hot: set[str]) -> tuple[list[str], list[str]]:
    """Nodes and slots with more outliers than chance explains; and the GPUs that throttle."""
    import pandas as pd
    from scipy.special import bdtrc

    places = {s["uuid"]: (s["node"], s["slot"]) for s in statuses if s["state"] == "ok"}
    gpus = pd.DataFrame.from_dict(places, orient="index", columns=["node", "slot"])
    gpus["odd"] = gpus.index.isin(list(odd))
    said, share = [], gpus["odd"].mean()
    for place in ("node", "slot"):
        counts = gpus.groupby(place)["odd"].agg(["sum", "count"])
        if len(counts) < 2 or not share:
            continue
        # bdtrc: the chance of more than sum - 1 of count. All of them: 1, which bdtrc does not say of -1.
        chance = pd.Series(bdtrc(counts["sum"] - 1, counts["count"], share), counts.index).where(counts["sum"] > 0, 1.0)
        for (name, row), value in zip(counts.iterrows(), adjusted(chance, len(chance)), strict=True):
            if value <= PATTERN_ALPHA:
                said.append(f"{place} {name}: {row['sum']} of {row['count']} GPUs are outliers (fleet: {share:.1%})")
    return said, [
        f"{u} on {places[u][0]}: slowed down in half of its samples or more" for u in sorted(hot & set(places))
    ]


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
        "unserved": fleet.unserved,
        "identities": fleet.identities,
        "throttlers": fleet.throttlers,
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
    for title, items in fleet.lists:
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
