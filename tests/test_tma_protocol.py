"""memory_read_tma's way of handing out chunks, step by step: each chunk once, each block refused once, no copy left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.kernels import MemoryKernel, kernels_for

STAGES = 2


class Launch:
    """The counter, as atomicInc with total + blocks - 1 leaves it."""

    def __init__(self, total: int, blocks: int) -> None:
        self.total, self.last, self.counter, self.requests = total, total + blocks - 1, 0, 0
        self.summed: list[int] = []

    def atomic_inc(self) -> int:
        old = self.counter
        self.counter = 0 if old >= self.last else old + 1
        self.requests += 1
        return old

    def block(self) -> Iterator[None]:
        """One block, giving way wherever another may come between. A stage is (phase that its barrier has completed,
        the chunk that has arrived); a wait with parity p passes once the phase of parity p is complete."""
        pending = following = 0
        completed, holds = [0] * STAGES, [-1] * STAGES

        def ask() -> int:
            return self.atomic_inc() if pending < self.total else self.total

        def fill(s: int, chunk: int) -> None:
            if chunk < self.total:
                assert holds[s] == -1, "a copy into a stage that is still read"
                holds[s] = chunk
                completed[s] += 1

        pending = ask()
        yield
        fill(0, pending)
        more = pending < self.total
        following = pending = ask()
        yield
        fill(1, following)
        pending = ask()
        s = parity = 0
        while more:
            yield
            assert (completed[s] - 1) % 2 == parity, "the wait would pass at an earlier phase, or never"
            self.summed.append(holds[s])
            holds[s] = -1
            more = following < self.total
            following = pending
            fill(s, following)
            pending = ask()
            s ^= 1
            parity ^= s == 0
        assert holds == [-1] * STAGES, "a copy is under way when the block ends"


@given(st.integers(1, 60), st.integers(1, 12), st.randoms(use_true_random=False))
def test_each_chunk_is_summed_once_and_the_counter_is_zero_again(total: int, blocks: int, random: object) -> None:
    launch = Launch(total, blocks)
    running = [launch.block() for _ in range(blocks)]
    while running:
        one = random.choice(running)  # type: ignore[attr-defined]
        if next(one, "ended") == "ended":
            running.remove(one)
    assert Counter(launch.summed) == Counter(range(total))
    assert launch.requests == total + blocks
    assert launch.counter == 0


def test_three_to_one_adds_three_arrays() -> None:
    (kernel,) = kernels_for("memory.mix3")
    assert isinstance(kernel, MemoryKernel)
    rng = np.random.default_rng(8)
    inputs = [rng.integers(2**32, size=300, dtype=np.uint32) for _ in range(3)]
    expected, bound = kernel.reference(inputs, None, 300, 2)
    by_hand = [sum(int(array[i]) for array in inputs) % 2**32 for i in range(300)]
    assert (expected.tolist(), bound) == (by_hand, 0.0)
