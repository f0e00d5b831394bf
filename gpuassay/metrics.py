"""The metrics of metrics.toml: what each is called, which sheet quantity it is held against, what to expect of it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal


@dataclass(frozen=True)
class Attainment:
    """Share of a nominal limit that the instrument attains on a known-good part."""

    value: float
    standard_uncertainty: float
    source: str


@dataclass(frozen=True)
class Metric:
    """One entry of metrics.toml."""

    name: str
    title: str
    kind: Literal["count", "rate", "bandwidth"]
    unit: str
    published: str | None = None
    tolerance: float = 0.0
    attainment: Attainment | None = None
    compared_with: str | None = None

    @property
    def curve_point(self) -> str | None:
        """ "n8" or "n8.register_a" for tensor.bf16.n8 and so on: a variant of the metric it is compared with."""
        start = f"{self.compared_with}."
        return self.name.removeprefix(start) if self.name.startswith(start) else None


@cache
def metrics() -> dict[str, Metric]:
    """The metrics of metrics.toml, in its order."""
    table = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text(encoding="utf-8"))
    result = {}
    for name, entry in table["metric"].items():
        attainment = entry.pop("attainment", None)
        if attainment:
            attainment = Attainment(**attainment | {"source": table["source"][attainment["source"]]})
        result[name] = Metric(name, attainment=attainment, **entry)
    return result


def metric(name: str) -> Metric:
    """The metric of that name. One that metrics.toml does not list is shown, and judged against nothing."""
    return metrics().get(name, Metric(name, name, "rate", "FLOP/s"))
