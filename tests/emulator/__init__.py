"""An emulated GPU under the real CuPy, Numba, cuda-core and nvidia-ml-py: a fake at the driver's edge, and no measure
of anything but correctness.

`driver.cpp` stands in for libcuda.so.1 and for the CUDA runtime, `nvml.cpp` for libnvidia-ml.so.1. What is loaded onto
the GPU as machine code runs on the CPU: the PTX that NVRTC or NVVM gives with it is translated to C++ (`ptx.py`,
`machine.h`). So everything of gpuassay runs as on a GPU but the last step of the compiler and the silicon.

Environment of an emulated process: EMULATOR_CC (compute capability, 9.0), EMULATOR_SMS (2), EMULATOR_MIB (memory, 256),
EMULATOR_DEVICES (1), EMULATOR_MIG (1: CUDA's device is a MIG instance), EMULATOR_FAULT ("memory wraps", "address line",
"wrong SM"), EMULATOR_FAIL=kernel:error (a launch that fails with that cudaError_t), EMULATOR_FAIL_ONCE=file (once only,
noted there), EMULATOR_CLAIMED_CLOCK_MHZ (1755), EMULATOR_VIRTUALIZATION (NVML's number of the mode, 0).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent


def build(cache: Path) -> Path:
    """The emulator's folder, built from its sources if `cache` does not hold it. Skips where something is missing."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("the emulated GPU switches threads as Linux on x86-64 does")
    for program in ("c++", "nm"):
        if shutil.which(program) is None:
            pytest.skip(f"the emulated GPU needs {program}")
    half = ["c++", "-std=c++17", "-x", "c++", "-c", "-", "-o", os.devnull]
    if subprocess.run(half, input=b"_Float16 half;", capture_output=True, check=False).returncode:
        pytest.skip("the emulated GPU needs a C++ compiler that knows _Float16: GCC 12, Clang 15 or newer")
    toolkit = importlib.util.find_spec("nvidia.cu13")
    if toolkit is None or importlib.util.find_spec("cupy_backends") is None:
        pytest.skip("the emulated GPU needs the cuda13 extra")
    include = Path(toolkit.submodule_search_locations[0]) / "include"  # type: ignore[index]
    files = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cpp", ".h", ".py"))
    home = cache / sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    if not home.exists():
        part = cache / f"{home.name}.{os.getpid()}"
        part.mkdir(parents=True)
        for source, library in (("driver.cpp", "libcuda.so.1"), ("nvml.cpp", "libnvidia-ml.so.1")):
            command = ["c++", "-std=c++17", "-O2", "-shared", "-fPIC", f'-DEMULATOR_SOURCES="{SOURCES}"']
            command += [
                "-I",
                str(SOURCES),
                "-I",
                str(include),
                "-o",
                str(part / library),
                str(SOURCES / source),
                "-ldl",
            ]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr
        try:
            part.rename(home)
        except OSError:  # another process was first
            shutil.rmtree(part)
    return home


def environment(home: Path, **emulator: object) -> dict[str, str]:
    """The environment of a process that is to find the emulated GPU; `emulator`: EMULATOR_... in lower case."""
    settings = {f"EMULATOR_{name.upper()}": str(value) for name, value in emulator.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return (
        inherited
        | settings
        | {
            "EMULATOR_HOME": str(home),
            "EMULATOR_PYTHON": sys.executable,
            "LD_LIBRARY_PATH": str(home),
            "PYTHONPATH": str(SOURCES / "inside"),
            "CUPY_CACHE_DIR": str(home / "cupy"),
        }
    )
