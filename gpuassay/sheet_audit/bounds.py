"""A figure with the bounds that its source leaves it: the arithmetic on sheets, carried through without statistics.

A printed figure lies anywhere within its rounding, so its bounds are limits, not standard uncertainties: they add up
linearly and never shrink. A missing part of a sum or a maximum leaves the upper bound open (infinite).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ..sheets import Quantity


class Bounds(NamedTuple):
    """`value` between `low` and `high`, SI. `high` is infinite where something that would add to it is not known."""

    value: float
    low: float
    high: float

    def __truediv__(self, other: Bounds) -> Bounds:
        """The quotient of two positive figures."""
        return Bounds(self.value / other.value, self.low / other.high, self.high / other.low)

    def scaled(self, factor: float) -> Bounds:
        """Times an exact positive factor."""
        return Bounds(self.value * factor, self.low * factor, self.high * factor)

    def overlaps(self, other: Bounds) -> bool:
        """Whether one true value can lie behind both."""
        return self.low <= other.high and other.low <= self.high

    def widened(self, relative: float) -> Bounds:
        """Both bounds moved outwards by `relative` of themselves."""
        return Bounds(self.value, self.low * (1 - relative), self.high * (1 + relative))


def exact(value: float) -> Bounds:
    """A figure without rounding, such as a count."""
    return Bounds(value, value, value)


def printed(quantity: Quantity) -> Bounds:
    """A sheet's figure within half a unit of its last printed digit (sheets.Quantity.rounding_half_width_si)."""
    half = quantity.rounding_half_width_si
    return Bounds(quantity.si, quantity.si - half, quantity.si + half)


def highest(figures: Iterable[Bounds]) -> Bounds:
    """The maximum of several figures: its bounds are the maxima of theirs. Raises ValueError for none."""
    rows = list(figures)
    if not rows:
        raise ValueError("the maximum of no figures")
    return Bounds(max(f.value for f in rows), max(f.low for f in rows), max(f.high for f in rows))


def open_above(figure: Bounds) -> Bounds:
    """The same figure where something unknown may add to it."""
    return Bounds(figure.value, figure.low, math.inf)
