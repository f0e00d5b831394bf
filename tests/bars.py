"""The bars of the honesty audit: every planted fault found, and nothing found in clean parts, over many seeds.

    python tests/bars.py --seeds 1000 --processes 2     # or: make bars

Prints one line a bar and ends with 1 where one is missed: a plant that was not found, or more than one false alarm in
a hundred. The parts are the simulated ones of the tests; what silicon's noise does is another question.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # every process has one core

from test_audit_memory import FAULTS, Simulated  # noqa: E402
from test_honesty import simulated  # noqa: E402
from test_limiter import LIMITERS  # noqa: E402
from test_limiter import run as hunted  # noqa: E402
from test_same_unit import again, die  # noqa: E402

from gpuassay import sustained  # noqa: E402
from gpuassay.audit import overall, same_unit, self_report  # noqa: E402
from gpuassay.audit.determinism import Tally, digests  # noqa: E402
from gpuassay.audit.memory import run_passes  # noqa: E402
from gpuassay.sheets import load  # noqa: E402

FALSE_ALARMS = 0.01  # of the clean parts, at most
Bar = Callable[[int], bool]
"""Whether something was found in the part of that seed."""


def misreport(check: Any, plant: dict[str, Any], seed: int) -> bool:
    made = simulated(seed, **plant)
    return bool(check(made, sustained.plain(made.rounds()), made.telemetry()).verdict == "inconsistent")


def clean_self_report(seed: int) -> bool:
    return overall(self_report.rows(simulated(seed), load("H100-SXM"))) == "inconsistent"


def memory(fault: str | None, seed: int) -> bool:
    rng = np.random.default_rng(seed)
    key = (int(rng.integers(2**63)), int(rng.integers(2**63)))
    return not run_passes(Simulated() if fault is None else FAULTS[fault](), key).passed


def wrong_sm(plant: bool, seed: int) -> bool:
    """132 SMs and 10^9 words: one SM flips one bit of one word of one launch."""
    rng = np.random.default_rng(seed)
    sms, words, launches = 132, 65_536, 116
    right = rng.integers(0, 2**32, (1, words), dtype=np.uint32)
    wrong = right.copy()
    wrong[0, rng.integers(words)] ^= np.uint32(1 << rng.integers(32))
    (good,), (bad,) = digests(right), digests(wrong)
    at, which = int(rng.integers(launches)), int(rng.integers(sms))
    tally = Tally()
    for launch in range(launches):
        order = [int(sm) for sm in rng.permutation(sms)]
        hit = plant and launch == at
        tally.add(order, [bad if hit and sm == which else good for sm in order], sms * words)
    return tally.faulty == {which: 1} if plant else bool(tally.faulty)


def swapped(plant: bool, seed: int) -> bool:
    first = seed + 1  # die 0 would draw its own part as it draws the floor plan
    now = again(die(first + plant), first + 10**6)
    return same_unit.compare(die(first), now).verdict == "inconsistent"


def limited(name: str, seed: int) -> bool:
    limiter, kind = LIMITERS[name]
    return kind in {s.kind for s in hunted(seed, limiter).found if s.suspicious}


def clean_hunt(seed: int) -> bool:
    """Half of them with correlated noise."""
    return any(s.suspicious for s in hunted(seed, phi=0.7 * (seed % 2)).found)


MISREPORTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "wrong SM count": (self_report._sm_count, {"sms": 131}),
    "clock 3 % too high": (self_report._sm_clock, {"clock": 1.03}),
    "clock 3 % too low": (self_report._sm_clock, {"clock": 0.97}),
    "power 10 % too high": (self_report._energy, {"power": 1.10}),
    "power 10 % too low": (self_report._energy, {"power": 0.90}),
    "PCIe trained down": (self_report._pcie_width, {"pcie.width.current": 8}),
    "PCIe at half rate": (self_report._pcie_rate, {"pcie": 0.42}),
    "masked name": (self_report._name, {"name": "NVIDIA L20Y"}),
    "clock falls without a reason": (self_report._reasons, {"dip": 60}),
}
CLEAN: dict[str, Bar] = {
    "clean self-report": clean_self_report,
    "clean memory": partial(memory, None),
    "clean SMs": partial(wrong_sm, False),
    "the same board": partial(swapped, False),
    "clean hunt for limiters": clean_hunt,
}
PLANTS: dict[str, Bar] = {
    **{name: partial(misreport, *how) for name, how in MISREPORTS.items()},
    **{f"memory, {name}": partial(memory, name) for name in FAULTS},
    "one SM wrong once in 10^9 words": partial(wrong_sm, True),
    "swapped board": partial(swapped, True),
    **{f"limiter, {name}": partial(limited, name) for name in LIMITERS},
}


def found_in(name: str, seed: int) -> tuple[bool, float]:
    """Whether that bar's part shows something, and the CPU seconds that this took."""
    started = time.process_time()
    return (CLEAN | PLANTS)[name](seed), time.process_time() - started


def main() -> int:
    """Runs every bar whose name holds one of the words given; 0 where all are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    names = [name for name in CLEAN | PLANTS if not given.words or any(word in name for word in given.words)]
    missed = not names
    with ProcessPoolExecutor(given.processes) as pool:
        for name in names:
            results = list(pool.map(partial(found_in, name), range(given.seeds), chunksize=5))
            found, cpu_s = sum(hit for hit, _ in results), sum(s for _, s in results)
            met = found <= FALSE_ALARMS * given.seeds if name in CLEAN else found == given.seeds
            missed |= not met
            word = "false alarms" if name in CLEAN else "found"
            print(
                f"{'met   ' if met else 'MISSED'} {name:36} {found} {word} in {given.seeds}; {cpu_s:.0f} s CPU",
                flush=True,
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
