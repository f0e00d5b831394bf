"""Checks of the audit by name, each for a moment instead of minutes: one JSON object a row. For a process that finds an
emulated GPU (test_emulated.py)."""

from __future__ import annotations

import json
import sys
from functools import partial

from gpuassay.audit import checks, determinism, memory_run
from gpuassay.cuda import CudaDevice

MOMENT_S = 0.5


def main(names: list[str]) -> None:
    memory_run.run = partial(memory_run.run, seconds=MOMENT_S)
    device = CudaDevice(0)
    for name in names:
        rows = (
            determinism.run(device, MOMENT_S) if name == "determinism" else checks.guarded(name, device, checks.Run())
        )
        for row in rows:
            print(json.dumps(row.line()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
