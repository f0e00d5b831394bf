"""Is this the board of last time? The map of each SM's latency to L2 differs from die to die of one product.

The map says nothing of who made a part; it tells whether two visits of one lab saw the same die. It is as private as a
serial number: it stays out of shared and redacted reports, and no row holds it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..hierarchy import ALL_SMS, sm_map
from ..record import Record
from . import Row, Word

FEWEST_SMS = 16
SAME = 0.95  # correlation of two maps of one die; the highest that was published of two dies of one product is 0.63
OTHER = 0.80  # ... below this, another die; between them, no answer
SOURCE = "arXiv 2606.22588: L40, two identical cards, r = 0.63, told apart in every trial"
# Claims that one board keeps for life, and those that an update changes.
LASTING = ("uuid", "serial", "name", "pci.device_id", "pci.subsystem_id", "count.sm", "memory.size", "memory.bus_width")
CHANGING = ("vbios.version", "driver.version", "ecc.mode")


def rows(then: Record, now: Record) -> list[Row]:
    """Whether `now` is of the board of `then`: by what it says of itself, and by its map."""
    return [_identity(then, now), _map_row(then, now)]


def _identity(then: Record, now: Record) -> Row:
    """Names of what differs only: the values may be private."""
    check = "same labels as before"
    common = [name for name in LASTING if name in then.claims and name in now.claims]
    other = [name for name in common if then.claims[name] != now.claims[name]]
    if not {"uuid", "serial"} & set(common):
        return Row(check, "not tested", "The two records share neither a UUID nor a serial number.")
    updated = [n for n in CHANGING if n in then.claims and n in now.claims and then.claims[n] != now.claims[n]]
    text = f"{len(common)} claims that a board keeps for life were compared; "
    text += f"others than before: {', '.join(other)}; " if other else "all are as before; "
    text += f"changed, as an update does: {', '.join(updated)}; " if updated else ""
    text += "a label can be written, so that the same one is no proof of the same board."
    word: Word = "inconsistent" if other else "consistent"
    return Row(check, word, text, len(common), len(common) - len(other), 0.0, "1", {"others": other})


def _map_row(then: Record, now: Record) -> Row:
    check = "same unit as before"
    maps = sm_map(then), sm_map(now)
    if not all(maps):
        which = "neither record has it" if not any(maps) else f"the {'earlier' if maps[1] else 'later'} record lacks it"
        text = f"The map of SM to L2 latency ({ALL_SMS}) is measured by the profiles standard, full and audit; {which}."
        return Row(check, "not tested", text)
    sources = {str(k["source_sha256"]) for record in (then, now) for k in record.kernels if k["metric"] == ALL_SMS}
    if len(sources) > 1:
        return Row(check, "not tested", "The two maps were measured by different kernels: measure both anew.")
    return compare(*maps)


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
