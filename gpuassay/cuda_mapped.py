"""A kernel on pinned host memory, on a real GPU: the Workload of a MemoryKernel that says `host_memory`.

With unified addressing (every 64-bit system) the host's pointer to pinned memory is the device's as well (CUDA C++
Programming Guide, "Unified Virtual Address Space"). Check, sizing and stamps are those of every other kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuda_workload import CudaWorkload, random_words
from .device import Data
from .kernels import MemoryKernel


class MappedWorkload(CudaWorkload):
    """See device.Workload. Large arrays are NumPy's, in pinned memory; a kernel gets their addresses."""

    def _placed(self, array: NDArray[Any]) -> NDArray[Any]:
        placed = self._pinned(array.size, array.dtype)
        placed[:] = array
        return placed

    def _output(self, count: int, dtype: Any) -> NDArray[Any]:
        array = self._pinned(count, dtype)
        array.view(np.uint8)[:] = 0xFF
        return array

    def _read_back(self, array: Any) -> NDArray[Any]:
        assert isinstance(self._kernel, MemoryKernel)
        return super()._read_back(array) if self._kernel.output_is_sum else np.array(array)

    def _pinned(self, count: int, dtype: Any) -> NDArray[Any]:
        memory = self._cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count)

    def allocate(self, rng: np.random.Generator, data: Data, footprint_bytes: int | None = None) -> None:
        """See CudaWorkload.allocate. The size is the kernel's own: device memory does not bound it."""
        kernel = self._kernel
        assert isinstance(kernel, MemoryKernel)
        assert kernel.footprint_bytes is not None
        self._arguments = self._held = ()
        chunks = (footprint_bytes or kernel.footprint_bytes) // kernel.arrays // kernel.chunk_bytes
        words = chunks * kernel.chunk_bytes // np.dtype(kernel.word).itemsize
        inputs = [self._placed(random_words(rng, words, kernel.word)) for _ in range(kernel.input_arrays)]
        output = self._cupy.zeros(1, dtype=kernel.word) if kernel.output_is_sum else self._output(words, kernel.word)
        self._set_arrays(inputs, output, kernel.parameter(rng), chunks)
        self.footprint_bytes = self.wanted_bytes = kernel.arrays * chunks * kernel.chunk_bytes

    def _set_arrays(self, inputs: list[Any], output: Any, parameter: Any, chunks: int) -> None:
        self._held = (*inputs, output)  # the arrays must outlive every launch that has their addresses
        assert isinstance(self._kernel, MemoryKernel)
        there = output if self._kernel.output_is_sum else _address(output)  # a sum lies on the device
        super()._set_arrays([_address(array) for array in inputs], there, parameter, chunks)

    def close(self) -> None:
        """See Workload.close."""
        self._cupy.cuda.runtime.deviceSynchronize()  # a kernel may still be writing
        self._held = ()
        super().close()
        self._cupy.get_default_pinned_memory_pool().free_all_blocks()


def _address(array: NDArray[Any]) -> np.uint64:
    return np.uint64(array.ctypes.data)
