"""The checks that need a GPU, as the suites run them: each takes the device and gives rows, whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import Row

if TYPE_CHECKING:
    from ..cuda import CudaDevice

SEED = 20261124  # of the limiter hunt's design; printed with its result
LIMITER_MINUTES: float = 8  # of the profile's quarter of an hour


@dataclass(frozen=True)
class Run:
    """The run that a check is part of: where its record lies, and how long the hunt for limits may take."""

    record: Path | None = None
    limiter_minutes: float = LIMITER_MINUTES


def fingerprint(device: CudaDevice, _: Run) -> list[Row]:
    """How the tensor cores add."""
    from . import fingerprint_run

    return [fingerprint_run.run(device.compute_capability)]


def capacity(device: CudaDevice, _: Run) -> list[Row]:
    """All free memory, filled before it is verified, then inverted again and again; error counters around it."""
    from . import memory_run
    from .determinism import temperature_c

    with _nvml(device) as (nvml, handle):
        capability = device.compute_capability
        return memory_run.run(capability, nvml, handle, temperature_c=lambda: temperature_c(device))


def residue(device: CudaDevice, _: Run) -> list[Row]:
    """Our own marker in memory that another of our processes gave back."""
    import cupy

    from . import residue as module

    cupy.get_default_memory_pool().free_all_blocks()
    with device.sensors() as sensors:
        seen = sensors.read()
    listed: Any = seen["other_processes"]
    hidden = seen["own_process_listed"] == 0  # in a container this process looks like another one, or like none
    others = None if listed is None else max(0, int(listed) - int(hidden))
    return module.run(int(cupy.cuda.Device().id), others, blind=hidden and listed == 0)


def determinism(device: CudaDevice, _: Run) -> list[Row]:
    """The same work again and again, bit by bit, on every SM."""
    from . import determinism as module

    return module.run(device)


def limiters(device: CudaDevice, run: Run) -> list[Row]:
    """Limits that act on some work only."""
    from . import limiter_run

    return [limiter_run.run(device, SEED, 60 * run.limiter_minutes)]


def host(device: CudaDevice, run: Run) -> list[Row]:
    """Facts about driver, files, agents and engines, and evidence where a verifier is installed."""
    from . import host as module

    evidence = None if run.record is None else run.record.with_suffix(".evidence.json")
    with _nvml(device) as (nvml, handle):
        attested = module.attestation(evidence, missing=module.missing_conditions(nvml=nvml))
        return [*module.rows(nvml=nvml, handle=handle), _properties(), attested]


def capabilities(device: CudaDevice, _: Run) -> list[Row]:
    """What the driver says of engines and modes, and launches that show what it allows."""
    from cuda.bindings import driver

    from . import capabilities as module

    with _nvml(device) as (nvml, handle):
        found = module.queries(nvml, handle)
    return [module.queries_row(found + module.try_launches(driver, device.compute_capability, device.sm_count))]


def kernels(device: CudaDevice, _: Run) -> list[Row]:
    """Every kernel of this program, tried once."""
    from . import capabilities as module

    return [module.try_kernels(device)]


PROPERTIES = (
    "asyncEngineCount",
    "concurrentKernels",
    "cooperativeLaunch",
    "ECCEnabled",
    "managedMemory",
    "multiGpuBoardGroupID",
    "persistingL2CacheMaxSize",
    "sharedMemPerMultiprocessor",
    "sharedMemPerBlockOptin",
    "regsPerMultiprocessor",
    "maxThreadsPerMultiProcessor",
)


def _properties() -> Row:
    """What cudaGetDeviceProperties claims of engines and features."""
    import cupy

    given = cupy.cuda.runtime.getDeviceProperties(int(cupy.cuda.Device().id))
    found = {name: int(given[name]) for name in PROPERTIES if name in given}
    text = "cudaGetDeviceProperties said so; nothing here checks it."
    return Row("CUDA properties", "not observable", text, len(found), unit="1", details=found)


CHEAP: dict[str, Callable[[CudaDevice, Run], list[Row]]] = {
    "fingerprint": fingerprint,
    "capabilities": capabilities,
    "host": host,
}
"""Seconds; part of the profile standard."""
THOROUGH: dict[str, Callable[[CudaDevice, Run], list[Row]]] = {
    "residue": residue,
    "determinism": determinism,
    "limiters": limiters,
    "kernels": kernels,
    "capacity": capacity,
}
"""Minutes; part of the profile audit only. Memory last: an uncorrectable error there ends the CUDA context."""


def guarded(name: str, device: CudaDevice, run: Run) -> list[Row]:
    """The rows of one check; one row `not tested` where it fails on its own. Raises what costs the CUDA context."""
    from ..faults import cuda_failure

    check = (CHEAP | THOROUGH)[name]
    try:
        return check(device, run)
    except Exception as error:  # a check that breaks must cost neither the other checks nor the record
        if (cuda_failure(error) or ("", False))[1]:
            raise
        return [Row(name, "not tested", f"The check failed with {type(error).__name__}: {str(error)[:300]}.")]


@contextlib.contextmanager
def _nvml(device: CudaDevice) -> Iterator[tuple[Any, Any]]:
    """NVML and its handle of `device`."""
    from ..claims import open_nvml

    nvml = open_nvml()
    try:
        yield nvml, nvml.nvmlDeviceGetHandleByIndex(device.nvml_index)
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
