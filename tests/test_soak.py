"""Many benchmarks in one process: memory, file descriptors and threads stay as they are."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import gpuassay

# GPUASSAY_SOAK asks for more. pytest keeps a report of each test, and pytest-benchmark a result of each benchmark, for
# what they print at the end: 5 kB per benchmark by tracemalloc. The suite below lets go of theirs, so that whatever
# else grows is seen. What stays is what pytest leaves on each of its items (fixtures, log handlers): 1.6 kB.
BENCHMARKS = int(os.environ.get("GPUASSAY_SOAK", "300"))
LEFT_ON_EACH_TEST_BYTES = 2_500
SUITE = f"""
import json, os, threading
import pytest
from gpuassay.timing import point

@pytest.fixture(autouse=True)
def forgetful(request):
    yield
    request.config._benchmarksession.benchmarks.clear()
    request.config.pluginmanager.get_plugin("terminalreporter").stats.clear()

@point
@pytest.mark.parametrize("turn", range({BENCHMARKS}))
def test_again(measure, gpu, turn):
    assert len(gpu.marks) <= 2  # of the benchmark before
    measure("latency.l2", "cuda c++")
    with open("usage.jsonl", "a") as file:
        resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        print(json.dumps([resident, len(os.listdir("/proc/self/fd")), threading.active_count()]), file=file)
"""


def test_many_benchmarks_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "test_soak_suite.py").write_text(SUITE)
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    plugins = ["-p", "pytest_benchmark.plugin", "-p", "gpuassay.plugin", "-p", "fake_gpu", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, *plugins, "--gpuassay-record=run.jsonl"]
    command += ["--benchmark-disable-gc", "--capture=no", "test_soak_suite.py"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    usage = [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    assert len(usage) == BENCHMARKS
    middle, last = usage[BENCHMARKS // 2 : BENCHMARKS // 2 + 20], usage[-20:]
    grown = statistics.median(row[0] for row in last) - statistics.median(row[0] for row in middle)
    assert grown <= BENCHMARKS / 2 * LEFT_ON_EACH_TEST_BYTES
    for column in (1, 2):  # descriptors, threads
        assert {row[column] for row in last} == {row[column] for row in middle}
    assert gpuassay.read(tmp_path / "run.jsonl").complete
