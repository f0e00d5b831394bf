"""Capacity and aliasing on simulated memories: clean ones pass always, planted faults are found always."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuassay.audit.memory import ONES, Errors, Outcome, capacity_row, inversions, inversions_row, keyed, run_passes
from gpuassay.audit.memory_run import KINDS, SOURCE, counters, counters_row, prelude
from gpuassay.kernels.compile import compile_source
from gpuassay.kernels.declare import VECTOR_ARCHITECTURES

WORDS = 6000  # no power of two: real footprints are none
Places = NDArray[np.uint64]


class Simulated:
    """A memory whose word i lies in cell `place(i)`; `read` may change what comes back."""

    def __init__(
        self,
        place: Callable[[Places], Places] = lambda i: i,
        read: Callable[[Places, Places], Places] = lambda i, values: values,
    ) -> None:
        self.words = WORDS
        self.cells = np.zeros(2 * WORDS, np.uint64)
        self.place, self.read = place, read
        self.numbers = np.arange(WORDS, dtype=np.uint64)

    def fill(self, key: tuple[int, int], flip: int) -> None:
        self.cells[self.place(self.numbers)] = keyed(self.numbers, key) ^ np.uint64(flip)

    def verify(self, key: tuple[int, int], flip: int, *, invert: bool = False) -> Errors:
        expected = keyed(self.numbers, key) ^ np.uint64(flip)
        wrong = self.read(self.numbers, self.cells[self.place(self.numbers)]) ^ expected
        if invert:
            self.cells[self.place(self.numbers)] = ~expected
        where = np.flatnonzero(wrong)
        return Errors(len(where), int(where[0]) if len(where) else None, int(np.bitwise_or.reduce(wrong)))

    def poke(self, index: int, value: int) -> None:
        self.cells[self.place(np.array([index], np.uint64))] = np.uint64(value)

    def peek(self, index: int) -> int:
        at = np.array([index], np.uint64)
        return int(self.read(at, self.cells[self.place(at)])[0])

    def flush(self) -> None:
        pass


FAULTS: dict[str, Callable[[], Simulated]] = {
    "wrapped at half": lambda: Simulated(lambda i: i % np.uint64(WORDS // 2)),
    "address line stuck at 0": lambda: Simulated(lambda i: i & np.uint64(ONES ^ 1 << 7)),
    "address line stuck at 1": lambda: Simulated(lambda i: i | np.uint64(1 << 11)),
    "two lines crossed": lambda: Simulated(lambda i: np.where(i >> np.uint64(3) & np.uint64(1), i | np.uint64(4), i)),
    "values made up from addresses": lambda: Simulated(read=lambda i, _: keyed(i, (1, 2))),
    "zeros": lambda: Simulated(read=lambda i, values: np.zeros_like(values)),
    "data line stuck": lambda: Simulated(read=lambda i, values: values | np.uint64(1 << 40)),
    "one bit in one word": lambda: Simulated(read=lambda i, values: values | (i == 4321).astype(np.uint64)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    for seed in range(20):
        outcome = run_passes(FAULTS[fault](), (seed, 99))
        assert not outcome.passed
        assert capacity_row(outcome, WORDS * 8, WORDS * 8).verdict == "inconsistent"


def test_clean_memory_passes_always() -> None:
    assert all(run_passes(Simulated(), (seed, seed * 7)).passed for seed in range(200))


def test_pokes_name_the_words_that_share_a_cell() -> None:
    aliases = run_passes(FAULTS["address line stuck at 0"](), (1, 2)).aliases
    assert (0, 128) in aliases


def test_an_unseen_key_is_drawn_each_time() -> None:
    first, second = Simulated(), Simulated()
    run_passes(first)
    run_passes(second)
    assert (first.cells != second.cells).any()


def test_too_small_a_share_is_no_pass() -> None:
    outcome = Outcome(WORDS, {"hash": Errors()})
    row = capacity_row(outcome, WORDS * 8 * 2, WORDS * 8 * 3)
    assert row.verdict == "not tested"
    assert f"{WORDS * 16} B of the whole were not touched" in row.text


def test_a_word_that_goes_wrong_once_in_many_passes_is_found() -> None:
    reads = 0

    def sometimes(i: Places, values: Places) -> Places:
        nonlocal reads
        reads += 1
        return values ^ np.uint64(1 << 17) if reads == 7 else values

    left = iter(range(11))
    passes = inversions(Simulated(read=sometimes), lambda: next(left, None) is not None)
    assert len(passes) == 13
    assert [number for number, errors in enumerate(passes) if errors.count] == [6]
    assert passes[6].bits == 1 << 17


def test_clean_memory_repeats_itself() -> None:
    memory = Simulated()
    row = inversions_row(WORDS, inversions(memory, lambda: False, (3, 4)), [35.0, 60.0])
    assert row.verdict == "consistent"
    assert row.text.startswith(
        f"2 passes of moving inversions over {8 * WORDS} B, {2 * WORDS} words; from 35 to 60 °C;"
    )
    # Two passes read the hash and its complement, and leave the hash.
    assert (memory.cells[:WORDS] == keyed(memory.numbers, (3, 4))).all()


def test_the_sms_that_read_wrong_words_are_counted() -> None:
    found = [Errors(), Errors(3, 50, 0b100, {17: 3}), Errors(1, 9, 0b001, {17: 1})]
    row = inversions_row(WORDS, found, [None, None])
    assert row.verdict == "inconsistent"
    assert (row.measured, row.details["wrong_by_sm"]) == (4, {"17": 4})
    assert "4 words were wrong in 2 passes, the lowest 9, bits 0x5; SM 17 alone read them" in row.text
    row = inversions_row(WORDS, [*found, Errors(1, 9, 1, {3: 1})], [None, None])
    assert "; 2 SMs read them" in row.text


def test_the_hash_is_the_one_described() -> None:
    """Written down once more, with Python integers."""

    def sip(message: int, key0: int, key1: int) -> int:
        def rotate(x: int, by: int) -> int:
            return (x << by | x >> 64 - by) & ONES

        v = [key0 ^ 0x736F6D6570736575, key1 ^ 0x646F72616E646F6D, key0 ^ 0x6C7967656E657261, key1 ^ 0x7465646279746573]
        v[3] ^= message
        for number in range(4):
            v[0] = v[0] + v[1] & ONES
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = v[2] + v[3] & ONES
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = v[0] + v[3] & ONES
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = v[2] + v[1] & ONES
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)
            if number == 0:
                v[0] ^= message
                v[2] ^= 0xFF
        return v[0] ^ v[1] ^ v[2] ^ v[3]

    numbers = np.array([0, 1, 2**40 + 5], np.uint64)
    assert keyed(numbers, (7, 2**63 + 1)).tolist() == [sip(int(n), 7, 2**63 + 1) for n in numbers]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", VECTOR_ARCHITECTURES)
def test_the_kernel_compiles(kind: str, architecture: str) -> None:
    assert compile_source(SOURCE, f"audit_{kind}", architecture, prelude(kind)).cubin[:4] == b"\x7fELF"


class Nvml:
    """The driver's counters; `gives` by call, an exception where it refuses."""

    class NVMLError(Exception):
        pass

    def __init__(self, **gives: object) -> None:
        self.gives = gives

    def __getattr__(self, name: str) -> object:
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)

        def call(*_: object) -> object:
            if name not in self.gives:
                raise self.NVMLError("Not Supported")
            return self.gives[name]

        return call


def test_counters_before_and_after() -> None:
    quiet = counters(Nvml(nvmlDeviceGetTotalEccErrors=0, nvmlDeviceGetRemappedRows=(1, 0, 0, 0)), None)
    assert counters_row(quiet, quiet).verdict == "consistent"
    assert "nvmlDeviceGetRetiredPages: Not Supported" in counters_row(quiet, quiet).text
    assert counters_row(quiet, quiet | {"corrected": 1}).verdict == "consistent"
    assert "warning" in counters_row(quiet, quiet | {"corrected": 1}).text
    assert counters_row(quiet, quiet | {"uncorrected": 1}).verdict == "inconsistent"
    assert counters_row(quiet | {"remap.pending": 1}, quiet | {"remap.pending": 1}).verdict == "inconsistent"


def test_no_counter_is_not_supported_never_a_pass() -> None:
    none = counters(Nvml(), None)
    row = counters_row(none, none)
    assert row.verdict == "not supported"
    assert "nvmlDeviceGetTotalEccErrors" in row.text
