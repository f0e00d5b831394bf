"""Four kinds of limiter in a simulated part, each found; none found in a clean part, whatever its noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fake_gpu import FakeDevice, Model

from gpuassay.audit.limiter import Hunt, Series, Trial, design, detection_limit, hunt, row, steps, whitened
from gpuassay.audit.limiter_run import _kernel, _observe

ROUND_S = 0.05
METRICS = ("tensor.bf16", "vector.int32")
POWER_CAP = 4
Limiter = Callable[[Trial, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


def noise(rng: np.random.Generator, n: int, phi: float, sd: float) -> np.ndarray:
    """AR(1) noise of standard deviation `sd`."""
    from scipy.signal import lfilter

    start = rng.normal(0, sd)
    e = rng.normal(0, sd * (1 - phi**2) ** 0.5, n)
    return np.asarray(lfilter([1], [1, -phi], e, zi=[phi * start])[0])


def part(seed: int, limiter: Limiter | None = None, phi: float = 0.7) -> Callable[[Trial], Series]:
    """A part whose rate and clock have correlated noise of 0.4 %."""
    rng = np.random.default_rng(seed)

    def observe(trial: Trial) -> Series:
        n = round(trial.duration_s / ROUND_S)
        time_s = np.arange(n) * ROUND_S / trial.duty
        per_clock = 1024 * np.exp(noise(rng, n, phi, 0.004))
        clock = 1.755e9 * np.exp(noise(rng, n, phi, 0.004))
        reasons = np.zeros(n, np.int64)
        if limiter:
            limiter(trial, time_s, per_clock, clock, reasons)
        return Series(time_s, per_clock, clock, reasons)

    return observe


def after_a_minute(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    if trial.metric == "vector.int32":
        rate[time_s > 61] *= 0.5


def by_entropy(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    if trial.data == "random":
        rate *= 0.95


def by_sms(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    if trial.metric == "tensor.bf16" and trial.sms > 0.8:
        rate *= 0.93


def silent_clock(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    clock[time_s > 40] *= 0.9


def power_cap(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    clock[time_s > 40] *= 0.9
    reasons[time_s > 40] = POWER_CAP


def run(seed: int, limiter: Limiter | None = None, phi: float = 0.7) -> Hunt:
    return hunt(design(seed, METRICS), part(seed, limiter, phi), seed)


LIMITERS = {
    "after a minute": (after_a_minute, "fewer operations"),
    "by entropy": (by_entropy, "differs"),
    "by SMs": (by_sms, "differs"),
    "clock without a reason": (silent_clock, "clock, no reason"),
}


@pytest.mark.parametrize("name", LIMITERS)
def test_a_limiter_is_found(name: str) -> None:
    limiter, kind = LIMITERS[name]
    for seed in range(5):
        found = [s for s in run(seed, limiter).found if s.suspicious]
        assert kind in {s.kind for s in found}
        if name == "after a minute":
            (step,) = found
            assert step.time_s == pytest.approx(61, abs=2)
            assert step.size == pytest.approx(-0.5, abs=0.01)
            assert step.trial.metric == "vector.int32"


def test_a_clock_that_fell_for_a_reason_is_explained() -> None:
    result = run(3, power_cap)
    assert {s.kind for s in result.found} == {"clock, with reason"}
    assert row(result, 3).verdict == "consistent"
    assert "0x4" in row(result, 3).text


def test_a_clock_whose_reasons_are_not_given_is_no_suspicion() -> None:
    def silent(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        silent_clock(trial, time_s, rate, clock, reasons)
        reasons[:] = -1

    found = run(6, silent).found
    assert {s.kind for s in found} == {"clock, reasons not given"}
    assert not any(s.suspicious for s in found)


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_nothing_is_found_in_a_clean_part(phi: float) -> None:
    assert not any(run(seed, phi=phi).found for seed in range(20))


def test_the_detection_limit_is_what_it_says() -> None:
    rng = np.random.default_rng(1)
    hits, limits = 0, []
    for _ in range(100):
        values = 1 + noise(rng, 2000, 0.7, 0.004)
        limits.append(detection_limit(values))
        assert limits[-1] is not None
        values[1000:] *= 1 - limits[-1]
        hits += any(abs(step.time_s - 50) < 5 for step in steps(np.arange(2000) * 0.05, values))
    assert hits >= 85
    assert np.median(limits) < 0.02


def test_correlated_noise_is_whitened() -> None:
    rng = np.random.default_rng(2)
    x = noise(rng, 4000, 0.7, 0.004)
    x[2000:] += 0.1  # a step must not feign correlation
    _, phi, sigma = whitened(x)
    assert phi == pytest.approx(0.7, abs=0.1)
    assert sigma == pytest.approx(0.004 * (1 - 0.49) ** 0.5, rel=0.15)


def test_the_design_follows_from_its_seed() -> None:
    assert design(7, METRICS) == design(7, METRICS) != design(8, METRICS)
    assert {Trial(m) for m in METRICS} <= set(design(7, METRICS))


def test_a_step_that_is_not_reproduced_is_not_reported() -> None:
    seen: set[Trial] = set()

    def once(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        if trial not in seen and trial.duration_s > 10:
            seen.add(trial)
            rate[time_s > 50] *= 0.8

    assert run(4, once).found == []
    assert seen


def test_the_row_prints_its_detection_limit() -> None:
    text = row(run(5), 5).text
    assert "design seed 5" in text
    assert "a step in the middle of a trial shows from" in text


def test_a_trial_on_the_fake_gpu_reads_its_stamps_and_reasons() -> None:
    device = FakeDevice(Model(noise=0.0))
    kernel = _kernel("tensor.bf16", "9.0")
    assert kernel is not None
    trial = Trial("tensor.bf16", sms=0.5, duty=0.5, duration_s=0.2)
    series = _observe(device, kernel, trial, device.sensors())  # type: ignore[arg-type]
    assert len(series.time_s) >= 2
    assert series.per_clock == pytest.approx(4096 * 0.998, rel=1e-3)
    assert series.clock_hz == pytest.approx(1.755e9, rel=1e-3)
    assert set(series.reasons) == {POWER_CAP}
    assert series.time_s[-1] < 0.2
