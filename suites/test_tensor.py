"""How many tensor operations per second, per clock and per SM? Dense, on random data."""

import pytest

from gpuassay.timing import Measure, burst

pytestmark = [pytest.mark.gpu, burst]


@pytest.mark.quick
def test_bf16(measure: Measure) -> None:
    """Through the path that reaches the limit: wgmma on Hopper, mma.sync elsewhere."""
    measure("tensor.bf16", "cuda c++")


def test_bf16_mma_sync(measure: Measure) -> None:
    """Through the warp-level path, where it is not the only one."""
    measure("mma_sync.bf16", "cuda c++")
