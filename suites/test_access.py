"""What do random, narrow, misaligned and partial accesses cost, beside whole sectors in order?"""

import pytest

from gpuassay.timing import Measure, burst, glimpse

pytestmark = pytest.mark.gpu


@burst
@pytest.mark.parametrize("pattern", ["random", "random_update"])
def test_random(measure: Measure, pattern: str) -> None:
    """Over nearly the whole memory: what translation costs is part of it."""
    measure(f"memory.{pattern}", "cuda c++")


@glimpse
@pytest.mark.parametrize("variant", ["width4", "width8", "width32", "offset4", "offset16"])
@pytest.mark.parametrize("level", ["memory", "l2"])
def test_read(measure: Measure, level: str, variant: str) -> None:
    """From L2 a narrow load shows its instructions and a shifted one its extra sector; memory may hide both."""
    measure(f"{level}.read.{variant}", "cuda c++")


@glimpse
def test_partial_write(measure: Measure) -> None:
    """Half of each sector: with ECC the other half must be read first."""
    measure("memory.write.partial", "cuda c++")
