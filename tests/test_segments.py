"""The cut of a series into levels: the best of all cuts, and the one that ruptures finds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.segments import ends

SERIES = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=8)


def cost(values: np.ndarray, cut: tuple[int, ...], penalty: float) -> float:
    pieces = np.split(values, cut)
    return sum(float(((piece - piece.mean()) ** 2).sum()) for piece in pieces) + penalty * len(cut)


@given(SERIES, st.floats(0.01, 1000), st.integers(1, 3))
def test_no_cut_is_better(values: list[float], penalty: float, min_size: int) -> None:
    series = np.array(values)
    found = ends(series, penalty, min_size)
    assert found[-1] == len(series)
    cuts = [
        cut
        for count in range(len(series))
        for cut in combinations(range(1, len(series)), count)
        if not cut or min(np.diff([0, *cut, len(series)])) >= min_size
    ]
    best = min(cost(series, cut, penalty) for cut in cuts)
    assert cost(series, tuple(found[:-1]), penalty) == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("min_size", [1, 5])
def test_it_is_what_ruptures_finds(seed: int, min_size: int) -> None:
    from ruptures import KernelCPD

    rng = np.random.default_rng(seed)
    series = 1 + 0.01 * rng.standard_normal(120) + 0.05 * np.repeat(rng.integers(0, 3, 6), 20)
    penalty = 4 * np.log(120) * 0.01**2
    theirs = KernelCPD(kernel="linear", min_size=min_size).fit_predict(series.reshape(-1, 1), pen=penalty)
    assert ends(series, penalty, min_size) == theirs


def test_short_series() -> None:
    assert ends([], 1.0) == []
    assert ends([2.0], 1.0) == [1]
    assert ends([1.0, 5.0], 1.0, min_size=2) == [2]
    assert ends([1.0, 5.0], 1.0) == [1, 2]
