"""How quantities are shown and read: prefixes and significant digits. Inside, everything is SI."""

from __future__ import annotations

import math
import re

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
PREFIXED = ("FLOP/s", "OP/s", "B/s", "Hz", "B", "FLOP/J", "OP/J")
PARTS = ((1e-3, "m"), (1e-6, "u"), (1e-9, "n"))


def show(value: float, unit: str, digits: int = 4) -> str:
    """`value` (SI) with `digits` significant digits, prefixed where the unit takes one: 3.161 TB/s."""
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    factor, prefixed = scale(float(f"{value:.{digits - 1}e}"), unit)  # 999.99 GB/s shows as 1.000 TB/s
    if factor > 1:
        return f"{_significant(value / factor, digits)} {prefixed}"
    if unit == "s" and 0 < value < 1:
        factor, prefix = next(((f, p) for f, p in PARTS if value >= f), PARTS[-1])
        return f"{_significant(value / factor, digits)} {prefix}s"
    text = f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else _significant(value, digits)
    return text if unit in ("", "1") else f"{text} {unit}"


def scale(value: float, unit: str) -> tuple[float, str]:
    """(factor, unit with its prefix) in which a number of this size is read: 3e12 B/s -> (1e12, "TB/s")."""
    if unit in PREFIXED:
        for factor, prefix in PREFIXES:
            if abs(value) >= factor:
                return factor, f"{prefix}{unit}"
    return 1.0, unit


def _significant(value: float, digits: int) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, digits - whole)}f}" if abs(value) >= 1 else f"{value:.{digits}g}"


# -- reading -------------------------------------------------------------------------------------------------

_FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_FACTORS |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTP", 1)} | {"ki": 1024.0}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
# Written forms of one base unit; FLOP and OP count the same thing and are told apart by the data type.
_BASES = {
    r"(FLOP/s|FLOPS|FLOPs/s|flops|OP/s|OPS|OPs/s)": "FLOP/s",
    r"(B/s|Bps|B/sec|bytes/s|bps_bytes)": "B/s",
    r"(B|bytes?)": "B",
    r"(Hz)": "Hz",
    r"(FLOP/J|OP/J|FLOPS/W|OPS/W|FLOP/s/W|OP/s/W)": "FLOP/J",
}
_COUNTS = ("1", "", "count", "SM", "SMs")
PER_CLOCK = "FLOP/clk/SM"
_PATTERN = re.compile("|".join(f"(?P<p{i}>[kKMGTP]?i?)(?P<b{i}>{base})$" for i, base in enumerate(_BASES)))


def parse(text: str) -> tuple[float, str] | None:
    """(factor to SI, base unit) of a unit as people write it, or None: "TFLOPS" -> (1e12, "FLOP/s").

    Base units: FLOP/s (OP/s too), B/s, B, Hz, s, FLOP/J, FLOP/clk/SM and 1.
    """
    text = text.strip()
    if text in _COUNTS:
        return 1.0, "1"
    if text in _SECONDS:
        return _SECONDS[text], "s"
    if text in ("FLOP/clk/SM", "OP/clk/SM", "FLOPS/clk/SM", "OPS/clk/SM"):
        return 1.0, PER_CLOCK
    match = _PATTERN.match(text)
    if match is None:
        return None
    for place, base in enumerate(_BASES.values()):
        if match[f"b{place}"]:
            factor = _FACTORS.get(match[f"p{place}"])
            return None if factor is None else (factor, base)
    return None
