"""Imports figures of the prototype instrument, whose single samples were not kept, as a run record.

Usage: python -m gpuassay.prototype FIGURES.json RECORD.jsonl

FIGURES.json holds one object: `part`, `pci_device`, `compute_capability`, `sm_count`, `max_sm_clock_hz`,
`memory_clock_hz`, `memory_bus_bit`, `power_limit_w`, `driver`, `cuda`, `date`, and `measurements`, a list of objects
with
`metric` (the prototype's wording), `value` (SI) or null, `unit`, and optionally `toolchain`,
`share_of_clock_normalised_limit`, `sm_clock_hz`, `duration`, `data`, `note`, `sms`.

What a metric's headline was is taken over under its name; every other variant (zeros, sustained, restricted SMs, other
paths) is kept too, with `variant` saying what it is, and is not judged. No dispersion is invented: the record says
`samples: not kept`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .record import RecordWriter, new_run_id
from .sheets import Sheet, load

# The prototype's wording -> (metric, sheet quantity whose silicon rate its share refers to).
NAMES = {
    "tensor bf16 dense, f32 accumulate": ("tensor.bf16", "tensor.bf16"),
    "tensor fp16 dense, f32 accumulate": ("tensor.fp16", "tensor.fp16"),
    "tensor tf32 dense": ("tensor.tf32", "tensor.tf32"),
    "tensor fp8 e4m3 dense": ("tensor.fp8_e4m3", "tensor.fp8"),
    "tensor int8 dense": ("tensor.int8", "tensor.int8"),
    "tensor fp64 (DMMA)": ("tensor.fp64", "tensor.fp64"),
    "tensor bf16 sparse 2:4": ("tensor.bf16.sparse", "tensor.bf16.sparse"),
    "tensor fp8 e4m3 sparse 2:4": ("tensor.fp8_e4m3.sparse", "tensor.fp8.sparse"),
    "tensor int8 sparse 2:4": ("tensor.int8.sparse", "tensor.int8.sparse"),
    "tensor bf16 mma.sync": ("mma_sync.bf16", "tensor.bf16"),
    "vector int32 multiply-add": ("vector.int32", None),
    "vector fp32 fma": ("vector.fp32", "vector.fp32"),
    "vector fp64 fma": ("vector.fp64", "vector.fp64"),
    "hbm read": ("memory.read", None),
    "hbm write": ("memory.write", None),
    "hbm copy": ("memory.copy", None),
    "hbm triad": ("memory.triad", None),
}
UNITS = {"op/s": "FLOP/s"}


def import_figures(figures: dict[str, Any], target: Path, sheet: Sheet) -> None:
    """Writes `figures` as the record `target`; `sheet` gives the silicon rates that the shares refer to.

    Raises FileExistsError where `target` exists, KeyError where a field is missing.
    """
    source = "prototype instrument"
    claims = [
        ("name", figures["part"], None),
        ("pci.device_id", figures["pci_device"], None),
        ("compute_capability", figures["compute_capability"], None),
        ("count.sm", figures["sm_count"], "1"),
        ("clock.sm.max", figures["max_sm_clock_hz"], "Hz"),
        ("clock.memory.max", figures["memory_clock_hz"], "Hz"),
        ("memory.bus_width", figures["memory_bus_bit"], "bit"),
        ("power.limit", figures["power_limit_w"], "W"),
        ("driver.version", figures["driver"], None),
        ("driver.cuda_version", figures["cuda"], None),
    ]
    with RecordWriter(target) as record:
        record.write(
            "run",
            run_id=new_run_id(),
            started=f"{figures['date']}T00:00:00Z",
            instrument=source,
            samples="not kept",
            profile=None,
            program={"version": f"imported by gpuassay {__version__}", "commit": None},
            host={"python": "", "platform": "", "packages": {}},
            argv=[],
        )
        record.write(
            "device",
            claims=[{"quantity": q, "value": v, "unit": u, "source": source} for q, v, u in claims],
        )
        headline = _headlines(figures["measurements"])
        nominal = figures["memory_clock_hz"] * 2 * figures["memory_bus_bit"] / 8
        for row in figures["measurements"]:
            name, quantity = NAMES.get(row["metric"], (row["metric"], None))
            variant = None if row is headline.get(name) else _variant(row) or "further figure"
            share = row.get("share_of_clock_normalised_limit")
            silicon = sheet.silicon_quantity(quantity) if quantity else None
            line = {
                "metric": name,
                "toolchain": row.get("toolchain"),
                "value": row["value"],
                "unit": UNITS.get(row["unit"], row["unit"]),
                "variant": variant,
                "share_of_limit": share,
                "per_sm_and_clock": share * silicon.si if share and silicon else None,
                "sm_clock_hz": row.get("sm_clock_hz"),
                "sm_count": row.get("sms", figures["sm_count"]),
                "nominal_bytes_per_s": nominal if name.startswith("memory.") else None,
                "duration": row.get("duration"),
                "note": row.get("note") or None,
            }
            record.write("median", **line)


def _headlines(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The row that stands for each metric: CUDA C++ before Numba, a burst before a sustained run."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["metric"] in NAMES and _variant(row) is None:
            name = NAMES[row["metric"]][0]
            if name not in found or (_rank(row) < _rank(found[name])):
                found[name] = row
    return found


def _rank(row: dict[str, Any]) -> tuple[bool, bool]:
    return row.get("toolchain") == "numba", "sustained" in (row.get("duration") or "")


def _variant(row: dict[str, Any]) -> str | None:
    """What makes a row something other than its metric's headline, or None."""
    if "sms" in row:
        return f"restricted to {row['sms']} SMs"
    if row.get("data") == "zeros":
        return "zeros"
    if "sustained" in row.get("note", ""):
        return "sustained"
    if row.get("toolchain") not in (None, "cuda c++", "numba"):
        return str(row["toolchain"])
    return "TMA bulk loads" if "TMA" in row.get("note", "") else None


def main() -> None:
    """See the module's docstring."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m gpuassay.prototype FIGURES.json RECORD.jsonl")
    figures = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import_figures(figures, Path(sys.argv[2]), load("H100-SXM"))


if __name__ == "__main__":
    main()
