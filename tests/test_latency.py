"""The pointer chase: its cycle by three implementations, its declarations, and what a run says of latency."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuassay
from gpuassay import verify
from gpuassay.figures import read as read_figures
from gpuassay.kernels import KERNELS, ChaseKernel, kernels_for
from gpuassay.kernels.cycle import half_bits, order, permuted, placed, successors
from gpuassay.kernels.latency import LATENCY_KERNELS, PAGE_BYTES
from gpuassay.verdict import Judgement

Measure = Callable[..., Path]
HERE = Path(__file__).parent
SEEDS = st.integers(0, 2**64 - 1)


# -- the cycle: NumPy's ----------------------------------------------------------------------------------------


@given(st.integers(1, 3000), SEEDS)
def test_the_chase_visits_every_slot_once_and_comes_back(n: int, seed: int) -> None:
    following = successors(n, seed)
    at, seen = 0, set()
    for _ in range(n):
        seen.add(at)
        at = int(following[at])
    assert seen == set(range(n))
    assert at == 0


@given(st.integers(1, 3000), SEEDS)
def test_the_order_of_the_visit_is_that_of_the_pointers(n: int, seed: int) -> None:
    visited = order(n, seed)
    assert (successors(n, seed)[visited] == np.roll(visited, -1)).all()


@given(st.integers(1, 2**40))
def test_the_network_is_the_smallest_that_holds_the_slots(n: int) -> None:
    half = half_bits(n)
    assert 4**half >= n
    assert half == 1 or 4 ** (half - 1) < n


@settings(max_examples=20)
@given(st.integers(2**20, 2**36), SEEDS)
def test_large_cycles_stay_inside(n: int, seed: int) -> None:
    some = np.unique(np.linspace(0, n - 1, 2000).astype(np.uint64))
    images = permuted(some, n, seed)
    assert images.max() < n
    assert np.unique(images).size == some.size


def test_no_slots_are_no_cycle() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        half_bits(0)


def test_the_order_is_random() -> None:
    """Nothing that a prefetcher could learn: neighbours in the order lie as far apart as in a shuffled array."""
    n = 2**14
    steps = np.abs(np.diff(order(n, 12345).astype(np.int64)))
    assert np.mean(steps) == pytest.approx(n / 3, rel=0.03)
    assert np.mean(steps == 1) < 5 / n * 2
    assert (order(n, 1) != order(n, 2)).mean() > 0.99


@given(st.integers(1, 500), st.sampled_from([128, 256, 4096, PAGE_BYTES]))
def test_slots_begin_at_lines_of_their_own(n: int, stride_bytes: int) -> None:
    """No two pointers share a 128-byte line, hence no sector is fetched twice in one pass."""
    at = placed(np.arange(n, dtype=np.uint64), stride_bytes)
    assert (at % np.uint64(128) == 0).all()
    assert (at // np.uint64(stride_bytes) == np.arange(n, dtype=np.uint64)).all()


def test_pages_begin_in_different_sets() -> None:
    within = placed(np.arange(4096, dtype=np.uint64), PAGE_BYTES) % np.uint64(PAGE_BYTES)
    assert np.unique(within).size > 3000


# -- the cycle: the device's, in C++ ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device_code(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """cycle.cuh, which has nothing of CUDA but two qualifiers, compiled for this machine's processor."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no host C++ compiler")
    folder = tmp_path_factory.mktemp("cycle")
    source = folder / "cycle.cpp"
    source.write_text(
        "#define __device__\n#define __forceinline__ inline\n"
        f'#include "{HERE.parent / "kernels" / "cycle.cuh"}"\n'
        'extern "C" unsigned long long p(unsigned long long i, unsigned long long n, int h, unsigned long long s)'
        " { return permuted(i, n, h, s); }\n"
        'extern "C" unsigned long long q(unsigned long long i, unsigned long long s) { return placed(i, s); }\n'
    )
    library = folder / "cycle.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    code = ctypes.CDLL(str(library))
    code.p.restype = code.q.restype = ctypes.c_uint64
    code.p.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_uint64]
    code.q.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    return code


@given(st.data())
def test_the_device_code_computes_what_numpy_does(device_code: ctypes.CDLL, data: st.DataObject) -> None:
    n, seed = data.draw(st.integers(1, 2**40)), data.draw(SEEDS)
    index = data.draw(st.integers(0, n - 1))
    assert device_code.p(index, n, half_bits(n), seed) == permuted(np.array([index], np.uint64), n, seed)[0]
    for stride_bytes in (128, PAGE_BYTES):
        assert device_code.q(index, stride_bytes) == placed(np.array([index], np.uint64), stride_bytes)[0]


# -- the cycle and the chase: the Numba twin's, in Numba's simulator -------------------------------------------

# Run with NUMBA_ENABLE_CUDASIM=1 in a process of its own, because the choice is made when Numba is imported. {fault}
# plants a fault.
SIMULATION = """
import numpy as np
from hypothesis import given, settings, strategies as st
from numba import cuda
from gpuassay.kernels import numba_cycle, numba_twins
from gpuassay.kernels.cycle import half_bits, placed, successors, order

np.seterr(over="ignore")
{fault}
BASE = 2**40

def built(n, seed, stride_bytes, blocks):
    words = np.zeros(n * stride_bytes // 8, np.uint64)
    cursor = np.zeros(blocks, np.uint64)
    u = np.uint64
    cuda.jit(numba_cycle.SIGNATURE)(numba_cycle.latency_cycle)[2, 2](
        words, u(BASE), u(n), u(half_bits(n)), u(stride_bytes), u(seed), cursor, u(blocks)
    )
    return words, cursor

@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(0, 2**64 - 1), st.sampled_from([128, 4096]))
def one_cycle(n, seed, stride_bytes):
    words, cursor = built(n, seed, stride_bytes, 1)
    at, seen = int(cursor[0]) - BASE, set()
    for _ in range(n):
        seen.add(at // stride_bytes)
        at = int(words[at // 8]) - BASE
    assert seen == set(range(n)) and at == int(cursor[0]) - BASE
    every = np.arange(n, dtype=np.uint64)
    expected = placed(successors(n, seed), stride_bytes) + np.uint64(BASE)
    assert (words[(placed(every, stride_bytes) // np.uint64(8)).astype(int)] == expected).all()

one_cycle()
words, cursor = built(60, 5, 128, 2)
start = cursor.copy()
numba_twins.smid, numba_twins.clock64, numba_twins.globaltimer = (lambda: 7), (lambda: 11), (lambda: 13)
numba_twins.load_address = lambda at: words[(int(at) - BASE) // 8]
stamps = np.zeros((2, 6), np.uint64)
function, signature = numba_twins.TWINS["latency_cached"]
cuda.jit(signature)(function)[2, 1](stamps.reshape(-1), cursor, np.uint32(3))
visited = placed(order(60, 5), 128) + np.uint64(BASE)
assert (start == visited[[0, 30]]).all()
assert (cursor == visited[[(0 + 96) % 60, (30 + 96) % 60]]).all()
assert (stamps == [[7, 11, 11, 13, 13, 3]] * 2).all()
"""


def simulate(fault: str = "") -> subprocess.CompletedProcess[str]:
    pytest.importorskip("numba_cuda", reason="the numba toolchain is not installed")
    return subprocess.run(
        [sys.executable, "-c", SIMULATION.format(fault=fault)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_twin_makes_one_cycle_and_follows_it() -> None:
    run = simulate()
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "fault",
    [
        "numba_cycle.permuted = lambda index, n, half_bits, seed: index ^ np.uint64(index > 0 and index % 2)",
        "numba_cycle.mixed = lambda word: word",
        "numba_cycle.placed = lambda slot, stride_bytes: slot * stride_bytes",
    ],
)
def test_a_fault_in_the_twin_is_found(fault: str) -> None:
    assert "AssertionError" in simulate(fault).stderr


# -- declarations ----------------------------------------------------------------------------------------------


def test_loads_per_loop_are_declared_one_by_one() -> None:
    for kernel in LATENCY_KERNELS:
        assert kernel.work_unit == "load"
        assert sum(kernel.instructions.values()) == kernel.work_per_iteration
        assert kernel.threads == 1
        assert kernel in KERNELS


def test_only_clusters_need_a_newer_part() -> None:
    for kernel in LATENCY_KERNELS:
        assert bool(kernel.architecture_for("8.6")) == (kernel.metric != "latency.cluster")
    (cluster,) = kernels_for("latency.cluster")
    assert "9.0" in cluster.requires


def test_footprints_are_whole_slots() -> None:
    from gpuassay.suites.test_latency import FOOTPRINTS, PAGES

    assert FOOTPRINTS[0] == 1024
    assert all(size % 128 == 0 for size in FOOTPRINTS)
    assert all(size % PAGE_BYTES == 0 for size in PAGES)
    assert sorted(set(FOOTPRINTS)) == FOOTPRINTS
    dense = [size for size in FOOTPRINTS if 20 * 2**20 <= size <= 160 * 2**20]
    assert np.diff(np.log2(dense)).max() < 1 / 8 + 0.01


# -- a run on the fake -----------------------------------------------------------------------------------------


def test_memory_latency_is_part_of_a_quick_run(judged: Callable[..., Judgement]) -> None:
    judgement = judged()
    (verdict,) = (v for v in judgement.verdicts if v.metric == "latency.memory")
    assert verdict.verdict == verdict.delivered_verdict == "not published"
    assert verdict.unit == "s"
    assert verdict.measured == pytest.approx(682 / 1.755e9, rel=0.003)
    assert verdict.expanded_uncertainty is not None
    assert 0 < verdict.expanded_uncertainty < 0.01 * verdict.measured
    assert "682." in verdict.reason or "681." in verdict.reason
    assert "2 GiB" in verdict.reason


def test_the_benchmark_file_of_a_chase_gives_seconds_per_load(tmp_path: Path) -> None:
    extra = {"metric": "latency.l2.all_sms", "variant": None, "work": 132 * 32000, "work_unit": "load"}
    extra |= {"sm_clock_hz": 1.98e9, "sm_count": 132}
    entry = {"name": "test_latency", "stats": {"median": 0.0045}, "extra_info": extra}
    document = {"benchmarks": [entry], "machine_info": {}, "commit_info": {}, "version": "5.1.0", "datetime": ""}
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(document))
    (row,) = read_figures(str(path)).rows
    assert row.value == pytest.approx(0.0045 / 32000)


def test_a_latency_says_nothing_of_conformity(judged: Callable[..., Judgement]) -> None:
    slow, usual = judged(latencies=(58, 68, 558, 1364, 60)), judged()
    assert slow.overall == usual.overall
    # Times since the host's clock began differ from run to run, and so do their last digits.
    assert astuple(slow.multiplicity) == pytest.approx(astuple(usual.multiplicity), rel=1e-6)


def test_what_does_not_fit_is_measured_over_what_does(fake_run: Measure) -> None:
    record = gpuassay.read(fake_run(memory_bytes=2 * 2**30))
    rounds = record.rounds()
    taken = rounds[rounds["metric"] == "latency.memory"]["footprint_bytes"].unique()
    assert taken.tolist() == [int(0.8 * 2 * 2**30)]


def test_too_little_memory_is_not_measured_and_names_the_bytes(fake_run: Measure) -> None:
    record = gpuassay.read(fake_run(memory_bytes=2**30))
    (line,) = record.not_measured
    assert line["metric"] == "latency.memory"
    assert str(2 * 2**30) in line["reason"]
    assert "memory.read" in set(record.rounds()["metric"])


def test_the_json_of_a_run_without_curves_says_so(judged: Callable[..., Judgement]) -> None:
    document = json.loads(json.dumps(judged().to_json()))
    assert document["hierarchy"] is None


def test_replayed_figures_have_no_hierarchy() -> None:
    reference = sorted((HERE.parent / "results" / "reference").glob("*.jsonl"))[0]
    assert verify.judge_record(reference, None).hierarchy is None


def test_a_chase_is_a_kernel_of_its_own_kind() -> None:
    assert {kernel.metric for kernel in KERNELS if isinstance(kernel, ChaseKernel)} == {
        kernel.metric for kernel in LATENCY_KERNELS
    }


def test_the_twins_generator_compiles_to_integers() -> None:
    """The simulator knows no types: an address that became a float would pass it."""
    pytest.importorskip("numba_cuda", reason="the numba toolchain is not installed")
    from numba import cuda

    from gpuassay.kernels.numba_cycle import SIGNATURE, latency_cycle

    ptx, _ = cuda.compile_ptx(latency_cycle, SIGNATURE, cc=(9, 0))
    assert "st.u64" in ptx or "st.global" in ptx or "st.b64" in ptx
    assert ".f64" not in ptx
    assert ".f32" not in ptx
