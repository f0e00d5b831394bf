"""Whole runs of the suites on a fake GPU (fake_gpu.py), made once per test process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from gpuassay import verify
from gpuassay.verdict import Judgement

HERE = Path(__file__).parent
# A property holds or does not; how long that takes on a loaded machine is no part of it.
settings.register_profile("gpuassay", deadline=None)
settings.load_profile("gpuassay")

# A genuine H20 as measurements describe it: a quarter of the tensor rate, 2 FP64 FMA, 78 SMs that hold 1.98 GHz.
H20 = {
    "name": "FAKE H20",
    "sm_count": 78,
    "pci_device_id": "10de:2329",
    "memory_bytes": 97871 * 2**20,
    "sm_clock_hz": 1.98e9,
    "nominal_bytes_per_s": 4.0e12,
    "rates": {
        "vector.fp32": 256 * 0.993,
        "vector.fp64": 4 * 0.9988,
        "tensor.bf16": 1024 * 0.998,
        "mma_sync.bf16": 1024 * 0.95,
        "memory.read": 0.943,
        "memory.write": 0.973,
        "memory.copy": 0.886,
        "memory.triad": 0.925,
    },
}

Measure = Callable[..., Path]


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """fake_run(profile="quick", **model) -> path of the record; equal calls share one run."""
    made: dict[str, Path] = {}

    def run(
        profile: str = "quick",
        fresh: bool = False,
        resumed: Path | None = None,
        options: tuple[str, ...] = (),
        **model: Any,
    ) -> Path:
        key = json.dumps([profile, options, model], sort_keys=True)
        if key in made and not fresh and not resumed:
            return made[key]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
            patch.setenv("FAKE_GPU", json.dumps(model))
            path = verify.measure(
                device=0,
                profile=profile,
                out=tmp_path_factory.mktemp("runs"),
                part=str(model.get("name", "FAKE H100")),
                pytest_arguments=("-p", "fake_gpu", *options),
                resumed=resumed,
            )
        if not resumed:  # or others would be given what it went on with
            made.setdefault(key, path)
        return path

    return run


@pytest.fixture(scope="session")
def judged(fake_run: Measure) -> Callable[..., Judgement]:
    """judged(against, **model) -> the judgement of a quick run on that fake."""

    def run(against: str | None = None, profile: str = "quick", **model: Any) -> Judgement:
        return verify.judge_record(fake_run(profile, **model), against)

    return run
