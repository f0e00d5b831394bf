"""gpuassay: is this GPU what its spec sheet says it is?

`gpuassay.load(path)` gives a run record's rounds as one pandas DataFrame; `gpuassay.read(path)` the whole record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .record import load, read

__all__ = ["__version__", "load", "read"]


def __getattr__(name: str) -> Any:
    """Loads the record module only where it is used, so that `gpuassay --help` stays quick."""
    if name in ("load", "read"):
        from . import record

        return getattr(record, name)
    raise AttributeError(f"module 'gpuassay' has no attribute {name!r}")
