"""A fleet's store -> one report: counts, distributions, outliers, patterns, and the GPUs to pull with the reason."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from gpuassay.units import show

from .outliers import FALSE_ALARM_SHARE, find
from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    *("run_id", "phase", "uuid", "part", "node", "slot", "metric", "unit", "verdict", "reason"),
    *("value", "standard_uncertainty", "per_clock", "throttled"),
)
CATEGORIES = ("run_id", "phase", "uuid", "part", "node", "slot", "metric", "unit", "verdict")
PATTERN_ALPHA = 0.01  # of a node or slot being named, corrected by Benjamini-Hochberg too


@dataclass
class Fleet:
    """Everything that a report says. `pull`: key -> reasons."""

    statuses: list[dict[str, Any]]
    rows: DataFrame
    metrics: list[dict[str, Any]]
    pull: dict[str, list[str]]
    patterns: list[str]
    together: list[str]

    @property
    def simulated(self) -> bool:
        """Whether any GPU was simulated."""
        return any(status.get("simulated") for status in self.statuses)

    @property
    def verdicts(self) -> dict[str, int]:
        """GPUs and phases by verdict, or by state where they have none."""
        return dict(Counter(status.get("overall") or status["state"] for status in self.statuses).most_common())


def build(store: Store) -> Fleet:
    """Reads the store, piece by piece, and finds what stands out."""
    statuses = list(store.statuses())
    rows = _rows(store, {status["run_id"] for status in statuses if status["state"] == "ok"})
    if len(rows):
        rows = find(rows)
    outliers = rows[rows["outlier"]] if len(rows) else rows
    return Fleet(
        statuses, rows, _metrics(rows), _pull(statuses, rows, outliers), _patterns(rows, outliers), _together(rows)
    )


def _rows(store: Store, counted: set[str]) -> DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces = [batch for batch in store.batches(COLUMNS) if len(batch)]
    if not pieces:
        return pd.DataFrame({name: [] for name in (*COLUMNS, "x", "outlier")})
    table = pa.Table.from_batches(pieces).combine_chunks()
    table = table.filter(pc.is_in(table["run_id"], value_set=pa.array(sorted(counted), pa.string())))
    for name in (*CATEGORIES, "reason"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].dictionary_encode())
    rows: DataFrame = table.to_pandas(self_destruct=True, split_blocks=True)
    # Per clock where work was counted by operations: the clock that a part chose is no property of its units.
    memory = rows["metric"].astype(str).str.startswith("memory.")
    rows["x"] = rows["per_clock"].where(rows["per_clock"].notna() & ~memory, rows["value"])
    return rows


def _metrics(rows: DataFrame) -> list[dict[str, Any]]:
    found = []
    for (metric, part, phase), group in rows.groupby(["metric", "part", "phase"], observed=True) if len(rows) else ():
        x = group["x"].dropna()
        if not len(x):
            continue
        low, median, high = (float(x.quantile(q)) for q in (0.05, 0.5, 0.95))
        per_clock = bool(group["per_clock"].notna().any()) and not str(metric).startswith("memory.")
        unit = "/clk/SM" if per_clock else str(group["unit"].iloc[0])
        found.append(
            {
                "metric": str(metric),
                "part": str(part),
                "phase": str(phase),
                "unit": unit,
                "gpus": len(x),
                "median": median,
                "p05": low,
                "p95": high,
                "mad": float((x - median).abs().median()),
                "outliers": int(group["outlier"].sum()),
                "verdicts": {str(k): int(v) for k, v in group["verdict"].value_counts().items() if v},
            }
        )
    return found


def _pull(statuses: list[dict[str, Any]], rows: DataFrame, outliers: DataFrame) -> dict[str, list[str]]:
    pull: dict[str, list[str]] = {}

    def add(uuid: str, phase: str, reason: str) -> None:
        pull.setdefault(f"{uuid}.{phase}", []).append(reason)

    for s in statuses:
        if s["state"] == "failed":
            add(s["uuid"], s["phase"], f"no result: {s['reason']}")
        for text in s.get("identity", ()):
            add(s["uuid"], s["phase"], f"identity: {text}")
        for code in s.get("findings", ()):
            if code in ("too-hot", "check-failed", "sm-count-claim", "slow-sm"):
                add(s["uuid"], s["phase"], f"finding: {code}")
    failed = rows[rows["verdict"].isin(["below", "above"])] if len(rows) else rows
    for failure in failed.itertuples():
        add(str(failure.uuid), str(failure.phase), f"{failure.metric} {failure.verdict} the sheet: {failure.reason}")
    row: Any
    for row in outliers.itertuples():
        z, whose = (
            (row.z, "part's") if abs(row.z) >= abs(row.z_node) or row.z_node != row.z_node else (row.z_node, "node's")
        )
        add(
            str(row.uuid),
            str(row.phase),
            f"{row.metric} unlike its siblings: {z:+.1f} robust standard deviations from the {whose} median"
            f" (adjusted p {row.p_adjusted:.1g})",
        )
    return pull


def _patterns(rows: DataFrame, outliers: DataFrame) -> list[str]:
    """Nodes and slots with more outliers than chance explains, and what throttles."""
    from scipy import stats

    if not len(rows):
        return []
    said = []
    odd = set(outliers["uuid"].astype(str))
    gpus = rows.drop_duplicates("uuid")[["uuid", "node", "slot"]].astype(str)
    gpus["odd"] = gpus["uuid"].isin(odd)
    share = gpus["odd"].mean()
    for place in ("node", "slot"):
        counts = gpus.groupby(place)["odd"].agg(["sum", "count"])
        if len(counts) < 2 or not share:
            continue
        p = stats.false_discovery_control(stats.binom.sf(counts["sum"] - 1, counts["count"], share))
        for (name, row), adjusted in zip(counts.iterrows(), p, strict=True):
            if adjusted <= PATTERN_ALPHA:
                said.append(f"{place} {name}: {row['sum']} of {row['count']} GPUs are outliers (fleet: {share:.1%})")
    hot = rows[rows["throttled"] >= 0.5].groupby("uuid", observed=True)["node"].first()
    said += [f"{uuid} on {node}: slowed down in half of its samples or more" for uuid, node in hot.items()]
    return said


def _together(rows: DataFrame) -> list[str]:
    """What measuring all GPUs of a node at once costs: the median ratio of rates, per metric."""
    if not len(rows) or "together" not in set(rows["phase"].astype(str)):
        return []
    table = rows.assign(phase=rows["phase"].astype(str)).pivot_table(
        index=["metric", "uuid"], columns="phase", values="value", observed=True
    )
    if "alone" not in table:
        return []
    ratios = (table["together"] / table["alone"]).groupby("metric", observed=True).median()
    return [f"{metric}: {ratio - 1:+.2%} with all GPUs of the node at work" for metric, ratio in ratios.items()]


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
        # A spreadsheet takes text that begins like this for a formula.
        writer.writerow([f"'{c}" if isinstance(c, str) and c[:1] in ("=", "+", "-", "@") else c for c in row])
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
