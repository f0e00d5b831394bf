"""Runs the fingerprint's vectors on a GPU: one MMA each, by every path that the compute capability has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.compile import MachineCode, compile_source
from . import Row
from .fingerprint import Vector, row, vectors

SOURCE = "fingerprint.cu"


@dataclass(frozen=True)
class Path:
    """One way to ask one format: an instruction and the architectures that have it."""

    dtype: str
    instruction: str
    architectures: tuple[str, ...]

    @property
    def wgmma(self) -> bool:
        """Whether a warpgroup (128 threads) does it; else a warp."""
        return self.instruction.startswith("wgmma")

    @property
    def symbol(self) -> str:
        """The kernel's name."""
        return f"fingerprint_{self.dtype}_{'wgmma' if self.wgmma else 'mma'}"

    @property
    def prelude(self) -> str:
        """The macros of fingerprint.cu."""
        d = "{%0, %1, %2, %3}"
        if self.wgmma:
            transposed = "" if self.dtype.startswith("fp8") else ", 0"
            operands = f"{d}, {{%4, %5, %6, %7}}, %8, 1, 1, 1{transposed};"
        else:
            operands = f"{d}, {{%4, %5, %6, %7}}, {{%8, %9}}, {d};"
        return f'#define INSTRUCTION "{self.instruction} {operands}"\n#define WGMMA {int(self.wgmma)}\n'


_MMA, _WGMMA = "mma.sync.aligned", "wgmma.mma_async.sync.aligned"
_ALL = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
# The first path of a format that an architecture has is the one that decides: for 16 bits mma.sync, by which the
# published models were found. FP8 by mma.sync only where it stays FP8: for sm_90, sm_100 and sm_103 NVRTC 13 makes
# FP16 of it (F2FP and HMMA in the machine code), which would show the FP16 path twice.
PATHS = (
    Path("fp16", f"{_MMA}.m16n8k16.row.col.f32.f16.f16.f32", _ALL),
    Path("bf16", f"{_MMA}.m16n8k16.row.col.f32.bf16.bf16.f32", _ALL),
    Path("fp16", f"{_WGMMA}.m64n8k16.f32.f16.f16", ("sm_90a",)),
    Path("fp8_e4m3", f"{_WGMMA}.m64n8k32.f32.e4m3.e4m3", ("sm_90a",)),
    Path("fp8_e4m3", f"{_MMA}.m16n8k32.row.col.f32.e4m3.e4m3.f32", ("sm_89", "sm_120")),
)


def compiled(path: Path, architecture: str) -> MachineCode:
    """Machine code of `path`. Raises kernels.compile.CompileError."""
    return compile_source(SOURCE, path.symbol, architecture, path.prelude)


def paths_for(compute_capability: str) -> list[tuple[Path, str]]:
    """The paths of a part and for which architecture to compile each; the first of a format decides."""
    number = "sm_" + compute_capability.replace(".", "")
    return [(path, name) for path in PATHS for name in (number, number + "a") if name in path.architectures]


def packed(values: Sequence[Sequence[float]], dtype: str) -> NDArray[np.uint32]:
    """Powers of two and zeros in the format's bits, shape (vectors, 8): the first along k in the lowest bits."""
    array = np.array(values, np.float64)
    if dtype == "fp16":
        return array.astype(np.float16).view(np.uint32)
    if dtype == "bf16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint32)
    # e4m3: bias 7, three bits of mantissa; under 2^-6 subnormal, in units of 2^-9.
    exponent = np.where(array > 0, np.frexp(array)[1] - 1, 0)
    bits = np.where(array >= 2.0**-6, (exponent + 7) << 3, (array * 2**9).astype(int))
    return bits.astype(np.uint8).view(np.uint32)


def agreed(output: NDArray[np.float32], asked: Sequence[Vector]) -> list[float]:
    """One number a vector from D's elements, which must all be alike. Raises ValueError where they are not."""
    for vector, elements in zip(asked, output.reshape(len(asked), -1), strict=True):
        if not (elements == elements[0]).all():
            raise ValueError(f"elements of one MMA differ though their operands are alike ({vector.name})")
    return [float(elements[0]) for elements in output.reshape(len(asked), -1)]


def run(compute_capability: str) -> Row:
    """The fingerprint of the current CUDA device, as a row."""
    import cupy

    from .launch import function

    observed: dict[str, list[float]] = {}
    used: dict[str, str] = {}
    same: dict[str, bool] = {}
    problems = []
    for path, architecture in paths_for(compute_capability):
        asked = vectors(path.dtype)
        kernel = function(compiled(path, architecture), path.symbol)
        threads = 128 if path.wgmma else 32
        output = cupy.empty((len(asked), threads * 4), dtype=np.float32)
        output.data.memset(0xFF, output.nbytes)  # NaN, so that an element which no MMA wrote shows
        arguments: tuple[Any, ...] = (
            cupy.asarray(packed([v.a for v in asked], path.dtype)),
            cupy.asarray(packed([v.b for v in asked], path.dtype)),
            cupy.asarray(np.array([v.c for v in asked], np.float32)),
            output,
        )
        kernel((len(asked),), (threads,), arguments)
        try:
            sums = agreed(output.get(), asked)
            if path.dtype in observed:
                same[path.instruction] = sums == observed[path.dtype]
                continue
            observed[path.dtype], used[path.dtype] = sums, path.instruction
        except ValueError as error:
            problems.append(str(error))
    if problems:
        return Row("tensor arithmetic", "inconsistent", "; ".join(problems) + ": a tensor core computes wrongly.")
    if not observed:
        text = f"No MMA of this program is for compute capability {compute_capability}."
        return Row("tensor arithmetic", "not tested", text)
    made = row(observed, compute_capability, used)
    made.details["other_paths_alike"] = same
    return made
