"""How a benchmark of the suites goes and ends: announced, told on one line, measured, not measured, or failed.

The two modules of fixtures stand on this one: plugin.py (kernels with stamps) and plugin_operations.py (transfers and
launches, which carry none).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from .device import Operation, Workload
    from .kernels import Check, Kernel
    from .record import RecordWriter
    from .resume import Benchmark

# Set where the CUDA context is gone: the record stays open for a fresh process.
LOST = pytest.StashKey[bool]()
# What an earlier process has measured or given up, where this one goes on with its record.
DONE = pytest.StashKey[set["Benchmark"]]()

# How long one benchmark may take before it counts as hung: compiling, checking and 0.8 s of rounds take seconds.
LIMIT_S = 120.0
SUSTAINED_LIMIT_S = 180.0
AUDIT_LIMIT_S = 600.0
END_LIMIT_S = 60.0


def announce(config: pytest.Config, benchmark: Benchmark | None, limit_s: float = END_LIMIT_S) -> None:
    """Tells the watching process (supervise.py) what begins now and how long it may take; None: the end of the run.

    Skips what an earlier process has finished or given up. Ends the run where nobody watches any more.
    """
    import json

    if benchmark is not None:
        skip_if_done(config, benchmark)
        limit_s = config.getoption("--gpuassay-limit") or limit_s
    descriptor = config.getoption("--gpuassay-progress-fd")
    if descriptor is None:
        return
    try:
        os.write(descriptor, json.dumps({"benchmark": benchmark, "limit_s": limit_s}).encode() + b"\n")
    except BrokenPipeError:
        if benchmark is not None:
            pytest.exit("the program that started this run is gone", returncode=130)


def skip_if_done(config: pytest.Config, benchmark: Benchmark) -> None:
    """Skips the test where the record that it goes on with has this benchmark."""
    if benchmark in config.stash.get(DONE, set()):
        pytest.skip("in the record already")


class Progress:
    """One line per metric on standard error: what runs, what it read, what is left."""

    def __init__(self, session: pytest.Session, item: pytest.Item) -> None:
        self._total = len(session.items)
        self._place = session.items.index(item) + 1
        self._started = time.monotonic()

    def start(self, what: str) -> None:
        """Begins the line."""
        left = self._total - self._place
        print(f"  [{self._place}/{self._total}] {what:28} ", end="", file=sys.stderr, flush=True)
        self._left = f"{left} left" if left else "last"

    def say(self, text: str) -> None:
        """Ends the line."""
        print(text, file=sys.stderr, flush=True)

    def done(self, rounds: list[dict[str, Any]]) -> None:
        """Ends the line with the median rate."""
        from statistics import median

        from .units import show

        rate = median(r["work"] / r["event_s"] for r in rounds)
        shown = show(rate, rounds[0]["work_unit"] + "/s")
        if rounds[0]["work_unit"] == "load":
            shown = show(len(rounds[0]["sm_id"]) / rate, "s")
        clock = median(r["sm_clock_hz"] for r in rounds)
        took = time.monotonic() - self._started
        self.say(f"{shown:>14} at {show(clock, 'Hz')}, {len(rounds)} rounds, {took:.1f} s, {self._left}")


def must_time(benchmark: Any) -> None:
    """Skips where pytest-benchmark would launch once and time nothing."""
    if benchmark.disabled:
        pytest.skip("pytest-benchmark is disabled, by --benchmark-disable or by pytest-xdist")


def not_measured(
    record: RecordWriter | None,
    progress: Progress,
    metric: str,
    reason: str,
    toolchain: str,
    variant: str | None = None,
) -> None:
    if record is not None:
        said = {"variant": variant} if variant else {}
        record.write("not_measured", metric=metric, reason=reason, toolchain=toolchain, **said)
    progress.say(f"not measured: {reason}")
    pytest.skip(reason)


def check_failed(record: RecordWriter | None, progress: Progress, kernel: Kernel, workload: Workload) -> None:
    text = (
        f"{kernel.metric} ({kernel.toolchain}): wrong result, {workload.check.worst_error:.3g} times the bound at "
        f"{workload.check.where}; no rate is reported"
    )
    if record is not None:
        record.write("finding", code="check-failed", severity="error", metric=kernel.metric, text=text)
    progress.say(text)
    pytest.fail(text, pytrace=False)


def failed(
    config: pytest.Config, record: RecordWriter | None, progress: Progress, benchmark: Benchmark, error: Exception
) -> NoReturn:
    """What the GPU, its driver or a compiler refused: named, recorded, and no rate. Other errors are raised on."""
    from .device import DeviceError
    from .faults import CONTEXT_LOST, cuda_failure
    from .kernels.compile import CompileError

    metric, toolchain, variant = benchmark
    what, lost = cuda_failure(error) or ("", False)
    if isinstance(error, DeviceError | CompileError):
        what = str(error)
    if not what:
        raise error
    if not lost:
        not_measured(record, progress, metric, what, toolchain, variant)
    reason = f"the CUDA context was lost: {what}"
    config.stash[LOST] = True
    if record is not None:
        said = {"variant": variant} if variant else {}
        record.write("not_measured", metric=metric, reason=reason, toolchain=toolchain, **said)
        record.write("finding", code="context-lost", severity="warning", metric=metric, text=f"{metric}: {reason}")
    progress.say(f"not measured: {reason}")
    pytest.exit(reason, returncode=CONTEXT_LOST)


def close(config: pytest.Config, workload: Workload | Operation) -> None:
    from . import timing

    timing.forget_marks()
    try:
        workload.close()
    except Exception:
        if not config.stash.get(LOST, False):  # nothing can be freed in a context that is gone
            raise


def check_line(check: Check) -> dict[str, Any]:
    """A check as a kernel line has it."""
    return {
        "passed": check.passed,
        "worst_error": check.worst_error if check.worst_error < float("inf") else None,
        "bound": 1.0,
        "where": check.where,
    }
