"""A stand-in for cupy.ndarray, for tests that run the host side of a launch without a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class Array(np.ndarray):
    """A NumPy array that stands for one on the device."""

    def get(self) -> np.ndarray:
        return np.asarray(self).copy()

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(memset=lambda byte, size: self.view(np.uint8).fill(byte))
