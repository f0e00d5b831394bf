"""The decision rule: JCGM 106:2012, binary with guard bands on both sides, and the probability of conformity.

Scalars or arrays alike. A ratio of 1 is the limit (a printed figure, or what the silicon does per clock and SM).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtr

from .uncertainty import CONFIDENCE, Term, combined, coverage_factor

BELOW, INCONCLUSIVE, CONFORMS, ABOVE = range(4)
WORDS = ("below", "inconclusive", "conforms", "above")


@dataclass(frozen=True)
class Rule:
    """`confidence`: coverage probability of U. `guard`: width of the guard bands as a multiple of U; 1 is ILAC-G8's
    w = U, 0 is simple acceptance (shared risk)."""

    confidence: float = CONFIDENCE
    guard: float = 1.0

    @property
    def text(self) -> str:
        """The rule in one sentence, with its risk."""
        return (
            f"U at {self.confidence:.4g} coverage; guard bands of {self.guard:g} U inside and outside the tolerance "
            f"interval (JCGM 106:2012, 8.3): a part exactly at its tolerance limit is failed, or passed, with "
            f"probability {self.risk_at_the_limit:.2g} at most"
        )

    @property
    def risk_at_the_limit(self) -> float:
        """Probability that a part exactly at a tolerance limit is found beyond it (or inside it), normal law."""
        return float(stdtr(1e9, -self.guard * coverage_factor(np.inf, self.confidence)))


def decide(ratio: Any, expanded_uncertainty: Any, lower: Any, upper: Any, guard: float = 1.0) -> Any:
    """BELOW, INCONCLUSIVE, CONFORMS or ABOVE for a measured `ratio` and the tolerance interval `lower`..`upper`."""
    band = guard * np.asarray(expanded_uncertainty, float)
    code = np.select(
        [(ratio >= lower + band) & (ratio <= upper - band), ratio < lower - band, ratio > upper + band],
        [CONFORMS, BELOW, ABOVE],
        INCONCLUSIVE,
    )
    return int(code) if code.ndim == 0 else code


def conformance_probability(ratio: Any, u: Any, degrees_of_freedom: Any, lower: Any, upper: Any) -> Any:
    """Probability that the true ratio lies in `lower`..`upper`, given the measurement alone (JCGM 106:2012, 7.3).

    One minus it is the specific risk of accepting the part.
    """
    freedom = np.minimum(degrees_of_freedom, 1e9)
    u = np.maximum(u, 1e-15)  # an exact measurement is a step
    inside = stdtr(freedom, (upper - ratio) / u) - stdtr(freedom, (lower - ratio) / u)
    return float(inside) if np.ndim(inside) == 0 else inside


@dataclass(frozen=True)
class Comparison:
    """A measured ratio held against a tolerance interval. Arrays where the measurement is one."""

    ratio: Any
    standard_uncertainty: Any
    degrees_of_freedom: Any
    expanded_uncertainty: Any
    lower: float
    upper: float
    code: Any
    budget: tuple[Term, ...] = ()

    @property
    def word(self) -> str:
        """The verdict of a single measurement."""
        return WORDS[int(self.code)]

    @property
    def conformance_probability(self) -> Any:
        """Probability that the true ratio is inside the tolerance interval; one minus it is the specific risk."""
        return conformance_probability(
            self.ratio, self.standard_uncertainty, self.degrees_of_freedom, self.lower, self.upper
        )

    def false_alarm_probability(self, guard: float) -> float:
        """Probability that a part exactly at the limit (ratio 1) is found below or above by such a measurement."""
        band = guard * self.expanded_uncertainty
        u, freedom = max(float(self.standard_uncertainty), 1e-15), min(float(self.degrees_of_freedom), 1e9)
        return float(stdtr(freedom, (self.lower - band - 1) / u) + stdtr(freedom, (1 - self.upper - band) / u))


def compare(
    ratio: Any, terms: Iterable[Term], limit_terms: Iterable[Term], lower: float, upper: float, rule: Rule
) -> Comparison:
    """`ratio` against the tolerance interval `lower`..`upper`, by `rule`.

    `terms` (relative) are of what was measured and scale with the ratio; `limit_terms` are of what it is held against
    (attainment, the sheet's rounding) and scale with the limit, which is 1: a figure printed as "1" may mean 0.5.
    """
    terms, limit_terms = tuple(terms), tuple(limit_terms)
    scaled = [replace(term, relative=term.relative * ratio) for term in terms]
    u, freedom = combined([*scaled, *limit_terms])
    u = u + 0 * ratio  # an array where the ratio is one
    expanded = coverage_factor(freedom, rule.confidence) * u
    budget = terms + limit_terms
    code = decide(ratio, expanded, lower, upper, rule.guard)
    return Comparison(ratio, u, freedom, expanded, lower, upper, code, budget)
