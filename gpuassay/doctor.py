"""What is usable here, what is missing, and the exact command that mends it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One thing looked at; `mend` is the command or action where it is not usable."""

    what: str
    usable: bool
    found: str
    mend: str = ""
    optional: bool = False  # measuring does without


def examine(out: Path) -> Iterator[Row]:
    """Looks at everything that measuring needs, in the order in which it is needed."""
    from .claims import NoDriver, device_count, driver_version

    yield Row(
        "Python",
        sys.version_info >= (3, 11),
        sys.version.split()[0],
        "install Python 3.11 or newer",
    )
    version = driver_version()
    yield Row(
        "NVIDIA driver",
        version is not None,
        version or "none",
        "install the NVIDIA driver; without a GPU, `gpuassay verify --replay reference` shows a recording",
    )
    try:
        count = device_count() if version else 0
        yield Row("GPUs", count > 0, str(count), "nvidia-smi -L must list one; a container needs --gpus all")
    except NoDriver as error:
        yield Row("GPUs", False, str(error), "nvidia-smi -L must list one; a container needs --gpus all")
    extra = "cuda12" if _driver_cuda_major() == 12 else "cuda13"
    install = f"pip install 'gpuassay[{extra}]'"
    yield _module("CuPy", "cupy", install)
    yield _module("Numba CUDA", "numba_cuda", install)
    yield _module("cuda-core", "cuda.core", install)
    yield _nvrtc(install)
    yield _nvdisasm()
    if version and importlib.util.find_spec("cupy"):
        yield _runtime()
    yield _writable(out)
    yield from _needs_root()


def _needs_root(root: Path = Path("/"), user: int | None = None) -> Iterator[Row]:
    """What of the honesty audit only root sees; nothing else of this program needs root."""
    from .audit.capabilities import PROFILING, profiling
    from .audit.host import DRIVER_FILES, FIRMWARE_FILES

    is_root = (os.geteuid() if user is None else user) == 0
    mend = "run `gpuassay audit` as root; without, the audit says what it could not see"
    counters = profiling(root / PROFILING)
    yield Row("root: SM counters", is_root or counters.answer == "claimed", counters.by, mend, optional=True)
    files = [path for pattern in (*DRIVER_FILES, *FIRMWARE_FILES) for path in root.glob(pattern)]
    closed = [path for path in files if not os.access(path, os.R_OK)]
    found = f"{len(files) - len(closed)} of {len(files)} files of driver and firmware readable"
    yield Row("root: file hashes", not closed, found, mend, optional=True)
    found = "all processes" if is_root else "own processes only"
    yield Row("root: agents' sockets", is_root, found, mend, optional=True)
    found = "as root" if is_root else "not as root; Hopper needs confidential computing instead"
    yield Row("root: attestation", is_root, f"{found} (nvattest on Blackwell)", mend, optional=True)


def _driver_cuda_major() -> int | None:
    """CUDA major version that the installed driver supports."""
    import ctypes

    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    return number.value // 1000 if library.cuDriverGetVersion(ctypes.byref(number)) == 0 else None


def _module(what: str, name: str, install: str) -> Row:
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    return Row(what, found, "installed" if found else "not installed", install)


def _nvrtc(install: str) -> Row:
    from .kernels import KERNELS
    from .kernels.compile import CompileError, compile_kernel

    try:
        code = compile_kernel(KERNELS[0], KERNELS[0].architectures[0])
    except CompileError as error:
        return Row("CUDA C++ compiler", False, str(error), install)
    return Row("CUDA C++ compiler", True, f"{code.compiler} compiles {KERNELS[0].source}")


def _nvdisasm() -> Row:
    from .kernels.census import nvdisasm
    from .kernels.compile import CompileError

    try:
        return Row("nvdisasm", True, nvdisasm())
    except CompileError as error:
        return Row("nvdisasm", False, str(error), "pip install nvidia-cuda-nvdisasm")


def _runtime() -> Row:
    from .cuda import CudaDevice
    from .device import DeviceError

    try:
        device = CudaDevice(0)
    except DeviceError as error:
        return Row("CUDA runtime", False, str(error), "see the message")
    return Row(
        "CUDA runtime",
        True,
        f"{device.name}, {device.sm_count} SMs, CC {device.compute_capability}",
    )


def _writable(out: Path) -> Row:
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    usable = place.is_dir() and os.access(place, os.W_OK)
    return Row(
        "results directory",
        usable,
        str(out),
        f"make {place} writable, or choose another with --out",
    )
