"""Silent errors and residue: the host's logic on simulated SMs and processes; the kernels compile."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest

from gpuassay.audit.determinism import Tally, digests, row
from gpuassay.audit.residue import KINDS, SOURCE, Counts, prelude
from gpuassay.audit.residue import row as residue_row
from gpuassay.audit.residue import run as residue
from gpuassay.kernels.census import disassemble
from gpuassay.kernels.compile import compile_source
from gpuassay.kernels.declare import VECTOR_ARCHITECTURES

SMS, WORDS = 132, 65_536


def test_one_wrong_word_in_a_thousand_million_names_its_sm() -> None:
    rng = np.random.default_rng(5)
    right = rng.integers(0, 2**32, (1, WORDS), dtype=np.uint32)
    wrong = right.copy()
    wrong[0, 777] ^= 1 << 3
    (good,), (bad,) = digests(right), digests(wrong)
    tally = Tally()
    for launch in range(116):
        sms = rng.permutation(SMS)
        tally.add(sms, [bad if launch == 71 and sm == 17 else good for sm in sms], SMS * WORDS)
    assert tally.words > 10**9
    assert tally.faulty == {17: 1}
    found = row("tensor.int8", tally)
    assert found.verdict == "inconsistent"
    assert "SM 17 in 1 of 116 blocks" in found.text


def test_an_sm_that_is_always_wrong_is_named_and_not_the_others() -> None:
    tally = Tally()
    for _ in range(10):
        tally.add(range(SMS), [b"wrong" if sm == 3 else b"right" for sm in range(SMS)], SMS)
    assert tally.faulty == {3: 10}


def test_clean_sms_are_consistent() -> None:
    tally = Tally()
    outputs = np.tile(np.arange(64, dtype=np.float32), (SMS, 1))
    for _ in range(3):
        tally.add(range(SMS), digests(outputs), outputs.size)
    assert row("vector.fp32", tally).verdict == "consistent"
    assert "°C" not in row("vector.fp32", tally).text
    tally.temperatures_c = [34.0, None]
    assert "°C" not in row("vector.fp32", tally).text
    tally.temperatures_c = [34.0, 61.0]
    assert "; from 34 to 61 °C; " in row("vector.fp32", tally).text
    assert row("vector.fp32", tally).details["temperatures_c"] == [34.0, 61.0]
    assert row("vector.fp32", Tally()).verdict == "not tested"


def test_bits_are_compared_not_values() -> None:
    assert len(set(digests(np.array([[0.0], [-0.0]], np.float32)))) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", VECTOR_ARCHITECTURES)
def test_the_residue_kernel_compiles(kind: str, architecture: str) -> None:
    assert compile_source(SOURCE, kind, architecture, prelude(kind)).cubin[:4] == b"\x7fELF"


@pytest.mark.parametrize("architecture", VECTOR_ARCHITECTURES)
def test_local_memory_is_read_and_never_written_where_residue_is_sought(architecture: str) -> None:
    """In the machine code: loads of local memory and no store to it; the planting kernel the other way round."""

    def accesses(kind: str) -> tuple[bool, bool]:
        sass = disassemble(compile_source(SOURCE, kind, architecture, prelude(kind)))
        return "LDL" in sass, "STL" in sass

    assert accesses("seek_local") == (True, False)
    assert accesses("plant_local") == (False, True)


def child_that_finds(markers: int, calls: list[tuple[str, int]]) -> Any:
    def child(act: str, device: int, marker: int) -> dict[str, Any]:
        calls.append((act, marker))
        return {"all": [markers, 12, 1000], "shared": [0, 0, 500], "local": [markers, 0, 500]}

    return child


def test_residue_is_planted_then_sought_by_another_process() -> None:
    calls: list[tuple[str, int]] = []
    rows = residue(0, 0, child_that_finds(0, calls))
    assert [act for act, _ in calls] == ["plant", "seek"]
    assert calls[0][1] == calls[1][1] != 0
    assert [r.verdict for r in rows] == ["consistent", "consistent", "consistent", "not observable"]
    assert [r.check for r in rows][2:] == ["residue local memory", "residue registers"]
    assert "1.20% were not zero" in rows[0].text
    found = residue(0, 0, child_that_finds(7, []))
    assert [r.verdict for r in found] == ["inconsistent", "consistent", "inconsistent", "not observable"]


def test_too_little_looked_at_is_no_pass_and_a_blind_list_is_said() -> None:
    assert residue_row("global memory", Counts(0, 0, 940, planted=1000)).verdict == "not tested"
    assert "That is 94.0% of what was planted" in residue_row("global memory", Counts(0, 0, 940, planted=1000)).text
    assert residue_row("global memory", Counts(0, 0, 960, planted=1000)).verdict == "consistent"
    assert residue_row("global memory", Counts(1, 1, 940, planted=1000)).verdict == "inconsistent"
    assert "not even this one" in residue(0, 0, child_that_finds(0, []), blind=True)[0].text


def test_residue_is_refused_beside_other_processes() -> None:
    calls: list[tuple[str, int]] = []
    assert {r.verdict for r in residue(0, 2, child_that_finds(0, calls))} == {"not tested"}
    assert {r.verdict for r in residue(0, None, child_that_finds(0, calls))} == {"not supported"}
    assert calls == []


def test_a_process_that_fails_is_no_pass() -> None:
    def child(*_: Any) -> dict[str, Any]:
        raise subprocess.TimeoutExpired("x", 1)

    assert {r.verdict for r in residue(0, 0, child)} == {"not tested"}


def test_without_a_gpu_the_real_processes_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    rows = residue(0, 0)
    assert {r.verdict for r in rows} == {"not tested"}
    assert all("A process for it failed" in r.text for r in rows)


def test_nothing_looked_at_is_no_pass() -> None:
    assert residue_row("global memory", Counts(0, 0, 0)).verdict == "not tested"
