"""Is the memory there, all of it, and does every address hold what was written to it?

Everything is filled before anything is verified, so that addresses that share a cell cannot both be right; the value
of a word is a keyed hash of its number and a nonce of this run, so that no value can be made up; verifying goes the
other way round than filling; then the complement, moving inversions, and single words at powers of two for the address
lines. Only memory that this program allocated is read or written.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import Row, Word
from .determinism import warmed

WORD_BYTES = 8
ONES = 2**64 - 1
SHARE_WANTED = 0.95  # of the free memory
_M = np.uint64


class Memory(Protocol):
    """A footprint of `words` 64-bit words, numbered from 0, in chunks that lie wherever the driver put them."""

    words: int

    def fill(self, key: tuple[int, int], flip: int) -> None:
        """Every word i becomes keyed(i, key) ^ flip."""

    def verify(self, key: tuple[int, int], flip: int, *, invert: bool = False) -> Errors:
        """Compares every word with keyed(i, key) ^ flip, from the last to the first; `invert` then writes the
        opposite."""

    def poke(self, index: int, value: int) -> None:
        """Writes one word."""

    def peek(self, index: int) -> int:
        """Reads one word."""

    def flush(self) -> None:
        """Pushes written words out of the caches, so that `peek` asks the memory itself."""


@dataclass(frozen=True)
class Errors:
    """How many words were wrong, the lowest one's number, the OR of the bits that were; how many each SM read."""

    count: int = 0
    first: int | None = None
    bits: int = 0
    by_sm: Mapping[int, int] = field(default_factory=dict)


def keyed(index: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """The value of each word, as audit_memory.cu makes it: SipHash's rounds (Aumasson and Bernstein, 2012), one for the
    word's number and three to finish, without the block that holds a length."""
    key0, key1 = _M(key[0]), _M(key[1])
    v0, v1 = np.full_like(index, key0 ^ _M(0x736F6D6570736575)), np.full_like(index, key1 ^ _M(0x646F72616E646F6D))
    v2 = np.full_like(index, key0 ^ _M(0x6C7967656E657261))
    v3 = index ^ (key1 ^ _M(0x7465646279746573))
    for number in range(4):
        v0 = v0 + v1
        v1 = _rotate(v1, 13) ^ v0
        v0 = _rotate(v0, 32)
        v2 = v2 + v3
        v3 = _rotate(v3, 16) ^ v2
        v0 = v0 + v3
        v3 = _rotate(v3, 21) ^ v0
        v2 = v2 + v1
        v1 = _rotate(v1, 17) ^ v2
        v2 = _rotate(v2, 32)
        if number == 0:
            v0 = v0 ^ index
            v2 = v2 ^ _M(0xFF)
    return v0 ^ v1 ^ v2 ^ v3


def _rotate(x: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
    return (x << _M(by)) | (x >> _M(64 - by))


@dataclass
class Outcome:
    """What the test found: errors by pass, and pairs of words that answer for each other."""

    words: int
    passes: dict[str, Errors] = field(default_factory=dict)
    aliases: list[tuple[int, int]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no pass found anything."""
        return not self.aliases and not any(errors.count for errors in self.passes.values())


def run_passes(memory: Memory, key: tuple[int, int] | None = None) -> Outcome:
    """All passes; `key` is drawn anew where none is given."""
    key = key or (secrets.randbits(64), secrets.randbits(64))
    found = Outcome(memory.words)
    for name, flip in (("hash", 0), ("complement", ONES)):
        memory.fill(key, flip)
        found.passes[name] = memory.verify(key, flip)
    # Moving inversions: each pass reads what the one before left, and leaves its opposite.
    found.passes["inversion"] = memory.verify(key, ONES, invert=True)
    found.passes["inversion back"] = memory.verify(key, 0, invert=True)
    found.passes["inverted"] = memory.verify(key, ONES)
    found.aliases = list(_aliases(memory, key))
    return found


def inversions(memory: Memory, go_on: Callable[[], bool], key: tuple[int, int] | None = None) -> list[Errors]:
    """Moving inversions as long as `go_on` says so, two passes at least: what each found. Every word is read, compared
    and written anew in each pass."""
    key = key or (secrets.randbits(64), secrets.randbits(64))
    memory.fill(key, 0)
    flip = 0
    found: list[Errors] = []
    while len(found) < 2 or go_on():
        found.append(memory.verify(key, flip, invert=True))
        flip ^= ONES
    return found


def _aliases(memory: Memory, key: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Pairs of words that share a cell, among the powers of two: one address line each, seen from both ends."""
    for base in (0, memory.words - 1):
        places = sorted({base} | {base ^ 1 << bit for bit in range(memory.words.bit_length())})
        places = [place for place in places if place < memory.words]
        values = [int(value) for value in keyed(np.array(places, np.uint64) + _M(2**63), key)]
        for place, value in zip(places, values, strict=True):
            memory.poke(place, value)
        memory.flush()
        owner = dict(zip(values, places, strict=True))
        for place, value in zip(places, values, strict=True):
            seen = memory.peek(place)
            if seen != value:
                yield place, owner.get(seen, -1)


# -- rows -----------------------------------------------------------------------------------------------------


def capacity_row(outcome: Outcome, free_bytes: int, total_bytes: int) -> Row:
    """The row memory.capacity; what was not tested is said."""
    tested = outcome.words * WORD_BYTES
    share = tested / free_bytes
    word: Word = "inconsistent" if not outcome.passed else "consistent" if share >= SHARE_WANTED else "not tested"
    text = (
        f"{share:.1%} of the free memory was filled with a keyed hash of address and nonce before any of it was "
        f"verified; {total_bytes - tested} B of the whole were not touched. "
    )
    wrong = [
        f"{name}: {errors.count} words, the first {errors.first}, bits {errors.bits:#x}"
        for name, errors in outcome.passes.items()
        if errors.count
    ]
    wrong += [f"word {a} answers for {'another' if b < 0 else f'word {b}'}" for a, b in outcome.aliases[:4]]
    text += "; ".join(wrong) + "." if wrong else "A wrong word would mean missing, wrapped or failing memory."
    details: dict[str, Any] = {
        "free_bytes": free_bytes,
        "untested_bytes": total_bytes - tested,
        "errors": {name: errors.count for name, errors in outcome.passes.items()},
        "aliases": [list(pair) for pair in outcome.aliases[:64]],
    }
    return Row("memory.capacity", word, text, total_bytes, tested, 0.0, "B", details)


def inversions_row(words: int, passes: Sequence[Errors], temperatures_c: Sequence[float | None]) -> Row:
    """The row determinism memory: the same words again and again, and which SMs read those that were wrong."""
    wrong = sum(errors.count for errors in passes)
    by_sm: Counter[int] = Counter()
    for errors in passes:
        by_sm.update(errors.by_sm)
    text = f"{len(passes)} passes of moving inversions over {words * WORD_BYTES} B, {len(passes) * words} words"
    if wrong:
        bits = int(np.bitwise_or.reduce([np.uint64(errors.bits) for errors in passes]))
        first = min(errors.first for errors in passes if errors.first is not None)
        text += f"; {wrong} words were wrong in {sum(errors.count > 0 for errors in passes)} passes, the lowest "
        text += f"{first}, bits {bits:#x}"
        text += f"; SM {next(iter(by_sm))} alone read them" if len(by_sm) == 1 else f"; {len(by_sm)} SMs read them"
    text += warmed(temperatures_c)
    text += "; wrong words that one SM alone reads speak against that SM, others against the memory."
    details = {
        "passes": len(passes),
        "words": len(passes) * words,
        "wrong_by_sm": {str(sm): count for sm, count in sorted(by_sm.items())},
        "temperatures_c": list(temperatures_c),
    }
    return Row("determinism memory", "inconsistent" if wrong else "consistent", text, 0, wrong, 0.0, "1", details)
