"""A real GPU: the Device of device.py through CuPy, Numba and NVML.

The life of a workload: compile -> load -> check on small fresh random data -> allocate -> size -> warm up. Only
then is it timed. Device settings are never written: the part is measured as found.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .claims import nvml_claims, nvml_index_of_uuid
from .device import ITERATIONS, Data, DeviceError, Mark
from .kernels import ArithmeticKernel, ChaseKernel, Check, Kernel, MemoryKernel
from .kernels.compile import MachineCode, compile_kernel
from .links import PcieLink, read_link
from .telemetry import NvmlSensors

if TYPE_CHECKING:
    from .cuda_operations import CudaOperation

ARITHMETIC_ROUND_S = 0.010  # long against launch cost (about 10 us) and event resolution (0.5 us)
MEMORY_ROUND_S = 0.020  # the absolute rate counts here, so the launch's share must be smaller still
WARM_UP_S = 0.2  # an idle part starts at its idle clock and needs tens of milliseconds to leave it
LAUNCHES_KEPT = 1024  # stamps of the newest launches that stay on the device
LARGEST_ARRAY_BYTES = 16 * 2**30  # what a previous pass leaves in L2 (<= 128 MiB) is then under 1 % of one array
CHECK_CHUNKS = 257  # a prime: no multiple of any grid size
RESERVE = 0.8  # share of the free memory that the arrays may take


class CudaDevice:
    """CUDA device `ordinal` (the numbering of CUDA_VISIBLE_DEVICES). Raises DeviceError."""

    def __init__(self, ordinal: int) -> None:
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(
                "CuPy is not installed: pip install 'gpuassay[cuda13]' (or gpuassay[cuda12] for a CUDA 12 driver)"
            ) from error
        self._cupy = cupy
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            driver, toolkit = runtime.driverGetVersion(), runtime.runtimeGetVersion()
            if 0 < driver < toolkit // 1000 * 1000:
                raise DeviceError(
                    f"the driver supports CUDA {driver // 1000}, this environment is built for CUDA "
                    f"{toolkit // 1000}: update the driver, or reinstall with make CUDA={driver // 1000}"
                ) from error
            raise DeviceError(f"CUDA finds no usable GPU ({error}); `gpuassay doctor` says more") from error
        if not 0 <= ordinal < count:
            raise DeviceError(
                f"there is no CUDA device {ordinal}: {count} found, numbered from 0; see `gpuassay devices`"
            )
        cupy.cuda.Device(ordinal).use()
        self._properties = runtime.getDeviceProperties(ordinal)
        self._uuid = _uuid_text(self._properties["uuid"])
        try:
            self.nvml_index = nvml_index_of_uuid(self._uuid)
        except LookupError as error:
            raise DeviceError(
                f"CUDA has a device that NVML does not know, so nothing can be read of it: {error}"
            ) from error
        self.name = self._properties["name"].decode()
        self.compute_capability = f"{self._properties['major']}.{self._properties['minor']}"
        self.sm_count = int(self._properties["multiProcessorCount"])
        self.marks: list[Mark] = []
        self._events = [cupy.cuda.Event(), cupy.cuda.Event()]
        self._rng = np.random.default_rng()
        self._modules: dict[str, Any] = {}  # by cubin hash
        self._loaded: dict[tuple[str, str, str], tuple[Any, MachineCode]] = {}

    def claims(self) -> list[dict[str, Any]]:
        """NVML's claims, then the CUDA runtime's."""
        from cupy.cuda import runtime

        rows = nvml_claims(self.nvml_index, self._uuid)
        attribute = runtime.deviceGetAttribute
        ordinal = self._cupy.cuda.Device().id
        for quantity, value, unit, source in (
            ("count.sm", self.sm_count, "1", "cudaDevAttrMultiProcessorCount"),
            ("cuda.name", self.name, "", "cudaDeviceProp.name"),
            ("cuda.compute_capability", self.compute_capability, "", "cudaDeviceProp.major, minor"),
            ("cuda.memory.size", int(self._properties["totalGlobalMem"]), "B", "cudaDeviceProp.totalGlobalMem"),
            ("l2.size", int(self._properties["l2CacheSize"]), "B", "cudaDeviceProp.l2CacheSize"),
            (
                "cuda.clock.sm.max",
                attribute(runtime.cudaDevAttrClockRate, ordinal) * 1000,
                "Hz",
                "cudaDevAttrClockRate",
            ),
            (
                "cuda.clock.memory",
                attribute(runtime.cudaDevAttrMemoryClockRate, ordinal) * 1000,
                "Hz",
                "cudaDevAttrMemoryClockRate",
            ),
            ("cuda.driver.version", runtime.driverGetVersion(), "", "cudaDriverGetVersion"),
            ("cuda.runtime.version", runtime.runtimeGetVersion(), "", "cudaRuntimeGetVersion"),
        ):
            rows.append({"quantity": quantity, "value": value, "unit": unit or None, "source": source})
        return rows

    def sensors(self) -> NvmlSensors:
        """NVML's sensors of this device."""
        return NvmlSensors(self.nvml_index, self._uuid)

    def mark(self) -> float:
        """See Device.mark. Two events take turns, so each elapsed time is short: cudaEventElapsedTime returns
        float32 milliseconds, and a difference against a far-away base event would lose its digits."""
        event = self._events[len(self.marks) % 2]
        event.record()
        event.synchronize()
        host_s = time.monotonic()
        total = 0.0
        if self.marks:
            previous = self._events[(len(self.marks) - 1) % 2]
            total = self.marks[-1].event_s + self._cupy.cuda.get_elapsed_time(previous, event) * 1e-3
        self.marks.append(Mark(total, host_s))
        return total

    def operation(self, name: str, toolchain: str = "cuda c++") -> CudaOperation:
        """See Device.operation."""
        from .cuda_operations import operation

        self._cupy.get_default_memory_pool().free_all_blocks()
        return operation(name, toolchain)

    def link(self) -> PcieLink:
        """See Device.link."""
        runtime = self._cupy.cuda.runtime
        return read_link(self.nvml_index, runtime.deviceGetPCIBusId(runtime.getDevice()))

    def device_count(self) -> int:
        """See Device.device_count."""
        return int(self._cupy.cuda.runtime.getDeviceCount())

    def prepare(
        self,
        kernel: Kernel,
        *,
        round_s: float | None = None,
        sms: int | None = None,
        data: Data = "random",
        footprint_bytes: int | None = None,
    ) -> CudaWorkload:
        """See Device.prepare."""
        architecture = kernel.architecture_for(self.compute_capability)
        if architecture is None:
            raise DeviceError(f"no {kernel.metric} kernel for compute capability {self.compute_capability}")
        workload = self._workload(kernel, architecture, sms)
        try:
            workload.check = workload.run_check(self._rng)
            if workload.check.passed:
                workload.allocate(self._rng, data, footprint_bytes)
                workload.size_and_warm_up(round_s)
        except MemoryError as error:  # CuPy's OutOfMemoryError is one
            error = error.with_traceback(None)  # its frames hold the arrays that were taken so far
            workload.close()
            raise DeviceError(f"out of memory, what was taken is free again: {error}") from error
        return workload

    def _workload(self, kernel: Kernel, architecture: str, sms: int | None) -> CudaWorkload:
        if isinstance(kernel, ChaseKernel):
            from .cuda_chase import ChaseWorkload

            return ChaseWorkload(self, kernel, architecture)
        if isinstance(kernel, MemoryKernel) and kernel.host_memory:
            from .cuda_mapped import MappedWorkload

            return MappedWorkload(self, kernel, architecture, sms or self.sm_count)
        return CudaWorkload(self, kernel, architecture, sms or self.sm_count)

    def function_beside(self, kernel: Kernel, architecture: str, symbol: str) -> Any:
        """The function `symbol` of the CUDA C++ module that holds `kernel`."""
        _, code = self.load(kernel, architecture)
        return self._modules[code.sha256].get_function(symbol)

    def load(self, kernel: Kernel, architecture: str) -> tuple[Any, MachineCode]:
        """(function to launch, its machine code). CUDA C++ runs exactly the cubin that the census counts."""
        key = (kernel.toolchain, kernel.symbol, architecture)
        if key not in self._loaded:  # a curve launches one kernel many times
            self._loaded[key] = self._load(kernel, architecture)
        return self._loaded[key]

    def _load(self, kernel: Kernel, architecture: str) -> tuple[Any, MachineCode]:
        code = compile_kernel(kernel, architecture)
        if kernel.toolchain == "numba":
            from numba import cuda

            from .kernels.numba_twins import TWINS

            function, signature = TWINS[kernel.symbol]
            return cuda.jit(signature)(function), code
        if code.sha256 not in self._modules:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(code.cubin)
                file.flush()
                module = self._cupy.RawModule(path=file.name)
                module.get_function(kernel.symbol)  # RawModule loads lazily: force it while the file exists
            self._modules[code.sha256] = module
        return self._modules[code.sha256].get_function(kernel.symbol), code


class CudaWorkload:
    """See device.Workload."""

    def __init__(self, device: CudaDevice, kernel: Kernel, architecture: str, sms: int) -> None:
        self._device, self._kernel, self.architecture = device, kernel, architecture
        self._cupy = device._cupy
        self._function, code = device.load(kernel, architecture)
        self.cubin_sha256, self.compiler = code.sha256, code.compiler
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
            self._arguments = (self._cupy.asarray(_operands(kernel.inputs(rng, timed=True), data)), output)
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
        array = self._cupy.empty(words, dtype=dtype)
        chunks = np.uint32(array.nbytes // fill.chunk_bytes)
        stamps = self._cupy.empty((self._device.sm_count * fill.blocks_per_sm, 6), dtype=np.uint64)
        counter = self._cupy.zeros(1, dtype=np.uint32)
        function(
            (stamps.shape[0],),
            (fill.threads,),
            (stamps, counter, chunks, chunks, array, np.uint32(rng.integers(2**32))),
        )
        return array

    def _set_arrays(self, inputs: list[Any], output: Any, parameter: Any, chunks: int) -> None:
        self._arguments = (*inputs, output) if parameter is None else (*inputs, output, parameter)
        self._array_chunks = chunks

    def size_and_warm_up(self, round_s: float | None) -> None:
        """Chooses the iterations per launch, from launches that also bring the part to its working clock."""
        memory = isinstance(self._kernel, MemoryKernel)
        target_s = round_s or (MEMORY_ROUND_S if memory else ARITHMETIC_ROUND_S)
        # Whole passes, so that each launch moves exactly the same bytes.
        quantum = self._array_chunks if memory else 1
        iterations = quantum if memory else 64
        started = time.monotonic()
        while True:
            before = self._device.mark()
            self._run(iterations)
            elapsed_s = self._device.mark() - before
            if time.monotonic() - started > WARM_UP_S and elapsed_s > target_s / 2:
                break
            # At most tenfold a step: the first, cold launch says little about the later ones.
            growth = min(10.0, target_s / max(elapsed_s, 1e-6))
            iterations = max(quantum, round(iterations * growth / quantum) * quantum)
        self._iterations = iterations
        self.launches.clear()

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

    def _numba_view(self, argument: Any) -> Any:
        """A CuPy array as Numba's flat one, made once: making it takes longer than the launch."""
        if not isinstance(argument, self._cupy.ndarray):
            return argument
        key = (argument.data.ptr, argument.size, argument.dtype.str)
        if key not in self._numba_views:
            from numba import cuda

            self._numba_views[key] = cuda.as_cuda_array(argument.ravel())
        return self._numba_views[key]


def refuse_half(wanted_bytes: int, free_bytes: int, fits: int) -> None:
    """Raises DeviceError where less than half of a footprint fits: that would be another point of the curve."""
    if fits < wanted_bytes / 2:
        raise DeviceError(
            f"needs {wanted_bytes} B of device memory; {free_bytes} B are free, of which {fits} B are used"
        )


def _operands(random: NDArray[Any], data: Data) -> NDArray[Any]:
    """`random` as it is, or an array like it that holds one value, or zeros."""
    if data == "zeros":
        return np.zeros_like(random)
    return np.full_like(random, random.flat[0]) if data == "one value" else random


def random_words(rng: np.random.Generator, count: int, dtype: Any) -> NDArray[Any]:
    """Floats in [1, 2), or integers of any value."""
    if np.dtype(dtype).kind == "f":
        return rng.uniform(1, 2, count).astype(dtype)
    return rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), count, dtype=dtype)


def _uuid_text(raw: bytes) -> str:
    """NVML's form of a CUDA UUID: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx."""
    text = raw[:16].hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
