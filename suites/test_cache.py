"""How many bytes per clock do shared memory, L1 and L2 give, and where does each level end?"""

import pytest

from gpuassay.timing import Measure, burst, point

pytestmark = [pytest.mark.gpu]
KIB, MIB, GIB = 2**10, 2**20, 2**30
# Dense around the L2 sizes of parts (4 to 128 MiB), chosen without a look at what the driver claims.
FOOTPRINTS = sorted(
    {
        *(round(MIB * 2 ** (step / 8) / (64 * KIB)) * 64 * KIB for step in range(8 * 2, 8 * 8)),
        *(16 * KIB * 2**step for step in range(8)),
        *(GIB * 2**step // 2 for step in range(9)),
    }
)
# Inside one partition of L2, inside all of it, and beyond it, of parts from 4 MiB on.
WRITTEN = [MIB * size for size in (2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128, 256)]


@burst
@pytest.mark.quick
def test_l2_read(measure: Measure) -> None:
    measure("l2.read", "cuda c++")


@burst
@pytest.mark.parametrize("metric", ["shared.read", "shared.write", "dsmem.read", "l1.read", "l2.write"])
def test_cache(measure: Measure, metric: str) -> None:
    measure(metric, "cuda c++")


@point
@pytest.mark.claims
@pytest.mark.parametrize("footprint_bytes", FOOTPRINTS)
def test_read_over_footprint(measure: Measure, footprint_bytes: int) -> None:
    """From what L1 holds to most of the memory."""
    measure("memory.read", "cuda c++", footprint_bytes=footprint_bytes)


@point
@pytest.mark.parametrize("footprint_bytes", WRITTEN)
def test_write_over_footprint(measure: Measure, footprint_bytes: int) -> None:
    """No knee is looked for here: what leaves L2 late is counted by a later pass."""
    measure("memory.write", "cuda c++", footprint_bytes=footprint_bytes)
