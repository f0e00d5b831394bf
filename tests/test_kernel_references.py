"""The references that decide whether a kernel computes rightly, checked against independent emulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.kernels import Check, kernels_for
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


def test_an_unwritten_output_fails() -> None:
    poisoned = np.full((2, 3), 0xFF, np.uint8).repeat(4).view(np.float32)
    check = Check.compare(poisoned, np.zeros(6), 1.0)
    assert not check.passed
    assert check.worst_error == np.inf


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
