"""`gpuassay sheets check`, `schema` and `new`: a lab's own sheets.

>>> from pathlib import Path
>>> check(Path("my-sheet.toml"))[0].text
'published."tensor.bf16".unit is "TFLOPS", which is not a known unit; did you mean "TFLOP/s"?'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from .model import QUANTITIES, UNITS, Kind, Sheet, normal
from .read import Problem, SheetError, all_sheets, claimed_twice, located, parse_sheet, read_text

# What NVML claims, and the quantity and unit of a sheet that hold it.
_DRAFTED = (
    ("clock.sm.max", "clock.sm.max", "MHz", Decimal("1e-6")),
    ("clock.memory.max", "clock.memory", "MHz", Decimal("1e-6")),
    ("memory.bus_width", "memory.bus_width", "bit", Decimal(1)),
    ("memory.size", "memory.size", "MiB", Decimal(1) / 2**20),
    ("l2.size", "l2.size", "KiB", Decimal(1) / 2**10),
    ("count.sm", "count.sm", "1", Decimal(1)),
    ("power.default_limit", "power.limit", "W", Decimal(1)),
)


def check(path: Path) -> list[Problem]:
    """Everything that is wrong with the sheet in `path`, by line; empty where it is valid. Raises nothing."""
    return _checked(path, [])[0]


def check_all(paths: Iterable[Path]) -> Iterator[tuple[Path, list[Problem]]]:
    """`check` for each file, and that no two of them, nor one and a shipped sheet, claim one PCI id or name."""
    seen: list[Sheet] = all_sheets()
    for path in paths:
        problems, sheet = _checked(path, seen)
        if sheet is not None:
            seen = [*(other for other in seen if normal(other.name) != normal(sheet.name)), sheet]
        yield path, problems


def _checked(path: Path, beside: Iterable[Sheet]) -> tuple[list[Problem], Sheet | None]:
    where = str(path)
    try:
        text = read_text(path)
        sheet = parse_sheet(text, where)
    except SheetError as error:
        return sorted(error.problems, key=lambda problem: problem.line or 0), None
    # A copy of a shipped sheet that is being edited, or a renewed one, is that sheet.
    others = [other for other in beside if normal(other.name) != normal(sheet.name)]
    twice = [
        complaint._replace(found=f"of {sheet.name} {complaint.found}") for complaint in claimed_twice(sheet, others)
    ]
    return (located(twice, text, where), None) if twice else ([], sheet)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a sheet's TOML file, for editors that complete and check while one types.

    It knows keys, forms, quantities and their units. What reaches across keys (sources named, one figure chosen,
    values believed of one GPU) only `check` knows.
    """
    schema = Sheet.model_json_schema()
    figure = schema["$defs"]["Quantity"]
    for placed in ("name", "kind"):  # from the figure's place in the file, so no key of it
        del figure["properties"][placed]
    figure["properties"]["value"] = {"title": "Value", "type": "number", "exclusiveMinimum": 0}
    figure["properties"]["unit"]["enum"] = list(UNITS)
    for kind in get_args(Kind):
        schema["properties"][kind] = {
            "title": kind.title(),
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "$ref": "#/$defs/Quantity",
                        "properties": {"unit": {"enum": [u for u, row in UNITS.items() if row.dimension == by[kind]]}},
                    },
                }
                for name, by in QUANTITIES.items()
            },
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def draft(claims: list[dict[str, Any]], date: str) -> str:
    """A sheet's text from what a device claims (rows of quantity, value, unit): identity and silicon.

    What the device does not say is left out. Figures are the driver's own, so the sheet judges nothing yet: published
    figures are for the lab to add, each with its source.
    """
    claim = {row["quantity"]: row["value"] for row in claims}
    name = (
        re.sub(r"[^A-Za-z0-9]+", "-", str(claim.get("name", "my GPU")).removeprefix("NVIDIA ")).strip("-")[:60] or "GPU"
    )
    lines = [
        "# Drafted from a device. Add what was published, each figure with its source:",
        "#",
        '#     [[published."tensor.bf16"]]',
        "#     value = 148",
        '#     unit = "TFLOP/s"',
        '#     basis = "dense"',
        '#     source = "contract"',
        "",
        f"name = {_text(name)}",
        f"title = {_text(str(claim.get('name', name)))}",
        'summary = "Drafted from the device itself; nothing published is in here yet."',
        "",
        "[identity]",
    ]
    if claim.get("compute_capability"):
        lines.append(f"compute_capability = {_text(str(claim['compute_capability']))}")
    if claim.get("pci.device_id"):
        lines.append(f"pci_device_ids = [{_text(str(claim['pci.device_id']))}]")
    if claim.get("pci.subsystem_id"):
        lines.append(f"pci_subsystem_ids = [{_text(str(claim['pci.subsystem_id']))}]")
    if claim.get("name"):
        lines.append(f"driver_names = [{_text(str(claim['name']))}]")
    lines += ['source = "device"', "", "[sources.device]", 'title = "the device\'s own claims through NVML and CUDA"']
    lines += [f"date = {_text(date)}", 'confidence = "third-party measurement"']
    for quantity, key, unit, factor in _DRAFTED:
        value = claim.get(quantity)
        if not isinstance(value, int | float) or value <= 0:
            continue
        number = (Decimal(str(value)) * factor).normalize()
        lines += ["", f"[[silicon.{_text(key)}]]", f"value = {number:f}", f"unit = {_text(unit)}", 'source = "device"']
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A TOML basic string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
