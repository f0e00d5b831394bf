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
