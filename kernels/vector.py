"""vector.*, sfu.*, convert.*: declarations and references for vector.cu and its Numba twins.

How work is counted: a multiply-add is two operations, in each half of a packed word too; a dot product of four bytes
is four multiply-adds; anything else is one operation per 32-bit (or converted) result, as in CUDA's throughput table.
The addition has three addends and one result: one operation.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .declare import VECTOR_ARCHITECTURES, ArithmeticKernel, Toolchain, WorkUnit

Words = NDArray[np.uint32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class VectorKernel(ArithmeticKernel):
    """Each of `threads` threads works on `width` words, `steps` times per iteration, with operands a and b.

    Inputs: a and b of every thread, then width x threads starting values. Outputs: width x threads words.
    """

    width: int = 16
    steps: int = 32

    @property
    def outputs_per_block(self) -> int:
        """One per word and thread."""
        return self.width * self.threads

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[Any]:
        """a, b (each `threads` values) and the starting values, as `output`."""
        a, b, x = self.operands(rng, timed)
        return np.concatenate([a.ravel(), b.ravel(), x.ravel()]).astype(self.output, copy=False)

    @abstractmethod
    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """a and b of shape (threads,), x of shape (width, threads)."""

    def words(self, rng: np.random.Generator, count: int = 1) -> Words:
        """Random 32-bit words, shape (count, threads)."""
        return rng.integers(2**32, size=(count, self.threads), dtype=np.uint32)

    def split(self, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """a, b and x of `inputs`; x is a copy."""
        rows = inputs.reshape(2 + self.width, self.threads)
        return rows[0], rows[1], rows[2:].copy()


@dataclass(frozen=True)
class FusedMultiplyAdd(VectorKernel):
    """x = a x + b in FP32 or FP64."""

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Floats, Floats, Floats]:
        """Timed: a = -1, so that x alternates between x and b - x for ever: every bit keeps toggling, nothing
        converges to a constant (which would draw less power) and nothing overflows. Checked: a is a little above
        -1, so that a missing step changes the result by far more than rounding does.
        """
        a = np.full(self.threads, -1.0) if timed else rng.uniform(-0.9995, -0.999, self.threads)
        return a, rng.uniform(0.5, 1.5, self.threads), rng.uniform(-1, 1, (self.width, self.threads))

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[Floats, Floats]:
        """The recurrence in float64. Bound: each of n FMAs rounds once, and |a| <= 1 lets no earlier error grow; a
        rounding errs by at most the unit roundoff u (2^-24 for FP32, 2^-53 for FP64: IEEE 754) times the largest
        value on the way. In FP64 the reference's own two roundings per step count as well: 3 n u instead of n u."""
        a, b, x = (part.astype(np.float64) for part in self.split(inputs))
        n = iterations * self.steps
        largest = np.abs(x)
        for _ in range(n):
            x = a * x + b
            largest = np.maximum(largest, np.abs(x))
        bound = n * (2.0**-24 if self.output is np.float32 else 3 * 2.0**-53) * largest
        return x.ravel(), bound.ravel()


def to_fp16(values: Floats) -> NDArray[np.uint16]:
    """FP16 bits of float64 values, rounded to nearest even once."""
    bits: NDArray[np.uint16] = values.astype(np.float16).view(np.uint16)
    return bits


def from_fp16(bits: NDArray[np.uint16]) -> Floats:
    """Exact values of FP16 bits."""
    return np.asarray(bits.view(np.float16).astype(np.float64))


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """BF16 bits of float64 values in BF16's normal range, rounded to nearest even once (8 significant bits)."""
    fraction, exponent = np.frexp(values)
    rounded = np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)
    return np.asarray(rounded.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> Floats:
    """Exact values of BF16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


FORMATS = {"fp16": (to_fp16, from_fp16), "bf16": (to_bf16, from_bf16)}


@dataclass(frozen=True)
class PackedFusedMultiplyAdd(VectorKernel):
    """x = a x + b on two FP16 or two BF16 values to a word."""

    format: str = "fp16"

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Words, Words, Words]:
        """As for FusedMultiplyAdd, with a farther from -1: these formats have few values there."""
        encode, _ = FORMATS[self.format]

        def packed(low: float, high: float, count: int = 1) -> Words:
            halves = encode(rng.uniform(low, high, (count, self.threads, 2)))
            return np.ascontiguousarray(halves).view(np.uint32)[..., 0]

        a = packed(-1.0, -1.0) if timed else packed(-0.995, -0.9)
        return a, packed(0.5, 1.5), packed(-1, 1, self.width)

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[Words, float]:
        """Exact, bit by bit: PTX ISA has fma.rn round once, to nearest even. In float64 a x + b has no error before
        that: products of two 11-bit (8-bit) significands and values that stay between 2^-24 (2^-40) and 4 need
        fewer than 53 bits."""
        encode, decode = FORMATS[self.format]
        a, b, x = (decode(part.view(np.uint16)) for part in self.split(inputs))
        for _ in range(iterations * self.steps):
            x = decode(encode(a * x + b))
        return encode(x).view(np.uint32).ravel(), 0.0


@dataclass(frozen=True)
class Integer(VectorKernel):
    """Integer operations modulo 2^32; references are exact."""

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Words, Words, Words]:
        """Random words. Odd a and b: multiplication by an odd number loses no information."""
        return self.words(rng) | np.uint32(1), self.words(rng) | np.uint32(1), self.words(rng, self.width)

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[Words, float]:
        """The same integer arithmetic in NumPy; exact, so the bound is 0."""
        a, b, x = self.split(inputs)
        for _ in range(iterations * self.steps):
            x = self.step(x, a, b)
        return x.ravel(), 0.0

    @abstractmethod
    def step(self, x: Words, a: Words, b: Words) -> Words:
        """x, of shape (width, threads), after one step."""


class MultiplyAdd(Integer):
    """x = a x + b."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        return np.asarray(a * x + b)


class Add(Integer):
    """x[i] = x[i] + x[i + 1] + a, one i after the other."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        for i in range(self.width):
            x[i] += x[(i + 1) % self.width] + a
        return x


class ExclusiveOr(Integer):
    """x[i] = x[i] ^ x[i + 1] ^ a, one i after the other."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        for i in range(self.width):
            x[i] ^= x[(i + 1) % self.width] ^ a
        return x


class FunnelShift(Integer):
    """All words of a thread as one ring, rotated left by a modulo 32 bits (odd, so not by 0)."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        by = a % np.uint32(32)
        return np.asarray((x << by) | (np.roll(x, -1, axis=0) >> (np.uint32(32) - by)))


class DotProduct(Integer):
    """x[i] += the dot product of the signed bytes of x[i + 1] and a, one i after the other."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        left = signed_bytes(a)
        for i in range(self.width):
            x[i] += (left * signed_bytes(x[(i + 1) % self.width])).sum(axis=-1, dtype=np.int32).view(np.uint32)
        return x


def signed_bytes(words: Words) -> NDArray[np.int32]:
    """The four bytes of each word as signed numbers, in a last axis of 4."""
    return np.ascontiguousarray(words)[..., None].view(np.int8).astype(np.int32)


class PopulationCount(Integer):
    """x[i] = a x[i] + the number of ones in x[i + 1], one i after the other."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        for i in range(self.width):
            ones = np.unpackbits(np.ascontiguousarray(x[(i + 1) % self.width])[:, None].view(np.uint8), axis=1)
            x[i] = a * x[i] + ones.sum(axis=1, dtype=np.uint32)
        return x


class Shuffle(Integer):
    """Each lane takes the word of lane a of its warp."""

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Words, Words, Words]:
        """a: for each warp a permutation with one cycle of 15 and one of 17 lanes, so that no lane keeps its word
        and no fewer than 255 steps bring all back where they were."""
        lanes = rng.permuted(np.tile(np.arange(32, dtype=np.uint32), (self.threads // 32, 1)), axis=1)
        source = np.empty_like(lanes)
        for cycle in (lanes[:, :15], lanes[:, 15:]):
            np.put_along_axis(source, cycle, np.roll(cycle, 1, axis=1), axis=1)
        return source.ravel(), self.words(rng), self.words(rng, self.width)

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step."""
        first = np.arange(self.threads, dtype=np.uint32) // np.uint32(32) * np.uint32(32)
        return np.asarray(x[:, first + a])


class ToBf16(Integer):
    """x[i] = BF16(x[i + 1]) above BF16(x[i]), each word taken as an FP32 value; all i at once."""

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Words, Words, Words]:
        """Positive values between 2^-8 and 2^8 (vector.cu says why positive)."""
        values = np.exp2(rng.uniform(-8, 8, (self.width, self.threads))).astype(np.float32)
        return self.words(rng), self.words(rng), values.view(np.uint32)

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step. Round to nearest even, carrying into the exponent where it must (PTX ISA, cvt.rn)."""
        rounded = (x + np.uint32(0x7FFF) + ((x >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.asarray((np.roll(rounded, -1, axis=0) << np.uint32(16)) | rounded)


def to_e4m3(values: NDArray[np.float32]) -> Words:
    """FP8 E4M3 bytes (OCP 8-bit Floating Point Specification: bias 7, largest 448), rounded to nearest even and
    saturated, as cvt.rn.satfinite does (PTX ISA)."""
    magnitude = np.abs(values.astype(np.float64))
    # Below 2^-6 values are subnormal; frexp gives zero the exponent of 1/2.
    exponent = np.where(magnitude == 0, -6, np.maximum(np.frexp(magnitude)[1] - 1, -6))
    eighths = np.rint(np.ldexp(magnitude, 3 - exponent)).astype(np.int64)  # 16 where it rounds up to the next binade
    # The byte counts eighths upwards from zero, binade after binade, so carries come out right.
    byte = np.minimum((exponent + 6) * 8 + eighths, 0x7E)
    return np.asarray(byte | np.where(np.signbit(values), 0x80, 0)).astype(np.uint32)


class ToE4m3(Integer):
    """x[0..3] are FP32 arguments that alternate between x and a - x; x[4 + i] = b x[4 + i] + the four bytes that
    conversions 2 i (lower half) and 2 i + 1 give. Conversion k: E4M3(x[k // 4]) above E4M3(x[k % 4])."""

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Words, Words, Words]:
        """Arguments of both signs from below E4M3's smallest to above its largest value; b odd."""

        def arguments(count: int) -> Words:
            size = (count, self.threads)
            values = np.exp2(rng.uniform(-11, 10, size)) * rng.choice([-1.0, 1.0], size)
            return np.asarray(values).astype(np.float32).view(np.uint32)

        mixed = self.words(rng, self.width - 4)
        return arguments(1)[0], self.words(rng) | np.uint32(1), np.concatenate([arguments(4), mixed])

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step. The subtraction rounds in FP32 on both sides (IEEE 754)."""
        arguments = x[:4].view(np.float32)
        byte = to_e4m3(arguments)
        halves = [byte[k // 4] << np.uint32(8) | byte[k % 4] for k in range(16)]
        words = np.stack(halves[1::2]) << np.uint32(16) | np.stack(halves[::2])
        return np.concatenate([(a.view(np.float32) - arguments).view(np.uint32), b * x[4:] + words])


class FromInt32(Integer):
    """Twice: x = the bits of x as FP32, from a signed integer; then x = a x + b."""

    def step(self, x: Words, a: Words, b: Words) -> Words:
        """See Integer.step. NumPy converts as cvt.rn does: to nearest even."""
        for _ in range(2):
            x = x.view(np.int32).astype(np.float32).view(np.uint32)
        return a * x + b


FUNCTIONS: dict[str, tuple[Any, float]] = {
    # The function and its largest error: PTX ISA's for .approx, as a share of the largest result, or absolute where
    # that is how it is stated (sine); doubled.
    "ex2": (np.exp2, 2 * 2.0**-22),
    "lg2": (np.log2, 2 * 2.0**-22),
    "rcp": (np.reciprocal, 2 * 2.0**-23),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2 * 2.0**-22.9),
    "sin": (np.sin, 2 * 2.0**-20.5),
    "tanh": (np.tanh, 2 * 2.0**-10.987),
}


@dataclass(frozen=True)
class SpecialFunction(VectorKernel):
    """The first half of the words are arguments that alternate between x and a - x, the second half sums of results."""

    function: str = "ex2"

    def operands(self, rng: np.random.Generator, timed: bool) -> tuple[Floats, Floats, Floats]:
        """Arguments, and a minus them, lie between 0.1 and 1.3, where all six functions are harmless."""
        arguments = rng.uniform(0.25, 1.0, (self.width // 2, self.threads))
        sums = rng.uniform(0, 1, (self.width // 2, self.threads))
        unused = np.zeros(self.threads)
        return rng.uniform(1.125, 1.25, self.threads), unused, np.concatenate([arguments, sums])

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[Floats, Floats]:
        """Arguments exactly (FP32 subtraction rounds alike here and there), sums in float64. Bound on these: each of
        n results errs by at most the function's error (see FUNCTIONS) times the larger of its result and 1, each
        addition by 2^-24 of the sum so far; tanh's 2^-10.987 is its error relative to the result, which is under 1.
        """
        function, error = FUNCTIONS[self.function]
        a, _, x = self.split(inputs)
        arguments, sums = x[: self.width // 2], x[self.width // 2 :].astype(np.float64)
        bound = np.zeros(sums.shape)
        for _ in range(iterations * self.steps):
            result = function(arguments.astype(np.float64))
            sums = sums + result
            bound += error * np.maximum(np.abs(result), 1) + 2.0**-24 * (np.abs(sums) + bound)
            arguments = a - arguments
        # A bound of 0 means that the arguments are compared for equality.
        exact = np.zeros(arguments.shape)
        return np.concatenate([arguments.astype(np.float64), sums]).ravel(), np.concatenate([exact, bound]).ravel()


def _declare(
    make: type[VectorKernel],
    metric: str,
    instructions: dict[str, int],
    work: int,
    unit: WorkUnit = "OP",
    toolchain: Toolchain = "cuda c++",
    **more: Any,
) -> Any:
    """A kernel whose every instruction does `work` per thread. vector.cu and the twins call it after its metric."""
    options: dict[str, Any] = {"architectures": VECTOR_ARCHITECTURES, "output": np.uint32} | more
    return make(
        metric=metric,
        toolchain=toolchain,
        source="vector.cu" if toolchain == "cuda c++" else "numba_twins.py",
        symbol=metric.replace(".", "_"),
        threads=1024,
        blocks_per_sm=1,
        work_unit=unit,
        work_per_iteration=1024 * sum(instructions.values()) * work,
        instructions=instructions,
        **options,
    )


def _special(function: str, opcode: str) -> Any:
    instructions = {f"MUFU.{opcode}": 128}
    return _declare(SpecialFunction, f"sfu.{function}", instructions, 1, output=np.float32, steps=16, function=function)


# Where the compiler spreads packed FMAs evenly over two pipes. It does not for BF16 on sm_80: CUDA's table gives that
# half the rate of FP16 there, and the same on sm_90.
_FP16_TWO_PIPES = {"HFMA2": 256, "HFMA2.MMA": 256}
_BF16_TWO_PIPES = {"HFMA2.BF16_V2": 256, "HFMA2.MMA.BF16_V2": 256}

VECTOR_FP32 = _declare(FusedMultiplyAdd, "vector.fp32", {"FFMA": 512}, 2, "FLOP", output=np.float32)
VECTOR_FP64 = _declare(FusedMultiplyAdd, "vector.fp64", {"DFMA": 256}, 2, "FLOP", output=np.float64, width=8)
VECTOR_INT32 = _declare(MultiplyAdd, "vector.int32", {"IMAD": 512}, 2)

# The twins keep eight named variables. FP32 takes twice the steps for it: its loop fills every issue slot, so the
# loop's own instructions count; the others leave every other slot free.
VECTOR_FP32_NUMBA = _declare(
    FusedMultiplyAdd, "vector.fp32", {"FFMA": 512}, 2, "FLOP", "numba", output=np.float32, width=8, steps=64
)
VECTOR_FP64_NUMBA = _declare(
    FusedMultiplyAdd, "vector.fp64", {"DFMA": 256}, 2, "FLOP", "numba", output=np.float64, width=8
)
VECTOR_INT32_NUMBA = _declare(MultiplyAdd, "vector.int32", {"IMAD": 256}, 2, "OP", "numba", width=8)

VECTOR_KERNELS: tuple[VectorKernel, ...] = (
    VECTOR_FP32,
    VECTOR_FP32_NUMBA,
    VECTOR_FP64,
    VECTOR_FP64_NUMBA,
    _declare(
        PackedFusedMultiplyAdd,
        "vector.fp16",
        {"HFMA2": 512},
        4,
        "FLOP",
        instructions_on={"sm_80": _FP16_TWO_PIPES, "sm_90": _FP16_TWO_PIPES},
    ),
    _declare(
        PackedFusedMultiplyAdd,
        "vector.bf16",
        {"HFMA2.BF16_V2": 512},
        4,
        "FLOP",
        instructions_on={"sm_90": _BF16_TWO_PIPES},
        format="bf16",
    ),
    VECTOR_INT32,
    VECTOR_INT32_NUMBA,
    _declare(Add, "vector.int32_add", {"IADD3": 512}, 1),
    _declare(ExclusiveOr, "vector.logic", {"LOP3.LUT": 512}, 1),
    _declare(FunnelShift, "vector.shift", {"SHF.L.W.U32.HI": 512}, 1),
    _declare(DotProduct, "vector.dp4a", {"IDP.4A.S8.S8": 512}, 8),
    _declare(PopulationCount, "vector.popc", {"POPC": 128}, 1, width=8, steps=16),
    _declare(Shuffle, "vector.shuffle", {"SHFL.IDX": 128}, 1, width=8, steps=16),
    _special("ex2", "EX2"),
    _special("lg2", "LG2"),
    _special("rcp", "RCP"),
    _special("rsqrt", "RSQ"),
    _special("sin", "SIN"),
    _special("tanh", "TANH"),
    _declare(
        ToBf16,
        "convert.f32_bf16",
        {"F2FP.BF16.F32.PACK_AB": 510},
        2,
        instructions_on={"sm_80": {"F2FP.BF16.PACK_AB": 510}, "sm_86": {"F2FP.BF16.PACK_AB": 510}},
        width=15,
        steps=34,
    ),
    _declare(
        ToE4m3,
        "convert.f32_fp8",
        {"F2FP.SATFINITE.E4M3.F32.PACK_AB_MERGE_C": 256},
        2,
        architectures=("sm_89", "sm_90", "sm_100", "sm_103", "sm_120"),
        requires="the conversion to FP8 exists from compute capability 8.9",
        width=12,
        steps=16,
    ),
    _declare(
        FromInt32,
        "convert.i32_f32",
        {"I2FP.F32.S32": 512},
        1,
        instructions_on={"sm_80": {"I2F": 512}},
        steps=16,
    ),
)
