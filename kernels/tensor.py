"""tensor.bf16 and mma_sync.bf16: declarations and references for wgmma_bf16.cu and mma_sync_bf16.cu."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .declare import ArithmeticKernel


def random_bf16(rng: np.random.Generator, count: int) -> NDArray[np.uint16]:
    """Normally distributed BF16 values as their 16-bit patterns (FP32 with the low half cut off)."""
    bits = rng.standard_normal(count, dtype=np.float32).view(np.uint32) >> 16
    return bits.astype(np.uint16)


def bf16_to_float64(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Exact values of BF16 bit patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class MatrixMultiplyAccumulate(ArithmeticKernel):
    """Batches of D = D + A B^T with resident A (rows x depth) and B (columns x depth), repeated.

    In every batch each of `tiles_a` A tiles meets each of `tiles_b` B tiles, `repeats` times per iteration.
    """

    batches: int = 1
    tiles_a: int = 1
    tiles_b: int = 1
    rows: int = 16
    columns: int = 8
    depth: int = 16
    repeats: int = 1
    shared_b: bool = False

    @property
    def outputs_per_block(self) -> int:
        """Every accumulator of the block."""
        return self.batches * self.tiles_a * self.tiles_b * self.rows * self.columns

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[Any]:
        """All A tiles, then all B tiles, as BF16 bit patterns; the same distribution timed or checked."""
        count_a = self.batches * self.tiles_a * self.rows * self.depth
        count_b = (1 if self.shared_b else self.batches) * self.tiles_b * self.columns * self.depth
        return random_bf16(rng, count_a + count_b)

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """n A B^T in float64, n the number of repetitions.

        Bound: products of BF16 values are exact in FP32. Each step adds 16 products to an accumulator; all 17 terms
        are aligned to the largest and cut off at least one bit below FP32's last (tensor-core models of arXiv
        2512.07004: 8 products with one extra bit on A100, 16 with two on H100), so each loses at most 2^-24 of it.
        The largest is under n |A||B|^T, hence s x 17 x 2^-24 x n |A||B|^T over s steps: some 10^-5 of the result,
        where a missing repetition is 1/n of it.
        """
        values = bf16_to_float64(inputs)
        count_a = self.batches * self.tiles_a * self.rows * self.depth
        a = values[:count_a].reshape(self.batches, self.tiles_a, 1, self.rows, self.depth)
        b = values[count_a:].reshape(-1, 1, self.tiles_b, self.columns, self.depth)
        repetitions = iterations * self.repeats
        product = a @ np.swapaxes(b, -1, -2)
        magnitude = np.abs(a) @ np.abs(np.swapaxes(b, -1, -2))
        steps = repetitions * self.depth // 16
        expected = repetitions * product
        bound = steps * 17 * 2.0**-24 * repetitions * magnitude
        return expected.ravel(), bound.ravel()


WGMMA_BF16 = MatrixMultiplyAccumulate(
    metric="tensor.bf16",
    toolchain="cuda c++",
    source="wgmma_bf16.cu",
    symbol="wgmma_bf16",
    architectures=("sm_90a",),
    threads=256,
    blocks_per_sm=1,
    work_unit="FLOP",
    work_per_iteration=2 * 8 * 2 * 64 * 256 * 16,
    instructions={"HGMMA.64x256x16.F32.BF16": 8},
    batches=2,
    rows=64,
    columns=256,
    depth=64,
    repeats=2,
    shared_b=True,
)

# One source, two metrics: below and beside Hopper the warp-level path is how the tensor cores are used; on Hopper
# it is the slower of two paths, and its ratio to wgmma says where a cap sits.
MMA_SYNC_BF16 = MatrixMultiplyAccumulate(
    metric="mma_sync.bf16",
    toolchain="cuda c++",
    source="mma_sync_bf16.cu",
    symbol="mma_sync_bf16",
    architectures=("sm_90",),
    threads=512,
    blocks_per_sm=1,
    work_unit="FLOP",
    work_per_iteration=16 * 4 * 8 * 2 * 16 * 8 * 16,
    instructions={"HMMA.16816.F32.BF16": 32},
    batches=16,
    tiles_a=2,
    tiles_b=4,
    repeats=4,
)
TENSOR_BF16_MMA_SYNC = replace(MMA_SYNC_BF16, metric="tensor.bf16", architectures=("sm_80", "sm_86", "sm_89", "sm_120"))
