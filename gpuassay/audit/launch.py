"""Machine code of the audit onto the current CUDA device."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

from ..kernels.compile import MachineCode, compile_source


@cache
def function(code: MachineCode, symbol: str) -> Any:
    """The kernel to launch, as CuPy's RawKernel: kernel(grid, block, arguments)."""
    import cupy

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.cubin)
        file.flush()
        return cupy.RawModule(path=file.name).get_function(symbol)  # looked up while the file exists


def architecture(compute_capability: str) -> str:
    """The architecture that a kernel without special needs is compiled for: "sm_90" of "9.0"."""
    return "sm_" + compute_capability.replace(".", "")


def load(source: str, symbol: str, compute_capability: str, prelude: str = "") -> Any:
    """Compiles and loads one kernel. Raises kernels.compile.CompileError."""
    return function(compile_source(source, symbol, architecture(compute_capability), prelude), symbol)
