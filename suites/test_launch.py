"""What does it cost the host to ask the GPU for something?"""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("toolchain", ["cuda c++", "numba"])
@pytest.mark.parametrize("way", ["async", "sync"])
def test_launch(measure_operation: Callable[..., None], way: str, toolchain: str) -> None:
    """An empty kernel, through CuPy and through Numba."""
    measure_operation(f"launch.{way}", toolchain)


def test_graph_node(measure_operation: Callable[..., None]) -> None:
    """On the GPU's own clock, per node of a chain."""
    measure_operation("launch.graph", by_events=True)


@pytest.mark.parametrize("toolchain", ["cuda c++", "numba"])
@pytest.mark.parametrize("what", ["event_pair", "first"])
def test_both_ways(measure_operation: Callable[..., None], what: str, toolchain: str) -> None:
    """Through CuPy and through Numba."""
    measure_operation(f"launch.{what}", toolchain)


@pytest.mark.parametrize("what", ["allocation", "module_load"])
def test_other_costs(measure_operation: Callable[..., None], what: str) -> None:
    """Numba has no stream-ordered allocation, and loads a module only as it compiles one."""
    measure_operation(f"launch.{what}")
