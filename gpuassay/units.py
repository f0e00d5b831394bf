"""SI inside, prefixes only when shown."""

from __future__ import annotations

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
PREFIXED = ("FLOP/s", "OP/s", "B/s", "Hz", "B")


def show(value: float, unit: str, digits: int = 4) -> str:
    """`value` (SI) with `digits` significant digits, prefixed where the unit takes one: 3.161 TB/s."""
    if unit in PREFIXED:
        rounded = abs(float(f"{value:.{digits - 1}e}"))  # 999.99 GB/s shows as 1.000 TB/s
        for factor, prefix in PREFIXES:
            if rounded >= factor:
                return f"{_significant(value / factor, digits)} {prefix}{unit}"
    text = f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else _significant(value, digits)
    return text if unit in ("", "1") else f"{text} {unit}"


def _significant(value: float, digits: int) -> str:
    """Fixed notation with `digits` significant digits."""
    if value == 0:
        return "0"
    from math import floor, log10

    return f"{value:.{max(0, digits - 1 - floor(log10(abs(value))))}f}"
