"""How long does a load take that the next one waits for? In shared memory, L1, L2, memory, and over footprints."""

import pytest

from gpuassay.timing import Measure, burst, point

pytestmark = [pytest.mark.gpu]
KIB, MIB, GIB = 2**10, 2**20, 2**30


def octaves(first: int, last: int, per_octave: int, multiple: int) -> list[int]:
    """Footprints from `first` to `last` at equal steps of their logarithm, in bytes, as multiples of `multiple`."""
    steps = range(round(per_octave * 64) + 1)
    sizes = (round(first * 2 ** (step / per_octave) / multiple) * multiple for step in steps)
    return [size for size in dict.fromkeys(sizes) if size <= last]


# Dense where levels end: L1 has 128 to 256 KiB, L2 from 2 MiB in a partition to 128 MiB. Chosen without a look at what
# the driver claims, since that is what the curve is to test.
FOOTPRINTS = sorted(
    {
        *octaves(1 * KIB, 64 * KIB, 1, KIB),
        *octaves(96 * KIB, 288 * KIB, 8, KIB),
        *octaves(512 * KIB, 2 * MIB, 1, KIB),
        *octaves(3 * MIB, 20 * MIB, 6, 64 * KIB),
        *octaves(20 * MIB, 160 * MIB, 8, 64 * KIB),
        *octaves(192 * MIB, 128 * GIB, 1, MIB),
    }
)
PAGES = octaves(16 * MIB, 128 * GIB, 2, 2 * MIB)


@burst
@pytest.mark.quick
def test_latency_memory(measure: Measure) -> None:
    measure("latency.memory", "cuda c++")


@burst
@pytest.mark.parametrize(
    "level", ["shared", "cluster", "l1", "l2", pytest.param("l2.all_sms", marks=pytest.mark.claims)]
)
def test_latency(measure: Measure, level: str) -> None:
    measure(f"latency.{level}", "cuda c++")


@burst
def test_latency_memory_numba(measure: Measure) -> None:
    measure("latency.memory", "numba")


@point
@pytest.mark.parametrize("footprint_bytes", FOOTPRINTS)
def test_latency_over_footprints(measure: Measure, footprint_bytes: int) -> None:
    """The knees of this curve are the sizes of L1 and L2 (gpuassay/hierarchy.py)."""
    measure("latency.memory", "cuda c++", footprint_bytes=footprint_bytes)


@point
@pytest.mark.parametrize("footprint_bytes", PAGES)
def test_latency_over_pages(measure: Measure, footprint_bytes: int) -> None:
    """One line in each page of 2 MiB, so that what grows is the number of translations."""
    measure("latency.tlb", "cuda c++", footprint_bytes=footprint_bytes)
