"""How many atomic operations per second, by how many threads meet at an address?"""

import pytest

from gpuassay.timing import Measure, glimpse

pytestmark = [pytest.mark.gpu, glimpse]


@pytest.mark.parametrize("pattern", ["spread", "warp", "one"])
@pytest.mark.parametrize("operation", ["add_u32", "add_f32", "cas_u64"])
@pytest.mark.parametrize("space", ["shared", "global"])
def test_atomic(measure: Measure, space: str, operation: str, pattern: str) -> None:
    measure(f"atomic.{space}.{operation}.{pattern}", "cuda c++")
