"""Real compilers, real machine code: every kernel does the work that it declares, and a lie is found."""

import shutil
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpuassay.kernels import KERNELS, Kernel, kernels_for, numba_twins
from gpuassay.kernels.census import count, disassemble, take, work_of
from gpuassay.kernels.compile import SERIALISED, CompileError, MachineCode, compile_kernel, numba_code
from gpuassay.kernels.declare import CLUSTER_ARCHITECTURES

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


def test_a_loop_that_shares_the_first_instruction_fails() -> None:
    """Four loads run many times, four once: eight stand in the body, but more are executed."""
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    listing = sass(".L_x_0:", *[load] * 4, "@P1 BRA `(.L_x_0)", *[load] * 4, "@P0 BRA `(.L_x_0)")
    assert any("another loop" in problem for problem in count(KERNEL, "sm_90", listing, CODE).problems)


@pytest.mark.parametrize("predicate", ["@P1", "@!P1", "@UP0", "@!UPT"])
def test_predicated_work_fails(predicate: str) -> None:
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    listing = sass(".L_x_0:", *[load] * 6, *[f"{predicate} {load}"] * 2, "@P0 BRA `(.L_x_0)")
    problems = count(KERNEL, "sm_90", listing, CODE).problems
    assert problems == ("2 work instructions in the loop body do not run in every pass",)


def test_work_that_a_branch_can_skip_fails() -> None:
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    listing = sass(".L_x_0:", *[load] * 5, "@P1 BRA `(.L_x_1)", *[load] * 3, ".L_x_1:", "@P0 BRA `(.L_x_0)")
    problems = count(KERNEL, "sm_90", listing, CODE).problems
    assert problems == ("3 work instructions in the loop body do not run in every pass",)


def test_a_branch_around_no_work_passes() -> None:
    """As where only thread 0 asks for the next chunk: the fault-free counterpart of the listings above."""
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    listing = sass(
        ".L_x_0:", "@P1 BRA `(.L_x_1)", "ATOMG.E.INC.STRONG.GPU PT, R3, desc[UR6][R2.64], R5", ".L_x_1:",
        *[load] * 7, "LDG.E.128.CONSTANT R4, desc[UR6][R40.64]", "@P0 BRA `(.L_x_0)",
    )  # fmt: skip
    assert count(KERNEL, "sm_90", listing, CODE).problems == ()


def waiting(*way_back: str, slow: tuple[str, ...] = ()) -> str:
    """A loop that waits at a barrier before its loads; where that takes long, code after the end does."""
    load, wait = "LDG.E.128 R4, desc[UR6][R40.64]", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R4"
    return sass(
        ".L_x_0:", wait, "@!P0 BRA `(.L_x_2)", ".L_x_1:", *[load] * 8, "@P1 BRA `(.L_x_0)", "EXIT",
        ".L_x_2:", wait, *slow, "@!P0 BRA `(.L_x_2)", *way_back,
    )  # fmt: skip


def test_waiting_at_a_barrier_skips_nothing() -> None:
    assert count(KERNEL, "sm_90", waiting("BRA `(.L_x_1)"), CODE).problems == ()


def test_a_branch_that_comes_back_too_late_or_does_work_is_no_waiting() -> None:
    honest = waiting("BRA `(.L_x_1)")
    load = "        /*0000*/        LDG.E.128 R4, desc[UR6][R40.64] ;\n"
    late = honest.replace(".L_x_1:\n" + load, load + ".L_x_1:\n")
    working = waiting("BRA `(.L_x_1)", slow=("LDG.E.128 R4, desc[UR6][R40.64]",))
    assert late != honest
    for listing in (late, working, waiting("@P2 BRA `(.L_x_1)"), waiting()):
        assert not count(KERNEL, "sm_90", listing, CODE).passed
    assert any("do not run in every pass" in problem for problem in count(KERNEL, "sm_90", late, CODE).problems)


def test_a_loop_over_the_threads_that_ask_for_a_copy_is_no_loop_of_work() -> None:
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    once = (".L_x_1:", "@P0 ELECT P3, URZ, PT", "UBLKCP.S.G [UR8], [UR20], UR17", "@P0 BRA.U.ANY `(.L_x_1)")
    assert count(KERNEL, "sm_90", sass(".L_x_0:", *[load] * 8, *once, "@P1 BRA `(.L_x_0)"), CODE).problems == ()
    many = tuple(line for line in once if "ELECT" not in line)
    problems = count(KERNEL, "sm_90", sass(".L_x_0:", *[load] * 8, *many, "@P1 BRA `(.L_x_0)"), CODE).problems
    assert any("another loop" in problem for problem in problems)


@pytest.mark.parametrize("architecture", CLUSTER_ARCHITECTURES)
def test_the_bulk_copy_is_in_the_machine_code(architecture: str) -> None:
    """The census counts what is read from shared memory; TMA's instruction puts it there, in the loop as well."""
    kernel = kernels_for("memory.read_tma")[0]
    text = disassemble(compile_kernel(kernel, architecture)).partition(f".text.{kernel.symbol}:")[2]
    text = text.partition("\n.text.")[0].partition("//---")[0]
    assert text.count("UBLKCP.S.G") == 3  # two stages filled beforehand, and the one in the loop
    assert text.index("LDS.128") < text.rindex("UBLKCP.S.G") < text.rindex("EXIT")


def test_conditional_work_fails() -> None:
    """Work behind a predicate or a branch runs in some passes only, so a count of it is no measure of them."""
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    predicated = sass(".L_x_0:", *[load] * 7, f"@P1 {load}", "@P0 BRA `(.L_x_0)")
    skipped = sass(".L_x_0:", *[load] * 7, "@P1 BRA `(.L_x_1)", load, ".L_x_1:", "@P0 BRA `(.L_x_0)")
    for listing in (predicated, skipped):
        assert "do not run in every pass" in count(KERNEL, "sm_90", listing, CODE).problems[0]


def test_the_loops_own_counting_is_no_work() -> None:
    kernel = kernels_for("vector.int32_add", "cuda c++")[0]
    add, one = "IADD3 R1, R1, R2, R3", "IADD3 R9, R9, 0x1, RZ"
    listing = sass(".L_x_0:", *[add] * 512, one, "@P0 BRA `(.L_x_0)").replace("memory_read", kernel.symbol)
    assert count(kernel, "sm_80", listing, CODE).problems == ()
    missing = sass(".L_x_0:", *[add] * 511, one, "@P0 BRA `(.L_x_0)").replace("memory_read", kernel.symbol)
    assert "has 511 IADD3" in count(kernel, "sm_80", missing, CODE).problems[0]


def test_each_pipe_of_a_packed_fma_is_counted_by_itself() -> None:
    """Declared half and half on sm_90, all on one on sm_89."""
    kernel = kernels_for("vector.fp16", "cuda c++")[0]
    one, other = "HFMA2 R1, R1, R2, R3", "HFMA2.MMA R4, R4, R2, R3"
    half = sass(".L_x_0:", *[one, other] * 256, "@P0 BRA `(.L_x_0)").replace("memory_read", kernel.symbol)
    whole = sass(".L_x_0:", *[one] * 512, "@P0 BRA `(.L_x_0)").replace("memory_read", kernel.symbol)
    assert count(kernel, "sm_90", half, CODE).problems == ()
    assert count(kernel, "sm_89", whole, CODE).problems == ()
    problem = "declares 256 HFMA2, 256 HFMA2.MMA, the loop body has 512 HFMA2"
    assert count(kernel, "sm_90", whole, CODE).problems == (problem,)
    assert not count(kernel, "sm_89", half, CODE).passed


@pytest.mark.parametrize("name", ["memory_read_twice", "not_memory_read", "_ZN11memory_read3fooB2v1E"])
def test_a_longer_name_is_another_kernel(name: str) -> None:
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    listing = sass(".L_x_0:", *[load] * 8, "@P0 BRA `(.L_x_0)")
    assert count(KERNEL, "sm_90", listing, CODE).passed
    assert "no kernel memory_read" in count(KERNEL, "sm_90", listing.replace("memory_read", name), CODE).problems[0]


def test_numbas_mangled_name_is_found() -> None:
    load = "LDG.E.128 R4, desc[UR6][R40.64]"
    name = "_ZN8gpuassay7kernels11numba_twins11memory_readB4v173B104cw51cXTLSUwv1sDUaE5ArrayIyLi1E1C7mutable7alignedE"
    listing = sass(".L_x_0:", *[load] * 8, "@P0 BRA `(.L_x_0)").replace("memory_read", name, 1)
    assert count(KERNEL, "sm_90", listing, CODE).passed


def test_a_missing_kernel_fails() -> None:
    assert "no kernel memory_read" in count(KERNEL, "sm_90", sass().replace("memory_read", "other"), CODE).problems[0]


def test_unknown_instructions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"UTCHMMA"):
        work_of("UTCHMMA")


@pytest.mark.parametrize(
    ("opcode", "m", "n", "k", "warps"),
    [
        ("HGMMA.64x256x16.F32.BF16", 64, 256, 16, 4),
        ("QGMMA.64x8x32.F32.E4M3.E4M3", 64, 8, 32, 4),
        ("IGMMA.SP.64x256x64.S8.S8", 64, 256, 64, 4),
        ("BGMMA.64x256x256.AND.POPC", 64, 256, 256, 4),
        ("HMMA.16816.F32", 16, 8, 16, 1),
        ("HMMA.1688.F32.TF32", 16, 8, 8, 1),
        ("HMMA.SP.16832.F32.BF16", 16, 8, 32, 1),
        ("QMMA.SP.16864.F32.E4M3.E4M3", 16, 8, 64, 1),
        ("IMMA.16864.S4.S4", 16, 8, 64, 1),
        ("BMMA.168256.AND.POPC", 16, 8, 256, 1),
        ("DMMA.884", 8, 8, 4, 1),
        ("DMMA.8x8x4", 8, 8, 4, 1),
        ("DMMA.16x8x16", 16, 8, 16, 1),
    ],
)
def test_the_work_of_tensor_instructions(opcode: str, m: int, n: int, k: int, warps: int) -> None:
    """One warp's share of 2 m n k operations."""
    assert work_of(opcode) * warps == 2 * m * n * k


def test_another_input_format_fails() -> None:
    """HMMA.16816.F32 means FP16: its BF16 sister starts with the same words and is another instruction."""
    kernel = next(k for k in kernels_for("tensor.fp16") if k.source == "mma_sync.cu")
    listing = sass(".L_x_0:", *["HMMA.16816.F32.BF16 R4, R8, R12, R4"] * 32, "@P0 BRA `(.L_x_0)")
    problems = count(kernel, "sm_80", listing.replace("memory_read", kernel.symbol), CODE).problems
    assert problems == ("declares 32 HMMA.16816.F32, the loop body has 32 HMMA.16816.F32.BF16",)


@pytest.mark.parametrize(
    ("symbol", "architecture", "found"),
    [
        ("mma_sync_fp8_e4m3", "sm_90", "HMMA.16816.F32"),
        ("mma_sync_int4", "sm_90", "IMMA.16832.S8.S8"),
        ("mma_sync_int4", "sm_120", "IMMA.16832.S8.S8"),
        ("mma_sync_binary", "sm_100", "IMMA.16832.U8.U8"),
    ],
)
def test_an_emulated_format_is_not_claimed(symbol: str, architecture: str, found: str) -> None:
    """The compiler accepts these and does the work on another pipe; the census would not have it."""
    kernel = next(k for k in KERNELS if k.symbol == symbol)
    assert architecture not in kernel.architectures
    assert found in disassemble(compile_kernel(kernel, architecture))
    try:
        problems = take(kernel, architecture).problems
    except CompileError as error:
        problems = (str(error),)
    assert problems


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


def test_a_rolled_inner_loop_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = kernels_for("mma_sync.bf16", "cuda c++")[0]
    old = "#pragma unroll\n        for (int step"
    altered(monkeypatch, tmp_path, kernel, old, old.replace("unroll", "unroll 1"))
    instructions, work = take(kernel, "sm_90").problems
    assert instructions == "declares 32 HMMA.16816.F32.BF16, the loop body has 8 HMMA.16816.F32.BF16"
    assert work == "declares 2097152 FLOP per block and iteration, the machine code does 524288"


def test_registers_that_the_compiler_spilled_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four blocks of 512 threads to an SM leave 32 registers a thread; all the products are still there."""
    kernel = kernels_for("mma_sync.bf16", "cuda c++")[0]
    altered(monkeypatch, tmp_path, kernel, "__launch_bounds__(WARPS * 32, 1)", "__launch_bounds__(WARPS * 32, 4)")
    census = take(kernel, "sm_90")
    assert census.counted_work == census.declared_work
    assert census.spills > 0
    assert census.problems == (f"{census.spills} spill instructions (LDL/STL)",)


def test_a_narrower_access_in_the_source_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = kernels_for("memory.copy", "cuda c++")[0]
    old = (
        "memory_copy(ARGUMENTS, const uint4 *source, uint4 *target) {\n    CHUNK_LOOP({\n        uint4 value[vectors];"
    )
    altered(monkeypatch, tmp_path, kernel, old, old.replace("uint4", "uint2"))
    instructions, work = take(kernel, "sm_90").problems
    assert instructions == "declares 8 LDG.E.128, 8 STG.E.128, the loop body has 8 LDG.E.64, 8 STG.E.64"
    assert work == "declares 131072 B per block and iteration, the machine code does 65536"


def test_a_second_wait_in_the_loop_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = kernels_for("tensor.bf16", "cuda c++")[0]
    old = "wgmma(d, a[step], a_descriptor + step * 2, b + step * (STEP_BYTES / 16));"
    wait = "".join(
        f'asm volatile("wgmma.{what}.sync.aligned{end};" ::: "memory"); '
        for what, end in (("commit_group", ""), ("wait_group", " 0"), ("fence", ""))
    )
    altered(monkeypatch, tmp_path, kernel, old, f"{{ {old} if (step == 3 && repeat == 0) {{ {wait} }} }}")
    census = take(kernel, "sm_90a")
    assert census.counted_work == census.declared_work
    assert census.problems == ("2 WARPGROUP.DEPBAR in the loop body: wgmma was serialised",)


def test_products_that_the_compiler_dropped_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody reads the result and nothing is volatile: ptxas shrinks the products away, the loop stays."""
    kernel = kernels_for("tensor.bf16", "cuda c++")[0]
    volatile = "asm volatile(INSTRUCTION"
    altered(monkeypatch, tmp_path, kernel, volatile, volatile.replace(" volatile", ""))
    source = tmp_path / kernel.source
    text = source.read_text(encoding="utf-8")
    assert "= d[i];" in text
    source.write_text(text.replace("= d[i];", "= 0.0f;"), encoding="utf-8")
    census = take(kernel, "sm_90a")
    assert census.counted_work < census.declared_work
    assert "declares 8 HGMMA.64x256x16.F32.BF16" in census.problems[0]


def test_broken_source_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = kernels_for("vector.fp32", "cuda c++")[0]
    altered(monkeypatch, tmp_path, kernel, "fmaf(", "no_such_function(")
    with pytest.raises(CompileError, match=r"(?s)vector\.cu for sm_80: .*no_such_function"):
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
        ("tensor.bf16", "10.0", None),
        ("tensor.bf16", "10.3", None),
        ("tensor.bf16", "8.7", "sm_86"),
        ("tensor.fp64", "9.0", "sm_90"),
        ("tensor.fp64", "10.0", "sm_100"),
        ("tensor.fp8_e4m3", "8.9", "sm_89"),
        ("tensor.fp8_e4m3", "8.6", None),
        ("tensor.int4", "9.0", None),
        ("tensor.bf16.n8", "8.0", None),
        ("mma_sync.bf16", "9.0", "sm_90"),
        ("vector.fp32", "8.7", "sm_86"),
        ("vector.fp32", "10.3", "sm_103"),
        ("vector.fp32", "12.1", "sm_120"),
        ("vector.fp32", "13.0", None),
        ("vector.fp32", "7.5", None),
        ("convert.f32_fp8", "8.6", None),
        ("convert.f32_fp8", "8.9", "sm_89"),
    ],
)
def test_architecture_for(metric: str, capability: str, expected: str | None) -> None:
    found = [kernel.architecture_for(capability) for kernel in kernels_for(metric, "cuda c++")]
    assert [architecture for architecture in found if architecture] == ([expected] if expected else [])


TWINS = [kernel for kernel in KERNELS if kernel.toolchain == "numba"]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("kernel", TWINS, ids=[kernel.metric for kernel in TWINS])
def test_what_numba_loads_does_the_declared_work_too(
    kernel: Kernel, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba's own compiling and linking, up to the driver, which is told of a device that is not there."""
    dispatcher = pytest.importorskip("numba.cuda.dispatcher")
    devices = pytest.importorskip("numba.cuda.cudadrv.devices")
    context = SimpleNamespace(device=SimpleNamespace(compute_capability=capability, id=0))
    monkeypatch.setattr(devices._runtime, "get_or_create_context", lambda *_: context)
    function, signature = numba_twins.TWINS[kernel.symbol]
    compiled = dispatcher._Kernel(function, signature, lto=True)  # as jit has it where nvJitLink is installed
    code = numba_code(SimpleNamespace(overloads={signature: compiled}))
    assert code.cubin[:4] == b"\x7fELF"
    architecture = "sm_{}{}".format(*capability)
    census = count(kernel, architecture, disassemble(code), code)
    assert census.problems == ()
    assert census.counted_work == census.declared_work


def test_a_numba_that_does_not_say_what_it_loads_gives_no_code() -> None:
    for overloads in ({}, {(): object()}):
        assert numba_code(SimpleNamespace(overloads=overloads)).cubin == b""
