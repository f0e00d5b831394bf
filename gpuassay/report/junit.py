"""A judgement as JUnit XML: one test case per metric; what is undecided or not measured is skipped, with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from ..audit import overall
from ..verdict import Judgement

FAILED = ("below", "above")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


class Case(NamedTuple):
    """One test case: `outcome` says what it came to, `kind` in the instrument's own word, `reason` why."""

    name: str
    outcome: Literal["passed", "failure", "skipped"]
    kind: str
    reason: str


def write(judgement: Judgement) -> str:
    """The whole file."""
    run = judgement.record.run if judgement.record else {}
    facts = {"summary": judgement.summary, "overall": judgement.overall, "decision rule": judgement.rule.text}
    facts |= {"honesty audit": overall(judgement.audit)}
    facts |= {"run_id": str(run.get("run_id", "")), "incomplete": _incomplete(judgement)}
    cases = [
        Case(
            v.metric,
            "failure" if v.verdict in FAILED else "passed" if v.verdict == "conforms" else "skipped",
            v.verdict,
            v.reason,
        )
        for v in judgement.verdicts
    ]
    name = f"gpuassay {judgement.part} against {judgement.sheet.name}"
    return suite(name, cases, facts, str(run["started"]) if run else None)


def suite(name: str, cases: Sequence[Case], facts: Mapping[str, str], timestamp: str | None = None) -> str:
    """A whole file of one suite; `facts` become its properties."""
    made = ElementTree.Element("testsuite", name=_text(name))
    properties = ElementTree.SubElement(made, "properties")
    for key, value in facts.items():
        ElementTree.SubElement(properties, "property", name=key, value=_text(value))
    for found in cases:
        case = ElementTree.SubElement(made, "testcase", classname="gpuassay", name=_text(found.name))
        message = _text(f"{found.kind}: {found.reason}" if found.reason else found.kind)
        if found.outcome == "failure":
            ElementTree.SubElement(case, "failure", type=found.kind, message=message).text = _text(found.reason)
        elif found.outcome == "skipped":
            ElementTree.SubElement(case, "skipped", message=message)
    made.set("tests", str(len(cases)))
    made.set("failures", str(sum(case.outcome == "failure" for case in cases)))
    made.set("errors", "0")
    made.set("skipped", str(sum(case.outcome == "skipped" for case in cases)))
    if timestamp:
        made.set("timestamp", _text(timestamp))
    ElementTree.indent(made)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(made, encoding="unicode") + "\n"


def _incomplete(judgement: Judgement) -> str:
    record = judgement.record
    return "" if record is None or record.complete else f"incomplete: {record.problem}"


def _text(text: str) -> str:
    """XML 1.0 knows no control characters; they are shown as U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text)
