"""Is this the board of last time? The map of each SM's latency to L2 differs from die to die of one product.

The map says nothing of who made a part; it tells whether two visits of one lab saw the same die. It is as private as a
serial number: it stays out of shared and redacted reports.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import Row, Word

FEWEST_SMS = 16
SAME = 0.95  # correlation of two maps of one die; the highest that was published of two dies of one product is 0.63
OTHER = 0.80  # ... below this, another die; between them, no answer
SOURCE = "arXiv 2606.22588: L40, two identical cards, r = 0.63, told apart in every trial"


def compare(then: Mapping[int, float], now: Mapping[int, float]) -> Row:
    """Two maps of SM to L2 latency in cycles, compared by their correlation over the SMs.

    An SM that only one of the maps has is another die's, or one that was disabled meanwhile.
    """
    check = "same unit as before"
    common = sorted(then.keys() & now.keys())
    if len(common) < FEWEST_SMS:
        return Row(check, "not tested", f"The two maps share {len(common)} SMs; {FEWEST_SMS} are needed.")
    before, after = (np.array([side[sm] for sm in common], float) for side in (then, now))
    if before.std() == 0 or after.std() == 0:
        return Row(check, "not tested", "A map without any difference between SMs tells no dies apart.")
    r = float(np.corrcoef(before, after)[0, 1])
    n = len(common)
    # Fisher's transformation: the interval of r at k = 2.
    half = 2 / (n - 3) ** 0.5
    low, high = (float(np.tanh(np.arctanh(min(r, 1 - 1e-12)) + side * half)) for side in (-1, 1))
    word: Word = "not tested"
    if then.keys() != now.keys() or high < OTHER:
        word = "inconsistent"
    elif low > OTHER and r > SAME:
        word = "consistent"
    text = f"SM to L2 latency of {n} SMs, correlated with the earlier map; another map means another die ({SOURCE})."
    return Row(check, word, text, 1.0, r, (high - low) / 2, "1", {"sms": n, "private": True})
