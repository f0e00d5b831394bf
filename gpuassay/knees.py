"""Where a level of the memory hierarchy ends: knees of a curve of cost over footprint.

The cost is seconds per load, or per byte. It is flat as long as a level holds the footprint, rises, and is flat again
at the next level's cost. Plateaus are found by change-point detection on the logarithms; between two of them the cost
says what share of the accesses the level missed, and that share says how large the level is:

- a cache that replaces the oldest line loses a cycle larger than itself at once: the rise is steep, and the size is
  where half is missed;
- one that replaces a random line keeps a part of it. Between two visits to a line m F lines are fetched into C places
  (F lines in the cycle, share m missed), and the line survives with probability exp(-m F / C) = 1 - m. Hence
  C = F m / -ln(1 - m): half is missed at 1.39 C, three quarters at 1.85 C.

Both are fitted to the points from one plateau to the next, and the one that fits better is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import segments

FLAT = np.log(1.08)  # neighbouring pieces of the curve that differ by less are one level
RISE = np.log(1.15)  # two levels differ by at least this
LEVEL_POINTS, LEVEL_OCTAVES = 3, 0.75  # what a level has at least: a slope cut in pieces is none
STEEPEST_LEVEL = 0.12  # rise of the logarithm per octave; a gradual end rises by 0.4
FEWEST_POINTS = 2 * LEVEL_POINTS + 2
SMALLEST_SIGMA = 0.003  # of a relative cost; a simulated curve may have no noise at all


@dataclass(frozen=True)
class Knee:
    """One level's end. Bytes; `before` and `after` are the costs of the levels on either side, in the curve's unit.

    The interval reaches half a step of the curve to either side at least, and where the rise is steep from a quarter
    missed to three quarters.
    """

    size_bytes: float
    lower_bytes: float
    upper_bytes: float
    before: float
    after: float
    replacement: Literal["steep", "gradual"]


def knees(footprints_bytes: Sequence[float], costs: Sequence[float]) -> list[Knee]:
    """All knees of a curve, smallest first; none where it has too few points or is flat."""
    return list(_knees(tuple(footprints_bytes), tuple(costs)))


@lru_cache(maxsize=16)  # the verdict and the audit ask for the same curves
def _knees(footprints_bytes: tuple[float, ...], costs: tuple[float, ...]) -> tuple[Knee, ...]:
    order = np.argsort(footprints_bytes, kind="stable")
    footprint, cost = np.asarray(footprints_bytes, float)[order], np.asarray(costs, float)[order]
    if len(cost) < FEWEST_POINTS:
        return ()
    levels = _levels(np.log2(footprint), np.log(cost))
    found = []
    for (start, stop), (following, end) in pairwise(levels):
        before, after = float(np.median(cost[start:stop])), float(np.median(cost[following:end]))
        if np.log(after / before) >= RISE:
            found.append(_knee(footprint[start:end], cost[start:end], before, after))
    return tuple(found)


def _levels(octave: NDArray[Any], logarithm: NDArray[Any]) -> list[tuple[int, int]]:
    """(first, end) of every plateau: pieces between change points (least squares), joined where they differ by less
    than FLAT; wide enough for a level, even, and no slope."""
    sigma = max(1.4826 * float(np.median(np.abs(np.diff(logarithm)))) / np.sqrt(2), SMALLEST_SIGMA)
    penalty = 4 * np.log(len(logarithm)) * sigma**2  # as sustained.settled_from
    pieces = _joined(logarithm, list(pairwise([0, *segments.ends(logarithm, penalty)])))
    level = [piece for piece in pieces if _is_level(octave, logarithm, *piece)]
    return _joined(logarithm, level)  # what a disturbed point has parted


def _joined(logarithm: NDArray[Any], pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined and abs(_middle(logarithm, *joined[-1]) - _middle(logarithm, start, end)) < FLAT:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _is_level(octave: NDArray[Any], logarithm: NDArray[Any], start: int, end: int) -> bool:
    if end - start < LEVEL_POINTS or octave[end - 1] - octave[start] < LEVEL_OCTAVES:
        return False
    slope = np.polyfit(octave[start:end], logarithm[start:end], 1)[0]
    return bool(_spread(logarithm, start, end) < 2 * FLAT and abs(slope) < STEEPEST_LEVEL)


def _middle(values: NDArray[Any], start: int, end: int) -> float:
    return float(np.median(values[start:end]))


def _spread(values: NDArray[Any], start: int, end: int) -> float:
    """The range of the middle nine tenths: one disturbed point makes no level uneven."""
    low, high = np.quantile(values[start:end], (0.05, 0.95))
    return float(high - low)


def _knee(footprint: NDArray[Any], cost: NDArray[Any], before: float, after: float) -> Knee:
    """Fits both replacements; the levels' costs are fitted too, from `before` and `after`."""
    above = int(np.clip(np.searchsorted(cost > (before + after) / 2, True), 1, len(cost) - 1))
    half = float(np.sqrt(footprint[above - 1] * footprint[above]))
    step = float(np.sqrt(footprint[above] / footprint[above - 1]))  # half a step, as a ratio
    start = [np.log(before), np.log(after), np.log(half)]
    steep, misfit = _fit(lambda p: _steep(footprint / np.exp(p[2]), np.exp(p[3])), [*start, np.log(16.0)], cost)
    gradual, other = _fit(lambda p: _gradual(footprint / np.exp(p[2])), [*start[:2], start[2] - np.log(1.39)], cost)
    best = gradual if other < misfit else steep
    levels, size = (float(np.exp(best[0])), float(np.exp(best[1]))), float(np.exp(best[2]))
    if best is gradual:
        return Knee(size, size / step, size * step, *levels, "gradual")
    width = max(step, 3 ** float(np.exp(-steep[3])))
    return Knee(size, size / width, size * width, *levels, "steep")


def _fit(share: Callable[[Any], Any], start: list[float], cost: NDArray[Any]) -> tuple[Any, float]:
    """(parameters, sum of squares and a penalty per parameter, in units of Akaike's criterion)."""
    from scipy.optimize import least_squares

    def residuals(p: Any) -> Any:
        before, after = np.exp(p[0]), np.exp(p[1])
        return np.log((before + (after - before) * share(p)) / cost)

    # A robust loss: a disturbed point shall not bend the curve.
    reach = [np.log(1.5), np.log(1.5), np.log(4.0), np.log(8.0)][: len(start)]  # of the start, either way
    bounds = np.subtract(start, reach), np.add(start, reach)
    fitted = least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.05, max_nfev=200)
    return fitted.x, len(cost) * float(np.log(2 * fitted.cost + 1e-12)) + 2 * len(start)


def _steep(ratio: NDArray[Any], power: float) -> NDArray[Any]:
    """Share missed at `ratio` = footprint / size: a half at 1, a quarter to three quarters over 3^(2 / power)."""
    from scipy.special import expit

    return np.asarray(expit(power * np.log(ratio)))


def _gradual(ratio: NDArray[Any]) -> NDArray[Any]:
    """The m that solves m x = -ln(1 - m), by Lambert's W: 1 + W0(-x exp(-x)) / x; nothing is missed up to x = 1."""
    from scipy.special import lambertw

    x = np.maximum(ratio, 1.0)
    # SciPy's W0 is nan as near to its branch point as that; there m is 2 (x - 1), but for the square of x - 1.
    near = x < 1 + 1e-6
    return np.asarray(np.where(near, 2 * (x - 1), 1 + lambertw(-x * np.exp(-x)).real / x))
