"""The fixture `measure_operation`: times what carries no stamps (transfers, launches) and writes it to the record.

The life of one: build it (or say why not), run it once untimed, time rounds with pytest-benchmark, append to the
record.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from .plugin_outcome import DONE, LIMIT_S, Progress, announce, check_line, close, failed, must_time, not_measured

if TYPE_CHECKING:
    from .device import Device, Mark, Operation
    from .record import RecordWriter

ROUNDS = 30
WARM_UP = 3
LINK_RUNS = 8  # 40 ms of transfers at PCIe 5.0 x16, so that NVML is asked while the link works


@pytest.fixture
def measure_operation(
    request: pytest.FixtureRequest, benchmark: Any, gpu: Device, record: RecordWriter | None
) -> Callable[..., None]:
    """measure_operation(metric, toolchain="cuda c++", by_events=False): the steps of this module's docstring."""
    progress = Progress(request.session, request.node)

    def run(metric: str, toolchain: str = "cuda c++", *, by_events: bool = False) -> None:
        from . import timing

        must_time(benchmark)
        benchmark._timer = timing.gpu_timer if by_events else timing.host_timer
        marks = gpu.marks if by_events else timing.host_marks
        announce(request.config, (metric, toolchain, None), LIMIT_S)
        progress.start(f"{metric} ({toolchain})")
        try:
            operation = gpu.operation(metric, toolchain)
        except Exception as error:
            failed(request.config, record, progress, (metric, toolchain, None), error)
        starts: list[int] = []

        def timed() -> None:
            starts.append(len(marks))
            operation.run()

        try:
            benchmark.pedantic(timed, setup=operation.ready, rounds=ROUNDS, warmup_rounds=WARM_UP)
            operation.ready()
            lines = _rounds(metric, toolchain, operation, marks, starts[-ROUNDS:], by_events)
            _write(record, lines, operation.about)
            progress.say(_shown(lines))
            if metric in ("pcie.h2d", "pcie.d2h", "pcie.both"):
                _report_link(gpu, record, operation, lines)
        except Exception as error:
            failed(request.config, record, progress, (metric, toolchain, None), error)
        finally:
            close(request.config, operation)

    return run


@pytest.fixture
def measure_peers(request: pytest.FixtureRequest, gpu: Device, record: RecordWriter | None) -> Callable[[str], None]:
    """measure_peers(way): every ordered pair of GPUs ("one_way", "read", "write"), every pair ("both_ways",
    "read_both_ways"), or "all_pairs" at once. By the host's clock, each round waited for: pytest-benchmark times one
    thing per test, these are many."""
    progress = Progress(request.session, request.node)

    def run(way: str) -> None:
        from itertools import combinations, permutations

        from .device import CheckFailed, DeviceError
        from .faults import cuda_failure

        count = gpu.device_count()
        progress.start(f"peer.{way}")
        if count < 2:
            not_measured(record, progress, f"peer.{way}", "needs a second GPU", "cuda c++")
        choose = combinations if way.endswith("both_ways") else permutations
        chosen = choose(range(count), 2)
        wrong = ""
        names = [f"peer.{way}"] if way == "all_pairs" else [f"peer.{way}.{a}-{b}" for a, b in chosen]
        for name in names:
            benchmark = (name, "cuda c++", None)
            if benchmark in request.config.stash.get(DONE, set()):
                continue
            announce(request.config, benchmark, LIMIT_S)
            try:
                _write(record, *_by_hand(gpu, name))
            except CheckFailed as error:
                wrong = f"{name}: {error}"
                if record is not None:
                    record.write("finding", code="check-failed", severity="error", metric=name, text=wrong)
            except DeviceError as error:
                if (cuda_failure(error) or ("", False))[1]:
                    failed(request.config, record, progress, benchmark, error)
                if record is not None:
                    record.write("not_measured", metric=name, reason=str(error), toolchain="cuda c++")
            except Exception as error:
                failed(request.config, record, progress, benchmark, error)
        progress.say(f"{len(names)} measured or refused")
        if wrong:
            pytest.fail(wrong, pytrace=False)

    return run


def _by_hand(gpu: Device, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from . import timing

    operation = gpu.operation(name)
    try:
        starts = []
        for _ in range(WARM_UP + ROUNDS):
            operation.ready()
            timing.host_timer()
            starts.append(len(timing.host_marks))
            operation.run()
            timing.host_timer()
        lines = _rounds(name, "cuda c++", operation, timing.host_marks, starts[-ROUNDS:], by_events=False)
        return lines, operation.about
    finally:
        operation.close()


def _rounds(
    metric: str, toolchain: str, operation: Operation, marks: list[Mark], starts: list[int], by_events: bool
) -> list[dict[str, Any]]:
    """One record line per round; `starts` has how many marks there were when each began."""
    pairs = [(marks[n - 1], marks[n]) for n in starts]
    return [
        {
            "metric": metric,
            "toolchain": toolchain,
            "index": index,
            "work": operation.work,
            "work_unit": operation.work_unit,
            "event_s": after.event_s - before.event_s if by_events else None,
            "host_s": after.host_s - before.host_s,
            "globaltimer_s": None,
            "start_host_s": before.host_s,
            "sm_id": [],
            "sm_cycles": [],
            "sm_work": [],
        }
        for index, (before, after) in enumerate(pairs)
    ]


def _write(record: RecordWriter | None, lines: list[dict[str, Any]], about: dict[str, Any]) -> None:
    if record is None:
        return
    first = lines[0]
    family = first["metric"].partition(".")[0]
    source = {"pcie": "cuda_operations.py", "peer": "cuda_peers.py", "launch": "cuda_launches.py"}[family]
    kernel = {
        "metric": first["metric"],
        "toolchain": first["toolchain"],
        "name": first["metric"],
        "source": source,
        "source_sha256": sha256(files(__package__).joinpath(source).read_bytes()).hexdigest(),
        "cubin_sha256": None,
        "architecture": None,
        "compiler": None,
        "operations_per_iteration": first["work"],
        "work_unit": first["work_unit"],
        "check": None,
    }
    check = {"check": check_line(about["check"])} if "check" in about else {}
    record.write("kernel", **kernel | about | check)
    record.write_rounds(lines)


def _shown(lines: list[dict[str, Any]]) -> str:
    from .units import show

    seconds = median((line["event_s"] or line["host_s"]) / line["work"] for line in lines)
    text = show(1 / seconds, "B/s") if lines[0]["work_unit"] == "B" else f"{seconds * 1e6:.2f} us"
    return f"{text:>14}, {len(lines)} rounds"


def _report_link(gpu: Device, record: RecordWriter | None, operation: Operation, lines: list[dict[str, Any]]) -> None:
    """Reads the link while transfers run, and says what it gives of its line rate and what is wrong with it."""
    from .claims import NoDriver
    from .links import HEALTHY_SHARE, link_findings
    from .units import show

    if record is None:
        return
    metric = lines[0]["metric"]
    for _ in range(LINK_RUNS):
        operation.run()
    try:
        link = gpu.link()
    except NoDriver:
        link = None
    operation.ready()
    if link is None or link.line_rate is None:
        text = f"{metric}: the driver does not say what the PCIe link negotiated; held against no line rate"
        record.write("finding", code="link-unknown", severity="info", metric=metric, text=text)
        return
    both = 2 if metric == "pcie.both" else 1
    share = lines[0]["work"] / median(line["event_s"] for line in lines) / (link.line_rate * both)
    text = (
        f"{metric}: {share:.1%} of {show(link.line_rate * both, 'B/s')}, PCIe {link.generation} x{link.width} after "
        f"coding; NUMA node of the buffers {link.cpu_node}, of the device {link.device_node}"
    )
    low = share < HEALTHY_SHARE and both == 1
    code = "link-below-line-rate" if low else "link-share"
    record.write("finding", code=code, severity="warning" if low else "info", metric=metric, text=text)
    for code, severity, said in link_findings(link):
        record.write("finding", code=code, severity=severity, metric=metric, text=f"{metric}: {said}")
