"""How many bytes per second to and from device memory, far beyond L2?"""

import pytest

from gpuassay.timing import Measure, burst

pytestmark = [pytest.mark.gpu, burst]


@pytest.mark.quick
@pytest.mark.parametrize("pattern", ["read", "write", "copy", "triad"])
def test_memory(measure: Measure, pattern: str) -> None:
    measure(f"memory.{pattern}", "cuda c++")


@pytest.mark.parametrize("pattern", ["read", "write", "copy", "triad"])
def test_memory_numba(measure: Measure, pattern: str) -> None:
    measure(f"memory.{pattern}", "numba")


@pytest.mark.parametrize("pattern", ["mix3", "read_tma"])
def test_other_ways(measure: Measure, pattern: str) -> None:
    """Three reads to one write; reads through the tensor memory accelerator. Held against memory.read."""
    measure(f"memory.{pattern}", "cuda c++")
