"""Counts, in the machine code, whether a kernel does the work that it declares. Needs no GPU.

For each kernel and architecture: compile, disassemble, find the loop that holds the work instructions, count them.
Two things must agree with the declaration: how often each instruction stands in the loop body, and the work that
those instructions do, computed here from the opcodes themselves (`HGMMA.64x256x16` names its own shape).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .compile import CompileError, MachineCode, compile_kernel
from .declare import Kernel

INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>[^;]*);"
)
LABEL = re.compile(r"^(?P<label>\.L_[\w.]+):")
SECTION = re.compile(r"^\.text\.(?P<symbol>\S+):")
ACCESS = re.compile(r"(LDG|STG)\.E(?=\.|$)")
ACCESS_WIDTH = re.compile(r"\.(?:ENL2\.)?(?:64|128|256|[US]8|[US]16)(?=\.|$)")
ATOMIC = re.compile(r"(?:REDG?|ATOMG|ATOMS)\.")
BRANCH_TARGET = re.compile(r"`\((?P<label>\.L_[\w.]+)\)")


# Work of one thread's share of an instruction. A multiply-add is two operations, a dot product of four bytes four
# multiply-adds; any other operation is one per result: three addends give one sum, as CUDA's throughput table counts,
# and a packed conversion gives two results.
VECTOR_WORK = {
    "FFMA": 2,
    "DFMA": 2,
    "IMAD": 2,
    "IADD3": 1,
    "LOP3.LUT": 1,
    "SHF.L.W.U32.HI": 1,
    "IDP.4A.S8.S8": 8,
    "POPC": 1,
    "SHFL.IDX": 1,
    "F2FP.BF16.PACK_AB": 2,
    "F2FP.BF16.F32.PACK_AB": 2,
    "F2FP.SATFINITE.E4M3.F32.PACK_AB_MERGE_C": 2,
    "I2F": 1,
    "I2FP.F32.S32": 1,
}


@dataclass(frozen=True)
class Census:
    """One kernel on one architecture. `counted_work` is per block and iteration, like `declared_work`."""

    kernel: Kernel
    architecture: str
    declared_work: int
    counted_work: int
    counted: dict[str, int]
    spills: int
    problems: tuple[str, ...]
    cubin_sha256: str = ""
    compiler: str = ""

    @property
    def passed(self) -> bool:
        """No problem found."""
        return not self.problems


def work_of(opcode: str) -> int:
    """Work of one instruction issued by one warp: FLOP, OP (atomics: one a thread), or bytes for loads and stores.

    A warp is 32 threads. A GMMA is issued by each of a warpgroup's four warps, so one warp's share is a quarter.
    A sparse MMA (.SP) names the k that it spans, zeros included, and is counted so, as sheets count it.
    Sources: CUDA Binary Utilities, "Instruction Set Reference"; PTX ISA, shapes of mma and wgmma.
    """
    if (work := VECTOR_WORK.get(opcode)) is not None:
        return 32 * work
    if re.fullmatch(r"HFMA2(\.MMA)?(\.BF16_V2)?", opcode):
        return 32 * 4
    if re.fullmatch(r"MUFU\.(EX2|LG2|RCP|RSQ|SIN|TANH)", opcode):
        return 32
    if match := re.match(r"([HQIB]G|D)MMA(?:\.SP)?\.(\d+)x(\d+)x(\d+)(?:\.|$)", opcode):
        m, n, k = (int(part) for part in match.groups()[1:])
        return 2 * m * n * k // (1 if match.group(1) == "D" else 4)
    if match := re.match(r"(?:[HQIB]MMA(?:\.SP)?\.16|DMMA\.8)8(\d+)(?:\.|$)", opcode):  # 16832 is 16 x 8 x 32
        return 2 * (8 if opcode.startswith("D") else 16) * 8 * int(match.group(1))
    if match := re.match(r"(?:LDG\.E|LD\.E|STG\.E|LDS|STS)(?:\.(?:ENL2\.)?(64|128|256))?", opcode):
        return 32 * int(match.group(1) or 32) // 8
    if ATOMIC.match(opcode):
        return 32
    raise ValueError(f"the work of SASS instruction {opcode} is not known to the census")


def nvdisasm() -> str:
    """Path of nvdisasm: from the nvidia-cuda-nvdisasm package, else from PATH. Raises CompileError."""
    site = Path(sysconfig.get_paths()["purelib"])
    for pattern in ("nvidia/cu*/bin/nvdisasm", "nvidia/cuda_nvdisasm/bin/nvdisasm"):
        for path in sorted(site.glob(pattern), reverse=True):
            if os.access(path, os.X_OK):
                return str(path)
    if found := shutil.which("nvdisasm"):
        return found
    raise CompileError("nvdisasm was not found; install it with: pip install nvidia-cuda-nvdisasm")


def disassemble(code: MachineCode) -> str:
    """SASS text of a cubin, with labels."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.cubin)
        file.flush()
        run = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompileError(f"nvdisasm failed: {run.stderr.strip()}")
    return run.stdout


@dataclass
class _Listing:
    opcodes: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    branches: list[tuple[int, str]] = field(default_factory=list)
    predicated: set[int] = field(default_factory=set)


def _listing(sass: str, symbol: str) -> _Listing:
    """Instructions of one kernel, in order."""
    listing = _Listing()
    inside = False
    for line in sass.splitlines():
        if section := SECTION.match(line):
            inside = symbol == _bare_name(section["symbol"])
        elif not inside:
            continue
        elif label := LABEL.match(line):
            listing.labels[label["label"]] = len(listing.opcodes)
        elif instruction := INSTRUCTION.match(line):
            if instruction["opcode"].startswith("BRA") and (target := BRANCH_TARGET.search(instruction["operands"])):
                listing.branches.append((len(listing.opcodes), target["label"]))
            if instruction["predicate"]:
                listing.predicated.add(len(listing.opcodes))
            opcode = instruction["opcode"]
            # A sum with an immediate is the loop counting its passes: the operands of work are all registers.
            counts = opcode == "IADD3" and "0x" in instruction["operands"]
            # Nor is it an atomic that a kernel measures: a block asking for its next chunk (chunks.cuh).
            asks = opcode.startswith("ATOMG.E.INC.")
            listing.opcodes.append("IADD3_IMMEDIATE" if counts else "NEXT_CHUNK" if asks else opcode)
    return listing


def _bare_name(symbol: str) -> str:
    """The kernel's own name. Numba's symbols are mangled (Itanium C++ ABI): _ZN, then every part of the qualified
    name after its length, then tags and argument types."""
    name, at = symbol, len("_ZN")
    while symbol.startswith("_ZN") and (length := re.compile(r"\d+").match(symbol, at)):
        at = length.end() + int(length[0])
        name = symbol[length.end() : at]
    return name


def count(kernel: Kernel, architecture: str, sass: str, code: MachineCode) -> Census:
    """Holds a disassembly against the declaration."""
    listing = _listing(sass, kernel.symbol)
    declared = kernel.instructions_for(architecture)
    problems = []
    work = [i for i, opcode in enumerate(listing.opcodes) if _is_work(opcode, declared)]
    detours = dict(filter(None, (_detour(listing, at, label, work) for at, label in listing.branches)))
    loops = [
        range(listing.labels[label], end + 1)
        for end, label in listing.branches
        if label in listing.labels and listing.labels[label] <= end and end not in detours.values()
    ]
    # The counted loop: the smallest backward branch around the most work instructions.
    body = max(loops, key=lambda loop: (sum(i in loop for i in work), -len(loop)), default=range(0))
    counted = Counter(_stem(listing.opcodes[i], declared) for i in work if i in body)
    if not listing.opcodes:
        problems.append(f"no kernel {kernel.symbol} in the machine code")
    if dict(counted) != dict(declared):
        problems.append(f"declares {_list(declared)}, the loop body has {_list(counted)}")
    inner = [loop for loop in loops if len(body) and loop != body and loop[0] >= body[0] and loop[-1] <= body[-1]]
    if kernel.retried:
        if sorted(i for i in work if i in body) != sorted(i for loop in inner for i in work if i in loop):
            problems.append("not every work instruction in the loop body has a loop of its own")
        if any(sum(i in loop for i in work) != 1 for loop in inner):
            problems.append("a loop in the loop body repeats more or less than one work instruction")
    elif any(not _issues_one_copy(listing, loop, work) for loop in inner):
        problems.append("the loop body contains another loop, so a count of it says nothing")
    jumps = [
        range(at + 1, listing.labels.get(label, 0))
        for at, label in listing.branches
        if at in body and at not in detours
    ]
    conditional = sum(i in listing.predicated or any(i in jump for jump in jumps) for i in work if i in body)
    if conditional:
        problems.append(f"{conditional} work instructions in the loop body do not run in every pass")
    warps = kernel.threads // 32
    if kernel.work_unit == "load":  # by one thread, whatever their width
        counted_work = sum(counted.values())
    else:
        counted_work = warps * sum(n * work_of(opcode) for opcode, n in counted.items())
    if counted_work != kernel.work_per_iteration:
        problems.append(
            f"declares {kernel.work_per_iteration} {kernel.work_unit} per block and iteration, "
            f"the machine code does {counted_work}"
        )
    spills = sum(opcode.split(".")[0] in ("LDL", "STL") for opcode in listing.opcodes)
    if spills:
        problems.append(f"{spills} spill instructions (LDL/STL)")
    waits = sum(listing.opcodes[i].startswith("WARPGROUP.DEPBAR") for i in body)
    if waits > 1:
        problems.append(f"{waits} WARPGROUP.DEPBAR in the loop body: wgmma was serialised")
    return Census(
        kernel,
        architecture,
        kernel.work_per_iteration,
        counted_work,
        dict(counted),
        spills,
        tuple(problems),
        code.sha256,
        code.compiler,
    )


def _detour(listing: _Listing, at: int, label: str, work: list[int]) -> tuple[int, int] | None:
    """(branch, its way back) where a branch leads to code after it that waits at a barrier in shared memory (SYNCS),
    does no work and comes back to the next instruction: what stands between is not skipped. So ptxas lays out waiting.
    """
    start = listing.labels.get(label, 0)
    for end, back in listing.branches:
        if start <= at or end < start or listing.labels.get(back, -1) == start:
            continue  # not ahead, not there, or the waiting itself
        waits = any(opcode.startswith("SYNCS.PHASECHK") for opcode in listing.opcodes[start:end])
        whole = end not in listing.predicated and not any(start <= i <= end for i in work)
        return (at, end) if waits and whole and listing.labels.get(back) == at + 1 else None
    return None


def _issues_one_copy(listing: _Listing, loop: range, work: list[int]) -> bool:
    """Whether a loop only takes a warp's threads one by one to a bulk copy (UBLKCP), whose operands are uniform."""
    opcodes = [listing.opcodes[i] for i in loop]
    return "ELECT" in opcodes and opcodes[-2].startswith("UBLKCP") and not any(i in loop for i in work)


def take(kernel: Kernel, architecture: str) -> Census:
    """Compiles, disassembles and counts; a compiler's refusal is a problem of the census, not an exception,
    unless the toolchain itself is missing (CompileError)."""
    code = compile_kernel(kernel, architecture)
    try:
        return count(kernel, architecture, disassemble(code), code)
    except ValueError as error:
        raise CompileError(f"{kernel.source} for {architecture}: {error}") from error


def _stem(opcode: str, declared: Mapping[str, int]) -> str:
    """LDG.E.128.CONSTANT counts as LDG.E.128: cache hints do not change the work, the width does. Any other suffix
    does, too: HFMA2.MMA is another pipe than HFMA2, IMAD.MOV no multiplication, and an MMA's suffixes name its
    formats."""
    if access := ACCESS.match(opcode):
        width = ACCESS_WIDTH.search(opcode)
        stem = access[0] + (width[0] if width else "")
        return stem if stem in declared else opcode
    return opcode


def _is_work(opcode: str, declared: Mapping[str, int]) -> bool:
    """Any instruction of the declared families: an undeclared width or shape must show up in the count."""
    return opcode.split(".")[0] in {name.split(".")[0] for name in declared}


def _list(instructions: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {opcode}" for opcode, n in sorted(instructions.items())) or "none of them"
