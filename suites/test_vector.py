"""How many vector operations per second, per clock and per SM?"""

import pytest

from gpuassay.timing import Measure, burst

pytestmark = [pytest.mark.gpu, burst]


@pytest.mark.quick
def test_fp32(measure: Measure) -> None:
    measure("vector.fp32", "cuda c++")


def test_fp32_numba(measure: Measure) -> None:
    measure("vector.fp32", "numba")
