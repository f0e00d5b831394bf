"""Does each SM keep its rate when all of them work? A cap that acts on the chip, not on the SM, shows as a knee."""

import pytest

from gpuassay.timing import Measure, glimpse

pytestmark = [pytest.mark.gpu, glimpse]


@pytest.mark.parametrize("sms", [1, 2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("metric", ["tensor.bf16", "vector.fp32"])
def test_scaling(measure: Measure, metric: str, sms: int) -> None:
    """With blocks for so many SMs; all of them is the metric itself."""
    measure(metric, "cuda c++", sms=sms)
