"""Uncertainty of measurement by the GUM (JCGM 100:2008): terms, their combination, and the dispersion of a median.

Everything takes scalars or arrays alike: one run, or ten thousand simulated ones (`gpuassay selftest`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit  # scipy.stats has the same and takes 1.5 s to import

CONFIDENCE = 0.9545  # coverage probability of k = 2 for a normal distribution (GUM 6.3.3, G.1.2 table G.1)

# Coverage probability that a median's order-statistic interval is sought for. Any would do: the standard
# uncertainty derived from it is the same to first order.
_INTERVAL = 0.95


@dataclass(frozen=True)
class Term:
    """One line of an uncertainty budget. `relative` is a relative standard uncertainty (1 = 100 %)."""

    name: str
    relative: Any
    evaluation: Literal["A", "B"]
    distribution: str
    source: str
    degrees_of_freedom: Any = float("inf")


@dataclass(frozen=True)
class Measured:
    """One metric's measured values, before any sheet is looked at. None where not known.

    `rate` is absolute (SI, in the metric's unit); `per_clock` is work per clock and SM. Each has its own budget:
    `terms` for `rate`, `clock_terms` for `per_clock`. Numbers, or arrays of one number per simulated run.
    """

    rate: Any
    per_clock: Any = None
    sm_count: int | None = None
    sm_clock_hz: float | None = None
    nominal_bytes_per_s: float | None = None  # two transfers per claimed memory clock x claimed bus width
    terms: tuple[Term, ...] = ()
    clock_terms: tuple[Term, ...] = ()
    rounds: int = 0
    dispersion_known: bool = False
    bounds_from_below: bool = False  # a library's figure: the part can do this much, and maybe more
    causes: dict[str, float] = field(default_factory=dict)  # clock-event reasons, share of the samples
    conditions: str = ""  # what an importer knows of how the figure came about


def rectangular(name: str, half_width: Any, source: str) -> Term:
    """GUM 4.3.7: the standard uncertainty of a rectangular distribution is its half-width over sqrt(3)."""
    return Term(name, half_width / np.sqrt(3), "B", "rectangular", source)


def combined(terms: Iterable[Term]) -> tuple[Any, Any]:
    """Relative combined standard uncertainty of uncorrelated factors, and its effective degrees of freedom.

    GUM 5.1.6 equation 12, and G.4.1 equation G.2b (Welch-Satterthwaite).
    """
    listed = list(terms)
    variance = sum((np.asarray(term.relative, float) ** 2 for term in listed), np.zeros(()))
    spent = sum(
        (
            np.asarray(term.relative, float) ** 4 / np.asarray(term.degrees_of_freedom, float)
            for term in listed
            if np.any(np.isfinite(term.degrees_of_freedom))
        ),
        np.zeros(()),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(spent > 0, variance**2 / spent, np.inf)
    return _plain(np.sqrt(variance)), _plain(freedom)


def coverage_factor(degrees_of_freedom: Any, confidence: float = CONFIDENCE) -> Any:
    """k of the expanded uncertainty U = k u, from Student's t (GUM G.3.2); 2 for infinite degrees of freedom."""
    # stdtrit takes no infinity; at 1e9 degrees t and normal agree to nine digits.
    return _plain(stdtrit(np.minimum(degrees_of_freedom, 1e9), (1 + confidence) / 2))


def dispersion(values: Any) -> Term:
    """Type A: the relative standard uncertainty of the median of the last axis, (..., n) -> (...).

    Distribution-free for n >= 6: the order-statistic interval, interpolated to 95 % (Hettmansperger and Sheather,
    Statistics & Probability Letters 4, 1986, 75-79), over Student's t of n - 1 degrees. For 2 <= n < 6 no such
    interval exists: the standard deviation over sqrt(n) times sqrt(pi/2), the efficiency of a normal sample's median.
    Rounds are not independent: where their lag-1 autocorrelation shows, n counts as n (1 - r) / (1 + r)
    (the AR(1) effective sample size). For n = 1 nothing is known: 0, with 0 degrees of freedom; say so.
    """
    values = np.asarray(values, float)
    n = values.shape[-1]
    centre = np.abs(np.median(values, axis=-1))
    if n < 2:
        return Term("dispersion of the median", centre * 0, "A", "one value: not estimated", "1 round", 0.0)
    if n < 6:
        half = np.std(values, axis=-1, ddof=1) * np.sqrt(np.pi / 2 / n)
        kind = "normal"
    else:
        half = _half_interval(values) / ndtri((1 + _INTERVAL) / 2)
        kind = "order statistics"
    stretch = np.sqrt(1 / _independent_share(values))
    return Term("dispersion of the median", _plain(half * stretch / centre), "A", kind, f"{n} rounds", float(n - 1))


def drift(values: Any) -> Term:
    """Type B: what the median of the last third of the rounds differs from that of the first third by, beyond three
    standard uncertainties of that difference; half of it is the half-width. Warm-up state and temperature show here.
    """
    values = np.asarray(values, float)
    n = values.shape[-1]
    third = n // 3
    centre = np.abs(np.median(values, axis=-1))
    if third < 3:
        return rectangular("drift (warm-up, temperature)", centre * 0, f"{n} rounds are too few to show one")
    first, last = np.median(values[..., :third], axis=-1), np.median(values[..., -third:], axis=-1)
    # From successive differences: what drifts between the thirds must not count as noise (von Neumann 1941).
    sigma = 1.4826 * np.median(np.abs(np.diff(values, axis=-1)), axis=-1) / np.sqrt(2)
    noise = sigma * np.sqrt(np.pi / 2 * 2 / third)
    beyond = np.maximum(0.0, np.abs(last - first) - 3 * noise)
    return rectangular("drift (warm-up, temperature)", _plain(beyond / 2 / centre), "last third less first third")


def _half_interval(values: Any) -> Any:
    """Half the interpolated order-statistic interval of the median, n >= 6."""
    n = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    # The interval from the r-th smallest to the r-th largest covers with 1 - 2 P(B < r), B binomial(n, 1/2).
    covers = 1 - 2 * bdtr(np.arange(n // 2), n, 0.5)  # r = 1, 2, ...
    r = int(np.sum(covers >= _INTERVAL))  # the shortest that still covers
    wide = (ordered[..., n - r] - ordered[..., r - 1]) / 2
    if r >= n // 2:
        return wide
    narrow = (ordered[..., n - r - 1] - ordered[..., r]) / 2
    share = (covers[r - 1] - _INTERVAL) / (covers[r - 1] - covers[r])
    weight = (n - r) * share / (r + (n - 2 * r) * share)
    return (1 - weight) * wide + weight * narrow


def _independent_share(values: Any) -> Any:
    """(1 - r) / (1 + r) where the lag-1 autocorrelation r exceeds its standard error 1 / sqrt(n), else 1.

    Outliers are clipped to 3 robust standard deviations first: one slow round must not hide the drift of the others.
    """
    n = values.shape[-1]
    if n < 6:
        return 1.0
    deviation = values - np.median(values, axis=-1, keepdims=True)
    limit = 3 * 1.4826 * np.median(np.abs(deviation), axis=-1, keepdims=True)
    deviation = np.clip(deviation, -limit, limit)
    deviation = deviation - np.mean(deviation, axis=-1, keepdims=True)
    power = np.sum(deviation**2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(power > 0, np.sum(deviation[..., 1:] * deviation[..., :-1], axis=-1) / power, 0.0)
    significant = r > 1 / np.sqrt(n)
    r = np.minimum(r + (1 + 4 * r) / n, 0.95)  # Marriott and Pope 1954: the estimate is low by (1 + 4 r) / n
    return np.where(significant, (1 - r) / (1 + r), 1.0)


def _plain(value: Any) -> Any:
    """A zero-dimensional array as a Python float."""
    return float(value) if np.ndim(value) == 0 else value
