"""Copies between two GPUs and among all of them: builders for cuda_operations. Each run waits for its copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

from .device import DeviceError

PEER_BYTES = 256 * 2**20
ALREADY_ENABLED = 704  # cudaErrorPeerAccessAlreadyEnabled, for which CuPy has no name
Free = list[Callable[[], Any]]


def peer_copies(rest: str, free: Free) -> tuple[Callable[[], None], float, str]:
    """ "one_way.0-1", "both_ways.0-1" or "all_pairs", devices by CUDA ordinal. Raises DeviceError: denied, or one
    GPU only."""
    from cupy.cuda import runtime

    count = runtime.getDeviceCount()
    if count < 2:
        raise DeviceError("needs a second GPU")
    way, _, pair = rest.partition(".")
    if way == "all_pairs":
        pairs = list(permutations(range(count), 2))
    else:
        source, target = (int(place) for place in pair.split("-"))
        pairs = [(source, target), (target, source)] if way == "both_ways" else [(source, target)]
    for one, other in pairs:
        if not runtime.deviceCanAccessPeer(one, other):
            raise DeviceError(f"device {one} cannot access device {other}: cudaDeviceCanAccessPeer says no")
    here = runtime.getDevice()
    try:
        copies = [_copy(one, other, free) for one, other in pairs]
    finally:
        runtime.setDevice(here)

    def run() -> None:
        for copy, _ in copies:
            copy()
        for _, wait in copies:
            wait()

    return run, PEER_BYTES * len(copies), "B"


def _copy(source: int, target: int, free: Free) -> tuple[Callable[[], None], Callable[[], Any]]:
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
