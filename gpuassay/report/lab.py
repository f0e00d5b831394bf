"""lab.toml: what only the laboratory knows of a test report (ISO/IEC 17025:2017, 7.8)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class LabError(Exception):
    """A lab.toml that cannot be used. One sentence: what, where, what to do."""


class Lab(BaseModel):
    """The fields of lab.toml. All are text and may be absent; what is absent is shown as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    report_number: str | None = None
    laboratory: str | None = None
    address: str | None = None
    location: str | None = None
    customer: str | None = None
    item: str | None = None
    item_condition: str | None = None
    received: str | None = None
    sampling: str | None = None
    procedure: str | None = None
    issued: str | None = None
    authorised_by: str | None = None
    deviations: str | None = None
    external_results: str | None = None
    opinions: str | None = None
    amendments: str | None = None
    customer_supplied: dict[str, str] = Field(default_factory=dict)


def read(path: Path) -> Lab:
    """The lab.toml at `path`. Raises LabError."""
    try:
        return Lab.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}; check the path of --lab") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(place) for place in first["loc"])
        raise LabError(f"{path}, {where}: {first['msg']}; known fields: {', '.join(Lab.model_fields)}") from error
    except (ValueError, RecursionError) as error:
        # Not TOMLDecodeError alone: tomllib lets Python's limits on digits and on depth through.
        raise LabError(f"{path} is no TOML: {error}") from error
