"""Copies between two GPUs and among all of them, and kernels on one that read or write another's memory: builders for
cuda_operations. Each run waits for its copies or kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import CheckFailed, DeviceError
from .kernels import Check, MemoryKernel, kernels_for
from .kernels.compile import MachineCode, compile_kernel
from .kernels.memory import MEMORY_KERNELS, cuda_pattern

PEER_BYTES = 256 * 2**20
CHECK_CHUNKS, CHECK_PASSES = 257, 2  # a prime, so no multiple of any grid
SEED = 20261123  # of the random words that are read; what is written has a seed of its own
WRITTEN_SEED = 11231123
ALREADY_ENABLED = 704  # cudaErrorPeerAccessAlreadyEnabled, for which CuPy has no name
Free = list[Callable[[], Any]]


Built = tuple[Callable[[], None], float, str, dict[str, Any]]  # run, work, its unit, more of the kernel line
Started = tuple[Callable[[], Any], Callable[[], Any]]  # starts it, waits for it


def peers(rest: str, free: Free) -> Built:
    """Devices by CUDA ordinal: copies "one_way.0-1" (from 0 to 1), "both_ways.0-1" or "all_pairs"; kernels "read.0-1"
    (on 0, reading 1's memory), "write.0-1", or "read_both_ways.0-1".

    Raises DeviceError (denied, or one GPU only), CheckFailed (a kernel read or wrote something else), CompileError.
    """
    from cupy.cuda import runtime

    count = runtime.getDeviceCount()
    if count < 2:
        raise DeviceError("needs a second GPU")
    way, _, pair = rest.partition(".")
    if way == "all_pairs":
        pairs = list(permutations(range(count), 2))
    else:
        source, target = (int(place) for place in pair.split("-"))
        pairs = [(source, target), (target, source)] if way.endswith("both_ways") else [(source, target)]
    for one, other in pairs:
        if not runtime.deviceCanAccessPeer(one, other):
            raise DeviceError(f"device {one} cannot access device {other}: cudaDeviceCanAccessPeer says no")
    here = runtime.getDevice()
    about: dict[str, Any] = {}
    try:
        if way.startswith(("read", "write")):
            kernel, checks, started = _accesses(way.partition("_")[0], pairs, free)
            about = kernel | {"check": max(checks, key=lambda check: check.worst_error)}
        else:
            started = [_copy(one, other, free) for one, other in pairs]
    finally:
        runtime.setDevice(here)

    def run() -> None:
        try:
            for start, _ in started:
                start()
            for _, wait in started:
                wait()
        finally:
            runtime.setDevice(here)

    return run, PEER_BYTES * len(pairs), "B", about


def _copy(source: int, target: int, free: Free) -> Started:
    """A copy in a stream of the source device, and what waits for it."""
    import cupy
    from cupy.cuda import runtime

    pointers = []
    for device, other in ((target, source), (source, target)):  # the source last: its stream is made below
        runtime.setDevice(device)
        _enable(other)
        pointer = runtime.malloc(PEER_BYTES)
        free.append(partial(runtime.free, pointer))
        pointers.append(pointer)
    stream = cupy.cuda.Stream(non_blocking=True)
    there, here = pointers
    return (
        lambda: runtime.memcpyPeerAsync(there, target, here, source, PEER_BYTES, stream.ptr),
        lambda: runtime.streamSynchronize(stream.ptr),
    )


def _enable(peer: int) -> None:
    """Lets the current device reach `peer`, in this process."""
    from cupy.cuda import runtime

    try:
        runtime.deviceEnablePeerAccess(peer)
    except runtime.CUDARuntimeError as error:
        if error.status != ALREADY_ENABLED:
            raise


# -- kernels on a peer's memory ------------------------------------------------------------------------------


def _accesses(what: str, pairs: list[tuple[int, int]], free: Free) -> tuple[dict[str, Any], list[Check], list[Started]]:
    """Of each pair a kernel on the first that reads or writes the second's memory, checked; and which kernel it is."""
    kernel = kernels_for(f"memory.{what}", "cuda c++")[0]
    assert isinstance(kernel, MemoryKernel)
    built = [_access(kernel, one, other, free) for one, other in pairs]
    code, architecture = built[0][1:3]
    about = {
        "name": kernel.symbol,
        "source": kernel.source,
        "source_sha256": kernel.source_sha256,
        "cubin_sha256": code.sha256,
        "architecture": architecture,
        "compiler": code.compiler,
        "operations_per_iteration": kernel.work_per_iteration,
        "instructions": dict(kernel.instructions_for(architecture)),
    }
    return about, [check for check, *_ in built], [started for *_, started in built]


def _access(kernel: MemoryKernel, device: int, peer: int, free: Free) -> tuple[Check, MachineCode, str, Started]:
    """`kernel` on `device`, in a stream of that device, over PEER_BYTES of the peer's memory."""
    import cupy
    from cupy.cuda import runtime

    runtime.setDevice(peer)
    beyond = kernel.chunk_bytes  # must still hold its poison after the check
    there = runtime.malloc(PEER_BYTES + beyond)
    free.append(partial(runtime.free, there))
    runtime.memset(there, 0xFF, PEER_BYTES + beyond)
    chunks = PEER_BYTES // kernel.chunk_bytes
    if kernel.input_arrays:
        _, _, fill = _launcher(kernels_for("memory.write", "cuda c++")[0], peer, there, free)
        fill(chunks, chunks, np.uint32(SEED), None)
    runtime.deviceSynchronize()

    runtime.setDevice(device)
    _enable(peer)
    code, architecture, launch = _launcher(kernel, device, there, free)
    stream = cupy.cuda.Stream(non_blocking=True)
    last: Any = np.uint32(WRITTEN_SEED)
    if kernel.output_is_sum:
        last = np.uint64(runtime.malloc(4))
        free.append(partial(runtime.free, int(last)))
        runtime.memset(int(last), 0, 4)
        runtime.deviceSynchronize()  # the stream below does not wait for the default one
    launch(CHECK_CHUNKS, CHECK_CHUNKS * CHECK_PASSES, last, stream)
    runtime.streamSynchronize(stream.ptr)
    check = _checked(kernel, there, int(last))
    if not check.passed:
        text = f"wrong result, {check.worst_error:.3g} times the bound at {check.where}; no rate is reported"
        raise CheckFailed(f"{kernel.symbol} on device {device}, memory of device {peer}: {text}")

    def start() -> None:
        runtime.setDevice(device)
        launch(chunks, chunks, last, stream)

    return check, code, architecture, (start, lambda: runtime.streamSynchronize(stream.ptr))


def _launcher(kernel: Any, device: int, array: int, free: Free) -> tuple[MachineCode, str, Callable[..., None]]:
    """launch(chunks of the array, chunks in all, the last argument, stream) of a kernel on the current device."""
    from cupy.cuda import runtime

    function, code, architecture, blocks = _loaded(kernel.symbol, device)
    stamps, counter = runtime.malloc(blocks * 48), runtime.malloc(4)
    free.extend((partial(runtime.free, stamps), partial(runtime.free, counter)))
    runtime.memset(counter, 0, 4)
    runtime.deviceSynchronize()

    def launch(chunks: int, total: int, last: Any, stream: Any) -> None:
        head = (np.uint64(stamps), np.uint64(counter), np.uint32(chunks), np.uint32(total))
        function((blocks,), (kernel.threads,), (*head, np.uint64(array), last), stream=stream)

    return code, architecture, launch


@cache
def _loaded(symbol: str, device: int) -> tuple[Any, MachineCode, str, int]:
    """(function, its machine code, architecture, blocks of a launch) on the current device, `device`."""
    import cupy
    from cupy.cuda import runtime

    kernel = next(k for k in MEMORY_KERNELS if (k.symbol, k.toolchain) == (symbol, "cuda c++"))
    properties = runtime.getDeviceProperties(device)
    capability = f"{properties['major']}.{properties['minor']}"
    architecture = kernel.architecture_for(capability)
    if architecture is None:
        raise DeviceError(f"no {kernel.metric} kernel for compute capability {capability}")
    code = compile_kernel(kernel, architecture)
    module = cupy.cuda.function.Module()
    module.load(code.cubin)
    blocks = int(properties["multiProcessorCount"]) * kernel.blocks_per_sm
    return module.get_function(symbol), code, architecture, blocks


def _checked(kernel: MemoryKernel, there: int, total: int) -> Check:
    """The sum of what was read, or every word that was written and the chunk beyond them, against the reference."""
    from cupy.cuda import runtime

    words = CHECK_CHUNKS * kernel.chunk_bytes // 4
    if kernel.output_is_sum:
        result = np.zeros(1, dtype=np.uint32)
        runtime.memcpy(result.ctypes.data, total, 4, runtime.memcpyDeviceToHost)
        return Check.compare(result, kernel.reference([_pattern(SEED)], None, words, CHECK_PASSES)[0], 0.0)
    result = np.zeros(words + kernel.chunk_bytes // 4, dtype=np.uint32)
    runtime.memcpy(result.ctypes.data, there, result.nbytes, runtime.memcpyDeviceToHost)
    if not (result[words:] == 0xFFFFFFFF).all():
        return Check(False, float("inf"), "wrote beyond the end of its array")
    return Check.compare(result[:words], _pattern(WRITTEN_SEED), 0.0)


@cache
def _pattern(seed: int) -> NDArray[np.uint32]:
    kernel = kernels_for("memory.write", "cuda c++")[0]
    assert isinstance(kernel, MemoryKernel)
    return cuda_pattern(CHECK_CHUNKS * kernel.chunk_bytes // 4, seed, kernel.threads, kernel.chunk_bytes // 16)
