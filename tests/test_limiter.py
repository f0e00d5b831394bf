"""Four kinds of limiter in a simulated part, each found; none found in a clean part, whatever its noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from fake_gpu import FakeDevice, Model

from gpuassay.audit import limiter_run
from gpuassay.audit.limiter import Hunt, Series, Trial, design, detection_limit, hunt, row, steps, whitened
from gpuassay.audit.limiter_run import _kernel, observe
from gpuassay.cuda_workload import operands
from gpuassay.device import Data
from gpuassay.kernels import ArithmeticKernel

LONG_S = 100.0
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
        n = max(1, round(trial.duration_s * trial.duty / trial.launch_s))
        time_s = np.arange(n) * trial.launch_s / trial.duty
        rate = 1024 * np.exp(noise(rng, n, phi, 0.004))
        clock = 1.755e9 * np.exp(noise(rng, n, phi, 0.004))
        reasons = np.zeros(n, np.int64)
        if limiter:
            limiter(trial, time_s, rate, clock, reasons)
        return Series(time_s, rate, clock, reasons)

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


def by_mix(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    if trial.mix is not None and trial.metric == "vector.int32":
        rate *= 0.94


def after_milliseconds(
    trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray
) -> None:
    if trial.launch_s > 0.002 or trial.duty > 0.05:
        rate *= 0.9


def power_cap(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
    clock[time_s > 40] *= 0.9
    reasons[time_s > 40] = POWER_CAP


def run(seed: int, limiter: Limiter | None = None, phi: float = 0.7) -> Hunt:
    return hunt(design(seed, METRICS), part(seed, limiter, phi), seed, long_trials)


def long_trials() -> list[Trial]:
    return [Trial(metric, duration_s=LONG_S, launch_s=0.05) for metric in METRICS]


LIMITERS = {
    "after a minute": (after_a_minute, "fewer operations"),
    "by entropy": (by_entropy, "differs"),
    "by SMs": (by_sms, "differs"),
    "clock without a reason": (silent_clock, "clock, no reason"),
    "beside other work": (by_mix, "differs"),
    "after milliseconds": (after_milliseconds, "differs"),
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


def test_a_setting_that_stands_explains_no_step() -> None:
    def set_clocks(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        silent_clock(trial, time_s, rate, clock, reasons)
        reasons[:] = 2

    assert {s.kind for s in run(5, set_clocks).found} == {"clock, no reason"}


def test_a_power_cap_costs_no_second_long_trial() -> None:
    assert run(3, power_cap).trials == run(3).trials
    assert run(3, silent_clock).trials == run(3).trials + len(long_trials())


def test_a_clock_that_recovers_from_what_came_before_is_no_suspicion() -> None:
    def recovering(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        clock[time_s < 0.4] *= 0.85

    assert not run(8, recovering).found


def test_chases_may_differ_more_than_arithmetic() -> None:
    """Each has a cycle, and maybe an SM, of its own."""

    def by_chance(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        if trial.duty < 1:
            rate *= 1.04

    for metric, found in (("latency.tlb", False), ("sfu.ex2", True)):
        trials = design(4, METRICS, [metric])
        result = hunt(trials, part(4, by_chance), 4)
        assert any(s.trial.metric == metric for s in result.found) is found


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


@pytest.mark.parametrize("metric", [*limiter_run.METRICS, "tensor.fp8_e4m3", "vector.fp64", "sfu.ex2"])
def test_every_kind_of_data_is_made_of_values_that_were_drawn(metric: str) -> None:
    kernel = _kernel(metric, "9.0")
    assert isinstance(kernel, ArithmeticKernel)
    random = kernel.inputs(np.random.default_rng(4), timed=True)
    made = {data: operands(random, data, kernel.threads) for data in get_args(Data)}
    assert {(found.dtype, found.shape) for found in made.values()} == {(random.dtype, random.shape)}
    words = {data: found.view(np.uint32) if found.dtype == np.uint8 else found for data, found in made.items()}
    assert (made["random"] == random).all()
    assert not made["zeros"].any()
    for data in ("sorted", "low entropy", "one value"):
        assert np.isin(words[data], words["random"]).all()
    assert (np.sort(words["sorted"].ravel()) == np.sort(words["random"].ravel())).all()
    assert np.unique(words["one value"]).size == 1
    run = words["low entropy"].ravel()[kernel.threads : 2 * kernel.threads]
    assert np.unique(run).size <= 4
    assert (np.diff(words["sorted"].ravel()[: kernel.threads].astype(np.float64)) >= 0).all()


def test_the_design_follows_from_its_seed() -> None:
    assert design(7, METRICS) == design(7, METRICS) != design(8, METRICS)
    found = design(7, METRICS, ["memory.read", "sfu.ex2"])
    assert {Trial(m) for m in (*METRICS, "memory.read", "sfu.ex2")} <= set(found)
    assert {t.mix for t in found if t.metric == "tensor.bf16"} == {None, "vector.int32"}
    assert {(t.sms, t.data) for t in found if t.metric == "memory.read"} == {(1.0, "random")}


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
    assert "a step in the middle of the longest shows from" in text


def test_a_trial_on_the_fake_gpu_reads_its_stamps_and_reasons() -> None:
    device = FakeDevice(Model(noise=0.0))
    kernel = _kernel("tensor.bf16", "9.0")
    assert kernel is not None
    trial = Trial("tensor.bf16", sms=0.5, duty=0.5, duration_s=0.2)
    series = observe(device, {"tensor.bf16": kernel}, trial, device.sensors())  # type: ignore[arg-type]
    assert len(series.time_s) >= 2
    assert series.rate == pytest.approx(4096 * 0.998, rel=1e-3)
    assert series.clock_hz == pytest.approx(1.755e9, rel=1e-3)
    assert set(series.reasons) == {POWER_CAP}
    assert series.time_s[-1] < 0.2


@pytest.mark.parametrize(("metric", "mix"), [("memory.read", "tensor.bf16"), ("latency.memory", None)])
def test_memory_has_a_rate_per_second(metric: str, mix: str | None) -> None:
    device = FakeDevice(Model(noise=0.0))
    kernels = {name: kernel for name in (metric, mix) if name and (kernel := _kernel(name, "9.0"))}
    series = observe(device, kernels, Trial(metric, duration_s=0.1, mix=mix), device.sensors())  # type: ignore[arg-type]
    expected = 0.943 * 3.352e12 if metric == "memory.read" else 1.755e9 / 682
    assert series.rate == pytest.approx(expected, rel=0.02)


def test_a_long_trial_runs_again_only_where_it_shows_something() -> None:
    for limiter, times in ((None, 1), (after_a_minute, 2)):
        seen: list[Trial] = []
        observe_part = part(9, limiter)

        def observed(trial: Trial) -> Series:
            seen.append(trial)  # noqa: B023
            return observe_part(trial)  # noqa: B023

        result = hunt(design(9, METRICS), observed, 9, long_trials)
        assert seen.count(long_trials()[1]) == times
        assert result.longest_s == LONG_S


def test_a_memory_rate_that_moves_with_the_clock_is_no_suspicion() -> None:
    def slower(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        rows = time_s > 40 if trial.duration_s > 10 else np.full(len(rate), trial.mix is not None)
        rate[rows] *= 0.95
        clock[rows] *= 0.9
        reasons[rows] = POWER_CAP

    def throttled(trial: Trial, time_s: np.ndarray, rate: np.ndarray, clock: np.ndarray, reasons: np.ndarray) -> None:
        rate[time_s > 40] *= 0.95

    def hunted(limiter: Limiter) -> set[str]:
        trials = design(11, METRICS, ["memory.read"])
        long = [Trial("memory.read", duration_s=LONG_S, launch_s=0.05)]
        found = hunt(trials, part(11, limiter), 11, lambda: long).found
        return {s.kind for s in found if s.trial.metric == "memory.read"}

    assert hunted(slower) <= {"clock, with reason"}
    assert "fewer operations" in hunted(throttled)


def test_half_the_sms_are_no_trial_of_a_kernel_with_two_blocks_to_an_sm(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Trial] = []

    def hunted(trials: list[Trial], *_: object) -> Hunt:
        taken.extend(trials)
        return Hunt(0)

    monkeypatch.setattr(limiter_run, "hunt", hunted)
    for seed in range(20):
        limiter_run.run(FakeDevice(Model()), seed, 60.0)  # type: ignore[arg-type]
    in_part = {trial.metric for trial in taken if trial.sms < 1}
    assert "tensor.bf16" in in_part
    assert "tensor.bf16.n8" not in in_part


def test_the_hunt_on_the_fake_gpu_keeps_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(seed: int, metrics: list[str], others: list[str]) -> list[Trial]:
        assert set(metrics + others) == {*limiter_run.METRICS, *limiter_run.OTHERS}
        return [Trial(name, duration_s=0.1) for name in (metrics[0], "memory.read", "latency.memory")]

    monkeypatch.setattr(limiter_run, "design", few)
    monkeypatch.setattr(limiter_run, "LONG_S", (1.0, 900.0))
    found = limiter_run.run(FakeDevice(Model()), 3, budget_s=4.0)  # type: ignore[arg-type]
    assert found.verdict == "consistent", found.text
    assert 1.0 <= found.details["longest_s"] <= 2.0
    assert found.details["trials"] >= 2 * 3 + len(limiter_run.LONG)
