"""What a kernel declares about itself, before anything runs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Toolchain = Literal["cuda c++", "numba"]
WorkUnit = Literal["FLOP", "OP", "B", "load"]

VECTOR_ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
CLUSTER_ARCHITECTURES = ("sm_90", "sm_100", "sm_103", "sm_120")


@dataclass(frozen=True)
class Check:
    """Result of comparing a kernel's output with its reference.

    `worst_error` is the largest |output - reference| / bound over all elements (1 is the limit; infinite where
    the output is not a number), `where` the index of that element.
    """

    passed: bool
    worst_error: float
    where: str

    @classmethod
    def compare(cls, output: NDArray[Any], reference: NDArray[Any], bound: NDArray[Any] | float) -> Check:
        """Element by element; `bound` is absolute and broadcasts. Exact comparison where it is 0."""
        if output.dtype.kind in "ui":
            error = (output != reference).astype(np.float64) * 2.0
        else:
            difference = np.abs(output.astype(np.float64) - reference)
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.where(difference == 0, 0.0, difference / np.broadcast_to(bound, difference.shape))
        error = np.where(np.isfinite(error), error, np.inf)
        index = np.unravel_index(int(np.argmax(error)), error.shape)
        worst = float(error[index])
        return cls(worst <= 1.0, worst, "element " + ",".join(str(int(i)) for i in index))


@dataclass(frozen=True)
class Kernel(ABC):
    """One kernel of one toolchain.

    `work_per_iteration` is what one block does in one pass of the counted loop body, in `work_unit`: FLOP (an FMA
    is two), OP (the same of integers; any other operation is one per result), bytes moved or loads that wait for one
    another. `instructions` is how often each SASS opcode that does this work stands in the loop body; `gpuassay census`
    counts both in the machine code. `instructions_on` has, by architecture, what differs there. `retried`: each of them
    stands in a loop of its own that repeats it until it succeeds, and its work is done once. `requires` says what
    the kernel needs of the hardware and which compute capabilities have it, where not all do. `macros` are defined in
    front of a CUDA C++ source that serves several kernels, besides KERNEL, the symbol. `cluster`: blocks to a cluster,
    as the source's __cluster_dims__ says. `fills_sm`: a launch asks for all the shared memory that a block can have,
    so that no second block finds room on its SM, not even one of its own cluster.
    """

    metric: str
    toolchain: Toolchain
    source: str
    symbol: str
    architectures: tuple[str, ...]
    threads: int
    blocks_per_sm: int
    work_unit: WorkUnit
    work_per_iteration: int
    instructions: Mapping[str, int]
    instructions_on: Mapping[str, Mapping[str, int]] = field(default_factory=dict, kw_only=True)
    retried: bool = field(default=False, kw_only=True)
    requires: str = field(default="", kw_only=True)
    macros: Mapping[str, int | str] = field(default_factory=dict, kw_only=True)
    cluster: int = field(default=1, kw_only=True)
    fills_sm: bool = field(default=False, kw_only=True)

    @property
    def prelude(self) -> str:
        """The macros' definitions, one a line; nothing where there are none."""
        return "".join(f"#define {name} {value}\n" for name, value in self.macros.items())

    @cached_property
    def source_text(self) -> str:
        """The source with the macros in front of it and the headers it includes, as compiled."""
        folder = files(__package__)
        text = self.prelude + folder.joinpath(self.source).read_text(encoding="utf-8")
        for header in re.findall(r'#include "([^"]+)"', text):
            text += folder.joinpath(header).read_text(encoding="utf-8")
        return text

    @property
    def source_sha256(self) -> str:
        """SHA-256 of `source_text`, hexadecimal."""
        return sha256(self.source_text.encode()).hexdigest()

    def instructions_for(self, architecture: str) -> Mapping[str, int]:
        """What the loop body holds on `architecture`, such as "sm_90"."""
        return self.instructions_on.get(architecture, self.instructions)

    def architecture_for(self, compute_capability: str) -> str | None:
        """The compile target for a device such as "9.0", or None where no kernel is written for it.

        A target with a letter (sm_90a) runs on exactly its own capability; a plain one also on later minor
        versions of the same major (CUDA C++ Programming Guide, "Binary Compatibility").
        """
        major, minor = (int(part) for part in compute_capability.split("."))
        exact = [a for a in self.architectures if a.rstrip("a") == f"sm_{major}{minor}"]
        if exact:
            return exact[0]
        older = [
            a
            for a in self.architectures
            if not a.endswith("a") and int(a[3:]) // 10 == major and int(a[3:]) % 10 < minor
        ]
        return max(older, key=lambda a: int(a[3:]), default=None)


@dataclass(frozen=True)
class ArithmeticKernel(Kernel):
    """A kernel with resident operands: arguments (stamps, input, output, iterations); `output` is the results' type."""

    check_iterations: int = 2
    output: type[np.generic] = np.float32

    @property
    @abstractmethod
    def outputs_per_block(self) -> int:
        """Number of results that each block writes."""

    @abstractmethod
    def inputs(self, rng: np.random.Generator, *, timed: bool) -> NDArray[Any]:
        """Fresh random operands, the same for every block."""

    @abstractmethod
    def reference(self, inputs: NDArray[Any], iterations: int) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """(expected, absolute bound). Expected has shape (cluster x outputs_per_block,), in float64, or in `output`
        where the result is exact; then the bound is 0."""


@dataclass(frozen=True)
class MemoryKernel(Kernel):
    """A kernel that streams whole arrays in chunks handed out by an atomic counter.

    Arguments: (stamps, counter, array_chunks, total_chunks, *input arrays, output, parameter where there is one).
    The output is an array like the inputs, or one word where `output_is_sum`; with `output_from_zero` the array that
    is checked begins with zeros, because the kernel changes what is there. `work_per_iteration` counts every byte read
    and every byte written for one chunk, or its operations; `chunk_bytes` is that chunk's size in one array.
    `footprint_bytes`: all arrays together, where the kernel is not for memory far beyond L2. `whole_memory`: they take
    nearly all that is free. `host_memory`: they lie in pinned host memory, which the kernel reads and writes over the
    link.
    """

    word: type[np.generic] = np.uint32
    chunk_bytes: int = 65536
    input_arrays: int = 0
    output_is_sum: bool = False
    output_from_zero: bool = False
    footprint_bytes: int | None = None
    host_memory: bool = False
    whole_memory: bool = False

    @property
    def arrays(self) -> int:
        """Number of large arrays."""
        return self.input_arrays + (not self.output_is_sum)

    def fits(self, footprint_bytes: int) -> bool:
        """Whether so many bytes hold a chunk of each array."""
        return footprint_bytes >= self.arrays * self.chunk_bytes

    def parameter(self, rng: np.random.Generator) -> np.generic | None:
        """Fresh seed or scalar for a launch, or None where the kernel takes none."""
        return None

    @abstractmethod
    def reference(
        self, inputs: list[NDArray[Any]], parameter: Any, words: int, passes: int
    ) -> tuple[NDArray[Any], NDArray[Any] | float]:
        """(expected output, absolute bound) for arrays of `words` words passed over `passes` times."""
