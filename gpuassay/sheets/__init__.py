"""Published specification sheets of GPUs, and what their silicon does.

One TOML file per part lies beside this module. A sheet keeps two things apart:

* **published**: the figures that a data sheet, a vendor or a leak printed, digit for digit.
  Where sources disagree, all of them stay, and one is marked as the figure judged against,
  with the reason.
* **silicon**: what the architecture does per SM and clock, and what a device query showed.

Every figure names a source of the same file, and every source says how far it can be trusted.

>>> h20 = load("H20")
>>> h20.published_quantity("tensor.bf16").text
'148 TFLOP/s'

Names that were asked for but never published (``unpublished("L10")``) have an answer of their own.
"""

from .choosing import MEMORY_TOLERANCE, Choice, choose
from .model import (
    CONFIDENCES,
    QUANTITIES,
    UNITS,
    Confidence,
    Evidence,
    Identity,
    Kind,
    Quantity,
    Sheet,
    Source,
    Unit,
    Unpublished,
    believed,
)
from .read import MAX_BYTES, Problem, SheetError, all_sheets, load, names, unpublished

__all__ = [
    "CONFIDENCES",
    "MAX_BYTES",
    "MEMORY_TOLERANCE",
    "QUANTITIES",
    "UNITS",
    "Choice",
    "Confidence",
    "Evidence",
    "Identity",
    "Kind",
    "Problem",
    "Quantity",
    "Sheet",
    "SheetError",
    "Source",
    "Unit",
    "Unpublished",
    "all_sheets",
    "believed",
    "choose",
    "load",
    "names",
    "unpublished",
]
