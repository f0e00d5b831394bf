"""Which known part is this? A posterior over the catalogue, and over "none of these".

Every piece of evidence has a likelihood under each candidate: SM count, rate per clock and SM of every data type,
bandwidth, sizes, compute capability, PCI id, name. Labels (name, PCI id) are evidence among others: their weight is
bounded, so that silicon that disagrees outweighs them. Every measured item may also be an outlier (with OUTLIER
probability), so that no single one decides alone.

Values may be arrays of one value per simulated run; labels are the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import calibration
from .conformity import nominal_limit, sm_count
from .measured import measurements
from .metrics import metric
from .record import Record
from .sheets import Quantity, Sheet, all_sheets
from .uncertainty import Measured, combined

NONE = "none of these"
PRIOR_NONE = 0.05  # probability, before any evidence, that the catalogue does not hold the part
OUTLIER = 0.03  # probability that one item of evidence says nothing of the part
# ... that an L2 size from a database does: TechPowerUp's of the H200 is the H100's, and a real one has more.
CARRIED_OVER = 0.5
BROAD = 2 * math.log(64)  # an item that says nothing lies anywhere within a factor of 64 either way
IDENTIFIED = 0.95  # posterior from which a part counts as identified

# (right label, a label that no sheet knows, a label of another part), as probabilities: clouds relabel parts, and
# two lists of PCI ids give one id to two parts.
NAME = (0.90, 0.08, 0.02)
PCI_ID = (0.94, 0.05, 0.01)
COMPUTE_CAPABILITIES = 8  # distinct ones among the parts that this program can measure


@dataclass(frozen=True)
class Evidence:
    """What is known of a device. None: not known. `measured` by metric; sizes in B."""

    measured: Mapping[str, Measured]
    sm_count: Any = None
    compute_capability: str | None = None
    memory_bytes: float | None = None
    l2_bytes: float | None = None
    pci_device_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One part of the catalogue, or NONE, with its posterior probability; `contributions`: log10 of the likelihood
    ratio to NONE that each item of evidence adds."""

    name: str
    posterior: float
    contributions: dict[str, float]


@dataclass(frozen=True)
class Identification:
    """The candidates, most probable first; `label`: whether what the device calls itself fits the most probable."""

    part: str
    candidates: tuple[Candidate, ...]
    label: str
    findings: tuple[str, ...]

    @property
    def identified(self) -> str | None:
        """The sheet's name where one part is probable enough; None where several, or none, fit."""
        best = self.candidates[0]
        return best.name if best.posterior >= IDENTIFIED and best.name != NONE else None


def evidence_of(record: Record) -> Evidence:
    """The evidence that a record holds."""
    claims = record.claims
    taken = dict(measurements(record))
    sms = taken.pop("count.sm", None)
    memory, l2 = claims.get("memory.size") or claims.get("cuda.memory.size"), claims.get("l2.size")
    if record.vgpu:
        memory = None
    if record.mig:  # an instance has less of these than any part: only what an SM does in a clock identifies
        sms = memory = l2 = None
        taken = {name: found for name, found in taken.items() if metric(name).kind == "rate"}
    return Evidence(
        measured=taken,
        sm_count=sms.rate if sms else None,
        compute_capability=claims.get("compute_capability") or claims.get("cuda.compute_capability"),
        memory_bytes=float(memory) if memory else None,
        l2_bytes=float(l2) if l2 else None,
        pci_device_id=claims.get("pci.device_id"),
        name=claims.get("name") or claims.get("cuda.name"),
    )


def identify(evidence: Evidence, part: str) -> Identification:
    """The posterior over the shipped catalogue for one device."""
    sheets = known_parts()
    names = [sheet.name for sheet in sheets] + [NONE]
    weights = weigh(evidence, sheets)
    posterior = posteriors(weights, len(sheets))
    order = np.argsort(-posterior)
    candidates = tuple(
        Candidate(
            names[i],
            float(posterior[i]),
            {item: float((weight[i] - weight[-1]) / math.log(10)) for item, weight in weights.items()},
        )
        for i in order
    )
    best = candidates[0].name
    labels = {item: owner(evidence, item, sheets) for item in ("name", "PCI id")}
    findings = tuple(
        f"{item}: the label of {there}, the silicon of {best}: label does not match class"
        for item, there in labels.items()
        if there not in (None, best)
    )
    if masked(evidence, sheets):
        findings += (f"name: {evidence.name} is a masked name, no published part: label does not match class",)
    against = [item for item, gain in candidates[0].contributions.items() if gain < -1 and best != NONE]
    findings += tuple(f"{item} speaks against {best}" for item in against if item not in labels)
    known = [there for there in labels.values() if there is not None]
    label = (
        "label does not match class"
        if masked(evidence, sheets) or any(there != best for there in known)
        else "consistent"
        if known
        else "unknown label"
    )
    return Identification(part, candidates, label, findings)


def known_parts() -> list[Sheet]:
    """The parts that this program can measure: those with a compute capability."""
    return [sheet for sheet in all_sheets() if sheet.identity.compute_capability]


def posteriors(weights: Mapping[str, Any], candidates: int) -> Any:
    """Posterior probabilities, shape (..., candidates + 1), the last one NONE."""
    prior = np.log(np.array([(1 - PRIOR_NONE) / candidates] * candidates + [PRIOR_NONE]))
    total = sum(weights.values(), prior)
    likelihood = np.exp(total - np.max(total, axis=-1, keepdims=True))
    return likelihood / np.sum(likelihood, axis=-1, keepdims=True)


def weigh(evidence: Evidence, sheets: Sequence[Sheet]) -> dict[str, Any]:
    """Natural log of the likelihood of each item of evidence, shape (..., candidates + 1), the last one NONE."""
    found: dict[str, Any] = {}
    if evidence.sm_count is not None:
        found["SM count"] = _each(sheets, lambda sheet: _sms(evidence.sm_count, sm_count(sheet)), -math.log(200))
    if evidence.compute_capability is not None:
        found["compute capability"] = _each(
            sheets,
            lambda sheet: math.log(0.999 if sheet.identity.compute_capability == evidence.compute_capability else 1e-4),
            -math.log(COMPUTE_CAPABILITIES),
        )
    for name, taken in evidence.measured.items():
        if metric(name).kind in ("rate", "bandwidth") and metric(name).published:
            weight = _each(sheets, lambda sheet, n=name, m=taken: _rate(n, m, sheet), -math.log(BROAD))
            if weight is not None:
                found[name] = weight
    for item, size, quantity in (
        ("memory size", evidence.memory_bytes, "memory.size"),
        ("L2 size", evidence.l2_bytes, "l2.size"),
    ):
        if size:
            found[item] = _each(sheets, lambda sheet, s=size, q=quantity: _size(s, sheet, q), -math.log(BROAD))
    for item, probabilities in (("name", NAME), ("PCI id", PCI_ID)):
        if (evidence.name if item == "name" else evidence.pci_device_id) is None:
            continue
        there = owner(evidence, item, sheets)
        right, unknown, wrong = (math.log(p) for p in probabilities)
        found[item] = np.array(
            [right if sheet.name == there else unknown if there is None else wrong for sheet in sheets] + [unknown]
        )
    return found


def owner(evidence: Evidence, item: str, sheets: Sequence[Sheet]) -> str | None:
    """Which part the device's label belongs to: its name (masked names count for the silicon they were seen on) or
    its PCI id. None where no sheet knows it."""
    if item == "PCI id":
        return next((s.name for s in sheets if evidence.pci_device_id in s.identity.pci_device_ids), None)
    if evidence.name is None:
        return None
    wanted = evidence.name.casefold()
    for field in ("driver_names", "masked_names"):
        for sheet in sheets:
            if wanted in {name.casefold() for name in getattr(sheet.identity, field)}:
                return sheet.name
    return None


def masked(evidence: Evidence, sheets: Sequence[Sheet]) -> bool:
    """Whether the name is one that some cloud gave to silicon that no published part of that name has."""
    wanted = (evidence.name or "").casefold()
    return any(wanted == name.casefold() for sheet in sheets for name in sheet.identity.masked_names)


# -- one item under one candidate -----------------------------------------------------------------------------


def _each(sheets: Sequence[Sheet], weight: Any, none: float) -> Any:
    """(..., candidates + 1) from one weight a sheet; None where no sheet says anything."""
    columns = [weight(sheet) for sheet in sheets]
    if all(column is None for column in columns):
        return None
    rows = [np.asarray(none if column is None else column, float) for column in columns] + [np.asarray(none, float)]
    return np.stack(np.broadcast_arrays(*rows), axis=-1)


def _sms(seen: Any, sheet: float | None) -> Any:
    """As many as the sheet says; fewer where SMs are hidden (a partition, a limit); more never."""
    if sheet is None:
        return None
    seen = np.asarray(seen)
    return np.log(np.select([seen == sheet, seen < sheet], [0.97, 0.03 / sheet], 1e-6))


def _rate(name: str, taken: Measured, sheet: Sheet) -> Any:
    """Measured over limit and attainment: log-normal about 1, or an outlier."""
    limit = nominal_limit(metric(name), sheet)
    value = taken.per_clock if metric(name).kind == "rate" else taken.rate
    if limit is None or value is None:
        return None
    attained = calibration.attainment(metric(name).base, sheet.identity.compute_capability)
    terms = taken.clock_terms if metric(name).kind == "rate" else taken.terms
    u, _ = combined(terms + ((attained.term,) if attained else ()))
    if isinstance(limit, Quantity):
        limit = limit.si
    # Half the tolerance stands for what parts of one type, and silicon rates on sheets, may differ by.
    sigma = np.hypot(u, max(metric(name).tolerance, 0.01) / 2)
    deviation = np.log(value / (attained.value if attained else 1.0) / limit) / sigma
    density = np.exp(-0.5 * deviation**2) / (sigma * math.sqrt(2 * math.pi))
    return np.log((1 - OUTLIER) * density + OUTLIER / BROAD)


def _size(seen: float, sheet: Sheet, quantity: str) -> float | None:
    """Between a little under the printed decimal size and its binary reading (sheets.MEMORY_TOLERANCE), uniformly."""
    printed = sheet.published_quantity(quantity) or sheet.silicon_quantity(quantity)
    if printed is None:
        return None
    inside = -0.03 <= math.log(seen / printed.si) <= 0.08
    carried_over = quantity == "l2.size" and sheet.sources[printed.source].confidence == "database"
    outlier = CARRIED_OVER if carried_over else OUTLIER
    return math.log((1 - outlier) / 0.11 * inside + outlier / BROAD)
