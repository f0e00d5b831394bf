"""Read by every Python that starts with this folder on PYTHONPATH: leads CuPy's copy of the CUDA runtime to the
emulated one, and keeps the PTX beside every cubin that cuda-core makes, which is what the emulator runs.

CuPy's wheels hold the CUDA runtime as a static library. Its functions are local symbols of one extension module, found
by their names and replaced in memory by jumps.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

# Set here, for `gpuassay verify` keeps settings of CuPy from its suites. CUB's kernels are machine code without PTX.
os.environ |= {"CUPY_COMPILE_WITH_PTX": "1", "CUPY_ACCELERATORS": ""}
DRIVER = ctypes.CDLL("libcuda.so.1")
DRIVER.emulator_missing.restype = ctypes.c_void_p
DRIVER.emulator_name.restype = ctypes.c_char_p
READ_WRITE_EXECUTE = 7


def lead_runtime() -> None:
    spec = importlib.util.find_spec("cupy_backends")
    if spec is None or spec.submodule_search_locations is None:
        return
    (path,) = (Path(spec.submodule_search_locations[0]) / "cuda" / "api").glob("runtime.*.so")
    module = ctypes.CDLL(str(path))  # loaded before Python imports it, so that no call was made yet
    listed = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
    offsets = {words[2]: int(words[0], 16) for line in listed.splitlines() if len(words := line.split()) == 3}
    base = ctypes.cast(module.PyInit_runtime, ctypes.c_void_p).value - offsets["PyInit_runtime"]  # type: ignore[operator]
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for name in (name for name in offsets if name.startswith("cuda") and name[4:5].isupper()):
        try:
            to = ctypes.cast(getattr(DRIVER, name), ctypes.c_void_p).value
        except AttributeError:
            to = DRIVER.emulator_missing(name.encode())
        at = base + offsets[name]
        if protect(at & ~4095, 8192, READ_WRITE_EXECUTE):
            raise OSError(f"{path}: memory cannot be made writable")
        ctypes.memmove(at, b"\xff\x25\0\0\0\0" + struct.pack("<Q", to), 14)  # jmp *0(%rip)


def keep(cubin: bytes, ptx: bytes) -> None:
    path = Path(os.environ["EMULATOR_HOME"]) / f"{DRIVER.emulator_name(bytes(cubin)).decode()}.ptx"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(bytes(ptx).rstrip(b"\0"))
        part.rename(path)


def wrap_compilers() -> None:
    import cuda.core

    program, linker, linker_options = cuda.core.Program, cuda.core.Linker, cuda.core.LinkerOptions

    class Program:
        def __init__(self, *arguments: Any) -> None:
            self.arguments, self.real = arguments, program(*arguments)

        def compile(self, target: str, **options: Any) -> Any:
            made = self.real.compile(target, **options)
            if target == "cubin":
                with warnings.catch_warnings():  # PTX newer than the driver, which never sees it
                    warnings.simplefilter("ignore")
                    keep(made.code, program(*self.arguments).compile("ptx").code)
            return made

    class Linker:
        def __init__(self, *objects: Any, options: Any = None) -> None:
            self.objects, self.options, self.real = objects, options, linker(*objects, options=options)

        def link(self, target: str) -> Any:
            made = self.real.link(target)
            if target == "cubin" and [one.code_type for one in self.objects] == ["ptx"]:
                keep(made.code, self.objects[0].code)
            elif target == "cubin":  # of Numba: link-time intermediate code
                options = linker_options(arch=self.options.arch, link_time_optimization=True, ptx=True)
                keep(made.code, linker(*self.objects, options=options).link("ptx").code)
            return made

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    cuda.core.Program, cuda.core.Linker = Program, Linker


sys.dont_write_bytecode = True
lead_runtime()
wrap_compilers()
