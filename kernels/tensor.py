"""tensor.* and mma_sync.*: declarations and references for wgmma.cu and mma_sync.cu.

Work is counted as sheets count it: 2 m n k operations per instruction, with a sparse instruction's k zeros included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .declare import ArithmeticKernel, WorkUnit


@dataclass(frozen=True)
class Format:
    """An input format of the tensor cores.

    `ptx` and `bits` are PTX's name and the width of an element. `integers` is the largest n such that every integer
    from -n to n is a value of the format.
    """

    ptx: str
    bits: int
    integers: int
    work_unit: WorkUnit = "FLOP"

    def pack(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values as the bytes that the kernels read, first element lowest. Floats are cut off, not rounded, where the
        format is narrower than NumPy's next wider one; integers must be values of the format."""
        words: NDArray[Any]
        match self.ptx:
            case "bf16":  # FP32 with the low half cut off
                words = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            case "f16":
                words = values.astype(np.float16)
            case "tf32":  # FP32 whose low 13 bits are not read
                words = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
            case "e5m2":  # FP16 with the low half cut off
                words = (values.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)
            case "e4m3":  # the middle of FP16: one bit of exponent and seven of mantissa less, bias 7 and not 15
                half = (values / 256).astype(np.float16).view(np.uint16)
                words = (half >> 8 & 0x80 | half >> 7 & 0x7F).astype(np.uint8)
            case "s4":  # two to a byte
                nibbles = values.astype(np.int8).view(np.uint8).ravel() & 15
                words = nibbles[0::2] | nibbles[1::2] << 4
            case "b1":
                words = np.packbits(values.astype(np.uint8).ravel(), bitorder="little")
            case _:
                words = values.astype({"s8": np.int8, "f64": np.float64}[self.ptx])
        return np.ascontiguousarray(words).ravel().view(np.uint8)

    def unpack(self, data: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Exact values of what `pack` wrote."""
        values: NDArray[Any]
        match self.ptx:
            case "bf16":
                values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            case "e5m2":
                values = (data.astype(np.uint16) << 8).view(np.float16)
            case "e4m3":
                half = (data & 0x80).astype(np.uint16) << 8 | (data & 0x7F).astype(np.uint16) << 7
                values = half.view(np.float16).astype(np.float64) * 256
            case "s4":
                nibbles = np.stack([data & 15, data >> 4], axis=-1).ravel().astype(np.int8)
                values = (nibbles ^ 8) - 8
            case "b1":
                values = np.unpackbits(data, bitorder="little")
            case _:
                plain = {"f16": np.float16, "tf32": np.float32, "s8": np.int8, "f64": np.float64}
                values = data.view(plain[self.ptx])
        return values.astype(np.float64)


BF16 = Format("bf16", 16, 2**8)
FP16 = Format("f16", 16, 2**11)
TF32 = Format("tf32", 32, 2**11)
FP8_E4M3 = Format("e4m3", 8, 2**4)
FP8_E5M2 = Format("e5m2", 8, 2**3)
FP64 = Format("f64", 64, 2**53)
INT8 = Format("s8", 8, 2**7 - 1, "OP")
INT4 = Format("s4", 4, 2**3 - 1, "OP")
BINARY = Format("b1", 1, 1, "OP")


@dataclass(frozen=True)
class Accumulator:
    """The format of D: PTX's name, the type and asm constraint of a register, and how many columns one holds.

    `integers` is the range within which sums of integers are exact although the tensor core keeps fewer bits than the
    format; None where normally distributed data stay within a useful bound, so that no such data are needed.
    """

    ptx: str
    register: str
    constraint: str
    numpy: type[np.generic]
    packed: int = 1
    integers: int | None = None


F32 = Accumulator("f32", "float", '"+f"', np.float32)
# FP8 products are summed with 13 fractional bits on Ada and Hopper (arXiv 2512.07004): integers to 2^14 stay exact.
F32_OF_FP8 = Accumulator("f32", "float", '"+f"', np.float32, integers=2**14)
F16 = Accumulator("f16", "unsigned", '"+r"', np.float16, packed=2, integers=2**11)
S32 = Accumulator("s32", "int", '"+r"', np.int32)
F64 = Accumulator("f64", "double", '"+d"', np.float64)

# The six ways to keep two of four: index of the first in bits 0-1, of the second in bits 2-3 (PTX ISA, "Sparse matrix
# storage"). TF32 keeps one of two, told as a pair of 16-bit halves: 0 and 1, or 2 and 3.
TWO_OF_FOUR = (0x4, 0x8, 0xC, 0x9, 0xD, 0xE)
ONE_OF_TWO = (0x4, 0xE)


@dataclass(frozen=True)
class MatrixMultiplyAccumulate(ArithmeticKernel):
    """Batches of D = D + A B^T with resident A (rows x depth) and B (columns x depth), repeated.

    In every batch each of `tiles_a` A tiles meets each of `tiles_b` B tiles, `repeats` times per iteration. `depth`
    counts elements of B; a sparse A keeps half as many. An instruction takes `step` of them.
    """

    format: Format = BF16
    accumulator: Accumulator = F32
    batches: int = 1
    tiles_a: int = 1
    tiles_b: int = 1
    rows: int = 16
    columns: int = 8
    depth: int = 16
    step: int = 16
    repeats: int = 1
    shared_b: bool = False
    sparse: bool = False

    @property
    def outputs_per_block(self) -> int:
        """Every accumulator of the block."""
        return self.batches * self.tiles_a * self.tiles_b * self.rows * self.columns

    @property
    def shape_a(self) -> tuple[int, int, int, int]:
        """(batches, tiles, rows, k) of A as stored: a sparse A without its zeros."""
        return self.batches, self.tiles_a, self.rows, self.depth // (2 if self.sparse else 1)

    @property
    def shape_b(self) -> tuple[int, int, int, int]:
        """(batches, tiles, columns, k) of B."""
        return 1 if self.shared_b else self.batches, self.tiles_b, self.columns, self.depth

    @property
    def shape_metadata(self) -> tuple[int, int, int, int]:
        """(batches, tiles, groups of 16 rows, instructions along k): a warp's metadata word for each."""
        return self.batches, self.tiles_a, self.rows // 16, self.depth // self.step

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[Any]:
        """All A tiles, then all B tiles, then the metadata where A is sparse, as bytes.

        Integers are uniform over their whole range. Floats are normal, except in a check whose accumulators keep few
        bits: there they are integers, small enough that any order of summation is exact. Every other column of A
        takes the format's whole significand and meets -1, 0 or 1 in B; the columns between do the reverse. For
        FP16 accumulators the timed values have a standard deviation of 1/4, so that no sum reaches infinity. Sums
        grow with the repetitions: where accumulators keep few bits (FP16, FP8), they come to rest within a long launch
        while the products go on switching.

        Metadata is one random pattern for each warp's 16 rows and instruction, the same in every chunk of them. So
        the check proves that the hardware skips as told and not which bit of the word speaks of which chunk.
        """
        a, b = self._values(rng, self.shape_a, 0, timed), self._values(rng, self.shape_b, 1, timed)
        parts = [self.format.pack(a), self.format.pack(b)]
        if self.sparse:
            patterns = rng.choice(ONE_OF_TWO if self.format is TF32 else TWO_OF_FOUR, self.shape_metadata)
            parts.append((patterns.astype(np.uint32) * np.uint32(0x11111111)).ravel().view(np.uint8))
        return np.concatenate(parts)

    def _values(
        self, rng: np.random.Generator, shape: tuple[int, ...], wide: int, timed: bool
    ) -> NDArray[np.int64] | NDArray[np.float64]:
        if self.format is BINARY:
            return rng.integers(0, 2, shape)
        if self.format.work_unit == "OP":
            return rng.integers(-self.format.integers - 1, self.format.integers, shape, endpoint=True)
        if timed or self.accumulator.integers is None:
            return rng.standard_normal(shape) * (0.25 if self.accumulator is F16 else 1)
        terms = self.check_iterations * self.repeats * self.depth
        limit = min(self.format.integers, self.accumulator.integers // terms)
        largest = np.ones(shape, np.int64)
        largest[..., wide::2] = limit
        return rng.integers(-largest, largest, endpoint=True)

    def operands(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(A of shape (batches, tiles_a, 1, rows, depth), B of shape (batches or 1, 1, tiles_b, columns, depth)), exact
        in float64, with A's zeros in their places."""
        bytes_a, bytes_b = (int(np.prod(shape)) * self.format.bits // 8 for shape in (self.shape_a, self.shape_b))
        a = self.format.unpack(inputs[:bytes_a]).reshape(self.shape_a)
        b = self.format.unpack(inputs[bytes_a : bytes_a + bytes_b]).reshape(self.shape_b)
        if self.sparse:
            metadata = inputs[bytes_a + bytes_b :].view(np.uint32)
            a = self._expanded(a, (metadata & np.uint32(15)).reshape(self.shape_metadata))
        return a[:, :, None], b[:, None]

    def _expanded(self, stored: NDArray[np.float64], patterns: NDArray[np.uint32]) -> NDArray[np.float64]:
        """A with its zeros: the kept elements of chunk after chunk go where the patterns say."""
        batches, tiles, groups, instructions = patterns.shape
        kept, width = (1, 2) if self.format is TF32 else (2, 4)
        chunks = stored.reshape(batches, tiles, groups, 16, instructions, -1, kept)
        dense = np.zeros((*chunks.shape[:-1], width))
        for index in range(kept):
            place = patterns >> 3 if self.format is TF32 else patterns >> np.uint32(2 * index) & 3
            places = np.broadcast_to(place[:, :, :, None, :, None, None], (*chunks.shape[:-1], 1))
            np.put_along_axis(dense, places.astype(np.intp), chunks[..., index : index + 1], axis=-1)
        return dense.reshape(batches, tiles, self.rows, self.depth)

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """n A B^T in float64, n the number of repetitions.

        Bound: 0 for integers, and for floats where `inputs` keeps every sum exact. Else products are exact in the
        accumulator's format or rounded once (FP64). Tensor cores add 4 to 16 products at a time to an accumulator:
        all terms are aligned to the largest and cut off at least one bit below FP32's last, so each loses at most
        2^-24 of it, and the sum is cut to FP32, which loses at most 2^-23 (models of arXiv 2512.07004). Four at a
        time is the worst: 5 terms and the cut, 7 x 2^-24 for 4 products. The largest is under n |A||B|^T, hence
        t x 7/4 x 2^-24 x n |A||B|^T over t products: some 10^-5 of the result, where a missing repetition is 1/n of
        it. FP64 rounds each of t fused multiply-adds by at most 2^-53 of the same.
        """
        a, b = self.operands(inputs)
        repetitions = iterations * self.repeats
        expected = repetitions * (a @ np.swapaxes(b, -1, -2))
        if self.format.work_unit == "OP" or self.accumulator.integers is not None:
            return expected.ravel(), np.zeros(expected.size)
        magnitude = np.abs(a) @ np.abs(np.swapaxes(b, -1, -2))
        products = repetitions * self.shape_a[-1]
        roundoff = 2.0**-53 if self.accumulator is F64 else 2.0**-24
        bound = products * 7 / 4 * roundoff * repetitions * magnitude
        return expected.ravel(), bound.ravel()


def _registers(first: int, count: int) -> str:
    return "{" + ", ".join(f"%{i}" for i in range(first, first + count)) + "}"


def wgmma(
    metric: str,
    symbol: str,
    format: Format,
    sass: str,
    *,
    accumulator: Accumulator = F32,
    n: int = 256,
    a_in_registers: bool = False,
    sparse: bool = False,
) -> MatrixMultiplyAccumulate:
    """A kernel of wgmma.cu. `sass` is the instruction's name without its shape, such as "HGMMA.F32.BF16".

    Narrow tiles take more warpgroups and more instructions per group, so that neither latency nor the loop limits
    them: four warpgroups up to n64, two blocks of four up to n32.
    """
    a_in_registers = a_in_registers or sparse
    step_bytes = 64 if sparse else 32
    k, depth = step_bytes * 8 // format.bits, 128 * 8 // format.bits
    warpgroups = 4 if n <= 64 else 2
    repeats = min(8, 128 // n) if n <= 64 else 4 if sparse else 2
    accumulators = n // 2 // accumulator.packed
    after = accumulators + (4 if a_in_registers else 1)
    a = _registers(accumulators, 4) if a_in_registers else f"%{accumulators}"
    scales = "1" if format.work_unit == "OP" else "1, 1, 1"  # accumulate; A and B not negated
    if format.bits == 16:
        scales += ", 0" if a_in_registers else ", 0, 0"  # what lies in shared memory is not transposed
    name = f"wgmma.mma_async{'.sp' if sparse else ''}.sync.aligned.m64n{n}k{k}.{accumulator.ptx}"
    formats = f"{format.ptx}.{format.ptx}{'.and.popc' if format is BINARY else ''}"
    instruction = (
        f"{name}.{formats} {_registers(0, accumulators)}, {a}, %{after}, "
        f"{f'%{after + 1}, 0, ' if sparse else ''}{scales};"
    )
    family, _, suffix = sass.partition(".")
    instructions = 128 // step_bytes * repeats
    return MatrixMultiplyAccumulate(
        metric=metric,
        toolchain="cuda c++",
        source="wgmma.cu",
        symbol=symbol,
        architectures=("sm_90a",),
        threads=warpgroups * 128,
        blocks_per_sm=2 if n <= 32 else 1,
        work_unit=format.work_unit,
        work_per_iteration=warpgroups * instructions * 2 * 64 * n * k,
        instructions={f"{family}{'.SP' if sparse else ''}.64x{n}x{k}.{suffix}": instructions},
        output=accumulator.numpy,
        format=format,
        accumulator=accumulator,
        batches=warpgroups,
        rows=64,
        columns=n,
        depth=depth,
        step=k,
        repeats=repeats,
        shared_b=True,
        sparse=sparse,
        macros={
            "INSTRUCTION": f'"{instruction}"',
            "N": n,
            "STEP_BYTES": step_bytes,
            "REPEATS": repeats,
            "WARPGROUPS": warpgroups,
            "BLOCKS_PER_SM": 2 if n <= 32 else 1,
            "A_IN_REGISTERS": int(a_in_registers),
            "SPARSE": int(sparse),
            "ACCUMULATOR": accumulator.register,
            "ACCUMULATORS": accumulators,
            "CONSTRAINT": accumulator.constraint,
            "PACKED": accumulator.packed,
        },
    )


def mma_sync(
    metric: str,
    symbol: str,
    format: Format,
    sass: str,
    architectures: tuple[str, ...],
    *,
    accumulator: Accumulator = F32,
    m: int = 16,
    a_words: int = 4,
    tiles_b: int = 4,
    sparse: bool = False,
) -> MatrixMultiplyAccumulate:
    """A kernel of mma_sync.cu. `sass` is the whole opcode. `a_words` registers of A (32 bits or a double) set k."""
    warps, tiles_a, steps = 16, 2, 4
    word_bits = 64 if format is FP64 else 32
    b_words = a_words * 8 // m * (2 if sparse else 1)
    k = b_words * 4 * word_bits // format.bits
    accumulators = m * 8 // 32 // accumulator.packed
    d = _registers(0, accumulators)
    a, b = _registers(accumulators, a_words), _registers(accumulators + a_words, b_words)
    # Ordered metadata (ascending indices): other metadata is sorted by extra instructions on compute capability 12.0.
    name = f"mma{'.sp::ordered_metadata' if sparse else ''}.sync.aligned.m{m}n8k{k}.row.col"
    formats = ".".join((accumulator.ptx, format.ptx, format.ptx, accumulator.ptx))
    operation = ".and.popc" if format is BINARY else ""
    metadata = f", %{accumulators + a_words + b_words}, 0" if sparse else ""
    return MatrixMultiplyAccumulate(
        metric=metric,
        toolchain="cuda c++",
        source="mma_sync.cu",
        symbol=symbol,
        architectures=architectures,
        threads=warps * 32,
        blocks_per_sm=1,
        work_unit=format.work_unit,
        work_per_iteration=warps * steps * tiles_a * tiles_b * 2 * m * 8 * k,
        instructions={sass: steps * tiles_a * tiles_b},
        output=accumulator.numpy,
        format=format,
        accumulator=accumulator,
        batches=warps,
        tiles_a=tiles_a,
        tiles_b=tiles_b,
        rows=m,
        depth=k,
        step=k,
        repeats=steps,
        sparse=sparse,
        macros={
            "INSTRUCTION": f'"{name}.{formats}{operation} {d}, {a}, {b}, {d}{metadata};"',
            "M": m,
            "WORD": "double" if format is FP64 else "unsigned",
            "WORD_CONSTRAINT": '"d"' if format is FP64 else '"r"',
            "A_WORDS": a_words,
            "B_WORDS": b_words,
            "SPARSE": int(sparse),
            "ACCUMULATOR": accumulator.register,
            "ACCUMULATORS": accumulators,
            "CONSTRAINT": accumulator.constraint,
            "PACKED": accumulator.packed,
            "WARPS": warps,
            "TILES_A": tiles_a,
            "TILES_B": tiles_b,
        },
    )


_WGMMA = (
    wgmma("tensor.bf16", "wgmma_bf16", BF16, "HGMMA.F32.BF16"),
    wgmma("tensor.fp16", "wgmma_fp16", FP16, "HGMMA.F32"),
    wgmma("tensor.fp16_acc16", "wgmma_fp16_acc16", FP16, "HGMMA.F16", accumulator=F16),
    wgmma("tensor.tf32", "wgmma_tf32", TF32, "HGMMA.F32.TF32"),
    wgmma("tensor.fp8_e4m3", "wgmma_fp8_e4m3", FP8_E4M3, "QGMMA.F32.E4M3.E4M3", accumulator=F32_OF_FP8),
    wgmma("tensor.fp8_e5m2", "wgmma_fp8_e5m2", FP8_E5M2, "QGMMA.F32.E5M2.E5M2", accumulator=F32_OF_FP8),
    wgmma("tensor.int8", "wgmma_int8", INT8, "IGMMA.S8.S8", accumulator=S32),
    wgmma("tensor.binary", "wgmma_binary", BINARY, "BGMMA.AND.POPC", accumulator=S32),
)

_WGMMA_SPARSE = (
    wgmma("tensor.bf16.sparse", "wgmma_bf16_sparse", BF16, "HGMMA.F32.BF16", sparse=True),
    wgmma("tensor.fp16.sparse", "wgmma_fp16_sparse", FP16, "HGMMA.F32", sparse=True),
    wgmma("tensor.tf32.sparse", "wgmma_tf32_sparse", TF32, "HGMMA.F32.TF32", sparse=True),
    wgmma(
        "tensor.fp8_e4m3.sparse",
        "wgmma_fp8_e4m3_sparse",
        FP8_E4M3,
        "QGMMA.F32.E4M3.E4M3",
        accumulator=F32_OF_FP8,
        sparse=True,
    ),
    wgmma("tensor.int8.sparse", "wgmma_int8_sparse", INT8, "IGMMA.S8.S8", accumulator=S32, sparse=True),
)

# The curve over the instruction's shape; n256 with A from shared memory is the headline kernel.
_WGMMA_SHAPES = tuple(
    wgmma(
        f"tensor.{name}.n{n}{'.register_a' if register_a else ''}",
        f"wgmma_{name}_n{n}{'_register_a' if register_a else ''}",
        format,
        sass,
        accumulator=accumulator,
        n=n,
        a_in_registers=register_a,
    )
    for name, format, sass, accumulator in (
        ("bf16", BF16, "HGMMA.F32.BF16", F32),
        ("fp8_e4m3", FP8_E4M3, "QGMMA.F32.E4M3.E4M3", F32_OF_FP8),
    )
    for register_a in (False, True)
    for n in (8, 16, 32, 64, 128, 256)
    if n < 256 or register_a
)

# Compute capabilities whose tensor cores are used through mma.sync; on 9.0, 10.0 and 10.3 the same instructions are the
# slower of two paths, and their ratio to the other says where a cap sits. 10.0's and 10.3's own path is tcgen05, for
# which there is no kernel yet.
_MMA = ("sm_80", "sm_86", "sm_89", "sm_120")
_BESIDE = ("sm_90", "sm_100", "sm_103")
# FP8 needs 8.9; on 9.0 and later parts with another path the compiler turns it into FP16 (HMMA). INT4 is emulated by
# INT8 from 9.0 on, binary from 10.0 on: the machine code says so.
_FP8 = ("sm_89", "sm_120")
_INT4 = ("sm_80", "sm_86", "sm_89")

_MMA_SYNC = (
    mma_sync("mma_sync.bf16", "mma_sync_bf16", BF16, "HMMA.16816.F32.BF16", _BESIDE),
    mma_sync("tensor.bf16", "mma_sync_bf16", BF16, "HMMA.16816.F32.BF16", _MMA),
    mma_sync("tensor.fp16", "mma_sync_fp16", FP16, "HMMA.16816.F32", _MMA),
    mma_sync("mma_sync.fp16", "mma_sync_fp16", FP16, "HMMA.16816.F32", _BESIDE),
    mma_sync("tensor.fp16_acc16", "mma_sync_fp16_acc16", FP16, "HMMA.16816.F16", _MMA, accumulator=F16),
    mma_sync("tensor.tf32", "mma_sync_tf32", TF32, "HMMA.1688.F32.TF32", _MMA),
    mma_sync("mma_sync.tf32", "mma_sync_tf32", TF32, "HMMA.1688.F32.TF32", _BESIDE),
    mma_sync(
        "tensor.fp8_e4m3", "mma_sync_fp8_e4m3", FP8_E4M3, "QMMA.16832.F32.E4M3.E4M3", _FP8, accumulator=F32_OF_FP8
    ),
    mma_sync(
        "tensor.fp8_e5m2", "mma_sync_fp8_e5m2", FP8_E5M2, "QMMA.16832.F32.E5M2.E5M2", _FP8, accumulator=F32_OF_FP8
    ),
    mma_sync("tensor.int8", "mma_sync_int8", INT8, "IMMA.16832.S8.S8", _MMA, accumulator=S32),
    mma_sync("mma_sync.int8", "mma_sync_int8", INT8, "IMMA.16832.S8.S8", _BESIDE, accumulator=S32),
    mma_sync("tensor.int4", "mma_sync_int4", INT4, "IMMA.16864.S4.S4", _INT4, accumulator=S32),
    mma_sync("tensor.binary", "mma_sync_binary", BINARY, "BMMA.168256.AND.POPC", _INT4, accumulator=S32),
    # FP64 is mma.sync on every part that has it: one shape on 9.0, a smaller one elsewhere under two SASS names.
    mma_sync(
        "tensor.fp64", "mma_sync_fp64_16x8x16", FP64, "DMMA.16x8x16", ("sm_90",), accumulator=F64, a_words=8, tiles_b=2
    ),
    mma_sync(
        "tensor.fp64",
        "mma_sync_fp64_8x8x4",
        FP64,
        "DMMA.884",
        ("sm_80", "sm_86", "sm_89"),
        accumulator=F64,
        m=8,
        a_words=1,
    ),
    mma_sync("tensor.fp64", "mma_sync_fp64_8x8x4", FP64, "DMMA.8x8x4", ("sm_100",), accumulator=F64, m=8, a_words=1),
)

_MMA_SYNC_SPARSE = (
    mma_sync("tensor.bf16.sparse", "mma_sync_bf16_sparse", BF16, "HMMA.SP.16832.F32.BF16", _MMA, sparse=True),
    mma_sync("tensor.fp16.sparse", "mma_sync_fp16_sparse", FP16, "HMMA.SP.16832.F32", _MMA, sparse=True),
    mma_sync("tensor.tf32.sparse", "mma_sync_tf32_sparse", TF32, "HMMA.SP.16816.F32.TF32", _MMA, sparse=True),
    mma_sync(
        "tensor.fp8_e4m3.sparse",
        "mma_sync_fp8_e4m3_sparse",
        FP8_E4M3,
        "QMMA.SP.16864.F32.E4M3.E4M3",
        _FP8,
        accumulator=F32_OF_FP8,
        sparse=True,
    ),
    mma_sync(
        "tensor.int8.sparse",
        "mma_sync_int8_sparse",
        INT8,
        "IMMA.SP.16864.S8.S8",
        _MMA,
        accumulator=S32,
        sparse=True,
    ),
)

_ALL = _WGMMA + _MMA_SYNC + _WGMMA_SPARSE + _MMA_SYNC_SPARSE + _WGMMA_SHAPES


def _capabilities(metric: str) -> str:
    """The compute capabilities with a kernel of `metric`: "8.0, 9.0"."""
    numbers = {int(a[3:].rstrip("a")) for kernel in _ALL if kernel.metric == metric for a in kernel.architectures}
    return ", ".join(f"{number // 10}.{number % 10}" for number in sorted(numbers))


TENSOR_KERNELS = tuple(
    replace(kernel, requires=f"written for compute capability {_capabilities(kernel.metric)}") for kernel in _ALL
)
