"""The references that decide whether a kernel computes rightly, checked against independent emulations."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.kernels import KERNELS, ChaseKernel, Check, kernels_for
from gpuassay.kernels.memory import cuda_pattern, numba_pattern
from gpuassay.kernels.tensor import (
    BF16,
    BINARY,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP64,
    INT4,
    INT8,
    TENSOR_KERNELS,
    TF32,
    Format,
)
from gpuassay.kernels.vector import (
    FORMATS,
    VECTOR_KERNELS,
    FusedMultiplyAdd,
    PackedFusedMultiplyAdd,
    to_e4m3,
)

VECTOR = {kernel.metric: kernel for kernel in VECTOR_KERNELS}


@pytest.fixture
def rng() -> np.random.Generator:
    """One of its own for each test: the order of the tests decides nothing."""
    return np.random.default_rng(7)


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


# -- vector ------------------------------------------------------------------------------------------------

# Every vector kernel once more, one thread and one word at a time, in Python's integers and fractions: written from
# PTX ISA and vector.cu, sharing nothing with the references. A thread's state is a list of `width` words (bits).

MASK = 2**32 - 1
LAYOUT = {"fp32": (24, -126), "fp64": (53, -1022), "fp16": (11, -14), "bf16": (8, -126), "e4m3": (4, -6)}


def number_of(bits: int, layout: str) -> Fraction:
    """The value of the bits of a finite number: sign, exponent, fraction."""
    precision, lowest = LAYOUT[layout]
    fraction, exponent = bits % 2 ** (precision - 1), bits >> (precision - 1)
    exponent, sign = exponent % (2 * (2 - lowest)), exponent // (2 * (2 - lowest))
    significand = fraction + (2 ** (precision - 1) if exponent else 0)
    return (-1) ** sign * significand * Fraction(2) ** (max(exponent, 1) - 2 + lowest - precision + 2)


def encoded(value: Fraction, layout: str, negative: bool | None = None) -> int:
    """The bits of the nearest number, ties to even."""
    precision, lowest = LAYOUT[layout]
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent = max(lowest, exponent - (magnitude < Fraction(2) ** exponent)) if magnitude else lowest
    steps = round(magnitude / Fraction(2) ** (exponent - precision + 1))  # Python rounds a half to even as well
    bits = steps + (exponent - lowest) * 2 ** (precision - 1)
    sign = value < 0 if negative is None else negative
    return bits + sign * 2 * (2 - lowest) * 2 ** (precision - 1)


def fma(x: int, a: int, b: int, layout: str) -> int:
    return encoded(number_of(x, layout) * number_of(a, layout) + number_of(b, layout), layout)


def float32(bits: int) -> float:
    return float(struct.unpack("f", struct.pack("I", bits))[0])


def bits32(value: float) -> int:
    return int(struct.unpack("I", struct.pack("f", value))[0])


def e4m3(bits: int) -> int:
    value = number_of(bits, "fp32")
    sign = bits >> 31
    return sign * 0x80 + (0x7E if abs(value) > 448 else min(0x7E, encoded(abs(value), "e4m3")))


def signed(word: int, bits: int) -> int:
    return word - 2**bits if word >= 2 ** (bits - 1) else word


FUNCTIONS = {
    "ex2": lambda x: 2.0**x,
    "lg2": math.log2,
    "rcp": lambda x: 1.0 / x,
    "rsqrt": lambda x: x**-0.5,
    "sin": math.sin,
    "tanh": math.tanh,
}


def one_step(kernel, x: list[int], a: int, b: int) -> list[int]:  # type: ignore[no-untyped-def]
    """One thread's words after one step; the shuffle needs its whole warp and is below."""
    x = list(x)
    n = len(x)
    following = [*range(1, n), 0]
    name = kernel.metric
    if name in ("vector.fp32", "vector.fp64"):
        return [fma(word, a, b, name[-4:]) for word in x]
    if name in ("vector.fp16", "vector.bf16"):
        halves = [[fma(word >> s & 0xFFFF, a >> s & 0xFFFF, b >> s & 0xFFFF, name[-4:]) for s in (0, 16)] for word in x]
        return [low | high << 16 for low, high in halves]
    if name == "vector.int32":
        return [(a * word + b) & MASK for word in x]
    if name == "vector.shift":
        s = a % 32
        ring = sum(word << 32 * (n - 1 - i) for i, word in enumerate(x))
        ring = (ring << s | ring >> 32 * n - s) & (2 ** (32 * n) - 1)
        return [ring >> 32 * (n - 1 - i) & MASK for i in range(n)]
    if name == "convert.f32_bf16":
        halves = [encoded(number_of(word, "fp32"), "bf16") for word in x]
        return [halves[following[i]] << 16 | halves[i] for i in range(n)]
    if name == "convert.i32_f32":
        for _ in range(2):
            x = [encoded(Fraction(signed(word, 32)), "fp32") for word in x]
        return [(a * word + b) & MASK for word in x]
    if name == "convert.f32_fp8":
        pairs = [e4m3(x[i]) << 8 | e4m3(x[j]) for i in range(4) for j in range(4)]
        mixed = [(b * x[4 + i] + (pairs[2 * i] | pairs[2 * i + 1] << 16)) & MASK for i in range(8)]
        return [bits32(float32(a) - float32(word)) for word in x[:4]] + mixed
    if name.startswith("sfu."):
        half = n // 2
        arguments = [float32(word) for word in x[:half]]
        results = [bits32(float32(x[half + i]) + FUNCTIONS[name[4:]](argument)) for i, argument in enumerate(arguments)]
        return [bits32(float32(a) - argument) for argument in arguments] + results
    for i in range(n):
        other = x[following[i]]
        if name == "vector.int32_add":
            x[i] = (x[i] + other + a) & MASK
        elif name == "vector.logic":
            x[i] = x[i] ^ other ^ a
        elif name == "vector.popc":
            x[i] = (a * x[i] + other.bit_count()) & MASK
        elif name == "vector.dp4a":
            products = [signed(other >> s & 0xFF, 8) * signed(a >> s & 0xFF, 8) for s in (0, 8, 16, 24)]
            x[i] = (x[i] + sum(products)) & MASK
        else:
            raise AssertionError(f"no emulation of {name}")
    return x


def emulate(kernel, inputs: np.ndarray, steps: int) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    """What the kernel leaves after 0, 1, ... `steps` steps, width x threads, flat, in the output's type."""
    word = np.uint64 if np.dtype(kernel.output).itemsize == 8 else np.uint32
    rows = inputs.view(word).reshape(-1, kernel.threads).tolist()
    a, b = rows[:2]
    threads = [list(column) for column in zip(*rows[2:], strict=True)]
    after = [threads]
    for _ in range(steps):
        if kernel.metric == "vector.shuffle":
            threads = [threads[thread // 32 * 32 + a[thread]] for thread in range(kernel.threads)]
        else:
            threads = [one_step(kernel, x, a[i], b[i]) for i, x in enumerate(threads)]
        after.append(threads)
    return [np.array(words, word).T.ravel().view(kernel.output) for words in after]


VECTOR_NAMES = [f"{kernel.metric}-{kernel.toolchain.split()[0]}" for kernel in VECTOR_KERNELS]


@pytest.mark.parametrize("kernel", VECTOR_KERNELS, ids=VECTOR_NAMES)
def test_vector_within_bound_and_one_missing_step_outside(kernel) -> None:  # type: ignore[no-untyped-def]
    """Missing one step, two, or all of one iteration is far outside."""
    small = replace(kernel, threads=32 if kernel.metric == "vector.shuffle" else 4)
    inputs = small.inputs(np.random.default_rng(11), timed=False)
    assert inputs.dtype == kernel.output
    assert inputs.size == (2 + kernel.width) * small.threads
    expected, bound = small.reference(inputs, kernel.check_iterations)
    assert expected.shape == (small.outputs_per_block,)
    *_, right = after = emulate(small, inputs, kernel.check_iterations * kernel.steps)
    check = Check.compare(right, expected, bound)
    assert check.passed, check
    for missing in (1, 2, kernel.steps):
        assert not Check.compare(after[-1 - missing], expected, bound).passed, missing


@pytest.mark.parametrize("kernel", VECTOR_KERNELS, ids=VECTOR_NAMES)
def test_timed_values_stay_finite_and_alive(kernel, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    """After many iterations nothing has overflowed, settled on one value, or died out."""
    small = replace(kernel, threads=32)
    inputs = small.inputs(rng, timed=True)
    late, _ = small.reference(inputs, 100)
    later, _ = small.reference(inputs, 101)
    if late.dtype.kind == "f":
        assert np.isfinite(late).all()
        # Nothing grows, except the sums of the special functions, slowly: beyond 2^24 they stop growing.
        assert np.abs(late).max() < (10 * 100 * kernel.steps if kernel.metric.startswith("sfu.") else 4)
    if isinstance(kernel, PackedFusedMultiplyAdd):
        _, decode = FORMATS[kernel.format]
        assert np.abs(decode(np.ascontiguousarray(late).view(np.uint16))).max() < 4
    assert np.unique(late).size > 0.6 * late.size
    # x, b - x, x, ...: an even number of steps brings a chain with a = -1 back, and arguments of special functions.
    if not isinstance(kernel, FusedMultiplyAdd | PackedFusedMultiplyAdd):
        assert (late != later).mean() > 0.4


def test_the_shuffle_is_a_permutation_that_keeps_no_lane(rng: np.random.Generator) -> None:
    source = VECTOR["vector.shuffle"].inputs(rng, timed=True)[:1024].reshape(32, 32)
    assert (np.sort(source, axis=1) == np.arange(32)).all()
    assert (source != np.arange(32)).all()


@pytest.mark.parametrize(
    ("value", "byte"),
    [
        (1.0, 0x38), (448.0, 0x7E), (464.0, 0x7E), (1e9, 0x7E), (-1e9, 0xFE), (0.0, 0x00), (-0.0, 0x80),
        (2.0**-6, 0x08), (2.0**-9, 0x01), (2.0**-10, 0x00), (1.5 * 2.0**-10, 0x01), (1.0625, 0x38), (1.1875, 0x3A),
        (15.5, 0x58),
    ],
)  # fmt: skip
def test_known_e4m3_bytes(value: float, byte: int) -> None:
    """From the format's own table (OCP 8-bit Floating Point Specification), and halves between neighbours."""
    assert int(to_e4m3(np.array([value], np.float32))[0]) == byte
    assert e4m3(bits32(value)) == byte


@pytest.mark.parametrize("layout", ["fp32", "fp64", "fp16"])
def test_the_emulations_formats_are_numpys(layout: str) -> None:
    kind = {"fp32": np.float32, "fp64": np.float64, "fp16": np.float16}[layout]
    word = f"u{np.dtype(kind).itemsize}"
    for value in [0.0, 1.0, -1.5, 6.103515625e-05, 5.960464477539063e-08, 1e-6, 2 / 3, 40000.0, -0.1]:
        bits = int(np.array([value], kind).view(word)[0])
        assert encoded(Fraction(value), layout) == bits
        assert number_of(bits, layout) == Fraction(float(kind(value)))


# -- tensor ------------------------------------------------------------------------------------------------


def decoded(data: np.ndarray, name: str) -> np.ndarray:
    """Values of little-endian bytes in a format given by PTX's name, from the format's definition, bit by bit."""
    bits = np.unpackbits(data, bitorder="little")
    if name in ("b1", "s4", "s8"):
        width = {"b1": 1, "s4": 4, "s8": 8}[name]
        weights = 2.0 ** np.arange(width)
        weights[-1] *= -1 if width > 1 else 1  # two's complement
        return bits.reshape(-1, width) @ weights
    wide = {"f16": (5, 10), "bf16": (8, 7), "tf32": (8, 23), "f64": (11, 52)}
    exponents, fractions = {"e4m3": (4, 3), "e5m2": (5, 2), **wide}[name]
    fields = bits.reshape(-1, 1 + exponents + fractions).astype(np.float64)
    fraction = fields[:, :fractions] @ 2.0 ** np.arange(-fractions, 0)
    exponent = fields[:, fractions:-1] @ 2.0 ** np.arange(exponents)
    bias = 2 ** (exponents - 1) - 1
    magnitude = np.where(exponent == 0, 2.0 ** (1 - bias) * fraction, 2.0 ** (exponent - bias) * (1 + fraction))
    return np.where(fields[:, -1] == 1, -magnitude, magnitude)


def unpadded(kernel, words: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Registers of shape (..., bytes) as elements (..., elements per register)."""
    return decoded(np.ascontiguousarray(words).ravel(), kernel.format.ptx).reshape(*words.shape[:-1], -1)


def fragments_a(kernel, rows: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(m, k as stored) of one instruction from the rows (m, bytes), by way of the registers that the threads load and
    the row and column that the PTX ISA gives to element i of a thread's fragment."""
    m, size = rows.shape[0], 8 if kernel.format.bits == 64 else 4
    matrix = None
    for warp in range(m // 16 or 1):
        block = rows[warp * 16 : warp * 16 + min(m, 16)].reshape(min(m, 16), -1, size)
        for thread in range(32):
            group, lane = thread // 4, thread % 4
            tall = min(m, 16) // 8
            mine = [block[group + part % tall * 8, lane + part // tall * 4] for part in range(block.size // size // 32)]
            elements = unpadded(kernel, np.array(mine))
            each = elements.shape[1]
            if matrix is None:
                matrix = np.full((m, rows.shape[1] // size * each), np.nan)
            for i, value in enumerate(elements.ravel()):
                row = group + (8 if i // each % tall else 0)
                matrix[warp * 16 + row, lane * each + i % each + i // (tall * each) * 4 * each] = value
    assert matrix is not None
    return matrix


def swizzled(kernel, rows: np.ndarray, step: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(rows, k) of instruction `step` as wgmma reads it: stored unit by unit as load_swizzled does, then read at the
    descriptor's address plus 32 or 64 bytes a step, with address bits 4-6 exclusive-or bits 7-9."""
    shared = np.zeros(rows.size, np.uint8)
    for row in range(rows.shape[0]):
        for unit in range(8):
            place = row * 8 + (unit ^ row % 8)
            shared[place * 16 : place * 16 + 16] = rows[row, unit * 16 : unit * 16 + 16]
    width = kernel.macros["STEP_BYTES"]
    address = np.arange(rows.shape[0])[:, None] * 128 + step * width + np.arange(width)
    return unpadded(kernel, shared[address ^ (address >> 7 & 7) << 4])


def with_zeros(kernel, stored: np.ndarray, metadata: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """A sparse A (m, k / 2) as (m, k): element by element from one 32-bit word for each 16 rows."""
    dense = np.zeros((stored.shape[0], 2 * stored.shape[1]))
    for row, column in np.ndindex(*stored.shape):
        word = int(metadata[row // 16])
        if kernel.format.ptx == "tf32":
            chunk = column
            code = word >> 4 * (chunk % 8) & 15
            assert code in (0b0100, 0b1110)
            dense[row, 2 * chunk + (code == 0b1110)] = stored[row, column]
        else:
            chunk = column // 2
            code = word >> 4 * (chunk % 8) & 15
            assert code & 3 < code >> 2
            dense[row, 4 * chunk + (code >> 2 if column % 2 else code & 3)] = stored[row, column]
    return dense


def instructions(kernel, inputs: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray]]]:  # type: ignore[no-untyped-def]
    """For each tile of D, in the order of the output: the (A, B) that meet in it, in one pass over what is resident."""
    macros, tiles = kernel.macros, []
    if kernel.source == "wgmma.cu":
        steps = 128 // macros["STEP_BYTES"]
        size_a = 64 * 128 // (2 if macros["SPARSE"] else 1)
        b = inputs[macros["WARPGROUPS"] * size_a :][: macros["N"] * 128].reshape(-1, 128)
        metadata = inputs[macros["WARPGROUPS"] * size_a + b.size :].view(np.uint32)
        for warpgroup in range(macros["WARPGROUPS"]):
            a = inputs[warpgroup * size_a : (warpgroup + 1) * size_a].reshape(64, -1)
            pairs = []
            for step in range(steps):
                if macros["A_IN_REGISTERS"]:
                    part = fragments_a(kernel, a[:, step * 32 : step * 32 + 32])
                else:
                    part = swizzled(kernel, a, step)
                if macros["SPARSE"]:
                    part = with_zeros(kernel, part, metadata[(warpgroup * 4 + np.arange(4)) * steps + step])
                pairs.append((part, swizzled(kernel, b, step)))
            tiles.append(pairs)
        return tiles
    size = 8 if macros["WORD"] == "double" else 4
    m, size_a, size_b = macros["M"], macros["A_WORDS"] * 32 * size, macros["B_WORDS"] * 32 * size
    count_a, count_b = macros["WARPS"] * macros["TILES_A"], macros["WARPS"] * macros["TILES_B"]
    a = inputs[: count_a * size_a].reshape(count_a, m, -1)
    b = inputs[count_a * size_a :][: count_b * size_b].reshape(count_b, 8, -1)
    metadata = inputs[a.size + b.size :].view(np.uint32) if macros["SPARSE"] else None
    for warp in range(macros["WARPS"]):
        # B's fragment is A's of eight rows: element i of thread t is column t / 4, row t % 4 and so on of k.
        matrices = [fragments_a(kernel, b[warp * macros["TILES_B"] + tile]) for tile in range(macros["TILES_B"])]
        for row in range(macros["TILES_A"]):
            place = warp * macros["TILES_A"] + row
            part = fragments_a(kernel, a[place])
            if metadata is not None:
                part = with_zeros(kernel, part, metadata[place : place + 1])
            tiles += [[(part, matrix)] for matrix in matrices]
    return tiles


def truncated32(values: np.ndarray) -> np.ndarray:
    """float64 -> float32, rounding toward zero, as tensor cores accumulate."""
    rounded = values.astype(np.float32)
    too_far = np.abs(rounded.astype(np.float64)) > np.abs(values)
    return np.where(too_far, np.nextafter(rounded, np.float32(0)), rounded)


def added(kernel, d: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """d + a b^T as the tensor core's accumulator keeps it."""
    if kernel.accumulator.integers == 2**14:  # every term cut off 13 bits below the largest (FP8 on Ada and Hopper)
        terms = np.concatenate([a[:, None, :] * b[None, :, :], d[..., None]], axis=-1)
        largest = np.abs(terms).max(axis=-1, keepdims=True)
        unit = 2.0 ** (np.floor(np.log2(np.maximum(largest, 2.0**-60))) - 13)
        return (np.trunc(terms / unit) * unit).sum(axis=-1)
    total = d + a @ b.T
    if kernel.output is np.float32:
        return truncated32(total).astype(np.float64)
    return total.astype(kernel.output).astype(np.float64)


def computed(kernel, inputs: np.ndarray, repetitions: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The output of one block, from the bytes that the kernel gets."""
    tiles = []
    for pairs in instructions(kernel, inputs):
        d = np.zeros((kernel.rows, kernel.columns))
        for _ in range(repetitions):
            for a, b in pairs:
                d = added(kernel, d, a, b)
        tiles.append(d)
    return np.array(tiles).astype(kernel.output)


DISTINCT = list({kernel.symbol: kernel for kernel in TENSOR_KERNELS}.values())


@pytest.mark.parametrize("kernel", DISTINCT, ids=[kernel.symbol for kernel in DISTINCT])
def test_a_tensor_kernel_within_bound_and_faults_outside(kernel, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    """Registers, shared memory and metadata are emulated from the bytes; the reference works on whole matrices."""
    # One warp or warpgroup is like another, except that more of them take longer to emulate.
    few = 1 if kernel.source == "wgmma.cu" else 2
    key = "WARPGROUPS" if kernel.source == "wgmma.cu" else "WARPS"
    kernel = replace(kernel, batches=few, macros={**kernel.macros, key: few})
    inputs = kernel.inputs(rng, timed=False)
    assert inputs.dtype == np.uint8
    expected, bound = kernel.reference(inputs, kernel.check_iterations)
    repetitions = kernel.check_iterations * kernel.repeats
    right = computed(kernel, inputs, repetitions)
    assert Check.compare(right.ravel(), expected, bound).passed
    assert not Check.compare(computed(kernel, inputs, repetitions - 1).ravel(), expected, bound).passed
    assert not Check.compare(np.roll(right, 1, axis=-2).ravel(), expected, bound).passed
    assert not Check.compare(np.roll(right, 1, axis=-1).ravel(), expected, bound).passed
    if kernel.sparse:
        other = inputs.copy()
        other[-4:] = {0x44: 0xEE}.get(int(other[-1]), 0x44)  # another pattern for the last 16 rows
        assert not Check.compare(computed(kernel, other, repetitions).ravel(), expected, bound).passed


@pytest.mark.parametrize("kernel", DISTINCT, ids=[kernel.symbol for kernel in DISTINCT])
def test_timed_data_are_random_and_finite(kernel, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    a, b = kernel.operands(kernel.inputs(rng, timed=True))
    for values in (a[a != 0], b[b != 0]) if kernel.sparse else (a, b):
        assert np.isfinite(values).all()
        assert np.unique(values).size > min(2**kernel.format.bits, 256) / 3 - 1
        assert abs(values.mean()) < 0.6 * values.std() + 0.5
    if kernel.sparse:
        assert 0.45 < (a != 0).mean() <= 0.5


@pytest.mark.parametrize(
    "format", [BF16, FP16, TF32, FP8_E4M3, FP8_E5M2, INT8, INT4, BINARY, FP64], ids=lambda f: f.ptx
)
def test_formats_pack_and_unpack(format: Format, rng: np.random.Generator) -> None:
    low = -format.integers - (format.ptx in ("s4", "s8")) if format.ptx != "b1" else 0
    integers = rng.integers(low, min(format.integers, 2**40), 4096, endpoint=True)
    packed = format.pack(integers)
    assert packed.size * 8 == integers.size * format.bits
    assert np.array_equal(format.unpack(packed), integers)
    assert np.array_equal(decoded(packed, format.ptx), integers)
    if format.work_unit == "FLOP":
        normal = rng.standard_normal(4096)
        values = format.unpack(format.pack(normal))
        assert np.array_equal(values, decoded(format.pack(normal), format.ptx))
        assert np.array_equal(format.pack(values), format.pack(normal))
        # Cut off, but for the step before it: rounding to FP16, whose subnormals lie 2^-16 apart as E4M3 is packed.
        assert (np.abs(values) <= np.abs(normal) * (1 + 2.0**-11) + 2.0**-17).all()
        assert 0.85 < values.std() < 1.05


@pytest.mark.parametrize("format", [FP8_E4M3, FP8_E5M2], ids=lambda f: f.ptx)
def test_every_fp8_number(format: Format) -> None:
    codes = np.arange(256, dtype=np.uint8)
    special = (codes & 0x7F) >= {"e4m3": 0x7F, "e5m2": 0x7C}[format.ptx]
    assert np.array_equal(format.unpack(codes)[~special], decoded(codes, format.ptx)[~special])


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
def test_reads_wrap_and_miss_nothing(toolchain: str, rng: np.random.Generator) -> None:
    kernel = kernels_for("memory.read", toolchain)[0]
    words = rng.integers(0, np.iinfo(kernel.word).max, 4096, dtype=kernel.word, endpoint=True)  # type: ignore[attr-defined]
    expected, _ = kernel.reference([words], None, 4096, 3)  # type: ignore[attr-defined]
    bits = np.dtype(kernel.word).itemsize * 8  # type: ignore[attr-defined]
    assert int(expected[0]) == 3 * sum(int(word) for word in words) % 2**bits


@pytest.mark.parametrize("toolchain", ["cuda c++", "numba"])
def test_triad_within_bound_fused_or_not(toolchain: str, rng: np.random.Generator) -> None:
    kernel = kernels_for("memory.triad", toolchain)[0]
    b, c = (rng.uniform(1, 2, 1000).astype(kernel.word) for _ in range(2))  # type: ignore[attr-defined]
    scalar = kernel.parameter(rng)  # type: ignore[attr-defined]
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
rng = np.random.default_rng(5)
np.seterr(over="ignore")
kernel = kernels_for("{metric}", "numba")[0]
function, signature = TWINS[kernel.symbol]
{fault}
stamps = np.zeros((2, 6), np.uint64)
counter = np.zeros(1, np.uint32)
if kernel.metric.startswith("vector."):
    # 32 of the 1024 threads of each block: a simulated thread is one of the host's.
    inputs = kernel.inputs(rng, timed=False)
    output = np.full((2, kernel.width, kernel.threads * np.dtype(kernel.output).itemsize), 0xFF, np.uint8)
    output = output.view(kernel.output)
    poison = output[:, :, 32:].copy()
    cuda.jit(signature)(function)[2, 32](stamps.reshape(-1), inputs, output.reshape(-1), np.int32(2))
    assert output[:, :, 32:].tobytes() == poison.tobytes()
    expected, bound = (
        np.broadcast_to(a, kernel.outputs_per_block).reshape(kernel.width, -1)[:, :32].ravel()
        for a in kernel.reference(inputs, 2)
    )
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


# The chase's twin has simulations of its own (test_latency.py).
SIMULATED = sorted({k.metric for k in KERNELS if k.toolchain == "numba" and not isinstance(k, ChaseKernel)})


@pytest.mark.parametrize("metric", SIMULATED)
def test_a_twin_in_the_simulator(metric: str) -> None:
    passed, stamps, counter = simulate(metric)
    assert passed
    assert [row[:5] for row in stamps] == [[7, 11, 11, 13, 13]] * 2
    # The simulator runs one block after the other: the first takes every chunk, the second is refused.
    assert [row[5] for row in stamps] == ([2, 2] if metric.startswith("vector.") else [4, 0])
    assert counter == [0], "the counter is ready for the next launch"


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("memory.write", "numba_twins.random_words = lambda place, seed: np.uint64(0x3F8000003F800000)"),
        ("vector.fp32", "function = numba_twins._vector('vector_fp32', 'cuda.fma({x}, a, b)', 56)"),
        ("vector.int32", "numba_twins.uint32 = lambda x: np.uint32(x) ^ np.uint32(1)"),
    ],
)
def test_a_fault_in_a_twin_is_found(metric: str, fault: str) -> None:
    assert not simulate(metric, fault)[0]
