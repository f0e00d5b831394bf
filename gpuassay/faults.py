"""What a CUDA error that escaped a benchmark means: the call failed, or the process can use the GPU no more."""

from __future__ import annotations

__all__ = ["CONTEXT_LOST", "ContextLost", "cuda_failure"]

CONTEXT_LOST = 70
"""Exit code of the suites' process (never of the program) that asks to go on in a fresh one."""

# Codes of cudaError_t and CUresult after which the context still works: the call was refused. Every other one is taken
# as sticky ("This leaves the process in an inconsistent state", CUDA Runtime API, cudaError_t): a fresh process costs
# seconds, a context that was wrongly trusted a measurement.
_CALL_REFUSED = {
    1,  # InvalidValue
    2,  # MemoryAllocation
    9,  # InvalidConfiguration
    98,  # InvalidDeviceFunction
    200,  # InvalidKernelImage
    209,  # NoKernelImageForDevice
    218,  # InvalidPtx
    701,  # LaunchOutOfResources
    801,  # NotSupported
}
_CUDA_ERRORS = {"CUDARuntimeError", "CUDADriverError", "CudaAPIError", "CUDAError"}


class ContextLost(Exception):
    """The CUDA context is gone: nothing more can be measured in this process."""


def cuda_failure(error: BaseException) -> tuple[str, bool] | None:
    """What failed, and whether the context went with it; None for an error that neither is CUDA's nor was
    raised from one.

    Told by the names of the classes that CuPy and Numba raise and by their codes, so that neither need be imported.
    """
    if isinstance(error, ContextLost):
        return str(error), True
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError):  # CuPy's OutOfMemoryError is one
        return f"out of memory: {error}", False
    if not names & _CUDA_ERRORS:
        return cuda_failure(error.__cause__) if error.__cause__ is not None else None
    code = getattr(error, "status", getattr(error, "code", None))
    return f"{error}".partition("\n")[0], code not in _CALL_REFUSED
