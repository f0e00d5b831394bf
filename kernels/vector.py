"""vector.fp32: declaration and reference for vector_fp32.cu and its Numba twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .declare import VECTOR_ARCHITECTURES, ArithmeticKernel


@dataclass(frozen=True)
class FusedMultiplyAdd(ArithmeticKernel):
    """Chains of x = a x + b. `chains` values per thread, `unroll` steps per iteration."""

    chains: int = 16
    unroll: int = 32

    @property
    def outputs_per_block(self) -> int:
        """One value per chain and thread."""
        return self.chains * self.threads

    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[Any]:
        """a, b, then the starting values, float32.

        Timed: a = -1, so that x alternates between x and b - x for ever: every bit keeps toggling, nothing
        converges to a constant (which would draw less power) and nothing overflows. Checked: a is a little
        above -1, so that a missing step changes the result by far more than rounding does.
        """
        a = -1.0 if timed else rng.uniform(-0.9995, -0.999)
        return np.concatenate([[a, rng.uniform(0.5, 1.5)], rng.uniform(-1, 1, self.outputs_per_block)]).astype(
            np.float32
        )

    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Float64 recurrence. Bound: each of n FMAs rounds once, by at most 2^-24 of the largest value on the way,
        and |a| <= 1 lets no earlier error grow (FP32 unit roundoff 2^-24, IEEE 754)."""
        a, b = float(inputs[0]), float(inputs[1])
        x = inputs[2:].astype(np.float64)
        steps = iterations * self.unroll
        largest = np.abs(x)
        for _ in range(steps):
            x = a * x + b
            largest = np.maximum(largest, np.abs(x))
        return x, steps * 2.0**-24 * largest


VECTOR_FP32 = FusedMultiplyAdd(
    metric="vector.fp32",
    toolchain="cuda c++",
    source="vector_fp32.cu",
    symbol="vector_fp32",
    architectures=VECTOR_ARCHITECTURES,
    threads=1024,
    blocks_per_sm=1,
    work_unit="FLOP",
    work_per_iteration=1024 * 16 * 32 * 2,
    instructions={"FFMA": 512},
)

# Twice the steps per iteration on half the chains: Numba keeps eight named variables, and the loop body is as long.
VECTOR_FP32_NUMBA = FusedMultiplyAdd(
    metric="vector.fp32",
    toolchain="numba",
    source="numba_twins.py",
    symbol="vector_fp32",
    architectures=VECTOR_ARCHITECTURES,
    threads=1024,
    blocks_per_sm=1,
    work_unit="FLOP",
    work_per_iteration=1024 * 8 * 64 * 2,
    instructions={"FFMA": 512},
    chains=8,
    unroll=64,
)
