"""latency.*: declarations for latency.cu and its Numba twin. Work is counted in loads, each waiting for the last.

One slot per 128-byte line (`stride_bytes`): no sector is fetched twice in one pass of the cycle (kernels/cycle.py).
What good parts show, in cycles, from the prototype's chase on an H100 80GB HBM3 at 1.98 GHz (2026-11-23): shared
memory 29, L1 34, L2 279, memory 682. Nothing is judged by these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .cycle import LINE_BYTES
from .declare import CLUSTER_ARCHITECTURES, VECTOR_ARCHITECTURES, Kernel

LOADS = 32  # per iteration
SHARED_SLOTS, SHARED_SLOT_BYTES = 256, 16
PAGE_BYTES = 2 * 2**20  # of device memory: the CUDA driver maps large allocations in 2 MiB pages (VMM granularity)


@dataclass(frozen=True)
class ChaseKernel(Kernel):
    """A kernel in which one thread per block follows a chain of pointers.

    Arguments: (stamps, cursor, iterations), and the byte offsets of the cycle where it lies in shared memory.
    `cursor` has one place per block, kept between launches. `usual_footprint_bytes` is what the metric itself, without
    a footprint of its own, chases over; 0 in shared memory. `blocks`: how many work; None: one on every SM at once (a
    chase has one load in flight, so 132 of them load an L2 of some 5,000 bytes per clock by about one percent).
    """

    space: Literal["global", "shared"] = "global"
    usual_footprint_bytes: int = 0
    stride_bytes: int = LINE_BYTES
    blocks: int | None = 1


def _chase(metric: str, symbol: str, load: str, **rest: Any) -> ChaseKernel:
    usual: dict[str, Any] = {
        "toolchain": "cuda c++",
        "source": "latency.cu",
        "architectures": VECTOR_ARCHITECTURES,
        "threads": 1,
        "blocks_per_sm": 1,
        "work_unit": "load",
        "work_per_iteration": LOADS,
        "instructions": {load: LOADS},
    }
    return ChaseKernel(metric=metric, symbol=symbol, **usual | rest)


# Within every L1 (at least 128 KiB) and L2 (at least 2 MiB a partition); far beyond every L2, whose share is then
# under 7 %. L1 is empty when a kernel starts, and the first pass of a launch fills it: 32 lines of some 200,000 loads.
L1_BYTES, L2_BYTES, MEMORY_BYTES = 4 * 2**10, 2**20, 2 * 2**30

LATENCY_KERNELS: tuple[ChaseKernel, ...] = (
    _chase("latency.shared", "latency_shared", "LDS", space="shared"),
    _chase(
        "latency.cluster",
        "latency_cluster",
        "LD.E.64",
        architectures=CLUSTER_ARCHITECTURES,
        space="shared",
        blocks=2,
        requires="clusters of blocks exist from compute capability 9.0",
    ),
    _chase("latency.l1", "latency_cached", "LDG.E.64", usual_footprint_bytes=L1_BYTES),
    _chase("latency.l2", "latency_uncached", "LDG.E.64", usual_footprint_bytes=L2_BYTES),
    _chase("latency.l2.all_sms", "latency_uncached", "LDG.E.64", usual_footprint_bytes=L2_BYTES, blocks=None),
    _chase("latency.memory", "latency_cached", "LDG.E.64", usual_footprint_bytes=MEMORY_BYTES),
    _chase(
        "latency.memory",
        "latency_cached",
        "LDG.E.64",
        toolchain="numba",
        source="numba_twins.py",
        usual_footprint_bytes=MEMORY_BYTES,
    ),
    _chase(
        "latency.tlb",
        "latency_uncached",
        "LDG.E.64",
        usual_footprint_bytes=MEMORY_BYTES,
        stride_bytes=PAGE_BYTES,
    ),
)
