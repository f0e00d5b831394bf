"""`gpuassay` whose suites run on the fake GPU, for signals from outside: `python verify_on_fake.py verify ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpuassay import claims, cli, verify

real = verify.measure


def measure(*, pytest_arguments: tuple[str, ...] = (), **how: Any) -> Path:
    return real(**how, pytest_arguments=(*pytest_arguments, "-p", "fake_gpu"))


if __name__ == "__main__":
    verify.measure = measure
    claims.device_count = lambda: 1
    claims.nvml_claims = lambda index: [{"quantity": "name", "value": "FAKE H100", "unit": None, "source": "fake"}]
    cli.main()
