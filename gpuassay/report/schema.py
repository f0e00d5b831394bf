"""The JSON Schema of the JSON output, made from the classes that are written."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import TypeAdapter

from ..agreement import Finding
from ..audit import Row, Word
from ..sustained import Variant
from ..verdict import SCHEMA, Multiplicity, Verdict

_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}
_NUMBER = {"type": "number"}


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of `Judgement.to_json`."""
    definitions: dict[str, Any] = {}
    for kind in (Verdict, Finding, Variant, Multiplicity, Row):
        made = TypeAdapter(kind).json_schema(mode="serialization", ref_template="#/$defs/{model}")
        definitions |= made.pop("$defs", {})
        definitions[kind.__name__] = made
    word = {"enum": ["conforms", "does not conform", "inconclusive"]}
    record = dict.fromkeys(("run_id", "started", "instrument", "samples"), _TEXT) | {"complete": _FLAG}
    properties = {
        "schema": {"const": SCHEMA},
        "part": _TEXT,
        "sheet": _TEXT,
        "overall": word,
        "overall_delivered": word,
        "summary": _TEXT,
        "decision_rule": _object({"confidence": _NUMBER, "guard": _NUMBER, "text": _TEXT}),
        "multiplicity": {"$ref": "#/$defs/Multiplicity"},
        "source": {"type": ["string", "null"]},
        "record": {"oneOf": [{"type": "null"}, _object(record)]},
        "verdicts": {"type": "array", "items": {"$ref": "#/$defs/Verdict"}},
        "findings": {"type": "array", "items": {"$ref": "#/$defs/Finding"}},
        "acceptance_lines": {"type": "object", "additionalProperties": _TEXT},
        "variants": {"type": "array", "items": {"$ref": "#/$defs/Variant"}},
        "audit_answer": {"enum": list(get_args(Word))},
        "audit": {"type": "array", "items": {"$ref": "#/$defs/Row"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "description": "What `gpuassay verify --json` and `gpuassay report --format json` print. SI units.",
        **_object(properties),
        "$defs": definitions,
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """All of its keys are always there; further ones may come without a new version."""
    return {"type": "object", "properties": properties, "required": list(properties)}
