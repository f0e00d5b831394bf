"""`gpuassay` whose suites run on the fake GPU, for signals from outside: `python verify_on_fake.py verify ...`."""

from __future__ import annotations

from functools import partial

from gpuassay import claims, cli, verify

if __name__ == "__main__":
    verify.measure = partial(verify.measure, pytest_arguments=("-p", "fake_gpu"))
    claims.device_count = lambda: 1
    claims.nvml_claims = lambda index: [{"quantity": "name", "value": "FAKE H100", "unit": None, "source": "fake"}]
    cli.main()
