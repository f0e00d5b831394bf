"""A kernel with its data on a real GPU: checked against its reference, allocated, sized, warmed up, launched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .device import ITERATIONS, Data, DeviceError, Mark
from .faults import cuda_failure
from .kernels import ArithmeticKernel, Check, Kernel, MemoryKernel
from .kernels.compile import CompileError, MachineCode, numba_code

if TYPE_CHECKING:
    from .cuda import CudaDevice

ARITHMETIC_ROUND_S = 0.010  # long against launch cost (about 10 us) and event resolution (0.5 us)
MEMORY_ROUND_S = 0.020  # the absolute rate counts here, so the launch's share must be smaller still
WARM_UP_S = 0.2  # an idle part starts at its idle clock and needs tens of milliseconds to leave it
LAUNCHES_KEPT = 1024  # stamps of the newest launches that stay on the device
LARGEST_ARRAY_BYTES = 16 * 2**30  # what a previous pass leaves in L2 (<= 128 MiB) is then under 1 % of one array
CHECK_CHUNKS = 257  # a prime: no multiple of any grid size
RESERVE = 0.8  # share of the free memory that the arrays may take


class CudaWorkload:
    """See device.Workload."""

    def __init__(self, device: CudaDevice, kernel: Kernel, architecture: str, sms: int) -> None:
        self._device, self._kernel, self.architecture = device, kernel, architecture
        self._cupy = device._cupy
        self._function, code = device.load(kernel, architecture)
        self.cubin_sha256 = code.sha256 if code.cubin else None
        self.compiler = code.compiler
        self._blocks = sms * kernel.blocks_per_sm // kernel.cluster * kernel.cluster  # whole clusters
        self._shared_bytes = self._fill_sm() if kernel.fills_sm else 0
        self._stamps = self._cupy.zeros((LAUNCHES_KEPT, self._blocks, 6), dtype=np.uint64)
        self._counter = self._cupy.zeros(1, dtype=np.uint32)
        self._arguments: tuple[Any, ...] = ()
        self._numba_views: dict[tuple[int, int, str], Any] = {}
        self._iterations = 0
        self._array_chunks = 0
        self.footprint_bytes = self.wanted_bytes = 0
        self.launches: list[int] = []
        self.check = Check(False, float("inf"), "not run")

    def _fill_sm(self, static_bytes: int = 0) -> int:
        """Lets the kernel have all the shared memory that a block can ask for, and returns what is left of it beside
        `static_bytes`: the dynamic shared memory of a launch."""
        runtime = self._cupy.cuda.runtime
        optin = runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
        most = int(runtime.deviceGetAttribute(optin, self._cupy.cuda.Device().id))
        self._function.preferred_shared_memory_carveout = 100
        self._function.max_dynamic_shared_size_bytes = most - static_bytes
        return most - static_bytes

    # -- correctness, on small data ----------------------------------------------------------------------

    def run_check(self, rng: np.random.Generator) -> Check:
        """Compares one launch on fresh random data with the reference. Outputs are poisoned beforehand."""
        if isinstance(self._kernel, ArithmeticKernel):
            return self._check_arithmetic(self._kernel, rng)
        assert isinstance(self._kernel, MemoryKernel)
        return self._check_memory(self._kernel, rng)

    def _check_arithmetic(self, kernel: ArithmeticKernel, rng: np.random.Generator) -> Check:
        inputs = kernel.inputs(rng, timed=False)
        output = self._poisoned(self._blocks * kernel.outputs_per_block, kernel.output)
        self._arguments = (self._cupy.asarray(inputs), output)
        self._run(kernel.check_iterations)
        expected, bound = kernel.reference(inputs, kernel.check_iterations)
        return Check.compare(output.get().reshape(self._blocks // kernel.cluster, -1), expected, bound)

    def _check_memory(self, kernel: MemoryKernel, rng: np.random.Generator) -> Check:
        passes = 2
        words = CHECK_CHUNKS * kernel.chunk_bytes // np.dtype(kernel.word).itemsize
        inputs = [random_words(rng, words, kernel.word) for _ in range(kernel.input_arrays)]
        parameter = kernel.parameter(rng)
        # One chunk more than the kernel may touch: it must still hold the poison afterwards.
        guard = 0 if kernel.output_is_sum else kernel.chunk_bytes // np.dtype(kernel.word).itemsize
        sums = kernel.output_is_sum
        output = self._cupy.zeros(1, dtype=kernel.word) if sums else self._output(words + guard, kernel.word)
        if kernel.output_from_zero:
            output.data.memset(0, output.nbytes - guard * output.itemsize)
        self._set_arrays([self._placed(array) for array in inputs], output, parameter, CHECK_CHUNKS)
        self._run(CHECK_CHUNKS * passes)
        result = self._read_back(output)
        if guard and not (result[-guard:].view(np.uint8) == 0xFF).all():
            return Check(False, float("inf"), "wrote beyond the end of its array")
        taken = int(self._stamps[0].get()[:, ITERATIONS].sum())
        if taken != CHECK_CHUNKS * passes:
            return Check(False, float("inf"), f"{taken} chunks done of {CHECK_CHUNKS * passes}")
        expected, bound = kernel.reference(inputs, parameter, words, passes)
        return Check.compare(result[: expected.size], expected, bound)

    # Where a streaming kernel's arrays lie, and how their contents come back.

    def _placed(self, array: NDArray[Any]) -> Any:
        return self._cupy.asarray(array)

    def _output(self, count: int, dtype: Any) -> Any:
        return self._poisoned(count, dtype)

    def _read_back(self, array: Any) -> NDArray[Any]:
        result: NDArray[Any] = array.get()
        return result

    def _poisoned(self, count: int, dtype: Any) -> Any:
        array = self._cupy.empty(count, dtype=dtype)
        # NaN as a float, all ones as an integer: no kernel writes that. A plain memset, nothing to compile.
        array.data.memset(0xFF, array.nbytes)
        return array

    def outputs(self) -> NDArray[Any]:
        """What an arithmetic kernel's newest launch left, shape (blocks, outputs a block)."""
        result: NDArray[Any] = self._arguments[1].get().reshape(self._blocks, -1)
        return result

    # -- the timed launches ------------------------------------------------------------------------------

    def allocate(self, rng: np.random.Generator, data: Data, footprint_bytes: int | None = None) -> None:
        """Replaces the small check data by what is timed. Raises DeviceError where less than half of `footprint_bytes`
        fits."""
        kernel = self._kernel
        if isinstance(kernel, ArithmeticKernel):
            output = self._arguments[1]
            self._arguments = (
                self._cupy.asarray(operands(kernel.inputs(rng, timed=True), data, kernel.threads)),
                output,
            )
            return
        assert isinstance(kernel, MemoryKernel)
        self._arguments = ()
        self._numba_views.clear()
        self._cupy.get_default_memory_pool().free_all_blocks()
        free_bytes, total_bytes = self._cupy.cuda.runtime.memGetInfo()
        fits = int(free_bytes * RESERVE)
        usual = int(total_bytes * RESERVE)
        if not kernel.whole_memory:
            usual = min(LARGEST_ARRAY_BYTES * kernel.arrays, usual)
        self.wanted_bytes = footprint_bytes or kernel.footprint_bytes or usual
        if footprint_bytes is not None:
            refuse_half(footprint_bytes, free_bytes, fits)
        array_bytes = min(self.wanted_bytes, fits) // kernel.arrays
        chunks = max(1, array_bytes // kernel.chunk_bytes)
        words = chunks * kernel.chunk_bytes // np.dtype(kernel.word).itemsize
        arrays = [self._random_array(words, kernel.word, rng) for _ in range(kernel.arrays)]
        output = self._cupy.zeros(1, dtype=kernel.word) if kernel.output_is_sum else arrays.pop()
        self._set_arrays(arrays, output, kernel.parameter(rng), chunks)
        self.footprint_bytes = kernel.arrays * chunks * kernel.chunk_bytes

    def _random_array(self, words: int, dtype: Any, rng: np.random.Generator) -> Any:
        """Uninitialised memory filled with random floats by the write kernel: zeros are never benchmarked."""
        from .kernels import kernels_for

        fill = kernels_for("memory.write", "cuda c++")[0]
        assert isinstance(fill, MemoryKernel)
        architecture = fill.architecture_for(self._device.compute_capability)
        assert architecture is not None
        function, _ = self._device.load(fill, architecture)
        least = fill.chunk_bytes // np.dtype(dtype).itemsize  # of an array smaller than that, the beginning
        array = self._cupy.empty(max(words, least), dtype=dtype)
        chunks = np.uint32(array.nbytes // fill.chunk_bytes)
        stamps = self._cupy.empty((self._device.sm_count * fill.blocks_per_sm, 6), dtype=np.uint64)
        counter = self._cupy.zeros(1, dtype=np.uint32)
        function(
            (stamps.shape[0],),
            (fill.threads,),
            (stamps, counter, chunks, chunks, array, np.uint32(rng.integers(2**32))),
        )
        return array[:words]

    def _set_arrays(self, inputs: list[Any], output: Any, parameter: Any, chunks: int) -> None:
        self._arguments = (*inputs, output) if parameter is None else (*inputs, output, parameter)
        self._array_chunks = chunks

    def size_and_warm_up(self, round_s: float | None) -> None:
        """Chooses the iterations per launch, from launches that also bring the part to its working clock."""
        memory = isinstance(self._kernel, MemoryKernel)
        target_s = round_s or (MEMORY_ROUND_S if memory else ARITHMETIC_ROUND_S)
        # Whole passes, so that each launch moves exactly the same bytes.
        quantum = self._array_chunks if memory else 1
        iterations = quantum  # one iteration of contended atomics may take milliseconds
        warm_up_s, started = warm_up_time_s(self._device.marks), time.monotonic()
        while True:
            before = self._device.mark()
            self._run(iterations)
            elapsed_s = self._device.mark() - before
            if time.monotonic() - started > warm_up_s and elapsed_s > target_s / 2:
                break
            # At most tenfold a step: the first, cold launch says little about the later ones.
            growth = min(10.0, target_s / max(elapsed_s, 1e-6))
            iterations = max(quantum, round(iterations * growth / quantum) * quantum)
        self._iterations = iterations
        self.launches.clear()
        self._make_views()

    def launch(self) -> None:
        """See Workload.launch."""
        self._start(self._iterations, len(self.launches) % LAUNCHES_KEPT)
        self.launches.append(len(self._device.marks))

    def stamps(self, launch: int) -> NDArray[np.uint64]:
        """See Workload.stamps. Raises DeviceError where newer launches have taken the place."""
        if not len(self.launches) - LAUNCHES_KEPT <= launch < len(self.launches):
            raise DeviceError(f"the stamps of launch {launch} are gone: only {LAUNCHES_KEPT} launches are kept")
        return np.asarray(self._stamps[launch % LAUNCHES_KEPT].get())

    def close(self) -> None:
        """See Workload.close."""
        self._arguments = ()
        self._numba_views.clear()
        self._stamps = self._counter = None
        self._cupy.get_default_memory_pool().free_all_blocks()

    def _run(self, iterations: int) -> None:
        """One launch, waited for; its stamps take place 0."""
        self._start(iterations, 0)
        self._cupy.cuda.runtime.deviceSynchronize()

    def _start(self, iterations: int, place: int) -> None:
        kernel = self._kernel
        stamps = self._stamps[place]
        if isinstance(kernel, MemoryKernel):
            head = (stamps, self._counter, np.uint32(self._array_chunks), np.uint32(iterations))
            arguments: tuple[Any, ...] = (*head, *self._arguments)
        else:
            arguments = (stamps, *self._arguments, np.int32(iterations))
        if kernel.toolchain == "numba":
            self._function[self._blocks, kernel.threads](*(self._numba_view(a) for a in arguments))
        else:
            self._function((self._blocks,), (kernel.threads,), arguments, shared_mem=self._shared_bytes)

    def _make_views(self) -> None:
        """Numba's views of all places for stamps: one made within a round would count as its time."""
        if self._kernel.toolchain == "numba":
            for place in self._stamps:
                self._numba_view(place)

    def _numba_view(self, argument: Any) -> Any:
        """A CuPy array as Numba's flat one, made once: making it takes longer than the launch."""
        if not isinstance(argument, self._cupy.ndarray):
            return argument
        key = (argument.data.ptr, argument.size, argument.dtype.str)
        if key not in self._numba_views:
            from numba import cuda

            self._numba_views[key] = cuda.as_cuda_array(argument.ravel())
        return self._numba_views[key]


def numba_kernel(function: Callable[..., None], signature: Any) -> tuple[Any, MachineCode]:
    """`function` compiled and loaded by Numba onto the current device, and the machine code that this gave.

    Raises CompileError; errors of CUDA come as they are.
    """
    from numba import config, cuda

    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # of a chase and of an empty kernel, one block is the point
    try:
        dispatcher = cuda.jit(signature)(function)
    except Exception as error:  # Numba, its linker and NVVM have errors of their own
        if cuda_failure(error):
            raise
        raise CompileError(f"Numba does not compile {function.__name__}: {error}") from error
    return dispatcher, numba_code(dispatcher)


def warm_up_time_s(marks: Sequence[Mark]) -> float:
    """WARM_UP_S, or 0 where the last clock mark is younger than that: points of a curve follow each other, and the part
    is at its working clock already."""
    return 0.0 if marks and time.monotonic() - marks[-1].host_s < WARM_UP_S else WARM_UP_S


def refuse_half(wanted_bytes: int, free_bytes: int, fits: int) -> None:
    """Raises DeviceError where less than half of a footprint fits: that would be another point of the curve."""
    if fits < wanted_bytes / 2:
        raise DeviceError(
            f"needs {wanted_bytes} B of device memory; {free_bytes} B are free, of which {fits} B are used"
        )


def operands(random: NDArray[Any], data: Data, threads: int) -> NDArray[Any]:
    """`random` as it is, or an array like it that holds `data` of its values."""
    if data == "random":
        return random
    # Of operands that come as bytes, whole 32-bit words are moved, so that no number is made that was not drawn.
    values = random.view(np.uint32) if random.dtype == np.uint8 else random
    runs = np.split(values.ravel(), range(threads, values.size, threads))
    if data == "zeros":
        runs = [np.zeros_like(run) for run in runs]
    elif data == "one value":
        runs = [np.full_like(run, values.flat[0]) for run in runs]
    elif data == "low entropy":
        runs = [np.resize(run[:4], run.size) for run in runs]
    elif data == "sorted":
        runs = [np.sort(run) for run in runs]
    return np.concatenate(runs).view(random.dtype).reshape(random.shape)


def random_words(rng: np.random.Generator, count: int, dtype: Any) -> NDArray[Any]:
    """Floats in [1, 2), or integers of any value."""
    if np.dtype(dtype).kind == "f":
        return rng.uniform(1, 2, count).astype(dtype)
    return rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), count, dtype=dtype)
