"""Does memory that one process gave back still hold its data when another process gets it?

A process of this program fills all free memory, shared memory and local memory with a marker drawn for this run, and
ends; a second one looks for that marker in memory fresh from the driver, which it never wrote. Only counts leave the
device: of marker words, and of words that are not zero. Nobody else's data is read out, and nothing is done while
another compute process is there. Registers are left out: no compiler promises which one an unwritten name stands for.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import Row, Word

SOURCE = "audit_residue.cu"
PLACES = {"all": "global memory", "shared": "shared memory", "local": "local memory"}
KINDS = {f"{act}_{place}": (act == "plant", place) for act in ("plant", "seek") for place in PLACES}
TIMEOUT_S = 120
LEAST = 0.95  # of the planted words must be looked at: the driver may still be clearing the others
THREADS = 256


@dataclass(frozen=True)
class Counts:
    """Words equal to the marker, words that are not zero, words looked at; how many were planted, where that is
    known."""

    markers: int
    not_zero: int
    words: int
    planted: int = 0


def prelude(kind: str) -> str:
    """The macros of audit_residue.cu."""
    plant, place = KINDS[kind]
    chosen = {"PLANT": plant, "SHARED": place == "shared", "LOCAL": place == "local"}
    return "".join(f"#define {name} {int(value)}\n" for name, value in chosen.items())


def row(place: str, counts: Counts, *, blind: bool = False) -> Row:
    """The row of one kind of memory; `blind`: the driver's list of processes is empty though this one is there."""
    share = counts.not_zero / max(counts.words, 1)
    too_few = counts.words < max(1, LEAST * counts.planted)
    word: Word = "inconsistent" if counts.markers else "not tested" if too_few else "consistent"
    text = (
        f"A process filled it with a marker and ended, a second one looked at {counts.words} words fresh from the "
        f"driver: {counts.markers} held the marker, {share:.2%} were not zero. Marker words mean that data outlives "
        "the process that wrote it; none is no promise for other memory or other times."
    )
    if too_few and counts.words:
        text += f" That is {counts.words / counts.planted:.1%} of what was planted, too little to say."
    if blind:
        text += " The driver lists no process, not even this one: others would not have been seen."
    details = {"not_zero_words": counts.not_zero, "words": counts.words}
    return Row(f"residue {place}", word, text, 0, counts.markers, 0.0, "1", details)


def run(
    device: int,
    others: int | None,
    child: Callable[[str, int, int], dict[str, Any]] | None = None,
    *,
    blind: bool = False,
) -> list[Row]:
    """Plants and seeks on CUDA device `device`; `others`: compute processes besides this one, None where unknown;
    `blind`: the driver lists none, not even this one."""
    names = [f"residue {place}" for place in PLACES.values()]
    if others is None:
        why = "nvmlDeviceGetComputeRunningProcesses gave no list, and this is done only where no other process is."
        return [Row(name, "not supported", why) for name in names]
    if others:
        why = f"{others} other compute process(es) on this GPU: their data must not be touched. Stop them first."
        return [Row(name, "not tested", why) for name in names]
    child = child or _child
    marker = secrets.randbits(62) | 1
    try:
        planted = child("plant", device, marker)
        found = child("seek", device, marker)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [Row(name, "not tested", f"A process for it failed: {error}.") for name in names]
    rows = []
    for place, name in PLACES.items():
        markers, not_zero, words = found[place]
        rows.append(row(name, Counts(markers, not_zero, words, planted[place][2]), blind=blind))
    text = "No compiler promises which register an unwritten name stands for, so that none can be read unwritten."
    return [*rows, Row("residue registers", "not observable", text)]


def _child(act: str, device: int, marker: int) -> dict[str, Any]:
    """A process of its own, which ends before this returns. Raises SubprocessError, ValueError."""
    command = [sys.executable, "-P", "-m", "gpuassay.audit.residue", act, str(device), str(marker)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _work(act: str, device: int, marker: int) -> dict[str, list[int]]:
    """What one of the two processes does, on the device."""
    import cupy

    from .launch import load
    from .memory_run import BLOCKS, allocate

    cupy.cuda.Device(device).use()
    properties = cupy.cuda.runtime.getDeviceProperties(device)
    capability = f"{properties['major']}.{properties['minor']}"
    kernels = {place: load(SOURCE, f"{act}_{place}", capability, prelude(f"{act}_{place}")) for place in PLACES}
    found = {place: cupy.zeros(3, dtype=np.uint64) for place in kernels}
    blocks = 8 * int(properties["multiProcessorCount"])

    def on_chip() -> None:
        for place in ("shared", "local"):
            kernels[place]((blocks,), (THREADS,), (np.uint64(0), np.uint64(0), np.uint64(marker), found[place]))

    on_chip()  # first: every kernel that runs before may leave something there
    chunks = allocate()
    for memory, _, words in chunks:
        kernels["all"](
            (BLOCKS,), (THREADS,), (np.uint64(memory.ptr), np.uint64(words), np.uint64(marker), found["all"])
        )
    cupy.cuda.runtime.deviceSynchronize()
    if act == "plant":  # last, so that the next process finds it
        on_chip()
        cupy.cuda.runtime.deviceSynchronize()
    answer = {place: counts.get().tolist() for place, counts in found.items()}
    if act == "plant":  # which counts nothing on the device
        answer["all"][2] = sum(words for _, _, words in chunks)
    return answer


if __name__ == "__main__":
    print(json.dumps(_work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
