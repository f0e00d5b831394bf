"""What a launch and its neighbours cost the host: builders for cuda_operations, each for rounds of several calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from .cuda_workload import numba_kernel
from .device import DeviceError
from .kernels.compile import CompileError

BATCH = 100  # calls per round of a cheap operation: host clocks read in some 50 ns
ALLOCATION_BYTES = 2**20
GRAPH_NODES = 1000

Launch = Callable[[], None]
Built = tuple[Callable[[], None], float, str, Callable[[], Any]]  # run, work, its unit, ready
Free = list[Callable[[], Any]]


def launch(what: str, toolchain: str, free: Free) -> Built:
    """One of LAUNCHES, through CuPy or, where it can do that, through Numba. Raises DeviceError, CompileError."""
    if toolchain != "numba":
        return LAUNCHES[what](_cupy_launch(), free)
    if what not in NUMBA_LAUNCHES:
        raise DeviceError(f"launch.{what} is measured with CuPy only")
    return NUMBA_LAUNCHES[what](_numba_launch(), free)


@cache
def cubin(architecture: str) -> bytes:
    """kernels/links.cu for that architecture, such as "sm_90". Raises CompileError."""
    try:
        from cuda.core import Program, ProgramOptions

        text = files(__package__).joinpath("kernels", "links.cu").read_text(encoding="utf-8")
        options = ProgramOptions(arch=architecture, std="c++17", name="links.cu")
        return bytes(Program(text, "c++", options).compile("cubin").code)
    except Exception as error:  # cuda-core raises its own NVRTCError, which is not public API
        raise CompileError(f"links.cu for {architecture}: {error}") from error


def _cupy_launch() -> Launch:
    """links.cu's empty kernel on the default stream."""
    import cupy

    module = cupy.cuda.function.Module()
    module.load(cubin(f"sm_{cupy.cuda.Device().compute_capability}"))
    function = module.get_function("nothing")
    return lambda: function((1,), (32,), ())


def _numba_launch() -> Launch:
    """An empty Numba kernel, compiled, on the default stream."""

    def nothing() -> None:
        pass

    kernel = numba_kernel(nothing, "void()")[0][1, 32]
    return lambda: kernel()


def _repeated(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(BATCH):
            call()

    return run


def _waiting() -> Callable[[], Any]:
    from cupy.cuda import runtime

    synchronize: Callable[[], Any] = runtime.deviceSynchronize
    return synchronize


def _async(launch: Launch, free: Free) -> Built:
    """BATCH launches fit the queue (1024 places), so that none waits for room."""
    return _repeated(launch), BATCH, "1", _waiting()


def _sync(launch: Launch, free: Free) -> Built:
    wait = _waiting()

    def both() -> None:
        launch()
        wait()

    return _repeated(both), BATCH, "1", wait


def _graph(launch: Launch, free: Free) -> Built:
    """A chain of empty kernels, captured; timed on the GPU's clock, per node."""
    import cupy

    launch()  # a kernel loads at its first launch, which must not be a captured one
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            for _ in range(GRAPH_NODES):
                launch()
        finally:
            graph = stream.end_capture()
    null = cupy.cuda.Stream.null
    return lambda: graph.launch(stream=null), GRAPH_NODES, "1", _waiting()


def _event_pair(launch: Launch, free: Free) -> Built:
    import cupy

    return _recorded(cupy.cuda.Event(), cupy.cuda.Event())


def _numba_event_pair(launch: Launch, free: Free) -> Built:
    from numba import cuda

    return _recorded(cuda.event(), cuda.event())


def _recorded(first: Any, second: Any) -> Built:
    def pair() -> None:
        first.record()
        second.record()

    return _repeated(pair), BATCH, "1", _waiting()


def _allocation(launch: Launch, free: Free) -> Built:
    """cudaMallocAsync and cudaFreeAsync of ALLOCATION_BYTES from the default pool, which gives its memory back at
    each synchronisation: within a round only the first call asks the driver for more."""
    from cupy.cuda import runtime

    def both() -> None:
        runtime.freeAsync(runtime.mallocAsync(ALLOCATION_BYTES, 0), 0)

    return _repeated(both), BATCH, "1", _waiting()


def _module_load(launch: Launch, free: Free) -> Built:
    """A small cubin from memory; unloaded when the next one takes its place, outside the timed call."""
    import cupy

    code = cubin(f"sm_{cupy.cuda.Device().compute_capability}")
    held: list[Any] = []

    def load() -> None:
        module = cupy.cuda.function.Module()
        module.load(code)
        held.append(module)

    wait = _waiting()

    def ready() -> None:
        held.clear()
        wait()

    return load, 1, "1", ready


def _first(launch: Launch, free: Free) -> Built:
    """The first launch of a kernel in a module just loaded, waited for."""
    import cupy

    code = cubin(f"sm_{cupy.cuda.Device().compute_capability}")

    def loaded() -> Launch:
        module = cupy.cuda.function.Module()
        module.load(code)
        return lambda: module.get_function("nothing")((1,), (32,), ())

    return _launched_once(loaded)


def _numba_first(launch: Launch, free: Free) -> Built:
    """The same of a kernel just compiled: Numba loads a module as it compiles, outside the timed call."""
    return _launched_once(_numba_launch)


def _launched_once(fresh: Callable[[], Launch]) -> Built:
    held: list[Launch] = []
    wait = _waiting()

    def ready() -> None:
        held[:] = [fresh()]
        wait()

    def run() -> None:
        held[0]()
        wait()

    ready()
    return run, 1, "1", ready


LAUNCHES: dict[str, Callable[[Launch, Free], Built]] = {
    "async": _async,
    "sync": _sync,
    "graph": _graph,
    "event_pair": _event_pair,
    "allocation": _allocation,
    "module_load": _module_load,
    "first": _first,
}
NUMBA_LAUNCHES: dict[str, Callable[[Launch, Free], Built]] = {
    "async": _async,
    "sync": _sync,
    "event_pair": _numba_event_pair,
    "first": _numba_first,
}
"""Numba has no graphs and no stream-ordered allocation, and loads a module only as it compiles one."""
