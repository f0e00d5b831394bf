"""A judgement as JUnit XML: one test case per metric; what is undecided or not measured is skipped, with its reason."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..audit import overall
from ..verdict import Judgement

FAILED = ("below", "above")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def write(judgement: Judgement) -> str:
    """The whole file."""
    suite = ElementTree.Element("testsuite", name=_text(f"gpuassay {judgement.part} against {judgement.sheet.name}"))
    properties = ElementTree.SubElement(suite, "properties")
    run = judgement.record.run if judgement.record else {}
    facts = {"summary": judgement.summary, "overall": judgement.overall, "decision rule": judgement.rule.text}
    facts |= {"honesty audit": overall(judgement.audit)}
    facts |= {"run_id": str(run.get("run_id", "")), "incomplete": _incomplete(judgement)}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=_text(value))
    for v in judgement.verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="gpuassay", name=_text(v.metric))
        if v.verdict in FAILED:
            failure = ElementTree.SubElement(case, "failure", type=v.verdict, message=_text(f"{v.verdict}: {v.reason}"))
            failure.text = _text(v.reason)
        elif v.verdict != "conforms":
            ElementTree.SubElement(case, "skipped", message=_text(f"{v.verdict}: {v.reason}"))
    words = [v.verdict for v in judgement.verdicts]
    failures = sum(word in FAILED for word in words)
    suite.set("tests", str(len(words)))
    suite.set("failures", str(failures))
    suite.set("errors", "0")
    suite.set("skipped", str(sum(word != "conforms" for word in words) - failures))
    if run:
        suite.set("timestamp", _text(str(run["started"])))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _incomplete(judgement: Judgement) -> str:
    record = judgement.record
    return "" if record is None or record.complete else f"incomplete: {record.problem}"


def _text(text: str) -> str:
    """XML 1.0 knows no control characters; they are shown as U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text)
