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


def run(path: Path, finished: int | None = None, then_s: float = 0) -> dict[str, object]:
    """One run, killed `then_s` after it has finished so many benchmarks (None: all), unless it has ended by then."""
    source, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        measure(path, pipe)
    os.close(pipe)
    with os.fdopen(source) as said:
        names = list(itertools.islice(said, finished))
        time.sleep(then_s)
        os.kill(child, signal.SIGKILL)  # not waited for yet: it is still this process's child, if only a dead one
        names += said
    _, status = os.waitpid(child, 0)
    return {"record": str(path), "finished": "".join(names).split(), "killed": os.WIFSIGNALED(status)}


def main() -> None:
    folder, count, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    started = time.monotonic()
    whole = run(folder / "whole.jsonl")
    print(json.dumps(whole), flush=True)
    benchmarks = len(whole["finished"])
    benchmark_s = (time.monotonic() - started) / benchmarks
    # By what a run has done, not by the clock alone: a host that is slower than a minute ago would be killed early.
    for number in range(count):
        killed = run(folder / f"{number}.jsonl", rng.randrange(benchmarks), rng.uniform(0, benchmark_s))
        print(json.dumps(killed), flush=True)


if __name__ == "__main__":
    main()
