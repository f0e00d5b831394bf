"""The hunt for limits that act only on some work: in time, by data, by the number of SMs, by duty, by what else runs.

There is a precedent: GeForce LHR (2021) halved the speed of one algorithm after a minute or two, at the same clock and
without a reason bit. Trials differ in kernel (instruction, shape, address pattern), data, SMs, duty, duration, length
of a launch, and another kernel that takes turns; they run twice in two seeded random orders. The longest run once, and
again where they show something that nothing explains. A suspicion that is reported was there both times.

- Within a trial: steps in the rate, and in the clock. The series are averaged in blocks and whitened by an AR(1)
  estimate first: change points of correlated noise are false alarms by the dozen.
- Between trials: a rate that differs from the metric's plain trial.

The rate is work per clock and SM; memory has a clock of its own, so that its rate is work per second, and is compared
only where the SM clock is the same.

A clock that fell with a reason bit is explained. A clock that fell without one, or fewer operations at the same clock,
is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..telemetry import STANDING_REASONS
from . import Row, Word

BLOCKS = 120  # at most so many averages make a series
FEWEST = 20  # a shorter series says nothing of steps
SMALLEST_SEGMENT = 5
PENALTY = 6.0  # times ln n and the variance; 4 gave no false alarm in 200 series, and a hunt looks at more
LATENCY_FLOOR = 0.05  # as FLOOR, between chases: each has memory, a cycle and maybe an SM of its own
FLOOR = 0.01  # smaller changes of a rate per clock are not reported: it may depend on data and warmth a little
CLOCK_FLOOR = 0.03  # ... nor of the clock: boost clocks move by a bin or two (15 MHz each) without a reason bit
SPREADS = 5.0  # ... nor those within so many standard deviations of repeated trials
SETTLE_S = 1.0  # what prepares a trial is full load, from which the clock may still recover as it begins
WITHIN = (("rate", FLOOR), ("clock_hz", CLOCK_FLOOR))  # what may step within a trial, and from which size on
SHORT_S = 1.0  # a plain trial: some fifty launches
LAUNCH_S = 0.02
# A millisecond of work at a time, and a rest of 99: what acts later has not acted yet.
ALONE: dict[str, Any] = {"launch_s": 0.001, "duty": 0.01, "duration_s": 4 * SHORT_S}


@dataclass(frozen=True)
class Trial:
    """One piece of work: `data` as device.Data, `sms` and `duty` as shares, times in s; `mix`: the metric whose kernel
    takes turns with this one, launch by launch, without being timed."""

    metric: str
    data: str = "random"
    sms: float = 1.0
    duty: float = 1.0
    duration_s: float = SHORT_S
    launch_s: float = LAUNCH_S
    mix: str | None = None

    @property
    def per_second(self) -> bool:
        """Whether its rate is work per second."""
        return self.metric.startswith(("memory.", "latency."))


@dataclass(frozen=True)
class Series:
    """A trial's rounds: seconds since its start, its rate (work per clock and SM, or per second), SM clock in Hz,
    NVML's reason bits (0 where none, -1 where not given)."""

    time_s: NDArray[np.float64]
    rate: NDArray[np.float64]
    clock_hz: NDArray[np.float64]
    reasons: NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """A change at `time_s` by the relative size `size` (-0.5: to half)."""

    time_s: float
    size: float


@dataclass(frozen=True)
class Suspicion:
    """Something that both passes showed. `kind`: "fewer operations" (same clock), "clock, no reason", "clock, with
    reason" and "clock, reasons not given" (neither suspicious), "differs" (between trials)."""

    kind: str
    trial: Trial
    size: float
    time_s: float | None
    text: str

    @property
    def suspicious(self) -> bool:
        """Whether nothing explains it."""
        return self.kind not in ("clock, with reason", "clock, reasons not given")


@dataclass
class Hunt:
    """What the hunt found, and the smallest relative step that it would have found in the middle of the longest
    trials."""

    trials: int
    found: list[Suspicion] = field(default_factory=list)
    detection_limit: float | None = None
    smallest_difference: float = FLOOR
    longest_s: float = 0.0


def design(seed: int, metrics: Sequence[str], others: Sequence[str] = (), combinations: int = 2) -> list[Trial]:
    """The short trials. Per metric the plain trial, every factor's other levels alone and some random combinations; of
    the `others` the plain trial, half the duty, and one combination. Of arithmetic also ALONE. Order and combinations
    follow from the seed."""
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    for metric in (*metrics, *others):
        levels: dict[str, tuple[Any, ...]] = {
            "duty": (1.0, 0.5, 0.1),
            "duration_s": (SHORT_S, SHORT_S / 4, 4 * SHORT_S),
            "mix": (None, *(name for name in metrics[:2] if name != metric)),
        }
        if not Trial(metric).per_second:  # the memory is shared by the SMs, and its data are always random
            levels |= {"data": ("random", "sorted", "low entropy", "one value", "zeros"), "sms": (1.0, 0.5, 0.1)}
            levels |= {"launch_s": (LAUNCH_S, LAUNCH_S / 5)}
        found.append(Trial(metric))
        if metric in metrics:
            found += [Trial(metric, **{name: level}) for name, values in levels.items() for level in values[1:]]
            found += [] if Trial(metric).per_second else [Trial(metric, **ALONE)]
        else:
            found.append(Trial(metric, duty=0.5))
        for _ in range(combinations if metric in metrics else 1):
            found.append(Trial(metric, **{name: v[int(rng.integers(len(v)))] for name, v in levels.items()}))
    unique = list(dict.fromkeys(found))
    return [unique[i] for i in rng.permutation(len(unique))]


def hunt(
    trials: Sequence[Trial],
    observe: Callable[[Trial], Series],
    seed: int,
    long_trials: Callable[[], Sequence[Trial]] = tuple,
) -> Hunt:
    """Runs every trial twice, in two orders, then each of `long_trials` once, and again where it shows something;
    reports what was there both times. `long_trials` is asked when the others are done, and may count what time is
    left."""
    rng = np.random.default_rng(seed)
    passes: list[dict[Trial, Series]] = []
    for _ in range(2):
        passes.append({trials[i]: observe(trials[i]) for i in rng.permutation(len(trials))})
    done = list(trials)
    for trial in long_trials():
        first = observe(trial)
        passes[0][trial], shows = first, _shows(trial, first, passes[0])
        if shows:
            passes[1][trial] = observe(trial)
        done.append(trial)
    result = Hunt(sum(map(len, passes)), longest_s=max((t.duration_s for t in done), default=0.0))
    limits = []
    for trial in done:
        both = [taken[trial] for taken in passes if trial in taken]
        result.found += _within(trial, both[0], both[-1])  # taken once: nothing that needs confirming was there
        if trial.duration_s == result.longest_s:  # a short one shows little, and is there for its plain rate
            limits += [limit for series in both if (limit := detection_limit(series.rate)) is not None]
    result.detection_limit = max(FLOOR, *limits) if limits else None
    differences, result.smallest_difference = _between([t for t in done if t in passes[1]], passes)
    result.found += differences
    return result


def _shows(trial: Trial, series: Series, others: Mapping[Trial, Series]) -> bool:
    """Whether one pass shows anything that a second one should confirm."""
    for name, floor in WITHIN:
        for step in steps(series.time_s, getattr(series, name)):
            # A power cap after some seconds is what a good part does, and not worth as long a trial again.
            if abs(step.size) >= floor and _judged(trial, name, step, [series]).suspicious:
                return True
    plain = others.get(Trial(trial.metric))
    if plain is None or not len(plain.rate) or not len(series.rate):
        return False
    return abs(float(np.median(series.rate) / np.median(plain.rate)) - 1) > FLOOR


# -- within a trial -------------------------------------------------------------------------------------------


def _within(trial: Trial, first: Series, second: Series) -> list[Suspicion]:
    found = []
    near_s = max(0.1 * trial.duration_s, 2 * trial.duration_s / BLOCKS)
    clock_steps = steps(first.time_s, first.clock_hz)
    for name, floor in WITHIN:
        again = steps(second.time_s, getattr(second, name))
        for step in steps(first.time_s, getattr(first, name)):
            recovers = name == "clock_hz" and step.size > 0 and step.time_s < SETTLE_S
            if abs(step.size) < floor or recovers:
                continue
            if not any(abs(s.time_s - step.time_s) <= near_s and 0.5 < s.size / step.size < 2 for s in again):
                continue
            # What moves with the SM clock needs no other cause where the rate is one per second.
            if name == "rate" and trial.per_second and any(abs(s.time_s - step.time_s) <= near_s for s in clock_steps):
                continue
            found.append(_judged(trial, name, step, (first, second)))
    return found


def _judged(trial: Trial, name: str, step: Step, both: Sequence[Series]) -> Suspicion:
    where = f"{trial.metric}, {step.size:+.1%} after {step.time_s:.1f} s"
    if name == "rate":
        text = f"{where}: other work per {'second' if trial.per_second else 'clock'} at the same clock; no reason bit "
        text += "speaks of that"
        return Suspicion("fewer operations", trial, step.size, step.time_s, text)
    low = [s.time_s >= step.time_s if step.size < 0 else s.time_s < step.time_s for s in both]
    masks = np.concatenate([s.reasons[where_low] for s, where_low in zip(both, low, strict=True)])
    if not (masks >= 0).any():
        text = f"{where}: the clock moved; the driver gives no reasons (nvmlDeviceGetCurrentClocksEventReasons)"
        return Suspicion("clock, reasons not given", trial, step.size, step.time_s, text)
    masks = masks[masks >= 0]
    explained = float(np.mean((masks & ~STANDING_REASONS) > 0)) > 0.5
    if explained:
        text = f"{where}: the clock moved, and reason bits {int(np.bitwise_or.reduce(masks)):#x} say why"
        return Suspicion("clock, with reason", trial, step.size, step.time_s, text)
    return Suspicion("clock, no reason", trial, step.size, step.time_s, f"{where}: the clock moved, no reason bit")


def steps(time_s: NDArray[np.float64], values: NDArray[np.float64]) -> list[Step]:
    """Change points of one series, by ruptures on whitened block averages; none in a series too short."""
    blocks = _averages(values)
    if len(blocks) < FEWEST:
        return []
    import ruptures

    white, _, sigma = whitened(np.log(blocks))
    if sigma == 0:
        sigma = 1e-9
    penalty = PENALTY * np.log(len(white)) * sigma**2
    search = ruptures.KernelCPD(kernel="linear", min_size=SMALLEST_SEGMENT).fit(white.reshape(-1, 1))
    ends = [0, *search.predict(pen=penalty)]
    times = _averages(time_s, len(blocks))
    found = []
    for before, at, after in zip(ends, ends[1:], ends[2:], strict=False):
        # The blocks themselves say how large: whitening scales a step by 1 - phi.
        size = float(np.median(blocks[at + 1 : after + 1]) / np.median(blocks[before : at + 1]) - 1)
        found.append(Step(float(times[min(at + 1, len(times) - 1)]), size))
    return found


def whitened(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """x[t] - phi x[t-1], the AR(1) coefficient phi, and the standard deviation of what is left.

    phi comes from the lag-1 autocorrelation r of the differences, which is -(1 - phi) / 2 for AR(1): a step is one
    outlier among differences, and is cut there, while it would feign phi = 1 in the series itself.
    """
    d = np.diff(x)
    spread = 1.4826 * float(np.median(np.abs(d - np.median(d)))) or float(np.std(d))
    cut = np.clip(d, -3 * spread, 3 * spread)
    power = float(np.mean(cut**2))
    r = float(np.mean(cut[1:] * cut[:-1])) / power if power else -0.5
    phi = float(np.clip(1 + 2 * r, 0.0, 0.95))
    white = x[1:] - phi * x[:-1]
    e = np.diff(white)
    sigma = 1.4826 * float(np.median(np.abs(e - np.median(e)))) / 2**0.5
    return white, phi, sigma


def detection_limit(values: NDArray[np.float64]) -> float | None:
    """The relative step in the middle of this series that would be found in about 95 of 100 trials."""
    blocks = _averages(values)
    if len(blocks) < FEWEST:
        return None
    white, phi, sigma = whitened(np.log(blocks))
    n = len(white)
    return float((np.sqrt(PENALTY * np.log(n)) + 1.645) * sigma * 2 / np.sqrt(n) / (1 - phi))


def _averages(values: NDArray[np.float64], count: int = BLOCKS) -> NDArray[np.float64]:
    return np.array([part.mean() for part in np.array_split(values, min(count, len(values)))])


# -- between trials -------------------------------------------------------------------------------------------


def _between(trials: Sequence[Trial], passes: Sequence[dict[Trial, Series]]) -> tuple[list[Suspicion], float]:
    """Trials whose rate differs from their metric's plain one, in both passes."""
    trials = [t for t in trials if all(len(taken[t].rate) for taken in passes)]
    middle = {t: [float(np.median(taken[t].rate)) for taken in passes] for t in trials}
    clocks = {t: [float(np.median(taken[t].clock_hz)) for taken in passes] for t in trials}
    again = np.array([np.log(b / a) for a, b in middle.values()])
    spread = 1.4826 * float(np.median(np.abs(again)))  # of a difference of two trials
    smallest = max(FLOOR, SPREADS * spread)
    found = []
    for trial, both in middle.items():
        plain = middle.get(Trial(trial.metric))
        if plain is None or trial == Trial(trial.metric):
            continue
        moved = [now / then - 1 for now, then in zip(clocks[trial], clocks[Trial(trial.metric)], strict=True)]
        if trial.per_second and max(map(abs, moved)) > FLOOR:
            continue
        sizes = [value / other - 1 for value, other in zip(both, plain, strict=True)]
        least = max(smallest, LATENCY_FLOOR) if trial.metric.startswith("latency.") else smallest
        if min(map(abs, sizes)) > least and sizes[0] * sizes[1] > 0:
            size = float(np.mean(sizes))
            unit = "second" if trial.per_second else "clock and SM"
            text = f"{trial.metric} ({factors(trial)}): {size:+.1%} per {unit} beside the plain trial"
            found.append(Suspicion("differs", trial, size, None, text))
    return found, smallest


def factors(trial: Trial) -> str:
    """What is not plain about a trial, in words."""
    plain = Trial(trial.metric)
    said = {
        "data": trial.data,
        "sms": f"{trial.sms:.0%} of the SMs",
        "duty": f"duty {trial.duty:.0%}",
        "duration_s": f"{trial.duration_s:g} s",
        "launch_s": f"launches of {trial.launch_s * 1e3:g} ms",
        "mix": f"in turn with {trial.mix}",
    }
    return ", ".join(words for name, words in said.items() if getattr(trial, name) != getattr(plain, name)) or "plain"


def row(result: Hunt, seed: int) -> Row:
    """The audit's row: every suspicion, and what would not have been seen."""
    suspicious = [s for s in result.found if s.suspicious]
    limit = "unknown" if result.detection_limit is None else f"{result.detection_limit:.2%}"
    text = (
        f"{result.trials} trials of up to {result.longest_s:.3g} s, design seed {seed}; a step in the middle of the "
        f"longest shows from {limit} on, a difference between trials from {result.smallest_difference:.1%} (of "
        f"latencies {max(LATENCY_FLOOR, result.smallest_difference):.1%}). "
    )
    said = [s.text for s in (suspicious or result.found)]
    text += "; ".join(said) + "." if said else "Work, data and times that were not tried remain unknown."
    details = {
        "seed": seed,
        "trials": result.trials,
        "longest_s": result.longest_s,
        "detection_limit": result.detection_limit,
        "found": [{"kind": s.kind, "text": s.text, "size": s.size, "time_s": s.time_s} for s in result.found],
    }
    verdict: Word = (
        "inconsistent" if suspicious else "consistent" if result.detection_limit is not None else "not tested"
    )
    return Row("limiters", verdict, text, 0, len(suspicious), 0.0, "1", details)
