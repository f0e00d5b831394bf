"""What a CUDA error that escaped a benchmark means: the call failed, or the process can use the GPU no more."""

from __future__ import annotations

__all__ = ["CONTEXT_LOST", "ContextLost", "cuda_failure"]

CONTEXT_LOST = 70
"""Exit code of the suites' process (never of the program) that asks to go on in a fresh one."""

# Codes of cudaError_t and CUresult after which the context still works: the call was refused. Every other one is taken
# as sticky ("This leaves the process in an inconsistent state", CUDA Runtime API, cudaError_t): a fresh process costs
# seconds, a context that was wrongly trusted a measurement.
_CALL_REFUSED = {
    1: "CUDA_ERROR_INVALID_VALUE",
    2: "CUDA_ERROR_OUT_OF_MEMORY",
    9: "cudaErrorInvalidConfiguration",
    35: "cudaErrorInsufficientDriver",
    98: "cudaErrorInvalidDeviceFunction",
    100: "CUDA_ERROR_NO_DEVICE",
    101: "CUDA_ERROR_INVALID_DEVICE",
    200: "CUDA_ERROR_INVALID_IMAGE",
    209: "CUDA_ERROR_NO_BINARY_FOR_GPU",
    218: "CUDA_ERROR_INVALID_PTX",
    222: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    701: "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    801: "CUDA_ERROR_NOT_SUPPORTED",
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
    # cuda-core's CUDAError has no code, but begins with its name.
    refused = code in _CALL_REFUSED if code is not None else f"{error}".startswith(tuple(_CALL_REFUSED.values()))
    return f"{error}".partition("\n")[0], not refused
