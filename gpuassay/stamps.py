"""The SMs' stamps of many rounds, taken at once: a record holds a million of them, and a call for each round is slow.

A column of stamps (`sm_id`, `sm_cycles`, `sm_work` of record.Record.rounds) has one array per round, with one value per
SM or block; arrays of one round have one length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

CYCLES = 100.0  # barrier and stamp at either end of a kernel; an upper bound, reads of clock64 take tens


def medians(values: Iterable[Any], divisors: Iterable[Any] | None = None) -> NDArray[np.float64]:
    """The median of each array, (rounds,); with `divisors` of the quotients, element by element."""
    arrays = list(values)
    under = None if divisors is None else list(divisors)
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    found = np.full(len(arrays), np.nan)
    for length in np.unique(lengths[lengths > 0]):
        places = np.flatnonzero(lengths == length)
        stack = np.array([arrays[place] for place in places], dtype=float)
        if under is not None:
            stack = stack / np.array([under[place] for place in places], dtype=float)
        found[places] = np.median(stack, axis=1)
    return found


def sms(ids: Iterable[Any]) -> set[int]:
    """The distinct SM numbers of a column `sm_id`."""
    arrays = list(ids)
    return set(np.unique(np.concatenate(arrays)).tolist()) if arrays else set()


def by_sm(ids: Iterable[Any], values: Iterable[Any], divisors: Iterable[Any]) -> dict[int, float]:
    """Per SM the median of its quotients over all rounds, by SM number."""
    columns = [list(column) for column in (ids, values, divisors)]
    if not columns[0]:
        return {}
    sm, over, under = (np.concatenate(column) for column in columns)
    quotients = over / under
    order = np.lexsort((quotients, sm))
    numbers, first, count = np.unique(sm[order], return_index=True, return_counts=True)
    ordered = quotients[order]
    middle = (ordered[first + (count - 1) // 2] + ordered[first + count // 2]) / 2
    return dict(zip(numbers.tolist(), middle.tolist(), strict=True))
