"""The pytest plugin: gives the suites a GPU, runs what they ask for, and writes the run record.

The life of one measurement (fixture `measure`):
1. choose the kernel for this GPU, or say why there is none;
2. prepare: compile, load, check against the reference, allocate, size, warm up (device.prepare);
3. refuse a rate where the check failed;
4. time: pytest-benchmark's rounds on the GPU's clock (timing.py);
5. collect each round's stamps from the device;
6. append everything to the record.

Suites can also be run by hand: `pytest --pyargs gpuassay.suites`. Without --gpuassay-record no record is kept.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .exit_codes import NO_GPU
from .metrics import SUSTAINED
from .plugin_operations import measure_operation, measure_peers
from .plugin_outcome import (
    AUDIT_LIMIT_S,
    DONE,
    LIMIT_S,
    LOST,
    SUSTAINED_LIMIT_S,
    Progress,
    announce,
    check_failed,
    check_line,
    close,
    failed,
    must_time,
    not_measured,
    skip_if_done,
)

__all__ = ["gpu", "measure", "measure_operation", "measure_peers", "record"]  # fixtures: pytest finds them here

if TYPE_CHECKING:
    from .device import Data, Device, Workload
    from .kernels import Kernel
    from .record import Record, RecordWriter


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suites."""
    group = parser.getgroup("gpuassay", "measuring a GPU (gpuassay)")
    group.addoption("--gpuassay-record", metavar="FILE", help="append the run's record to FILE (must not exist)")
    group.addoption("--gpuassay-device", metavar="N", type=int, default=0, help="CUDA device (default: 0)")
    group.addoption("--gpuassay-run-id", metavar="ID", help="the run's id (default: a new one)")
    group.addoption("--gpuassay-append", action="store_true", help="go on with the record FILE, which has no end yet")
    group.addoption("--gpuassay-limit", metavar="S", type=float, help="end a benchmark that takes longer (seconds)")
    group.addoption("--gpuassay-progress-fd", metavar="FD", type=int, help="say there what is being measured")
    group.addoption("--gpuassay-limiter-minutes", metavar="N", type=float, help="of the audit's hunt for limits")
    group.addoption("--gpuassay-profile", metavar="NAME", default="", help="the profile's name, for the record")


# 20 s are 400 rounds: fewer than the stamps that stay on the device, and a sample of the clock every 50 ms.
SUSTAINED_ROUND_S = 0.050
# A point of a curve over footprints: a launch's cost of some 10 us does not hide a knee.
POINT_ROUND_S = 0.004


def pytest_configure(config: pytest.Config) -> None:
    """Markers of the suites."""
    if (descriptor := config.getoption("--gpuassay-progress-fd")) is not None:
        os.set_inheritable(descriptor, False)
    config.addinivalue_line("markers", "gpu: needs a real GPU")
    config.addinivalue_line("markers", "quick: part of the quick profile")
    config.addinivalue_line("markers", "full: part of the full profile only")
    config.addinivalue_line("markers", "audit: a check of the honesty audit")
    config.addinivalue_line("markers", "thorough: of those, part of the audit profile only")
    config.addinivalue_line("markers", "claims: part of the audit profile, since a claim is held against it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The audit's checks last: they warm the part up, and failing memory may cost the CUDA context."""
    items.sort(key=lambda item: item.get_closest_marker("audit") is not None)


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> Device:
    """The GPU under test. Tests without one replace this fixture by a fake of the same interface."""
    from .claims import NoDriver
    from .cuda import CudaDevice
    from .device import DeviceError

    try:
        return CudaDevice(request.config.getoption("--gpuassay-device"))
    except (DeviceError, NoDriver) as error:
        print(f"gpuassay: {error}", file=sys.stderr)
        pytest.exit(str(error), returncode=NO_GPU)


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest, gpu: Device) -> Iterator[RecordWriter | None]:
    """The record of this run, with telemetry running beside the measurements; None where none was asked for."""
    from . import timing
    from .record import read
    from .telemetry import Telemetry

    timing.use(gpu)
    path = request.config.getoption("--gpuassay-record")
    if path is None:
        yield None
        return
    claims = gpu.claims()
    uuid = next((str(claim["value"]) for claim in claims if claim["quantity"] == "uuid"), None)
    with _alone_on(uuid), _writer(request.config, claims) as writer:
        failed_before = any(line["code"] == "check-failed" for line in read(path).findings)
        with Telemetry(gpu.sensors(), writer.write):
            yield writer
        announce(request.config, None)
        _what_changed(gpu, read(path), writer)
        if request.config.stash.get(LOST, False):
            writer.leave()
            return
        # pytest tears fixtures down after an interrupt as after a run that finished; its status says which it was.
        cut_off = request.session.exitstatus != pytest.ExitCode.OK
        spoilt = failed_before or request.session.testsfailed or cut_off
        writer.close("failed" if spoilt else "complete")


def _what_changed(gpu: Device, begun: Record, writer: RecordWriter) -> None:
    """Findings where the device says something else of itself at the end than at the start of the run."""
    try:
        claims = {claim["quantity"]: claim["value"] for claim in reversed(gpu.claims())}
    except Exception as error:  # a GPU that is gone answers nothing
        text = f"at the end the device did not say any more what it is: {str(error).partition(chr(10))[0]}"
        writer.write("finding", code="claims-changed", severity="warning", metric=None, text=text)
        return
    for quantity in ("name", "uuid", "count.sm", "memory.size", "mig.mode", "ecc.mode", "driver.version"):
        before, after = begun.claims.get(quantity), claims.get(quantity)
        if before != after:
            text = f"during the run {quantity} changed from {before} to {after}"
            writer.write("finding", code="claims-changed", severity="error", metric=None, text=text)
    errors = [int(c.get("ecc.errors.uncorrected") or 0) for c in (begun.claims, claims)]
    if errors[1] > errors[0]:
        text = f"uncorrected ECC errors rose from {errors[0]} to {errors[1]} during the run: the memory is failing"
        writer.write("finding", code="ecc-errors", severity="error", metric=None, text=text)


def _writer(config: pytest.Config, claims: list[dict[str, Any]]) -> RecordWriter:
    """A new record with its first two lines, or the one to go on with."""
    from pathlib import Path

    from . import resume
    from .record import RecordWriter, new_run_id
    from .record import read as read_record

    path = Path(config.getoption("--gpuassay-record"))
    if config.getoption("--gpuassay-append"):
        if why_not := resume.other_gpu(read_record(path), claims):
            print(f"gpuassay: {why_not}", file=sys.stderr)
            pytest.exit(why_not, returncode=NO_GPU)
        config.stash[DONE] = resume.done(path)
        return RecordWriter.reopen(path)
    writer = RecordWriter(path)
    run_id = config.getoption("--gpuassay-run-id") or new_run_id()
    writer.write("run", **_run_line(run_id, config.getoption("--gpuassay-profile")))
    writer.write("device", claims=claims)
    return writer


@contextlib.contextmanager
def _alone_on(uuid: str | None) -> Iterator[None]:
    """Holds the GPU against other runs of this program; leaves pytest where one has it."""
    from . import lock

    with contextlib.ExitStack() as held:
        try:
            if uuid is not None:
                held.enter_context(lock.hold(uuid))
        except lock.LockError as error:
            print(f"gpuassay: {error}", file=sys.stderr)
            pytest.exit(str(error), returncode=NO_GPU)
        yield


@pytest.fixture
def measure(
    request: pytest.FixtureRequest, benchmark: Any, gpu: Device, record: RecordWriter | None
) -> Callable[..., None]:
    """measure(metric, toolchain, sustained=False, sms=None, data="random", footprint_bytes=None): the steps of this
    module's docstring.

    `sustained` measures under the name metric.sustained, in longer rounds. `sms`, `data` and `footprint_bytes`
    (device.Device.prepare) make a variant: recorded under the metric's name with `variant` saying what it is, and not
    judged.
    """
    progress = Progress(request.session, request.node)

    def run(
        metric: str,
        toolchain: str,
        *,
        sustained: bool = False,
        sms: int | None = None,
        data: Data = "random",
        footprint_bytes: int | None = None,
    ) -> None:
        must_time(benchmark)
        name = metric + (SUSTAINED if sustained else "")
        variant = f"{sms} SMs" if sms else None if data == "random" else data
        if footprint_bytes is not None:
            variant = f"{footprint_bytes} B"
        if sms and sms > gpu.sm_count:
            pytest.skip(f"the part has {gpu.sm_count} SMs")
        announce(request.config, (name, toolchain, variant), SUSTAINED_LIMIT_S if sustained else LIMIT_S)
        progress.start(f"{name} ({variant or toolchain})")
        from .kernels import no_kernel

        kernel = _choose(metric, toolchain, gpu.compute_capability, footprint_bytes)
        if kernel is None:
            not_measured(record, progress, name, no_kernel(metric, toolchain, gpu.compute_capability), toolchain)
        assert kernel is not None
        try:
            workload = gpu.prepare(
                kernel,
                round_s=SUSTAINED_ROUND_S if sustained else POINT_ROUND_S if footprint_bytes is not None else None,
                sms=sms,
                data=data,
                footprint_bytes=footprint_bytes,
            )
        except Exception as error:
            failed(request.config, record, progress, (name, toolchain, variant), error)
        if 0 < workload.footprint_bytes < 0.9 * workload.wanted_bytes:
            if footprint_bytes is not None:
                variant = f"{workload.footprint_bytes} B"
                skip_if_done(request.config, (name, toolchain, variant))
            _largest_footprint(record, metric, workload.wanted_bytes, workload.footprint_bytes)
        try:
            if record is not None:
                record.write("kernel", **_kernel_line(kernel, workload) | {"metric": name, "variant": variant})
            if not workload.check.passed:
                check_failed(record, progress, kernel, workload)
            benchmark(workload.launch)
            rounds = _rounds(kernel, workload, gpu, benchmark.stats.stats.data)
            for line in rounds:
                line |= {"metric": name, "footprint_bytes": workload.footprint_bytes}
                line |= {"variant": variant} if variant else {}
            if record is not None:
                record.write_rounds(rounds)
            benchmark.extra_info |= _extra_info(rounds, variant)
            progress.done(rounds)
        except Exception as error:
            failed(request.config, record, progress, (name, toolchain, variant), error)
        finally:
            close(request.config, workload)

    return run


@pytest.fixture
def audit(request: pytest.FixtureRequest, gpu: Device, record: RecordWriter | None) -> Callable[[str], None]:
    """audit(name): runs one of gpuassay.audit.checks on the device; its rows go to the record."""

    def run(name: str) -> None:
        from .audit import overall
        from .audit.checks import LIMITER_MINUTES, Run, guarded
        from .cuda import CudaDevice

        progress = Progress(request.session, request.node)
        minutes = request.config.getoption("--gpuassay-limiter-minutes") or LIMITER_MINUTES
        # The hunt's long trials run again where they show something.
        limit_s = AUDIT_LIMIT_S + (2 * 60 * minutes if name == "limiters" else 0.0)
        benchmark = (f"audit: {name}", "cuda c++", None)
        announce(request.config, benchmark, limit_s)
        progress.start(f"audit: {name}")
        if not isinstance(gpu, CudaDevice):
            progress.say("skipped: needs a real GPU")
            pytest.skip("needs a real GPU")
        try:
            rows = guarded(name, gpu, Run(record.path if record else None, minutes))
        except Exception as error:
            failed(request.config, record, progress, benchmark, error)
        if record is not None:
            for row in rows:
                record.write("audit", **row.line(), metric=benchmark[0], toolchain=benchmark[1])
        progress.say(overall(rows))

    return run


def _choose(metric: str, toolchain: str, compute_capability: str, footprint_bytes: int | None) -> Kernel | None:
    from .kernels import MemoryKernel, kernels_for

    def fits(kernel: Kernel) -> bool:
        return footprint_bytes is None or not isinstance(kernel, MemoryKernel) or kernel.fits(footprint_bytes)

    candidates = (k for k in kernels_for(metric, toolchain) if fits(k))
    return next((k for k in candidates if k.architecture_for(compute_capability)), None)


def _rounds(kernel: Kernel, workload: Workload, gpu: Device, durations_s: list[float]) -> list[dict[str, Any]]:
    """One record line per timed round.

    pytest-benchmark launches more often than it counts (calibration before, one call after). The counted rounds
    are the newest launches that have a clock mark on both sides; their durations must be the ones it reports.
    """
    timed = [(n, m) for n, m in enumerate(workload.launches) if m < len(gpu.marks)]
    lines = []
    for index, ((launch, mark), duration_s) in enumerate(zip(timed[-len(durations_s) :], durations_s, strict=True)):
        before, after = gpu.marks[mark - 1], gpu.marks[mark]
        event_s = after.event_s - before.event_s
        if event_s != duration_s:
            raise RuntimeError(f"round {index} of {kernel.metric}: {event_s} s marked, {duration_s} s reported")
        lines.append(
            {
                "metric": kernel.metric,
                "toolchain": kernel.toolchain,
                "index": index,
                "event_s": event_s,
                "host_s": after.host_s - before.host_s,
                "start_host_s": before.host_s,
                **_from_stamps(kernel, workload.stamps(launch)),
            }
        )
    return lines


def _extra_info(rounds: list[dict[str, Any]], variant: str | None) -> dict[str, Any]:
    """What pytest-benchmark's own JSON should say beside its times; `gpuassay judge` reads it."""
    from statistics import median

    return {
        "metric": rounds[0]["metric"],
        "variant": variant,
        "work": rounds[0]["work"],
        "work_unit": rounds[0]["work_unit"],
        "sm_clock_hz": median(r["sm_clock_hz"] for r in rounds),
        "sm_count": len(rounds[0]["sm_id"]),
    }


def _from_stamps(kernel: Kernel, stamps: Any) -> dict[str, Any]:
    """What a launch says of itself: per SM the work done and the cycles from its first start to its last stop
    (clock64 counts per SM, so blocks of one SM share a clock), and the whole launch on the global timer."""
    import numpy as np

    from .device import CLOCK_START, CLOCK_STOP, ITERATIONS, SMID, TIME_START_NS, TIME_STOP_NS, DeviceError

    for start, stop, clock in ((CLOCK_START, CLOCK_STOP, "clock64"), (TIME_START_NS, TIME_STOP_NS, "%globaltimer")):
        if (stamps[:, stop] < stamps[:, start]).any():  # unsigned: the difference would be huge, not negative
            raise DeviceError(f"{clock} went backwards inside a launch, so nothing can be timed by it")
    smid = stamps[:, SMID].astype(np.int64)
    order = np.unique(smid)
    cycles, work = [], []
    for sm in order:
        blocks = stamps[smid == sm]
        cycles.append(int(blocks[:, CLOCK_STOP].max() - blocks[:, CLOCK_START].min()))
        work.append(int(blocks[:, ITERATIONS].sum()) * kernel.work_per_iteration)
    nanoseconds = stamps[:, TIME_STOP_NS].max() - stamps[:, TIME_START_NS].min()
    # The SM clock from each block's own two pairs of stamps: the mean over a launch of 10 ms, free of launch cost.
    per_block = (stamps[:, CLOCK_STOP] - stamps[:, CLOCK_START]) / np.maximum(
        stamps[:, TIME_STOP_NS] - stamps[:, TIME_START_NS], 1
    )
    return {
        "work": sum(work),
        "work_unit": kernel.work_unit,
        "globaltimer_s": float(nanoseconds) * 1e-9,
        "sm_clock_hz": float(np.median(per_block)) * 1e9,
        "sm_id": [int(sm) for sm in order],
        "sm_cycles": cycles,
        "sm_work": work,
    }


def _largest_footprint(record: RecordWriter | None, metric: str, wanted: int, taken: int) -> None:
    if record is not None:
        text = f"{metric}: {wanted} B were asked for; measured over {taken} B, the most that the free memory holds"
        record.write("finding", code="largest-footprint", severity="info", metric=metric, text=text)


def _kernel_line(kernel: Kernel, workload: Workload) -> dict[str, Any]:
    return {
        "metric": kernel.metric,
        "toolchain": kernel.toolchain,
        "name": kernel.symbol,
        "source": kernel.source,
        "source_sha256": kernel.source_sha256,
        "cubin_sha256": workload.cubin_sha256,
        "architecture": workload.architecture,
        "compiler": workload.compiler,
        "operations_per_iteration": kernel.work_per_iteration,
        "work_unit": kernel.work_unit,
        "instructions": dict(kernel.instructions_for(workload.architecture)),
        "footprint_bytes": workload.footprint_bytes,
        "check": check_line(workload.check),
    }


def _run_line(run_id: str, profile: str) -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from . import __version__
    from .record import SCHEMA, utc_now

    packages = {}
    for name in (
        "cupy-cuda13x",
        "cupy-cuda12x",
        "numba-cuda",
        "cuda-core",
        "nvidia-cuda-nvrtc",
        "nvidia-ml-py",
        "numpy",
        "pandas",
        "pytest",
        "pytest-benchmark",
    ):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "started": utc_now(),
        "instrument": f"gpuassay {__version__}",
        "samples": "kept",
        "profile": profile or None,
        "program": {"version": __version__, "commit": _commit()},
        "host": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": packages,
        },
        "argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
    }


def _commit() -> str | None:
    """The commit of a source checkout, with "-dirty" where it differs; None for an installed wheel."""
    import subprocess
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
