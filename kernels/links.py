"""pcie.h2d.mapped, pcie.d2h.mapped: the read and write kernels of memory.cu on pinned host memory.

The same machine code, census and references as for device memory; what differs is where the arrays lie.
"""

from __future__ import annotations

from typing import Any

from .declare import MemoryKernel
from .memory import STREAMING, Read, Write

MAPPED_BYTES = 256 * 2**20  # 5 ms at PCIe 5.0 x16, and at least twice every L2

_MAPPED: dict[str, Any] = STREAMING | {
    "work_per_iteration": 65536,
    "footprint_bytes": MAPPED_BYTES,
    "host_memory": True,
}

LINK_KERNELS: tuple[MemoryKernel, ...] = (
    Read(
        metric="pcie.h2d.mapped",
        symbol="memory_read",
        instructions={"LDG.E.128": 8},
        input_arrays=1,
        output_is_sum=True,
        **_MAPPED,
    ),
    Write(metric="pcie.d2h.mapped", symbol="memory_write", instructions={"STG.E.128": 8}, **_MAPPED),
)
