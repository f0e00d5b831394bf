"""gpuassay: is this GPU what its spec sheet says it is?

`gpuassay.load(path)` gives the rounds of a record, or of a directory or glob of them, as one pandas DataFrame,
`gpuassay.estimates(paths)` one row per record and metric, `gpuassay.read(path)` one whole record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .record import read
    from .store import estimates, load

__all__ = ["__version__", "estimates", "load", "read"]


def __getattr__(name: str) -> Any:
    """Loads the modules only where they are used, so that `gpuassay --help` stays quick."""
    if name == "read":
        from .record import read

        return read
    if name in ("estimates", "load"):
        from . import store

        return getattr(store, name)
    raise AttributeError(f"module 'gpuassay' has no attribute {name!r}")
