"""The numerical fingerprint of tensor cores: exact models of how each generation adds, and vectors for telling.

A tensor core multiplies exactly, then adds a group of products and the accumulator at once: every term is aligned to
the group's largest exponent and loses what lies under so many fraction bits; the exact sum of what is left is rounded
to FP32. Group, fraction bits and rounding differ between generations; they are published, from measurements, in
arXiv 2512.07004 (and FTTN, arXiv 2403.00232, for V100 to H100). The fingerprint names an architecture family whatever
the label says; it does not name a product, and it authenticates nothing.

All values here are positive, so that how an implementation truncates negative terms plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

from . import Row, Word

FP32_FRACTION_BITS = 23
# Exponents of powers of two that a format holds, and its products of one MMA along k.
EXPONENTS = {"fp16": (-24, 15), "bf16": (-126, 127), "fp8_e4m3": (-9, 8)}
LENGTH = {"fp16": 16, "bf16": 16, "fp8_e4m3": 32}


@dataclass(frozen=True)
class Arithmetic:
    """How one format is added: products per group, fraction bits kept of each aligned term, rounding to FP32."""

    group: int
    fraction_bits: int
    rounding: Literal["RZ", "RNE"] = "RZ"


def _family(group: int, extra: int, fp8: tuple[int, int] | None = None) -> dict[str, Arithmetic]:
    """Extra bits as the publication counts them: beyond the 23 of FP32, negative where there are fewer."""
    half = Arithmetic(group, FP32_FRACTION_BITS + extra)
    found = {"fp16": half, "bf16": half}
    return found if fp8 is None else found | {"fp8_e4m3": Arithmetic(fp8[0], FP32_FRACTION_BITS + fp8[1])}


FAMILIES: dict[str, dict[str, Arithmetic]] = {
    "V100": {"fp16": Arithmetic(4, FP32_FRACTION_BITS)},
    "A100": _family(8, 1),
    "L40S": _family(8, 1, (16, -10)),
    "H100": _family(16, 2, (32, -10)),
    "B200": _family(16, 2, (32, 2)),
}
"""By a part that the publication measured; H200 is as H100."""
EXPECTED = {"7.0": "V100", "8.0": "A100", "8.9": "L40S", "9.0": "H100", "10.0": "B200"}
"""By compute capability; others have no published model."""


@dataclass(frozen=True)
class Vector:
    """Factors along k and an accumulator; all powers of two, except the accumulator, and exact in their format."""

    name: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float


def dot(arithmetic: Arithmetic, a: Sequence[float], b: Sequence[float], c: float) -> float:
    """What `arithmetic` gives for sum(a * b) + c, exactly; the result is an FP32 number."""
    total = Fraction(c)
    for start in range(0, len(a), arithmetic.group):
        stop = start + arithmetic.group
        terms = [
            (Fraction(x) * Fraction(y), _exponent(x) + _exponent(y))
            for x, y in zip(a[start:stop], b[start:stop], strict=True)
            if x and y
        ]
        if total:
            terms.append((total, _exponent(total)))
        if not terms:
            continue
        unit = Fraction(2) ** (max(exponent for _, exponent in terms) - arithmetic.fraction_bits)
        total = _fp32(sum(int(value / unit) for value, _ in terms) * unit, arithmetic.rounding)
    return float(total)


def _exponent(value: float | Fraction) -> int:
    """floor(log2 |value|), exactly. A product's exponent is the sum of its factors': it is not normalised."""
    fraction = abs(Fraction(value))
    exponent = fraction.numerator.bit_length() - fraction.denominator.bit_length()
    return exponent if fraction >= Fraction(2) ** exponent else exponent - 1


def _fp32(value: Fraction, rounding: str) -> Fraction:
    unit = Fraction(2) ** (_exponent(value) - FP32_FRACTION_BITS) if value else Fraction(1)
    return (int(value / unit) if rounding == "RZ" else round(value / unit)) * unit


# -- vectors --------------------------------------------------------------------------------------------------


def vectors(dtype: str) -> list[Vector]:
    """The vectors of one format."""
    length = LENGTH[dtype]
    low, high = EXPONENTS[dtype]
    top = min(2 * high, 0 if dtype != "fp8_e4m3" else 16)
    found = []
    for under in (12, 13, 14, 15, 22, 23, 24, 25, 26, 27):
        small = top - under
        if small < 2 * low:
            continue
        for place in (0, length // 2, length - 1):
            exponents = [small] * length
            exponents[place] = top
            found.append(_of_exponents(f"2^{top} at {place}, 2^-{under} of it elsewhere", exponents, 0.0, low, high))
        found.append(_of_exponents(f"c = 2^{top}, 2^-{under} of it", [small] * length, 2.0**top, low, high))
    # A carry out of the largest exponent shows the rounding where no bit is kept beyond FP32's.
    odd = 2.0**top * (1 + 3 * 2.0**-23)
    found.append(_of_exponents("carry", [top] + [None] * (length - 1), odd, low, high))
    return found


def _of_exponents(name: str, exponents: Sequence[int | None], c: float, low: int, high: int) -> Vector:
    """2^exponent as a product of two factors that the format holds; None is zero."""
    a, b = [], []
    for exponent in exponents:
        if exponent is None:
            a.append(0.0)
            b.append(0.0)
            continue
        first = min(max(exponent // 2, low), high)
        a.append(2.0**first)
        b.append(2.0 ** (exponent - first))
    return Vector(name, tuple(a), tuple(b), c)


def predicted(model: Mapping[str, Arithmetic]) -> dict[str, list[float]]:
    """What a family gives for every vector, by format."""
    return {dtype: list(_sums(dtype, arithmetic)) for dtype, arithmetic in sorted(model.items())}


@cache
def _sums(dtype: str, arithmetic: Arithmetic) -> tuple[float, ...]:
    return tuple(dot(arithmetic, v.a, v.b, v.c) for v in vectors(dtype))


# -- what was observed ----------------------------------------------------------------------------------------


def classify(observed: Mapping[str, Sequence[float]]) -> list[str]:
    """The families that give exactly what was observed, in every format observed that the family has; a family without
    an observed format does not fit. Empty: none of the known ones."""
    found = []
    for name, model in FAMILIES.items():
        expected = predicted(model)
        if observed and all(
            dtype in expected and list(values) == expected[dtype] for dtype, values in observed.items()
        ):
            found.append(name)
    return found


def row(observed: Mapping[str, Sequence[float]], compute_capability: str, paths: Mapping[str, str]) -> Row:
    """The audit's row; `paths` says by which instruction each format was run."""
    expected, fitting = EXPECTED.get(compute_capability), classify(observed)
    word: Word = "not observable"
    if expected is not None:
        word = "consistent" if expected in fitting else "inconsistent"
    text = "MMAs on own vectors against exact models of each generation; another family's sums mean another die family"
    text += "." if expected else f"; none is published for compute capability {compute_capability}."
    details = {"observed": {k: list(v) for k, v in observed.items()}, "fits": fitting, "paths": dict(paths)}
    return Row("tensor arithmetic", word, text, expected, " or ".join(fitting) or "no known family", details=details)
