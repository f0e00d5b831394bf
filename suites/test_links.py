"""How fast are the links: to the host over PCIe, to other GPUs?"""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.quick
@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_pinned(measure_operation: Callable[..., None], direction: str) -> None:
    measure_operation(f"pcie.{direction}", by_events=True)


def test_both_directions(measure_operation: Callable[..., None]) -> None:
    """At once, in two streams."""
    measure_operation("pcie.both", by_events=True)


@pytest.mark.parametrize("way", ["pageable", "mapped"])
@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_other_memory(measure_operation: Callable[..., None], direction: str, way: str) -> None:
    """Through the driver's own staging; by a kernel that reads or writes host memory itself."""
    measure_operation(f"pcie.{direction}.{way}", by_events=True)


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_latency(measure_operation: Callable[..., None], direction: str) -> None:
    """Four bytes, each copy waited for."""
    measure_operation(f"pcie.{direction}.latency")


@pytest.mark.parametrize("way", [pytest.param("one_way", marks=pytest.mark.claims), "both_ways", "all_pairs"])
def test_peers(measure_peers: Callable[[str], None], way: str) -> None:
    """Between GPUs, over whatever joins them."""
    measure_peers(way)
