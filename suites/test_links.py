"""How fast are the links: to the host over PCIe, to other GPUs?"""

from collections.abc import Callable

import pytest

from gpuassay.timing import Measure, burst

pytestmark = pytest.mark.gpu


@pytest.mark.quick
@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_pinned(measure_operation: Callable[..., None], direction: str) -> None:
    measure_operation(f"pcie.{direction}", by_events=True)


def test_both_directions(measure_operation: Callable[..., None]) -> None:
    """At once, in two streams."""
    measure_operation("pcie.both", by_events=True)


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_pageable(measure_operation: Callable[..., None], direction: str) -> None:
    """Through the driver's own staging."""
    measure_operation(f"pcie.{direction}.pageable", by_events=True)


@burst
@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_mapped(measure: Measure, direction: str) -> None:
    """By a kernel that reads or writes host memory itself."""
    measure(f"pcie.{direction}.mapped", "cuda c++")


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_latency(measure_operation: Callable[..., None], direction: str) -> None:
    """Four bytes, each copy waited for."""
    measure_operation(f"pcie.{direction}.latency")


WAYS = ["both_ways", "all_pairs", "read", "write", "read_both_ways"]


@pytest.mark.parametrize("way", [pytest.param("one_way", marks=pytest.mark.claims), *WAYS])
def test_peers(measure_peers: Callable[[str], None], way: str) -> None:
    """Between GPUs, over whatever joins them: copies, and kernels that read or write the other's memory."""
    measure_peers(way)
