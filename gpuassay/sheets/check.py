"""`gpuassay sheets check`, `schema` and `new`: a lab's own sheets.

>>> from pathlib import Path
>>> check(Path("my-sheet.toml"))[0].text
'published."tensor.bf16".unit is "TFLOPS", which is not a known unit; did you mean "TFLOP/s"?'
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from . import Sheet, SheetError, _check_distinct, _normal, _parse_toml, _read, all_sheets, explained

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


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a sheet. `line` counts from 1; None where the whole file is meant."""

    file: str
    line: int | None
    key: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f', line {self.line}'}: {self.text}"


def check(path: Path) -> list[Problem]:
    """Everything that is wrong with the sheet in `path`; empty where it is valid. Raises nothing for bad content."""
    return _checked(path)[0]


def check_all(paths: Iterable[Path]) -> Iterator[tuple[Path, list[Problem]]]:
    """`check` for each file, and that no two of them, nor one and a shipped sheet, claim one PCI id or name."""
    seen: list[Sheet] = all_sheets()
    for path in paths:
        problems, sheet = _checked(path)
        if sheet is not None:
            # A copy of a shipped sheet that is being edited, or a renewed one, is that sheet.
            others = [s for s in seen if _normal(s.name) != _normal(sheet.name)]
            try:
                _check_distinct([*others, sheet])
            except SheetError as error:
                problems = [Problem(str(path), None, "identity.pci_device_ids", str(error))]
            else:
                seen = [*others, sheet]
        yield path, problems


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a sheet, for editors that complete and check TOML (taplo, Even Better TOML)."""
    schema = Sheet.model_json_schema()
    # The file does not hold what its place says: the loader fills these in.
    for name in ("name", "kind"):
        schema["$defs"]["Quantity"]["properties"].pop(name, None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "gpuassay sheet"}


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


def _checked(path: Path) -> tuple[list[Problem], Sheet | None]:
    where = str(path)
    try:
        text = _read(path)
        data = _parse_toml(text, where)
    except SheetError as error:
        line = re.search(r"at line (\d+)", str(error))
        return [Problem(where, int(line[1]) if line else None, None, str(error).removeprefix(f"{where} "))], None
    try:
        return [], Sheet.model_validate(data)
    except ValidationError as error:
        found = []
        for key, problem in explained(error):
            key = _lone(data, key)
            found.append(Problem(where, _line_of(text, key), key, f"{key} {problem}"))
        return found, None


def _lone(data: dict[str, Any], key: str) -> str:
    """`key` without the index of a figure that is the only one of its quantity."""
    match = re.match(r'(published|silicon)\."([^"]+)"\[0\]', key)
    if match and len(data[match[1]][match[2]]) == 1:
        return key.replace("[0]", "", 1)
    return key


def _line_of(text: str, key: str) -> int | None:
    """The line where `key` stands, or where the table stands that lacks it.

    tomllib gives no positions, and no kept TOML library gives those of single keys; a sheet has tables and plain keys
    only, so headers and `key =` are enough to find them.
    """
    wanted = [part.strip('"') for part in re.findall(r'"[^"]*"|[A-Za-z0-9_-]+|\[\d+\]', key)]
    best, best_length = None, 0
    table: list[str] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)(.+?)\]\]?\s*(#.*)?$", line)
        if header:
            table = _parts(header[2])
            if header[1] == "[[":
                index = counts[header[2]] = counts.get(header[2], -1) + 1
                table = [*table, f"[{index}]"]
            path = table
        elif entry := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            path = table + _parts(entry[1])
        else:
            continue
        # A lone figure is named without its index.
        for candidate in (path, [part for part in path if part != "[0]"]):
            # The key itself, the table that lacks it, or the first table below a misspelt one.
            common = min(len(candidate), len(wanted))
            if common > best_length and wanted[:common] == candidate[:common]:
                best, best_length = number, common
    return best


def _parts(key: str) -> list[str]:
    """`published."tensor.bf16"` -> ["published", "tensor.bf16"]."""
    try:
        value: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return [key]
    parts = []
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return parts
