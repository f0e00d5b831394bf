"""Fake parts through the whole way, judged; and the decision rule and the uncertainty of a median on their own."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import H20
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpuassay import report
from gpuassay.cli import exit_code
from gpuassay.measured import median_uncertainty
from gpuassay.verdict import Judgement, Verdict, decide

Judged = Callable[..., Judgement]
fractions = st.floats(0, 0.5)


def of(judgement: Judgement, metric: str) -> Verdict:
    """The verdict on one metric."""
    return next(v for v in judgement.verdicts if v.metric == metric)


def printed(judgement: Judgement) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(report.judgement(judgement))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def codes(judgement: Judgement) -> set[str]:
    """Codes of all findings."""
    return {finding.code for finding in judgement.findings}


# -- the decision rule -------------------------------------------------------------------------------------


@given(st.floats(0, 3), fractions, fractions)
def test_no_wider_uncertainty_turns_a_verdict_round(ratio: float, uncertainty: float, tolerance: float) -> None:
    sharp, blunt = decide(ratio, 0.0, tolerance), decide(ratio, uncertainty, tolerance)
    assert blunt in (sharp, "inconclusive")
    assert sharp != "inconclusive"


@given(st.floats(0, 3), st.floats(0, 3), fractions, fractions)
def test_more_is_never_judged_as_less(first: float, second: float, uncertainty: float, tolerance: float) -> None:
    rank = {"below": 0, "inconclusive": 1, "conforms": 1, "above": 2}
    low, high = sorted((first, second))
    assert rank[decide(low, uncertainty, tolerance)] <= rank[decide(high, uncertainty, tolerance)]


@pytest.mark.parametrize(
    ("ratio", "uncertainty", "word"),
    [
        (1.0, 0.01, "conforms"),
        (0.991, 0.01, "inconclusive"),
        (0.98, 0.01, "inconclusive"),
        (0.97, 0.01, "below"),
        (1.04, 0.01, "above"),
        (1.0, 0.02, "inconclusive"),
    ],
)
def test_guard_bands_at_a_tolerance_of_15_permille(ratio: float, uncertainty: float, word: str) -> None:
    assert decide(ratio, uncertainty, 0.015) == word


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_t"])
def test_the_median_lies_in_its_interval_as_often_as_stated(draw: str) -> None:
    """k = 2 on a symmetric reading of the 95 % order-statistic interval; 2000 samples of 25 rounds."""
    rng = np.random.default_rng(1)
    draws = {
        "normal": (lambda: rng.normal(size=25), 0.0),
        "exponential": (lambda: rng.exponential(size=25), math.log(2)),
        "standard_t": (lambda: rng.standard_t(2, size=25), 0.0),
    }
    sample, truth = draws[draw]
    hits = sum(abs(np.median(x) - truth) <= 2 * median_uncertainty(x) for x in (sample() for _ in range(2000)))
    assert 0.92 <= hits / 2000 <= 0.99


def test_one_value_has_no_dispersion_and_few_have_their_range() -> None:
    assert median_uncertainty([5.0]) == 0.0
    assert median_uncertainty([4.0, 6.0]) == 1.0
    assert median_uncertainty([2.0 * x for x in (1.0, 3.0, 9.0)]) == 2 * median_uncertainty([1.0, 3.0, 9.0])


# -- parts -------------------------------------------------------------------------------------------------


def test_a_genuine_h100_conforms_and_names_why_it_delivers_less(judged: Judged) -> None:
    judgement = judged()
    assert judgement.sheet.name == "H100-SXM"
    assert judgement.overall == "conforms"
    bf16 = of(judgement, "tensor.bf16")
    assert (bf16.verdict, bf16.delivered_verdict) == ("conforms", "below")
    assert "cause: clock x 0.959" in bf16.reason
    assert "SwPowerCap" in bf16.reason
    assert exit_code(judgement, "capability") == 0
    assert exit_code(judgement, "delivered") == 1


def test_a_genuine_h20_conforms_above_its_printed_figure(judged: Judged) -> None:
    judgement = judged(**H20)
    assert judgement.sheet.name == "H20"
    assert judgement.overall == "conforms"
    bf16 = of(judgement, "tensor.bf16")
    assert (bf16.verdict, bf16.delivered_verdict) == ("conforms", "above")
    assert bf16.attribution["clock"] == pytest.approx(1.98 / 1.853, rel=1e-3)
    fp32 = of(judgement, "vector.fp32")
    assert (fp32.verdict, fp32.delivered_verdict) == ("conforms", "unattainable sheet")
    assert "at most 39.54 TFLOP/s" in fp32.reason


def test_an_h100_is_no_h20(judged: Judged) -> None:
    judgement = judged("H20")
    assert of(judgement, "tensor.bf16").verdict == "above"
    assert of(judgement, "tensor.bf16").share_of_limit == pytest.approx(4 * 0.998, rel=1e-3)
    assert of(judgement, "count.sm").verdict == "above"
    assert "this is no H20" in " ".join(f.text for f in judgement.findings)
    assert exit_code(judgement, "capability") == 1


@pytest.mark.parametrize(
    ("change", "metric", "word"),
    [
        ({"tensor.bf16": 1024 * 0.998 * 0.97}, "tensor.bf16", "below"),
        ({"tensor.bf16": 4096 * 0.998}, "tensor.bf16", "above"),
        ({"vector.fp32": 256 * 0.993 * 0.97}, "vector.fp32", "below"),
        ({"memory.read": 0.943 * 0.92}, "memory.read", "below"),
    ],
)
def test_faults_are_found(judged: Judged, change: dict[str, float], metric: str, word: str) -> None:
    judgement = judged(**H20 | {"rates": H20["rates"] | change})  # type: ignore[operator]
    assert of(judgement, metric).verdict == word
    assert judgement.overall == "does not conform"


def test_one_missing_sm_is_found(judged: Judged) -> None:
    judgement = judged("H20", **H20 | {"sm_count": 77})
    assert of(judgement, "count.sm").verdict == "below"
    assert judgement.overall == "does not conform"


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ({"event_error": 0.05}, "clocks-disagree"),
        ({"other_processes": 1}, "other-process"),
    ],
)
def test_a_disturbed_measurement_decides_nothing(judged: Judged, model: dict[str, Any], code: str) -> None:
    judgement = judged(**model)
    assert code in codes(judgement)
    assert of(judgement, "tensor.bf16").verdict == "inconclusive"
    assert exit_code(judgement, "capability") == 3


def test_toolchains_that_disagree_decide_nothing(judged: Judged) -> None:
    judgement = judged(profile="standard", numba=0.97)
    assert "toolchains-disagree" in codes(judgement)
    assert of(judgement, "vector.fp32").verdict == "inconclusive"
    assert of(judgement, "tensor.bf16").verdict == "conforms"


def test_paths_and_shapes_are_told_as_shares_of_the_headline(judged: Judged) -> None:
    """Neither is judged; the ratio of the warp-level path and the curve over shapes are what they are measured for."""
    judgement = judged(profile="standard", numba=0.97)
    warp_level = of(judgement, "mma_sync.bf16")
    assert warp_level.share_of_other == pytest.approx(0.667 / 0.998, rel=2e-3)
    assert warp_level.reason.startswith("66.8% of tensor.bf16 per clock and SM")
    assert warp_level.verdict == "not published"
    narrow = of(judgement, "tensor.bf16.n8")
    assert narrow.share_of_other == pytest.approx(0.125 / 0.998, rel=2e-3)
    assert of(judgement, "tensor.bf16").share_of_other is None
    text = printed(judgement)
    assert "A in shared memory" in text
    assert "n = 128" in text
    assert "tensor.bf16.n8" not in text, "points of a curve have a table of their own"


def test_a_figure_without_attainment_is_shown_and_not_judged(judged: Judged) -> None:
    e5m2 = of(judged(profile="standard", numba=0.97), "tensor.fp8_e5m2")
    assert (e5m2.verdict, e5m2.published) == ("not published", 1978.9e12)
    assert "known-good part" in e5m2.reason


def test_a_misstated_clock_is_a_finding_and_changes_no_verdict(judged: Judged) -> None:
    judgement = judged(nvml_sm_clock_hz=1.755e9 * 1.03)
    assert "clock-claim" in codes(judgement)
    assert of(judgement, "tensor.bf16").verdict == "conforms"


def test_a_wrong_result_has_no_rate(judged: Judged) -> None:
    judgement = judged(fail_check="tensor.bf16")
    bf16 = of(judgement, "tensor.bf16")
    assert (bf16.verdict, bf16.measured) == ("not measured", None)
    assert "3.7 times the bound at element 5,7" in bf16.reason
    assert judgement.overall == "inconclusive"


def test_factors_multiply_to_the_share_of_the_sheet(judged: Judged) -> None:
    for verdict in judged().verdicts:
        if verdict.attribution and verdict.share_of_published is not None:
            assert math.prod(verdict.attribution.values()) == pytest.approx(verdict.share_of_published)


def test_the_budget_adds_up(judged: Judged) -> None:
    for verdict in judged().verdicts:
        if verdict.capability:
            total = math.sqrt(sum(term.relative**2 for term in verdict.capability.budget))
            assert verdict.capability.expanded_uncertainty == pytest.approx(2 * total * verdict.capability.ratio)
            assert {term.evaluation for term in verdict.capability.budget} == {"A", "B"}


def test_json_is_plain(judged: Judged) -> None:
    document = json.loads(json.dumps(judged().to_json(), allow_nan=False))
    assert document["schema"] == "gpuassay.judgement/1"
    assert set(document["verdicts"][1]) >= {
        "metric", "published", "measured", "unit", "expanded_uncertainty", "share_of_published", "share_of_limit",
        "verdict", "delivered_verdict", "reason", "attribution",
    }  # fmt: skip
