"""Runs the suites' process and watches it: what hangs is ended, and the rest is measured in a fresh process.

The suites say over a pipe what they begin and how long it may take (plugin.announce). A process that is silent for
longer is killed; one that died of a fault, or that says that its CUDA context is gone, is followed by another that goes
on with the same record.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .exit_codes import INTERRUPTED
from .faults import CONTEXT_LOST
from .record import RecordError, RecordWriter, read

__all__ = ["run"]

START_LIMIT_S = 300.0
"""Until the first word: imports, the driver's initialisation, the first look at NVML."""
STOP_LIMIT_S = 15.0
FRESH_PROCESSES = 5
"""A GPU that fails more often in one run is not worth more time."""

_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


@dataclass
class _End:
    status: int | None  # None: it did not answer and was killed
    benchmark: list[Any] | None = None  # metric, toolchain, variant: what it had begun
    limit_s: float = START_LIMIT_S
    gone: bool = True  # False: not even SIGKILL ended it


def run(command: list[str], record: Path, log: IO[str], environment: dict[str, str]) -> int:
    """Runs the suites by `command` until `record` has its end or nothing more can be had; returns the last exit status.

    A record that is there already is gone on with.
    """
    for _ in range(FRESH_PROCESSES + 1):
        append = ["--gpuassay-append"] if record.exists() else []
        end = _watch([*command, *append], log, environment)
        if end.status is not None and end.status not in _CRASHES | {CONTEXT_LOST}:
            if append and end.status != 0:
                _finish(record, f"the run could not go on in a fresh process (exit {end.status})", end.status)
            return end.status
        if not record.exists() or read(record).ended:
            return INTERRUPTED if end.status is None else end.status
        if end.status != CONTEXT_LOST and end.benchmark is not None:
            _give_up(record, end)
        if not end.gone:
            return _finish(record, "the process that measures could not be ended; the GPU may need its host's reboot")
        if end.benchmark is None and end.status != CONTEXT_LOST:
            return _finish(record, f"the process that measures gave no answer within {end.limit_s:g} s")
    return _finish(record, f"the GPU failed in {FRESH_PROCESSES + 1} processes; what is left was not tried")


def _watch(command: list[str], log: IO[str], environment: dict[str, str]) -> _End:
    """One process, from its start to its end."""
    heard, said = os.pipe()
    end = _End(None)
    with subprocess.Popen(
        [*command, f"--gpuassay-progress-fd={said}"], stdout=log, env=environment, pass_fds=(said,)
    ) as child:
        os.close(said)
        try:
            with _terminated_like_interrupted(child):
                _listen(heard, end)
                end.status = _wait(child, STOP_LIMIT_S if end.status == 0 else 0.0)
        except KeyboardInterrupt:
            os.close(heard)  # the next word it says tells it that nobody listens
            heard = -1
            if _wait(child, STOP_LIMIT_S / 3) is None:
                child.send_signal(signal.SIGINT)
            end.status = INTERRUPTED if _wait(child, STOP_LIMIT_S) is not None else None
            if end.status is None:
                end.status = INTERRUPTED
        finally:
            if heard >= 0:
                os.close(heard)
            if child.poll() is None:
                child.kill()
                end.gone = _wait(child, STOP_LIMIT_S) is not None
                if not end.gone:
                    child.returncode = -signal.SIGKILL  # Popen would wait for it without end
    return end


def _listen(heard: int, end: _End) -> None:
    """Keeps in `end` what was begun last; returns when the process is silent for too long, or (status 0) at its end."""
    told, since = b"", time.monotonic()
    while True:
        left_s = end.limit_s - (time.monotonic() - since)
        if left_s <= 0 or not select.select([heard], [], [], left_s)[0]:
            return
        data = os.read(heard, 65536)
        if not data:
            end.status = 0
            return
        *lines, told = (told + data).split(b"\n")
        for line in lines:
            word = json.loads(line)
            end.benchmark, end.limit_s, since = word["benchmark"], word["limit_s"], time.monotonic()


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> int | None:
    try:
        return child.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


@contextlib.contextmanager
def _terminated_like_interrupted(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGTERM interrupts the suites and then this program, as Ctrl-C does at a terminal."""

    def interrupt(*_: object) -> None:
        child.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _give_up(record: Path, end: _End) -> None:
    """Writes why the benchmark that ended the process is not measured."""
    assert end.benchmark is not None
    metric, toolchain, variant = end.benchmark
    if end.status is None:
        code, reason = "no-answer", f"no answer within {end.limit_s:g} s"
    else:
        code, reason = "crashed", f"the process that measured it crashed ({signal.Signals(-end.status).name})"
    writer = RecordWriter.reopen(record)
    said = {"variant": variant} if variant else {}
    writer.write("not_measured", metric=metric, reason=reason, toolchain=toolchain, **said)
    text = f"{metric}: {reason}; the metrics after it were measured in a fresh process"
    writer.write("finding", code=code, severity="warning", metric=metric, text=text)
    writer.leave()


def _finish(record: Path, text: str, status: int = INTERRUPTED) -> int:
    """Ends a record that cannot be completed, with the reason."""
    with contextlib.suppress(RecordError, OSError, ValueError):
        writer = RecordWriter.reopen(record)
        writer.write("finding", code="run-given-up", severity="error", metric=None, text=text)
        writer.close("failed")
    return status
