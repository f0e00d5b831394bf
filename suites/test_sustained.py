"""What does a job get once the power manager has settled, and what does an operation cost? Profile full."""

import pytest

from gpuassay.timing import Measure, sustained

pytestmark = [pytest.mark.gpu, pytest.mark.full, sustained]

METRICS = [
    pytest.param("tensor.bf16", marks=pytest.mark.claims),
    "tensor.fp8_e4m3",
    "tensor.int8",
    "tensor.fp64",
    "vector.fp32",
]


@pytest.mark.parametrize("metric", METRICS)
def test_sustained(measure: Measure, metric: str) -> None:
    """On random data, at least 20 s."""
    measure(metric, "cuda c++", sustained=True)


@pytest.mark.parametrize("data", ["one value", "zeros"])
def test_what_data_costs(measure: Measure, data: str) -> None:
    """The same operations on data that switches few transistors: a variant, never a headline."""
    measure("tensor.bf16", "cuda c++", sustained=True, data=data)
