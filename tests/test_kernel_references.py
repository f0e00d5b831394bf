"""The references that decide whether a kernel computes rightly, checked against independent emulations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.kernels import KERNELS, Check, kernels_for
from gpuassay.kernels.memory import cuda_pattern, numba_pattern
from gpuassay.kernels.tensor import MMA_SYNC_BF16, WGMMA_BF16, bf16_to_float64, random_bf16
from gpuassay.kernels.vector import VECTOR_FP32, VECTOR_FP32_NUMBA

RNG = np.random.default_rng(7)


# -- Check -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(1e-6, 1), st.data())
def test_the_worst_element_decides(values: list[float], bound: float, data: st.DataObject) -> None:
    reference = np.array(values)
    place = data.draw(st.integers(0, len(values) - 1))
    output = reference.copy()
    output[place] += 3 * bound
    check = Check.compare(output, reference, bound)
    assert not check.passed
    assert check.where == f"element {place}"
    assert Check.compare(reference, reference, bound).passed


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30), st.integers(0, 63), st.data())
def test_one_wrong_bit_of_an_integer_fails(values: list[int], bit: int, data: st.DataObject) -> None:
    reference = np.array(values, np.uint64)
    place = data.draw(st.integers(0, len(values) - 1))
    output = reference.copy()
    output[place] ^= np.uint64(1) << np.uint64(bit)
    check = Check.compare(output, reference, 0.0)
    assert (check.passed, check.where) == (False, f"element {place}")
    assert Check.compare(reference, reference, 0.0) == Check(True, 0.0, "element 0")


def test_the_bound_itself_still_passes() -> None:
    assert Check.compare(np.array([1.5]), np.array([1.0]), 0.5) == Check(True, 1.0, "element 0")
    assert not Check.compare(np.array([np.nextafter(1.5, 2)]), np.array([1.0]), 0.5).passed


def test_the_place_names_block_and_element() -> None:
    """One reference for every block: the output has a row for each."""
    output = np.tile(np.arange(4, dtype=np.float32), (3, 1))
    output[2, 1] += 1
    assert Check.compare(output, np.arange(4.0), np.full(4, 0.5)) == Check(False, 2.0, "element 2,1")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_a_number_fails(bad: float) -> None:
    output = np.zeros((3, 4), np.float32)
    output[1, 2] = bad
    assert Check.compare(output, np.zeros(4), 1e30) == Check(False, np.inf, "element 1,2")


def test_a_bound_of_zero_means_exact_for_floats_too() -> None:
    assert Check.compare(np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.0) == Check(True, 0.0, "element 0")
    wrong = np.array([1.0, np.nextafter(2.0, 3)])
    assert Check.compare(wrong, np.array([1.0, 2.0]), 0.0) == Check(False, np.inf, "element 1")
    assert not Check.compare(np.array([np.nan]), np.array([0.0]), 0.0).passed


def test_an_unwritten_output_fails() -> None:
    poisoned = np.full((2, 3), 0xFF, np.uint8).repeat(4).view(np.float32)
    check = Check.compare(poisoned, np.zeros(6), 1.0)
    assert not check.passed
    assert check.worst_error == np.inf


def test_a_bound_of_zero_asks_for_equality() -> None:
    assert Check.compare(np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.0).passed
    assert not Check.compare(np.array([1.0, 2.0]), np.array([1.0, 2.5]), 0.0).passed


def test_integers_are_exact() -> None:
    assert Check.compare(np.array([7], np.uint64), np.array([7], np.uint64), 0.0).passed
    assert not Check.compare(np.array([2**63], np.uint64), np.array([2**63 + 1], np.uint64), 0.0).passed


# -- vector.fp32 -------------------------------------------------------------------------------------------


def fma32(inputs: np.ndarray, steps: int) -> np.ndarray:
    """x = a x + b in float32, each step rounded once (the exact product fits float64)."""
    a, b = np.float64(inputs[0]), np.float64(inputs[1])
    x = inputs[2:].copy()
    for _ in range(steps):
        x = (a * x.astype(np.float64) + b).astype(np.float32)
    return x


@pytest.mark.parametrize("kernel", [VECTOR_FP32, VECTOR_FP32_NUMBA])
def test_fma_within_bound_and_one_missing_step_outside(kernel) -> None:  # type: ignore[no-untyped-def]
    small = replace(kernel, threads=32)
    inputs = small.inputs(RNG, timed=False)
    expected, bound = small.reference(inputs, 2)
    steps = 2 * small.unroll
    assert Check.compare(fma32(inputs, steps), expected, bound).passed
    assert not Check.compare(fma32(inputs, steps - 1), expected, bound).passed
    assert not Check.compare(fma32(inputs, steps - 2), expected, bound).passed


def test_timed_values_stay_bounded_and_alive() -> None:
    inputs = replace(VECTOR_FP32, threads=32).inputs(RNG, timed=True)
    late = fma32(inputs, 10_000)
    assert np.abs(late).max() < 4
    assert np.unique(late).size > 0.9 * late.size


# -- tensor ------------------------------------------------------------------------------------------------


def truncated32(values: np.ndarray) -> np.ndarray:
    """float64 -> float32, rounding toward zero, as tensor cores accumulate."""
    rounded = values.astype(np.float32)
    too_far = np.abs(rounded.astype(np.float64)) > np.abs(values)
    return np.where(too_far, np.nextafter(rounded, np.float32(0)), rounded)


def accumulate(kernel, inputs: np.ndarray, repetitions: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """D += A B^T, sixteen products a step, truncated after each."""
    values = bf16_to_float64(inputs)
    count_a = kernel.batches * kernel.tiles_a * kernel.rows * kernel.depth
    a = values[:count_a].reshape(kernel.batches, kernel.tiles_a, 1, kernel.rows, kernel.depth)
    b = values[count_a:].reshape(-1, 1, kernel.tiles_b, kernel.columns, kernel.depth)
    d = np.zeros((kernel.batches, kernel.tiles_a, kernel.tiles_b, kernel.rows, kernel.columns), np.float32)
    for _ in range(repetitions):
        for k in range(0, kernel.depth, 16):
            part = a[..., k : k + 16] @ np.swapaxes(b[..., k : k + 16], -1, -2)
            d = truncated32(d.astype(np.float64) + part)
    return d


@pytest.mark.parametrize("kernel", [WGMMA_BF16, MMA_SYNC_BF16])
def test_truncated_accumulation_is_within_bound(kernel) -> None:  # type: ignore[no-untyped-def]
    inputs = kernel.inputs(RNG, timed=False)
    expected, bound = kernel.reference(inputs, 2)
    repetitions = 2 * kernel.repeats
    right = accumulate(kernel, inputs, repetitions)
    assert Check.compare(right.ravel(), expected, bound).passed
    assert not Check.compare(accumulate(kernel, inputs, repetitions - 1).ravel(), expected, bound).passed
    assert not Check.compare(np.roll(right, 1, axis=-2).ravel(), expected, bound).passed
    assert not Check.compare(np.roll(right, 8, axis=-1).ravel() if right.shape[-1] > 8 else right.ravel() * 1.001,
                             expected, bound).passed  # fmt: skip


def test_bf16_is_the_upper_half_of_fp32() -> None:
    bits = random_bf16(RNG, 1000)
    values = bf16_to_float64(bits)
    assert np.array_equal(values.astype(np.float32).view(np.uint32) >> 16, bits)
    assert 0.9 < values.std() < 1.1


# -- memory ------------------------------------------------------------------------------------------------


def memory_write_by_hand(chunks: int, threads: int, vectors: int, seed: int) -> list[int]:
    """memory_write of memory.cu, thread by thread, in Python integers."""
    mask = 2**32 - 1
    out = [0] * (chunks * threads * vectors * 4)
    for chunk in range(chunks):
        for thread in range(threads):
            start = chunk * threads * vectors + thread
            h = (start * 0x9E3779B1 & mask) ^ (start >> 32) ^ seed
            h = ((h ^ h >> 15) * 0x85EBCA6B) & mask
            word = 0x3F800000 | ((h ^ h >> 13) & 0x007FFFFF)
            for v in range(vectors):
                mixed = word ^ v * 0x00111111
                place = 4 * (start + v * threads)
                out[place : place + 4] = [mixed, mixed ^ 0x1B8735, mixed ^ 0x52DCE7, mixed ^ 0x7F4A9B]
    return out


def test_the_pattern_of_memory_write() -> None:
    by_hand = memory_write_by_hand(3, 64, 8, 0xDEADBEEF)
    assert cuda_pattern(len(by_hand), 0xDEADBEEF, 64, 64 * 8).tolist() == by_hand


@pytest.mark.parametrize("seed", [0, 0xDEADBEEF, 2**32 - 1])
def test_the_pattern_of_the_twin(seed: int) -> None:
    """memory_write of numba_twins.py, word by word, in Python integers; also where 64 bits overflow."""
    places = [*range(2000), 2**32 - 1, 2**32, 2**63, 2**64 - 1]
    by_hand = []
    for place in places:
        h = (place + seed) * 0x9E3779B97F4A7C15 % 2**64
        h ^= h >> 29
        by_hand.append(0x3F8000003F800000 | (h & 0x007FFFFF007FFFFF))
    assert numba_pattern(np.array(places, np.uint64), seed).tolist() == by_hand


@given(st.integers(0, 2**32 - 1))
def test_patterns_are_floats_in_one_to_two(seed: int) -> None:
    with np.errstate(over="ignore"):
        ours = cuda_pattern(8 * 512 * 4, seed, 512, 4096).view(np.float32)
        twin = numba_pattern(np.arange(4096, dtype=np.uint64), seed).view(np.float32)
    for words in (ours, twin):
        assert words.min() >= 1
        assert words.max() < 2
        assert np.unique(words).size > 0.95 * words.size


@pytest.mark.parametrize("toolchain", ["cuda c++", "numba"])
def test_reads_wrap_and_miss_nothing(toolchain: str) -> None:
    kernel = kernels_for("memory.read", toolchain)[0]
    words = RNG.integers(0, np.iinfo(kernel.word).max, 4096, dtype=kernel.word, endpoint=True)  # type: ignore[attr-defined]
    expected, _ = kernel.reference([words], None, 4096, 3)  # type: ignore[attr-defined]
    bits = np.dtype(kernel.word).itemsize * 8  # type: ignore[attr-defined]
    assert int(expected[0]) == 3 * sum(int(word) for word in words) % 2**bits


@pytest.mark.parametrize("toolchain", ["cuda c++", "numba"])
def test_triad_within_bound_fused_or_not(toolchain: str) -> None:
    kernel = kernels_for("memory.triad", toolchain)[0]
    b, c = (RNG.uniform(1, 2, 1000).astype(kernel.word) for _ in range(2))  # type: ignore[attr-defined]
    scalar = kernel.parameter(RNG)  # type: ignore[attr-defined]
    expected, bound = kernel.reference([b, c], scalar, 1000, 1)  # type: ignore[attr-defined]
    assert Check.compare(b + scalar * c, expected, bound).passed
    wider = np.longdouble
    fused = (b.astype(wider) + wider(scalar) * c.astype(wider)).astype(kernel.word)  # type: ignore[attr-defined]
    assert Check.compare(fused, expected, bound).passed
    assert not Check.compare(b + scalar * c * (1 + 1e-5), expected, bound).passed
    wrong = scalar * kernel.word(1 + 8 * np.finfo(kernel.word).eps)  # type: ignore[attr-defined]
    assert not Check.compare(b + wrong * c, expected, bound).passed


# -- the Numba twins, in Numba's simulator -----------------------------------------------------------------

# Python, run with NUMBA_ENABLE_CUDASIM=1 in a process of its own, because the choice is made when Numba is imported.
# Numba's simulator has no PTX special registers, so they become constants; {fault} plants a fault.
SIMULATION = """
import json
import numpy as np
from numba import cuda
from gpuassay.kernels import Check, kernels_for, numba_twins
from gpuassay.kernels.numba_twins import TWINS

numba_twins.smid, numba_twins.clock64, numba_twins.globaltimer = (lambda: 7), (lambda: 11), (lambda: 13)
{fault}
rng = np.random.default_rng(5)
np.seterr(over="ignore")
kernel = kernels_for("{metric}", "numba")[0]
function, signature = TWINS[kernel.symbol]
stamps = np.zeros((2, 6), np.uint64)
counter = np.zeros(1, np.uint32)
if kernel.metric == "vector.fp32":
    # 32 of the 1024 threads of each block: a simulated thread is one of the host's.
    inputs = kernel.inputs(rng, timed=False)
    output = np.full((2, kernel.chains, kernel.threads), np.nan, np.float32)
    cuda.jit(signature)(function)[2, 32](stamps.reshape(-1), inputs, output.reshape(-1), np.int32(2))
    assert np.isnan(output[:, :, 32:]).all()
    expected, bound = (a.reshape(kernel.chains, -1)[:, :32].ravel() for a in kernel.reference(inputs, 2))
    check = Check.compare(output[:, :, :32].reshape(2, -1), expected, bound)
else:
    chunks, passes = 2, 2
    words = chunks * kernel.chunk_bytes // 8
    inputs = [rng.uniform(1, 2, words).view(np.uint64).view(kernel.word) for _ in range(kernel.input_arrays)]
    parameter = kernel.parameter(rng)
    output = np.full(words + 512, 0xFFFFFFFFFFFFFFFF, np.uint64).view(kernel.word)  # 512 words beyond the end
    if kernel.output_is_sum:
        output = np.zeros(1, kernel.word)
    rest = () if parameter is None else (parameter,)
    cuda.jit(signature)(function)[2, kernel.threads](
        stamps.reshape(-1), counter, np.uint32(chunks), np.uint32(chunks * passes), *inputs, output, *rest
    )
    expected, bound = kernel.reference(inputs, parameter, words, passes)
    assert kernel.output_is_sum or (output[words:].view(np.uint64) == 0xFFFFFFFFFFFFFFFF).all()
    check = Check.compare(output[: expected.size], expected, bound)
print(json.dumps([bool(check.passed), stamps.tolist(), counter.tolist()]))
"""


def simulate(metric: str, fault: str = "") -> tuple[bool, list[list[int]], list[int]]:
    """(check passed, stamps, chunk counter afterwards) of one launch of a twin on two blocks."""
    pytest.importorskip("numba_cuda", reason="the numba toolchain is not installed")
    run = subprocess.run(
        [sys.executable, "-c", SIMULATION.format(metric=metric, fault=fault)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    passed, stamps, counter = json.loads(run.stdout)
    return passed, stamps, counter


@pytest.mark.parametrize("metric", sorted({kernel.metric for kernel in KERNELS if kernel.toolchain == "numba"}))
def test_a_twin_in_the_simulator(metric: str) -> None:
    passed, stamps, counter = simulate(metric)
    assert passed
    assert [row[:5] for row in stamps] == [[7, 11, 11, 13, 13]] * 2
    # The simulator runs one block after the other: the first takes every chunk, the second is refused.
    assert [row[5] for row in stamps] == ([2, 2] if metric == "vector.fp32" else [4, 0])
    assert counter == [0], "the counter is ready for the next launch"


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("memory.write", "numba_twins.random_words = lambda place, seed: np.uint64(0x3F8000003F800000)"),
        ("vector.fp32", "numba_twins.sixteen_steps = lambda *x: x[:8]"),
    ],
)
def test_a_fault_in_a_twin_is_found(metric: str, fault: str) -> None:
    assert not simulate(metric, fault)[0]
