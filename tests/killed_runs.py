"""Runs of the suites on a fake GPU, each killed outright at a random moment: `python killed_runs.py FOLDER COUNT SEED`.

Each run is a fork of this process, which has everything imported, so that a run takes a second. The run says through a
pipe which benchmarks it has finished. One JSON line per run on stdout: its record, what it said, and whether it was
killed or had ended before.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import fake_gpu
import pytest

import gpuassay.plugin
import gpuassay.suites.test_cache
import gpuassay.suites.test_memory

SUITES = ["gpuassay.suites.test_memory", "gpuassay.suites.test_cache"]


class Finished:
    """Writes the name of each benchmark that pytest has done with to a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            os.write(self.pipe, f"{report.nodeid.split('::')[-1]}\n".encode())


def measure(path: Path, pipe: int) -> None:
    """One whole run; never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-c", os.devnull, "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin"]
    arguments = ["--pyargs", *SUITES, "-m", "quick", f"--gpuassay-record={path}"]
    code = pytest.main([*options, *arguments], plugins=[gpuassay.plugin, fake_gpu, Finished(pipe)])
    os._exit(int(code))


def run(path: Path, finished: int | None = None, share: float = 0, benchmark_s: float = 0) -> dict[str, object]:
    """One run, killed when it has finished so many benchmarks (None: all) and a `share` of the time that one of them
    takes has passed, unless it has ended by then. `benchmark_s`: that time, where none has finished."""
    source, pipe = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(source)
        measure(path, pipe)
    os.close(pipe)
    with os.fdopen(source) as said:
        names = list(itertools.islice(said, finished))
        if names:
            benchmark_s = (time.monotonic() - started) / len(names)
        time.sleep(share * benchmark_s)
        os.kill(child, signal.SIGKILL)  # not waited for yet: it is still this process's child, if only a dead one
        names += said
    _, status = os.waitpid(child, 0)
    told = "".join(names).split()
    return {"record": str(path), "finished": told, "killed": os.WIFSIGNALED(status), "benchmark_s": benchmark_s}


def main() -> None:
    folder, count, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    last = whole = run(folder / "whole.jsonl")
    print(json.dumps(whole), flush=True)
    benchmarks = len(whole["finished"])
    # By what a run has done and how fast it was, not by the clock: the host is faster and slower from minute to minute.
    for number in range(count):
        last = run(folder / f"{number}.jsonl", rng.randrange(benchmarks), rng.random(), last["benchmark_s"])
        print(json.dumps(last), flush=True)


if __name__ == "__main__":
    main()
