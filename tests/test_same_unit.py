"""The map of SM to L2 latency: one die twice, two dies of one product, and too little to say."""

from __future__ import annotations

import numpy as np

from gpuassay.audit.same_unit import compare


def die(seed: int, sms: int = 132) -> dict[int, float]:
    """220 to 340 cycles: half of the spread is the floor plan that all dies share, half is this die's."""
    plan, own = np.random.default_rng(0).normal(0, 20, sms), np.random.default_rng(seed).normal(0, 18, sms)
    return dict(enumerate(270 + plan + own))


def again(first: dict[int, float], seed: int) -> dict[int, float]:
    noise = np.random.default_rng(seed).normal(0, 0.5, len(first))
    return {sm: cycles + n for (sm, cycles), n in zip(first.items(), noise, strict=True)}


def test_one_die_is_always_itself() -> None:
    assert {compare(die(s), again(die(s), s + 5000)).verdict for s in range(1, 300)} == {"consistent"}


def test_a_swapped_board_is_always_found() -> None:
    assert {compare(die(s), again(die(s + 1), s)).verdict for s in range(1, 300)} == {"inconsistent"}


def test_an_sm_that_went_is_found() -> None:
    then = die(1)
    now = again(then, 2)
    del now[57]
    assert compare(then, now).verdict == "inconsistent"


def test_too_little_says_nothing() -> None:
    assert compare(die(1, 8), die(1, 8)).verdict == "not tested"
    flat = dict.fromkeys(range(132), 270.0)
    assert compare(flat, flat).verdict == "not tested"


def test_a_map_is_marked_private() -> None:
    row = compare(die(1), again(die(1), 2))
    assert row.details["private"] is True
    assert not any(isinstance(value, list | dict) for value in row.details.values())
