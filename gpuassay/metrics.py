"""The metrics of metrics.toml: what each is called, its unit, and which sheet quantity it is held against."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal

SUSTAINED, ENERGY = ".sustained", "energy."


@dataclass(frozen=True)
class Metric:
    """One entry of metrics.toml."""

    name: str
    title: str
    kind: Literal["count", "rate", "bandwidth", "size", "clock", "latency", "other"]
    unit: str
    published: str | None = None
    tolerance: float = 0.0
    compared_with: str | None = None

    @property
    def sustained(self) -> bool:
        """Whether this is a settled rate: what a job gets, no statement about the silicon's capability."""
        return self.name.endswith(SUSTAINED)

    @property
    def base(self) -> str:
        """The name of the metric whose limit and calibration apply."""
        return self.name.removesuffix(SUSTAINED)

    @property
    def curve_point(self) -> str | None:
        """ "n8" or "n8.register_a" for tensor.bf16.n8 and so on: a point of the curve over the instruction's shape."""
        point = self.name.removeprefix(f"{self.compared_with}.")
        return point if re.match(r"n\d", point) else None

    @property
    def pair(self) -> tuple[int, int] | None:
        """(0, 1) for peer.read.0-1: one cell of a matrix over pairs of GPUs."""
        match = re.fullmatch(r"peer\.\w+\.(\d+)-(\d+)", self.name)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def headline(self) -> bool:
        """Whether it has a row of its own: points of curves and cells of matrices would drown the others."""
        return self.curve_point is None and self.pair is None


@cache
def metrics() -> dict[str, Metric]:
    """The metrics of metrics.toml, in its order."""
    table = tomllib.loads(files(__package__).joinpath("metrics.toml").read_text(encoding="utf-8"))
    return {name: Metric(name, **entry) for name, entry in table["metric"].items()}


def known(name: str) -> Metric | None:
    """The metric of that name, `.sustained` and `energy.` forms included, or None."""
    if name in metrics():
        return metrics()[name]
    if name.startswith("peer.") and (pair := name.rpartition("."))[0] in metrics():
        between = metrics()[pair[0]]  # peer.one_way.0-1: from device 0 to 1
        return replace(between, name=name, title=f"{between.title}, devices {pair[2]}")
    base = metrics().get(name.removesuffix(SUSTAINED).removeprefix(ENERGY))
    if base is None or base.kind != "rate":
        return None
    if name == base.name + SUSTAINED:
        return replace(base, name=name, title=f"{base.title}, sustained")
    if name == ENERGY + base.name:
        per_joule = base.unit.replace("/s", "/J")
        return Metric(name, f"{base.title}, operations per joule", "other", per_joule)
    return None


def metric(name: str) -> Metric:
    """The metric of that name. One that metrics.toml does not list is shown, and judged against nothing."""
    return known(name) or Metric(name, name, "other", "FLOP/s")
