"""Does the part keep its word? Checks on the device for the honesty audit; what a record shows alone needs no suite."""

from collections.abc import Callable

import pytest

from gpuassay.audit.checks import CHEAP, THOROUGH

pytestmark = [pytest.mark.gpu, pytest.mark.audit]


@pytest.mark.parametrize("check", CHEAP)
def test_cheap(audit: Callable[[str], None], check: str) -> None:
    """Seconds."""
    audit(check)


@pytest.mark.thorough
@pytest.mark.parametrize("check", THOROUGH)
def test_thorough(audit: Callable[[str], None], check: str) -> None:
    """Minutes."""
    audit(check)
