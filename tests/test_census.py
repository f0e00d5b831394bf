"""Real compilers, real machine code: every kernel does the work that it declares, and a lie is found."""

import shutil
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from gpuassay.kernels import KERNELS, Kernel, kernels_for
from gpuassay.kernels.census import count, take, work_of
from gpuassay.kernels.compile import SERIALISED, CompileError, MachineCode, compile_kernel

CASES = [(kernel, architecture) for kernel in KERNELS for architecture in kernel.architectures]
NAMES = [f"{kernel.metric}-{kernel.toolchain.split()[0]}-{architecture}" for kernel, architecture in CASES]


@pytest.mark.parametrize(("kernel", "architecture"), CASES, ids=NAMES)
def test_declared_work_is_in_the_machine_code(kernel: Kernel, architecture: str) -> None:
    census = take(kernel, architecture)
    assert census.problems == ()
    assert census.counted_work == census.declared_work
    assert census.spills == 0


def test_a_planted_lie_fails() -> None:
    honest = kernels_for("vector.fp32", "cuda c++")[0]
    lie = replace(honest, work_per_iteration=2 * honest.work_per_iteration)
    census = take(lie, "sm_80")
    assert not census.passed
    assert "declares 2097152 FLOP" in census.problems[0]
    assert "does 1048576" in census.problems[0]


def test_twice_the_instructions_fails() -> None:
    honest = kernels_for("tensor.bf16", "cuda c++")[0]
    lie = replace(
        honest, work_per_iteration=2 * honest.work_per_iteration, instructions={"HGMMA.64x256x16.F32.BF16": 16}
    )
    assert "declares 16 HGMMA" in take(lie, "sm_90a").problems[0]


KERNEL = kernels_for("memory.read", "cuda c++")[0]
CODE = MachineCode(b"", "none", "")


def sass(*lines: str) -> str:
    """A listing as nvdisasm prints it."""
    body = "\n".join(line if line.startswith(".L") else f"        /*0000*/        {line} ;" for line in lines)
    return f".text.memory_read:\n{body}\n"


def test_a_narrower_access_fails() -> None:
    listing = sass(".L_x_0:", *["LDG.E.64 R4, desc[UR6][R40.64]"] * 8, "@!P2 BRA `(.L_x_0)")
    assert "8 LDG.E.64" in count(KERNEL, "sm_90", listing, CODE).problems[0]


def test_work_outside_the_loop_does_not_count() -> None:
    listing = sass(*["LDG.E.128 R4, desc[UR6][R40.64]"] * 8, ".L_x_0:", "IADD3 R1, R1, R2, R3", "BRA `(.L_x_0)")
    assert not count(KERNEL, "sm_90", listing, CODE).passed


def test_spills_fail() -> None:
    listing = sass(
        ".L_x_0:", *["LDG.E.128 R4, desc[UR6][R40.64]"] * 8, "STL [R1], R2", "LDL R2, [R1]", "@P0 BRA `(.L_x_0)"
    )
    census = count(KERNEL, "sm_90", listing, CODE)
    assert census.spills == 2
    assert any("spill" in problem for problem in census.problems)


def test_a_loop_within_the_loop_fails() -> None:
    listing = sass(
        ".L_x_0:", "IADD3 R1, R1, R2, R3", ".L_x_1:", "IADD3 R1, R1, R2, R3", "@P1 BRA `(.L_x_1)",
        *["LDG.E.128 R4, desc[UR6][R40.64]"] * 8, "@P0 BRA `(.L_x_0)",
    )  # fmt: skip
    assert any("another loop" in problem for problem in count(KERNEL, "sm_90", listing, CODE).problems)


def test_a_missing_kernel_fails() -> None:
    assert "no kernel memory_read" in count(KERNEL, "sm_90", sass().replace("memory_read", "other"), CODE).problems[0]


def test_unknown_instructions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"QGMMA\.64x256x32"):
        work_of("QGMMA.64x256x32.F32.E4M3.E4M3")


def altered(monkeypatch: pytest.MonkeyPatch, folder: Path, kernel: Kernel, old: str, new: str) -> None:
    """Lets the compiler read a copy of the kernels in which `old` is `new`."""
    for path in Path(str(files("gpuassay.kernels"))).glob("*.cu*"):
        shutil.copy(path, folder)
    text = (folder / kernel.source).read_text(encoding="utf-8")
    assert old in text
    (folder / kernel.source).write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr("gpuassay.kernels.compile.files", lambda package: folder)


def test_serialised_wgmma_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Accumulators touched between issue and wait: the compiler gives up, and says so."""
    kernel = kernels_for("tensor.bf16", "cuda c++")[0]
    old = '        asm volatile("wgmma.commit_group'
    altered(monkeypatch, tmp_path, kernel, old, "        d[0] += 1.0f;\n" + old)
    with pytest.raises(CompileError, match="serialis"):
        compile_kernel(kernel, "sm_90a")


def test_a_loop_that_the_compiler_unrolled_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = kernels_for("mma_sync.bf16", "cuda c++")[0]
    altered(monkeypatch, tmp_path, kernel, "#pragma unroll 1\n", "#pragma unroll 4\n")
    assert any("HMMA" in problem for problem in take(kernel, "sm_90").problems)


def test_broken_source_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = kernels_for("vector.fp32", "cuda c++")[0]
    altered(monkeypatch, tmp_path, kernel, "fmaf(", "no_such_function(")
    with pytest.raises(CompileError, match=r"(?s)vector_fp32\.cu for sm_80: .*no_such_function"):
        compile_kernel(kernel, "sm_80")


def test_a_missing_toolchain_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(CompileError, match=r"pip install 'gpuassay\[cuda13\]'"):
        compile_kernel(kernels_for("vector.fp32", "cuda c++")[0], "sm_80")


def test_the_pattern_knows_both_messages() -> None:
    assert SERIALISED.search(
        "ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"
    )
    assert SERIALISED.search("C7517")
    assert not SERIALISED.search("ptxas info : Used 248 registers")


@pytest.mark.parametrize(
    ("metric", "capability", "expected"),
    [
        ("tensor.bf16", "9.0", "sm_90a"),
        ("mma_sync.bf16", "9.0", "sm_90"),
        ("vector.fp32", "8.7", "sm_86"),
        ("vector.fp32", "10.3", "sm_103"),
        ("vector.fp32", "12.1", "sm_120"),
        ("vector.fp32", "13.0", None),
        ("vector.fp32", "7.5", None),
    ],
)
def test_architecture_for(metric: str, capability: str, expected: str | None) -> None:
    assert kernels_for(metric, "cuda c++")[0].architecture_for(capability) == expected
