"""access.cu, atomic.cu and memory.cu's least kernel, run on this machine's processor by the very code that launches
them on a GPU, against their references; and the census of what is new in their machine code."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuassay import cuda_workload
from gpuassay.agreement import _slow_sms
from gpuassay.cuda_workload import CudaWorkload
from gpuassay.device import ITERATIONS, Mark
from gpuassay.kernels import ArithmeticKernel, Kernel, MemoryKernel, kernels_for
from gpuassay.kernels.access import ACCESS_KERNELS, RANDOM_CHUNK_BYTES, places
from gpuassay.kernels.atomic import ATOMIC_KERNELS
from gpuassay.kernels.census import count, take, work_of
from gpuassay.kernels.compile import MachineCode
from gpuassay.kernels.memory import MEMORY_KERNELS
from gpuassay.metrics import metrics

HERE = Path(__file__).parent
CHUNKS = 5
# Inline PTX does not run here; the kernel differs from the one of 16 bytes in that load alone.
LITTLE = next(k for k in MEMORY_KERNELS if k.symbol == "memory_read_little")
EMULATED = [k for k in (*ACCESS_KERNELS, *ATOMIC_KERNELS, LITTLE) if k.macros.get("WIDTH") != 32]
CODE = MachineCode(b"", "none", "")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ctypes.CDLL]:
    """compiled(kernel, old="", new="") -> the kernel as a library, with `new` for `old` in its source."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no host C++ compiler")
    made: dict[tuple[str, str, str], ctypes.CDLL] = {}

    def build(kernel: Kernel, old: str = "", new: str = "") -> ctypes.CDLL:
        if (kernel.symbol, old, new) not in made:
            folder = tmp_path_factory.mktemp("kernel")
            shutil.copytree(HERE.parent / "kernels", folder, dirs_exist_ok=True)
            (folder / "stamp.cuh").write_text("")  # clocks and SM numbers; host_cuda.hpp has its own
            source = folder / kernel.source
            text = source.read_text(encoding="utf-8")
            assert old in text
            source.write_text(text.replace(old, new) if old else text, encoding="utf-8")
            shim = (HERE / "host_cuda.hpp").read_text(encoding="utf-8")
            (folder / "kernel.cpp").write_text(
                f'{shim}{kernel.prelude}#define KERNEL {kernel.symbol}\n#include "{source}"\n'
                'extern "C" void launch(unsigned blocks, const uint64_t *words) '
                "{ launched(KERNEL, blocks, threads, words); }\n"
            )
            library = folder / "kernel.so"
            flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-pthread", "-w"]
            subprocess.run([compiler, *flags, str(folder / "kernel.cpp"), "-o", str(library)], check=True)
            made[kernel.symbol, old, new] = ctypes.CDLL(str(library))
        return made[kernel.symbol, old, new]

    return build


class Array(np.ndarray):
    """A NumPy array that answers where CuPy's is asked for its memory."""

    def get(self) -> np.ndarray:
        return np.asarray(self).copy()

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(memset=lambda byte, size: ctypes.memset(self.ctypes.data, byte, size))


class Host:
    """What CudaWorkload asks of CudaDevice and of CuPy; launches go to the host's processor."""

    compute_capability = "9.0"
    sm_count = 2

    def __init__(
        self, compiled: Callable[..., ctypes.CDLL], fault: tuple[str, str] = ("", ""), free: int = 2**20
    ) -> None:
        self.compiled, self.fault, self.marks = compiled, fault, [Mark(0.0, 0.0)]
        runtime = SimpleNamespace(memGetInfo=lambda: (free, free), deviceSynchronize=lambda: None)
        self._cupy = SimpleNamespace(
            zeros=lambda shape, dtype: np.zeros(shape, dtype).view(Array),
            empty=lambda shape, dtype: np.empty(shape, dtype).view(Array),
            asarray=lambda array: array.view(Array),
            get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
            cuda=SimpleNamespace(runtime=runtime),
        )

    def load(self, kernel: Kernel, architecture: str) -> tuple[Any, MachineCode]:
        library = self.compiled(kernel, *(self.fault if kernel.symbol != "memory_write" else ()))

        def launch(grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
            assert shared_mem == 0
            assert block == (kernel.threads,)
            words = [a.ctypes.data if isinstance(a, np.ndarray) else int(a) for a in arguments]
            library.launch(grid[0], (ctypes.c_uint64 * len(words))(*words))

        return launch, CODE


@pytest.fixture(autouse=True)
def few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_workload, "CHECK_CHUNKS", CHUNKS)


def checked(device: Host, kernel: Kernel, seed: int = 11) -> CudaWorkload:
    workload = CudaWorkload(device, kernel, "sm_90", device.sm_count)  # type: ignore[arg-type]
    workload.check = workload.run_check(np.random.default_rng(seed))
    return workload


@pytest.mark.parametrize("kernel", EMULATED, ids=[kernel.symbol for kernel in EMULATED])
def test_the_source_does_what_the_reference_says(compiled: Callable[..., ctypes.CDLL], kernel: Kernel) -> None:
    """Check, allocation and a launch on what was allocated; every operation is counted."""
    device = Host(compiled)
    workload = checked(device, kernel)
    assert workload.check.passed, workload.check
    workload.allocate(np.random.default_rng(12), "random")
    workload._iterations = 2 * workload._array_chunks or 3
    workload.launch()
    iterations = workload.stamps(0)[:, ITERATIONS]
    if isinstance(kernel, ArithmeticKernel):
        assert (iterations == 3).all()
        return
    assert isinstance(kernel, MemoryKernel)
    assert iterations.sum() == 2 * workload._array_chunks
    # 80 % of what is free, by whole chunks; less only where L2 shall hold it.
    most = min(int(0.8 * 2**20), kernel.footprint_bytes or 2**62)
    assert 0 <= most - workload.footprint_bytes < kernel.chunk_bytes


FAULTS = [
    ("memory.random", "& (places - 1)", "& (places - 2)"),
    ("memory.random", "threadIdx.x % 2", "0"),
    ("memory.random_update", "+ threadIdx.x + seed", "+ threadIdx.x / 2 + seed"),
    ("memory.random_update", "array_chunks) * places", "array_chunks + 1) * places"),
    ("memory_read_little", "start - threadIdx.x", "start"),
    ("memory_read_little", "within + blockDim.x", "within"),
    ("memory.write.partial", "2 * (start", "1 + 2 * (start"),
    ("memory.read.offset4", "from -= chunk_vectors", "from -= 1"),
    ("memory.read.offset16", "from -= chunk_vectors", "from -= 2"),
    ("l2.read.width8", "return w.x + w.y;", "return w.x + w.x;"),
    ("l2.read.width4", "start + (v * threads", "start + (v / 2 * threads"),
    ("atomic.shared.add_u32.warp", "EACH(i, operations)", "EACH(i, operations - 1)"),
    ("atomic.shared.add_f32.one", "table + (unsigned)input[threadIdx.x]", "table + threadIdx.x"),
    ("atomic.shared.add_f32.spread", "EACH(i, operations)", "EACH(i, operations + 1)"),
    ("atomic.shared.cas_u64.one", "found[i] + atomicCAS", "0 * found[i] + atomicCAS"),
    ("atomic.shared.cas_u64.warp", "atomicCAS(place[i], (Word)0,", "atomicCAS(place[i], place[i][0], 1 +"),
    ("atomic.global.add_u32.spread", "v * 0x9E3779B1u", "v * 0x9E3779B3u"),
    ("atomic.global.add_u32.one", "& mask)", "& 31)"),
    ("atomic.global.add_f32.one", "0x80800000u", "0x80000000u"),
    ("atomic.global.add_f32.warp", "h << v", "h << 1"),
    ("atomic.global.cas_u64.spread", "place[i], found[i], found[i])", "place[i], found[i], 0ull)"),
    ("atomic.global.cas_u64.warp", "& mask)", "& ~mask)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), FAULTS)
def test_a_fault_in_the_source_fails_the_check(
    compiled: Callable[..., ctypes.CDLL], name: str, old: str, new: str
) -> None:
    kernel = next(k for k in EMULATED if name in (k.metric, k.symbol))
    assert not checked(Host(compiled, (old, new)), kernel).check.passed


def test_no_fault_of_the_emulation_passes_for_one_of_the_kernel(compiled: Callable[..., ctypes.CDLL]) -> None:
    """A kernel of memory.cu, known to be right, through the same emulation."""
    assert checked(Host(compiled), kernels_for("memory.write", "cuda c++")[0]).check.passed


@given(st.integers(0, 2**63), st.integers(0, 2**64 - 1), st.integers(1, 2**21))
def test_random_places_stay_inside_and_do_not_overflow(number: int, seed: int, chunks: int) -> None:
    """Up to 512 GiB, in Python's integers."""
    for place_bytes in (8, 32):
        found, hashes = places(np.array([number], np.uint64), seed, chunks, place_bytes)
        mask, word = 2**64 - 1, (number + seed) % 2**64
        word = (word ^ word >> 32) * 0x9E3779B97F4A7C15 & mask
        word = (word ^ word >> 29) * 0xFF51AFD7ED558CCD & mask
        word ^= word >> 32
        per_chunk = RANDOM_CHUNK_BYTES // place_bytes
        assert int(hashes[0]) == word
        assert int(found[0]) == (word >> 32) * chunks // 2**32 * per_chunk + word % per_chunk
        assert (int(found[0]) + 1) * place_bytes <= chunks * RANDOM_CHUNK_BYTES


def test_random_places_are_spread_evenly() -> None:
    """Over the chunks of an array and inside them: chi-squared of a uniform draw has mean and variance n and 2 n."""
    found, _ = places(np.arange(2**20, dtype=np.uint64), 5, 1000, 32)
    for cells, number in ((found // np.uint64(8192), 1000), (found % np.uint64(8192), 8192)):
        counts = np.bincount(cells.astype(np.int64), minlength=number)
        expected = 2**20 / number
        excess = (((counts - expected) ** 2 / expected).sum() - number) / np.sqrt(2 * number)
        assert abs(excess) < 5


@pytest.mark.parametrize("symbol", sorted({k.symbol for k in ATOMIC_KERNELS if "add_f32" in k.symbol}))
def test_sums_of_floats_stay_exact_in_a_check(symbol: str) -> None:
    """As many additions as a real check makes, all of one sign, at one address: below 2^24, or of multiples of 2."""
    kernel = next(k for k in ATOMIC_KERNELS if k.symbol == symbol)
    if isinstance(kernel, MemoryKernel):
        assert 257 * 2 * kernel.work_per_iteration * 4 <= 2 * 2**24
    else:
        assert kernel.work_per_iteration * kernel.check_iterations * 4 <= 2**24


# -- the machine code ------------------------------------------------------------------------------------------


def sass(symbol: str, *lines: str) -> str:
    body = "\n".join(line if line.startswith(".L") else f"        /*0000*/        {line} ;" for line in lines)
    return f".text.{symbol}:\n{body}\n"


def kernel_of(metric: str) -> Kernel:
    return kernels_for(metric, "cuda c++")[0]


@pytest.mark.parametrize("hint", ["", ".STRONG.GPU", ".CONSTANT", ".LTC128B"])
def test_a_wider_load_is_no_narrow_one(hint: str) -> None:
    kernel = kernel_of("memory.read.width4")
    for wide, passed in (("", True), (".64", False), (".128", False), (".ENL2.256", False), (".U8", False)):
        loads = [f"LDG.E{wide}{hint} R4, desc[UR6][R40.64]"] * 32
        listing = sass(kernel.symbol, ".L_x_0:", *loads, "@P0 BRA `(.L_x_0)")
        assert count(kernel, "sm_90", listing, CODE).passed is passed


@pytest.mark.parametrize(
    ("opcode", "work"),
    [
        ("LDG.E", 128),
        ("LDG.E.ENL2.256", 1024),
        ("RED.E.ADD.STRONG.GPU", 32),
        ("REDG.E.XOR.64.STRONG.GPU", 32),
        ("ATOMG.E.CAS.64.STRONG.GPU", 32),
        ("ATOMS.CAST.SPIN", 32),
    ],
)
def test_the_work_of_accesses_and_atomics(opcode: str, work: int) -> None:
    assert work_of(opcode) == work


def test_the_chunk_counter_is_no_work_of_an_atomic_kernel() -> None:
    kernel = kernel_of("atomic.global.cas_u64.one")
    lines = [
        ".L_x_0:", "@P1 BRA `(.L_x_1)", "ATOMG.E.INC.STRONG.GPU PT, R3, desc[UR6][R2.64], R5", ".L_x_1:",
        *["ATOMG.E.CAS.64.STRONG.GPU PT, R8, [R16], R4, R6"] * 8, "@P0 BRA `(.L_x_0)",
    ]  # fmt: skip
    assert count(kernel, "sm_90", sass(kernel.symbol, *lines), CODE).problems == ()
    lines[5] = "ATOMG.E.ADD.STRONG.GPU PT, R8, [R16], R4"
    assert not count(kernel, "sm_90", sass(kernel.symbol, *lines), CODE).passed


def retried(number: int, swaps: int = 1, loop: bool = True) -> list[str]:
    lines = [f".L_x_{number}:", "LDS R4, [R6]", *["ATOMS.CAST.SPIN R5, [R6], R4, R5"] * swaps]
    return [*lines, f"@!P0 BRA `(.L_x_{number})"] if loop else lines


def test_each_retried_operation_has_a_loop_of_its_own() -> None:
    kernel = kernel_of("atomic.shared.add_f32.one")

    def problems(*parts: list[str]) -> tuple[str, ...]:
        lines = [line for part in parts for line in part]
        return count(kernel, "sm_90", sass(kernel.symbol, ".L_x_0:", *lines, "@P1 BRA `(.L_x_0)"), CODE).problems

    good = [retried(n) for n in range(1, 17)]
    assert problems(*good) == ()
    assert "loop of its own" in problems(*good[:15], retried(16, loop=False))[0]
    assert "more or less than one" in problems(*good[:14], retried(15, swaps=2))[0]
    assert "more or less than one" in problems(*good, [".L_x_17:", "IADD3 R1, R1, R2, R3", "@P2 BRA `(.L_x_17)"])[0]
    assert "has 15 ATOMS" in problems(*good[:15])[0]


def test_an_addition_that_the_compiler_summed_over_the_warp_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The one address known to it: REDUX and one lane's addition."""
    for path in (HERE.parent / "kernels").glob("*.cu*"):
        shutil.copy(path, tmp_path)
    source = tmp_path / "atomic.cu"
    text = source.read_text(encoding="utf-8")
    assert "(unsigned)(start + v * threads) & mask" in text
    source.write_text(text.replace("(unsigned)(start + v * threads) & mask", "mask"), encoding="utf-8")
    monkeypatch.setattr("gpuassay.kernels.compile.files", lambda package: tmp_path)
    problems = take(kernel_of("atomic.global.add_u32.one"), "sm_90").problems
    assert any("do not run in every pass" in problem for problem in problems)


# -- what is made of it ----------------------------------------------------------------------------------------


def test_every_metric_has_a_title_and_is_compared_with_one_that_exists() -> None:
    for kernel in (*ACCESS_KERNELS, *ATOMIC_KERNELS):
        described = metrics()[kernel.metric]
        assert described.published is None
        assert described.curve_point is None
        assert described.unit == f"{kernel.work_unit}/s"
        assert described.compared_with is None or described.compared_with in metrics()


@pytest.mark.parametrize(
    ("unit", "work", "cycles", "slow"),
    [
        ("OP", [10, 10, 10], [6, 5, 5], True),
        ("B", [10, 10, 10], [6, 5, 5], True),
        ("OP", [9, 10, 10], [5, 5, 5], False),
        ("load", [10, 10, 10], [6, 5, 5], False),
        ("B", [10, 10, 10, 10, 10], [49, 50, 51, 52, 54], False),  # they differ by place
    ],
)
def test_an_sm_that_gets_fewer_chunks_is_not_slow(unit: str, work: list[int], cycles: list[int], slow: bool) -> None:
    import pandas as pd

    row = {"work_unit": unit, "sm_id": list(range(len(work))), "sm_work": work, "sm_cycles": cycles}
    assert (_slow_sms(pd.DataFrame([row])) is not None) is slow
