"""Sustained runs and variants: settling, constancy, energy, knees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuassay import sustained
from gpuassay.verdict import Judgement

Judged = Callable[..., Judgement]


def rounds(rates: Any, metric: str = "tensor.bf16.sustained", per_clock: Any = 4000.0, sms: int = 2) -> pd.DataFrame:
    """Rounds of 50 ms, back to back, with these rates (FLOP/s)."""
    rates = np.asarray(rates, float)
    per_clock = np.broadcast_to(per_clock, rates.shape)
    start = np.arange(len(rates)) * 0.05
    return pd.DataFrame(
        {
            "metric": metric,
            "toolchain": "cuda c++",
            "work": rates * 0.05,
            "event_s": 0.05,
            "host_s": 0.05,
            "start_host_s": start,
            "sm_clock_hz": 1.5e9,
            "sm_id": [np.arange(sms)] * len(rates),
            "sm_work": [np.full(sms, float(p) * 1000) for p in per_clock],
            "sm_cycles": [np.full(sms, 1000)] * len(rates),
        }
    )


def noisy(level: float, count: int, seed: int = 1) -> Any:
    """`count` rates about `level`, 0.1 % noise."""
    return level * (1 + np.random.default_rng(seed).normal(0, 0.001, count))


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 300), st.floats(0.02, 0.4))
def test_the_settled_part_begins_where_the_rate_stopped_falling(place: int, drop: float) -> None:
    series = np.concatenate([noisy(1e12, place), noisy(1e12 * (1 - drop), 400 - place, seed=2)])
    start = sustained.settled_from(rounds(series))
    assert start >= place - 4
    assert np.median(series[start:]) == pytest.approx(1e12 * (1 - drop), rel=1e-3)


def test_a_stationary_run_is_settled_from_the_start() -> None:
    late = sum(sustained.settled_from(rounds(noisy(1e12, 400, seed))) > 0 for seed in range(40))
    assert late <= 1


def test_a_run_that_never_settles_says_so() -> None:
    found = sustained.findings(rounds(np.concatenate([noisy(1e12, 380), noisy(0.8e12, 20)])))
    assert [finding.code for finding in found] == ["not-settled"]


def test_work_per_clock_that_moves_is_a_finding() -> None:
    per_clock = np.concatenate([np.full(200, 4000.0), np.full(200, 3900.0)])
    found = sustained.findings(rounds(noisy(1e12, 400), per_clock=per_clock))
    assert "work-per-clock-moved" in {finding.code for finding in found}
    assert sustained.findings(rounds(noisy(1e12, 400))) == []


def test_energy_is_work_over_the_counters_difference() -> None:
    taken = rounds(noisy(1e12, 400))
    host_s = np.arange(-1, 22, 0.1)
    telemetry = pd.DataFrame({"host_s": host_s, "energy_j": 700 * (host_s + 1)})
    name, measured = sustained.energy("tensor.bf16.sustained", taken, telemetry)  # type: ignore[misc]
    assert name == "energy.tensor.bf16"
    assert measured.rate == pytest.approx(1e12 / 700, rel=1e-3)
    assert measured.terms[0].relative == pytest.approx(np.sqrt(2) * 0.05 / 20 / np.sqrt(3), rel=0.01)
    assert sustained.energy("tensor.bf16.sustained", taken, telemetry[telemetry["host_s"] > 5]) is None


def test_a_full_run(judged: Judged) -> None:
    judgement = judged(profile="full", settled_clock=0.85)
    words = {v.metric: v for v in judgement.verdicts}
    bf16 = words["tensor.bf16.sustained"]
    assert (bf16.verdict, bf16.delivered_verdict) == ("conforms", "below")
    assert bf16.attribution["clock"].ratio < words["tensor.bf16"].attribution["clock"].ratio
    assert "settled: the last" in bf16.reason
    joule = words["energy.tensor.bf16"]
    assert (joule.verdict, joule.unit) == ("not published", "FLOP/J")
    assert joule.measured == pytest.approx(bf16.measured / 650, rel=0.15)  # type: ignore[operator]
    variants = {(v.metric, v.variant) for v in judgement.variants}
    assert ("tensor.bf16.sustained", "zeros") in variants
    assert ("tensor.bf16", "16 SMs") in variants
    assert "rate-per-sm-falls" not in {f.code for f in judgement.findings}


def test_a_cap_on_the_chip_is_a_knee(judged: Judged) -> None:
    judgement = judged(profile="standard", chip_cap_sms=60)
    texts = [f.text for f in judgement.findings if f.code == "rate-per-sm-falls"]
    assert any("each of 64 SMs" in text for text in texts)
