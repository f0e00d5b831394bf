"""Simulated parts, judged: is the answer right as often as it says?

The model below stands at the driver's edge: it makes what a GPU's clocks, events and stamps would show (SMs, rate per
clock, power manager, noise that drifts and has outliers, timer resolution, a second process), and knows nothing of
how that is judged. Its constants are of the H100s in the prototype's measurements (2026-11-23), not the program's
calibration. What judges is the program's own: measured.estimate, conformity, decision, identify.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

RUNS = 10_000
ROUNDS = 20
ROUND_S = 5e-3


# -- the model ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A physical part. `rates`: true work per clock and SM (FLOP) of the silicon; `bandwidth` its pins' (B/s)."""

    sms: int
    max_clock_hz: float
    rates: dict[str, float]
    bandwidth: float
    memory_bytes: float
    l2_bytes: float
    compute_capability: str
    pci_device_id: str
    name: str
    settled_clock: float = 1.0  # share of the maximum that the power manager settles at under tensor load
    nvml_clock_error: float = 0.0
    stolen: float = 0.0  # share of the time that another process takes


# What the prototype's kernels attained of the silicon on H100s, and the standard deviation between boards. The mean
# itself is known from one board only, so each simulated world draws its own mean.
ATTAINED = {
    "tensor.bf16": (0.998, 0.0015),
    "tensor.fp8_e4m3": (0.9976, 0.0015),
    "vector.fp32": (0.993, 0.002),
    "vector.fp64": (0.9988, 0.002),
    "memory.read": (0.943, 0.0035),
    "memory.write": (0.973, 0.0035),
}
GIB = 2**30
H20 = Part(
    78,
    1.98e9,
    {"tensor.bf16": 1024, "tensor.fp8_e4m3": 2048, "vector.fp32": 256, "vector.fp64": 4},
    2619e6 * 6144 * 2 / 8,
    97871 * 2**20,
    60 * 2**20,
    "9.0",
    "10de:2329",
    "NVIDIA H20",
)
H100 = Part(
    132,
    1.98e9,
    {"tensor.bf16": 4096, "tensor.fp8_e4m3": 8192, "vector.fp32": 256, "vector.fp64": 128},
    2619e6 * 5120 * 2 / 8,
    81559 * 2**20,
    50 * 2**20,
    "9.0",
    "10de:2330",
    "NVIDIA H100 80GB HBM3",
    settled_clock=0.87,
)
L20 = Part(
    92,
    2.52e9,
    {"tensor.bf16": 512, "tensor.fp8_e4m3": 1024, "vector.fp32": 256, "vector.fp64": 4},
    864e9,
    46068 * 2**20,
    96 * 2**20,
    "8.9",
    "10de:26ba",
    "NVIDIA L20",
)
H200 = replace(
    H100,
    bandwidth=3201e6 * 6144 * 2 / 8,
    memory_bytes=143771 * 2**20,
    pci_device_id="10de:2335",
    name="NVIDIA H200",
)
H800 = replace(H100, rates=H100.rates | {"vector.fp64": 4}, pci_device_id="10de:2324", name="NVIDIA H800")
GH200 = replace(
    H100, memory_bytes=97871 * 2**20, bandwidth=4.0e12, pci_device_id="10de:2342", name="NVIDIA GH200 480GB"
)


def rounds(part: Part, metric: str, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """What `runs` boards of this part show in ROUNDS rounds of one metric: arrays of shape (runs, ROUNDS)."""
    mean, spread = ATTAINED[metric]
    shape = (runs, ROUNDS)
    share = rng.normal(mean, spread, (runs, 1)) + rng.normal(0, spread, (runs, 1))
    sigma = 0.002 if metric.startswith("memory.") else 0.0008
    wander = rng.normal(0, sigma, shape)  # rounds follow each other: AR(1), 0.3
    for place in range(1, ROUNDS):
        wander[:, place] = 0.3 * wander[:, place - 1] + np.sqrt(1 - 0.3**2) * wander[:, place]
    warming = rng.normal(0, 0.0005, (runs, 1)) * np.linspace(-1, 1, ROUNDS)
    slow = (rng.random(shape) < 0.02) * rng.exponential(0.01, shape)
    share = share * (1 + wander + warming) / (1 + slow)

    ticks = np.arange(ROUNDS) * ROUND_S
    load = part.settled_clock if metric.startswith("tensor.") else 1 - (1 - part.settled_clock) / 4
    clock = part.max_clock_hz * (load + (1 - load) * np.exp(-ticks / 0.03))
    clock = np.round(clock * (1 + rng.normal(0, 0.002, shape)) / 15e6) * 15e6
    if metric.startswith("memory."):
        per_clock = part.bandwidth / clock / part.sms
    else:
        per_clock = np.full(shape, float(part.rates[metric]))
    per_clock = per_clock * share * (1 - part.stolen)
    cycles = np.round(ROUND_S * clock)
    work = per_clock * cycles * part.sms
    stamped = np.round(cycles / clock / 32e-9) * 32e-9
    elapsed = cycles / clock + rng.uniform(
        2e-6, 6e-6, shape
    )  # an empty event pair takes 1.25 us, an asynchronous launch 4.6
    return {
        "work": work,
        "event_s": np.round(elapsed / 0.5e-6) * 0.5e-6,
        "host_s": elapsed + rng.uniform(5e-6, 30e-6, shape),
        "globaltimer_s": stamped,
        "cycles": cycles,
        "per_clock": work / part.sms / cycles,
        "clock_hz": cycles / stamped,
        "nvml_clock_hz": np.median(clock, axis=-1) * (1 + part.nvml_clock_error),
        "other_processes": np.full(runs, int(part.stolen > 0)),
    }


# -- the cases ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A part, the sheet or label it is held against, and what must come out of at least `share` of the runs."""

    name: str
    part: Part
    sheet: str
    expect: dict[str, str] = field(default_factory=dict)  # metric -> verdict that must be found
    silicon: str | None = None  # a relabelled part: what identify must say


def _slow(part: Part, metric: str, factor: float) -> Part:
    return replace(part, rates=part.rates | {metric: part.rates[metric] * factor})


GENUINE = {"": "not failed"}
CASES = (
    Case("genuine H20", H20, "H20", GENUINE),
    Case("genuine L20", L20, "L20", GENUINE),
    Case("genuine H100", H100, "H100-SXM", GENUINE),
    Case("H20, one SM short", replace(H20, sms=77), "H20", {"count.sm": "below"}),
    Case("H20, tensor 3 % slow", _slow(H20, "tensor.bf16", 0.97), "H20", {"tensor.bf16": "below"}),
    Case("H100, tensor 3 % slow", _slow(H100, "tensor.bf16", 0.97), "H100-SXM", {"tensor.bf16": "below"}),
    Case("H20, vector 3 % slow", _slow(H20, "vector.fp32", 0.97), "H20", {"vector.fp32": "below"}),
    Case("H20, memory 5 % slow", replace(H20, bandwidth=H20.bandwidth * 0.95), "H20", {"memory": "below"}),
    Case("H20, a quarter of the bus gone", replace(H20, bandwidth=H20.bandwidth * 0.75), "H20", {"memory": "below"}),
    Case(
        "H20, tensor cap removed",
        replace(H20, rates=H20.rates | {"tensor.bf16": 4096, "tensor.fp8_e4m3": 8192}),
        "H20",
        {"tensor.bf16": "above"},
    ),
    Case(
        "H20, NVML misstates the clock", replace(H20, nvml_clock_error=0.05), "H20", GENUINE | {"clock claim": "found"}
    ),
    Case("H100, throttled to 60 %", replace(H100, settled_clock=0.6), "H100-SXM", GENUINE),
    Case("H20, another process takes 10 %", replace(H20, stolen=0.1), "H20", {"": "inconclusive"}),
    Case("H800 shown as L20Y", replace(H800, name="NVIDIA L20Y"), "", silicon="H800-SXM"),
    Case("H200 shown as L20X", replace(H200, name="NVIDIA L20X"), "", silicon="H200-SXM"),
    Case("GH200 96 GB beside H20", GH200, "", silicon="GH200-96"),
    Case(
        "H100 with 78 SMs posing as H20",
        replace(H100, sms=78, name="NVIDIA H20", pci_device_id="10de:2329"),
        "",
        silicon="H100-SXM",
    ),
    Case(
        "H20 posing as H100",
        replace(H20, name="NVIDIA H100 80GB HBM3", pci_device_id="10de:2330"),
        "",
        silicon="H20",
    ),
)


# -- what judges ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the confusion table: how many runs got which verdict, and what share was covered by U."""

    case: str
    metric: str
    counts: dict[str, int]
    covered: float | None  # share of the runs whose interval holds the true value; None where there is none
    required: str  # the bar, in words
    passed: bool


def run(runs: int = RUNS, seed: int = 20261123) -> Iterator[Row]:
    """Judges `runs` simulated runs of every case; yields the rows as they come."""
    for case in CASES:
        # A seed of its own for every case: one case more changes none of the others.
        rng = np.random.default_rng([seed, *case.name.encode()])
        yield from _identified(case, runs, rng) if case.silicon else _judged(case, runs, rng)


def _judged(case: Case, runs: int, rng: np.random.Generator) -> Iterator[Row]:
    from . import agreement, calibration
    from .conformity import capability_of, nominal_limit
    from .decision import BELOW, INCONCLUSIVE, WORDS, Rule
    from .metrics import metric
    from .sheets import load

    sheet = load(case.sheet)
    codes: dict[str, Any] = {}
    for name in ("tensor.bf16", "vector.fp32", "memory.read", "memory.write"):
        seen = rounds(case.part, name, runs, rng)
        taken = _estimate(seen)
        attained = calibration.attainment(name, case.part.compute_capability)
        found = capability_of(metric(name), taken, nominal_limit(metric(name), sheet), attained, Rule())
        assert found is not None
        _, _, disagree = agreement.clock_gaps(seen["event_s"], seen["globaltimer_s"], seen["host_s"])
        code = np.where(disagree | (seen["other_processes"] > 0), INCONCLUSIVE, found.code)
        codes[name] = code
        limit = nominal_limit(metric(name), sheet)
        assert limit is not None
        nominal = case.part.bandwidth if name.startswith("memory.") else case.part.rates[name]
        truth = (1 - case.part.stolen) * nominal / (limit if isinstance(limit, float) else limit.si)
        covered = float(np.mean(np.abs(found.ratio - truth) <= found.expanded_uncertainty))
        calibrated = attained is not None and not attained.source.startswith("prior")
        yield _row(case, name, code, covered, calibrated)
        if "clock claim" in case.expect and name == "tensor.bf16":
            claimed = seen["nvml_clock_hz"] / np.median(seen["clock_hz"], axis=-1)
            hit = np.abs(claimed - 1) > agreement.CLOCK_TOLERANCE
            counts = {"found": int(np.sum(hit)), "not found": int(np.sum(~hit))}
            yield Row(case.name, "clock claim", counts, None, "found >= 99 %", bool(np.mean(hit) >= 0.99))
    if "memory" in case.expect:
        # A published bandwidth fails if any access pattern shows it short.
        either = np.minimum(codes["memory.read"], codes["memory.write"])
        yield _row(case, "memory", np.where(either == BELOW, BELOW, either), None)
    if "count.sm" in case.expect:
        from .conformity import judge_metric
        from .uncertainty import Measured

        word = judge_metric(metric("count.sm"), Measured(case.part.sms), sheet, None, Rule()).verdict
        yield _row(case, "count.sm", np.full(runs, WORDS.index(word)), None)


def _estimate(seen: dict[str, Any]) -> Any:
    from .measured import estimate

    return estimate(**{key: seen[key] for key in ("work", "event_s", "globaltimer_s", "per_clock", "cycles")})


def _row(case: Case, metric: str, code: Any, covered: float | None, calibrated: bool = True) -> Row:
    from .decision import WORDS

    counts = {word: int(np.sum(code == place)) for place, word in enumerate(WORDS)}
    runs = sum(counts.values())
    expected = case.expect.get(metric)
    if expected:
        return Row(case.name, metric, counts, covered, f"{expected} >= 99 %", counts[expected] >= 0.99 * runs)
    if case.expect.get("") == "inconclusive":
        return Row(case.name, metric, counts, None, "inconclusive", counts["inconclusive"] >= 0.99 * runs)
    if "" not in case.expect:  # the faulty metric is what the case is about
        return Row(case.name, metric, counts, covered, "", True)
    failed = counts["below"] + counts["above"] <= 0.01 * runs
    if not calibrated:  # the prior's interval is rectangular and wide: it covers more than it says
        return Row(case.name, metric, counts, covered, "below, above <= 1 % (uncalibrated)", failed)
    # The bar is for 10,000 runs. Fewer show the coverage only roughly: there, missed is what sampling (3 sigma) does
    # not explain.
    sampling = 3 * (0.95 * 0.05 / runs) ** 0.5 if runs < 10_000 else 0.0
    fine = covered is not None and 0.93 - sampling <= covered <= 0.97 + sampling
    return Row(case.name, metric, counts, covered, "below, above <= 1 %; covered 93 to 97 %", failed and fine)


def _identified(case: Case, runs: int, rng: np.random.Generator) -> Iterator[Row]:
    from .identify import NONE, Evidence, known_parts, posteriors, weigh

    part = case.part
    evidence = Evidence(
        measured={name: _estimate(rounds(part, name, runs, rng)) for name in ATTAINED},
        sm_count=np.full(runs, part.sms),
        compute_capability=part.compute_capability,
        memory_bytes=part.memory_bytes,
        l2_bytes=part.l2_bytes,
        pci_device_id=part.pci_device_id,
        name=part.name,
    )
    sheets = known_parts()
    best = np.argmax(posteriors(weigh(evidence, sheets), len(sheets)), axis=-1)
    names = [sheet.name for sheet in sheets] + [NONE]
    counts = {names[i]: int(np.sum(best == i)) for i in np.unique(best)}
    right = counts.get(str(case.silicon), 0)
    yield Row(case.name, "identity", counts, None, f"{case.silicon} >= 99 %", right >= 0.99 * runs)
