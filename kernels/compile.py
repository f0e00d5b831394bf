"""Compiles a declared kernel to machine code (a cubin), without a GPU.

The same function serves the run and the census, so what is counted is what is launched; Numba alone loads what it
compiles by a way of its own (numba_code). Machine code, not PTX: within one CUDA major version a newer NVRTC's cubin
loads on an older driver, its PTX does not.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import as_file, files
from typing import Any

from .declare import Kernel

# ptxas says so when it gives up on asynchronous wgmma: "Potential Performance Loss: wgmma.mma_async instructions
# are serialized due to ..." (C7510), or "... due to insufficient register resources" (C7517 and neighbours).
SERIALISED = re.compile(r"C75\d\d|wgmma[^\n]*serialized")


class CompileError(Exception):
    """The toolchain is missing, or refused or mistreated a kernel. The message is one readable paragraph."""


@dataclass(frozen=True)
class MachineCode:
    """A cubin, the compiler's name and version, and what the compiler said."""

    cubin: bytes
    compiler: str
    log: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the cubin, hexadecimal."""
        return sha256(self.cubin).hexdigest()


def compile_kernel(kernel: Kernel, architecture: str) -> MachineCode:
    """Machine code of `kernel` for `architecture`, such as "sm_90a".

    Raises CompileError where the toolchain is not installed, the source does not compile, or the compiler
    serialised wgmma.
    """
    try:
        code = _numba(kernel, architecture) if kernel.toolchain == "numba" else _nvrtc(kernel, architecture)
    except ImportError as error:
        raise CompileError(
            f"{kernel.source}: the {kernel.toolchain} toolchain is not installed ({error}); "
            "install gpuassay with its extra for your driver: pip install 'gpuassay[cuda13]' (or cuda12)"
        ) from error
    if SERIALISED.search(code.log):
        raise CompileError(f"{kernel.source} for {architecture}: wgmma was serialised: {code.log.strip()}")
    return code


def _nvrtc(kernel: Kernel, architecture: str) -> MachineCode:
    return compile_source(kernel.source, kernel.symbol, architecture, kernel.prelude)


def compile_source(source: str, symbol: str, architecture: str, prelude: str = "") -> MachineCode:
    """One kernel of a CUDA C++ source in this folder that declares no rate; `prelude` goes before the text.

    Raises CompileError where the source does not compile, ImportError where the toolchain is not installed.
    """
    from cuda.bindings import nvrtc
    from cuda.core import Program, ProgramOptions

    log = io.StringIO()
    with as_file(files(__package__)) as folder:
        options = ProgramOptions(
            arch=architecture,
            std="c++17",
            include_path=str(folder),
            ptxas_options=["-v"],
            define_macro=("KERNEL", symbol),  # a source of several kernels defines only this one
            name=source,
        )
        text = files(__package__).joinpath(source).read_text(encoding="utf-8")
        text = f'{prelude}#line 1 "{source}"\n{text}' if prelude else text
        try:
            code = Program(text, "c++", options).compile("cubin", logs=log)
        except Exception as error:  # cuda-core raises its own NVRTCError, which is not public API
            message = str(error).rstrip("\n\0")  # NVRTC's log ends as a C string
            raise CompileError(f"{source} for {architecture}: {message}") from error
    _, major, minor = nvrtc.nvrtcVersion()
    return MachineCode(bytes(code.code), f"NVRTC {major}.{minor}", log.getvalue())


def _numba(kernel: Kernel, architecture: str) -> MachineCode:
    import numba_cuda
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda

    from .numba_twins import TWINS

    function, signature = TWINS[kernel.symbol]
    number = int(architecture.removeprefix("sm_").rstrip("a"))
    try:
        ptx, _ = cuda.compile_ptx(function, signature, cc=divmod(number, 10))
        linked = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=architecture)).link("cubin")
    except Exception as error:
        raise CompileError(f"{kernel.source} for {architecture}: {error}") from error
    return MachineCode(bytes(linked.code), f"numba-cuda {numba_cuda.__version__}", "")


def numba_code(dispatcher: Any) -> MachineCode:
    """What a compiled dispatcher of Numba loads: linked by Numba, with its link-time optimisation, it is not the
    census's byte by byte. An empty cubin where this version does not say (its simulator)."""
    import numba_cuda

    try:
        (overload,) = dispatcher.overloads.values()
        cubin = overload._codelibrary.get_cubin().code
    except (AttributeError, ValueError):  # private names, and they may change
        cubin = b""
    return MachineCode(bytes(cubin), f"numba-cuda {numba_cuda.__version__}", "")
