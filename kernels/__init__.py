"""Device code whose work per launch is known exactly, and the Python that declares it.

`KERNELS` is the catalogue. Everything else follows from it: the suites run what is declared here, the census
counts whether the machine code does what is declared here, and a rate is (declared work) / (measured time).
"""

from __future__ import annotations

from .access import ACCESS_KERNELS
from .atomic import ATOMIC_KERNELS
from .cache import CACHE_KERNELS
from .declare import ArithmeticKernel, Check, Kernel, MemoryKernel
from .latency import LATENCY_KERNELS, ChaseKernel
from .links import LINK_KERNELS
from .memory import MEMORY_KERNELS
from .tensor import TENSOR_KERNELS
from .vector import VECTOR_KERNELS

KERNELS: tuple[Kernel, ...] = (
    *VECTOR_KERNELS,
    *TENSOR_KERNELS,
    *MEMORY_KERNELS,
    *CACHE_KERNELS,
    *ACCESS_KERNELS,
    *ATOMIC_KERNELS,
    *LATENCY_KERNELS,
    *LINK_KERNELS,
)

__all__ = ["KERNELS", "ArithmeticKernel", "ChaseKernel", "Check", "Kernel", "MemoryKernel", "kernels_for", "no_kernel"]

NO_KERNEL = "no kernel for this architecture"


def kernels_for(metric: str, toolchain: str | None = None) -> list[Kernel]:
    """All declared kernels of `metric`, or those of one toolchain; the one for the largest arrays first."""
    return [k for k in KERNELS if k.metric == metric and toolchain in (None, k.toolchain)]


def no_kernel(metric: str, toolchain: str | None, compute_capability: str) -> str:
    """Why `metric` has no kernel for that compute capability; it begins with NO_KERNEL."""
    # The first that says so speaks for all: they answer the same question.
    requires = next((k.requires for k in kernels_for(metric, toolchain) if k.requires), "")
    reason = f"{NO_KERNEL} (compute capability {compute_capability})"
    return f"{reason}: {requires}" if requires else reason
