"""CUDA's throughput table as data: complete, cited, and in the metrics' own way of counting."""

from __future__ import annotations

import pytest

from gpuassay.kernels import KERNELS
from gpuassay.metrics import metrics
from gpuassay.sheets import load
from gpuassay.throughput import limit, throughput

CAPABILITIES = ("8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0")
VECTOR = sorted({k.metric for k in KERNELS if k.metric.split(".")[0] in ("vector", "sfu", "convert")})


@pytest.mark.parametrize(
    ("metric", "capability", "expected"),
    [
        ("vector.fp32", "9.0", 256),
        ("vector.fp32", "8.0", 128),
        ("vector.fp64", "9.0", 128),
        ("vector.fp64", "8.9", 4),
        ("vector.fp16", "9.0", 512),  # 256 results, in 128 packed FMAs of four operations
        ("vector.bf16", "8.0", 256),
        ("vector.int32", "9.0", 128),
        ("vector.int32_add", "9.0", 64),
        ("vector.dp4a", "9.0", 512),
        ("vector.popc", "9.0", 16),
        ("vector.shuffle", "9.0", 32),
        ("sfu.sin", "12.0", 16),
        ("convert.f32_bf16", "9.0", None),
        ("vector.fp32", "7.5", None),
        ("tensor.bf16", "9.0", None),
    ],
)
def test_limits(metric: str, capability: str, expected: float | None) -> None:
    assert limit(metric, capability) == expected


@pytest.mark.parametrize("metric", VECTOR)
def test_every_vector_metric_has_an_entry_a_source_and_a_title(metric: str) -> None:
    assert metric in metrics()
    for capability in CAPABILITIES:
        found = throughput(metric, capability)
        assert found is not None
        assert "Guide" in found.reference
        # No copy at hand prints the integer rows of 12.x, nor the packed conversions at all.
        assert found.values or metric.startswith("convert.") or capability == "12.0"


def test_disagreement_is_told() -> None:
    found = throughput("vector.fp16", "8.6")
    assert found is not None
    assert found.values == (256, 512)
    assert "256 or 512, measurement settles it" in found.reference
    agreed = throughput("vector.fp16", "9.0")
    assert agreed is not None
    assert "settles" not in agreed.reference


@pytest.mark.parametrize("metric", ["vector.fp32", "vector.fp64"])
def test_the_table_agrees_with_the_sheet_of_a_full_part(metric: str) -> None:
    assert limit(metric, "9.0") == load("H100-SXM").silicon[metric][0].si
