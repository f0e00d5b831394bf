"""Uncertainty and decision on their own: coverage, propagation against Monte Carlo, and the rule's properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.decision import (
    ABOVE,
    BELOW,
    CONFORMS,
    INCONCLUSIVE,
    Rule,
    compare,
    conformance_probability,
    decide,
)
from gpuassay.uncertainty import Term, combined, coverage_factor, dispersion, drift, rectangular

fractions = st.floats(0, 0.5)


# -- the decision rule -------------------------------------------------------------------------------------


@given(st.floats(0, 3), fractions, fractions)
def test_no_wider_uncertainty_turns_a_verdict_round(ratio: float, uncertainty: float, tolerance: float) -> None:
    sharp, blunt = (decide(ratio, u, 1 - tolerance, 1 + tolerance) for u in (0.0, uncertainty))
    assert blunt in (sharp, INCONCLUSIVE)
    assert sharp != INCONCLUSIVE


@given(st.floats(0, 3), st.floats(0, 3), fractions, fractions)
def test_more_is_never_judged_as_less(first: float, second: float, uncertainty: float, tolerance: float) -> None:
    rank = {BELOW: 0, INCONCLUSIVE: 1, CONFORMS: 1, ABOVE: 2}
    low, high = (decide(r, uncertainty, 1 - tolerance, 1 + tolerance) for r in sorted((first, second)))
    assert rank[low] <= rank[high]


@given(st.floats(0.5, 1.5), st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0, 3), st.floats(0, 3))
def test_no_wider_guard_band_decides_more(
    ratio: float, uncertainty: float, tolerance: float, guard: float, more: float
) -> None:
    narrow, wide = (decide(ratio, uncertainty, 1 - tolerance, 1 + tolerance, g) for g in (guard, guard + more))
    assert wide in (narrow, INCONCLUSIVE)


@pytest.mark.parametrize(
    ("ratio", "uncertainty", "code"),
    [
        (1.0, 0.01, CONFORMS),
        (0.991, 0.01, INCONCLUSIVE),
        (0.98, 0.01, INCONCLUSIVE),
        (0.97, 0.01, BELOW),
        (1.04, 0.01, ABOVE),
        (1.0, 0.02, INCONCLUSIVE),
    ],
)
def test_guard_bands_at_a_tolerance_of_15_permille(ratio: float, uncertainty: float, code: int) -> None:
    assert decide(ratio, uncertainty, 0.985, 1.015) == code


def test_probability_of_conformity_as_jcgm_106_computes_it() -> None:
    # JCGM 106:2012, 7.4, example 2 in its symmetric form: a measured value at the limit conforms with one half.
    assert conformance_probability(0.985, 0.002, math.inf, 0.985, 1.015) == pytest.approx(0.5, abs=1e-9)
    assert conformance_probability(1.0, 0.015 / 2, math.inf, 0.985, 1.015) == pytest.approx(0.9545, abs=1e-4)
    assert conformance_probability(1.0, 0.0, math.inf, 0.985, 1.015) == 1.0


def test_the_stated_risk_is_the_simulated_one() -> None:
    """A part exactly at the lower limit is found below as often as the rule says."""
    rule = Rule(confidence=0.9545, guard=1.0)
    draws = np.random.default_rng(5).normal(0.985, 0.002, 200_000)
    found = compare(draws, [Term("u", 0.002 / draws, "B", "normal", "")], [], 0.985, 1.015, rule)
    assert np.mean(found.code == BELOW) == pytest.approx(rule.risk_at_the_limit, abs=0.002)
    assert rule.risk_at_the_limit == pytest.approx(0.02275, abs=1e-4)


# -- uncertainty -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [6, 10, 20, 60])
@pytest.mark.parametrize("law", ["normal", "exponential", "student"])
def test_the_median_lies_in_its_interval_as_often_as_stated(rounds: int, law: str) -> None:
    rng = np.random.default_rng(1)
    draw = {
        "normal": lambda size: rng.normal(0, 1, size),
        "exponential": lambda size: rng.exponential(1, size) - math.log(2),
        "student": lambda size: rng.standard_t(2, size),
    }[law]
    values = 1000 + draw((10_000, rounds))
    term = dispersion(values)
    median = np.median(values, axis=-1)
    expanded = coverage_factor(term.degrees_of_freedom) * term.relative * median
    covered = np.mean(np.abs(median - 1000) <= expanded)
    assert (0.93 if rounds < 60 else 0.94) <= covered <= (0.97 if rounds > 6 and law != "student" else 0.995)


def test_rounds_that_follow_each_other_count_for_less() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1, (4000, 40))
    walk = noise.copy()
    for place in range(1, 40):
        walk[:, place] = 0.6 * walk[:, place - 1] + 0.8 * noise[:, place]
    values = 1000 + walk
    term = dispersion(values)
    median = np.median(values, axis=-1)
    covered = np.mean(np.abs(median - 1000) <= coverage_factor(term.degrees_of_freedom) * term.relative * median)
    assert covered > 0.92


def test_one_value_has_no_dispersion() -> None:
    term = dispersion([5.0])
    assert (term.relative, term.degrees_of_freedom) == (0.0, 0.0)
    assert "not estimated" in term.distribution


def test_a_warming_part_shows_as_drift_and_noise_does_not() -> None:
    rng = np.random.default_rng(3)
    noise = 1 + rng.normal(0, 1e-4, (1000, 30))
    assert np.mean(drift(noise).relative == 0) > 0.95
    assert np.all(drift(noise * np.linspace(1, 0.99, 30)).relative > 1e-3)


@given(st.lists(st.floats(1e-5, 0.02), min_size=1, max_size=6))
def test_the_law_of_propagation_agrees_with_monte_carlo(relatives: list[float]) -> None:
    """JCGM 101:2008, 8: the product of normal and rectangular factors, 100,000 draws."""
    rng = np.random.default_rng(4)
    product, terms = np.ones(100_000), []
    for place, relative in enumerate(relatives):
        if place % 2:
            half = relative * math.sqrt(3)
            product *= 1 + rng.uniform(-half, half, product.size)
            terms.append(rectangular("r", half, ""))
        else:
            product *= 1 + rng.normal(0, relative, product.size)
            terms.append(Term("n", relative, "B", "normal", ""))
    u, freedom = combined(terms)
    assert u == pytest.approx(float(np.std(product)), rel=0.02)
    assert freedom == math.inf


def test_effective_degrees_of_freedom_of_the_gums_own_example() -> None:
    """GUM H.1.6: the end gauge's terms 25, 9.7, 2.9, 16.6 nm with 18, 25.6, 50, 2 degrees give 32 nm, 16."""
    terms = [
        Term("d", relative, "A", "normal", "", freedom)
        for relative, freedom in ((25, 18), (9.7, 25.6), (2.9, 50), (16.6, 2))
    ]
    u, freedom = combined(terms)
    assert u == pytest.approx(31.7, abs=0.1)
    assert freedom == pytest.approx(16.7, abs=1)
    assert coverage_factor(16, 0.99) == pytest.approx(2.92, abs=0.01)


def test_k_is_2_where_nothing_limits_the_degrees_of_freedom() -> None:
    assert coverage_factor(math.inf) == pytest.approx(2.0, abs=1e-3)
