"""Which shipped sheet a device belongs to, by what it shows of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .model import Sheet, normal, one_line, quote
from .read import all_sheets

#: Sheets print gigabytes, drivers report bytes, and the two differ for honest reasons: an HBM
#: part's "96 GB" are 96 GiB less what firmware and ECC keep (97871 MiB, +6.9 % of 96 GB; 143771
#: MiB for 141 GB and 81559 MiB for 80 GB likewise), while a GDDR6 part's bytes come out near or
#: below the printed figure. 8 % covers these, and still keeps 80 GB and 96 GB apart.
MEMORY_TOLERANCE = 0.08


@dataclass(frozen=True)
class Choice:
    """Which sheet a device belongs to, and why.

    ``sheet`` is None when nothing fits or more than one does: a guess would judge a part against
    another part's figures. ``evidence`` has one line per item, ``contradictions`` those in which
    the silicon belies the chosen sheet, or the device's labels each other; ``silicon_agrees`` says
    which of the two.
    """

    sheet: Sheet | None
    evidence: list[str]
    contradictions: list[str]
    silicon_agrees: bool


class _Item(NamedTuple):
    agrees: bool | None  # None: the device or the sheet does not say
    line: str


def _pci(text: str) -> str | None:
    """``10de:2329`` from what tools print: that itself, ``0x2329`` or NVML's ``0x232910DE``."""
    folded = text.strip().casefold()
    if re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}", folded):
        return folded
    digits = folded.removeprefix("0x")
    if re.fullmatch(r"[0-9a-f]{8}", digits):
        return f"{digits[4:]}:{digits[:4]}"
    if re.fullmatch(r"[0-9a-f]{4}", digits):
        return f"10de:{digits}"
    return None


def _item(what: str, shown: str | None, sheet: Sheet, said: str | None, ok: bool) -> _Item:
    if shown is not None:
        shown = one_line(shown)
    if shown is None or said is None:
        missing = f"the {sheet.name} sheet gives none" if said is None else "the device shows none"
        extra = f" (the device shows {shown})" if shown is not None else ""
        return _Item(None, f"{what}: {missing}{extra}")
    verdict = "agrees" if ok else "contradicts"
    return _Item(ok, f"{what}: the device shows {shown}, {sheet.name} is {said}: {verdict}")


class _Device(NamedTuple):
    pci: str | None
    sm_count: int | None
    compute_capability: str | None
    memory_bytes: int | None

    def silicon(self, sheet: Sheet) -> list[_Item]:
        """SM count, compute capability and memory size against one sheet."""
        sms = sheet.silicon_quantity("count.sm") or sheet.published_quantity("count.sm")
        memory = sheet.published_quantity("memory.size")
        fits = (
            self.memory_bytes is not None
            and memory is not None
            and abs(self.memory_bytes / memory.si - 1.0) <= MEMORY_TOLERANCE
        )
        return [
            _item(
                "SM count",
                None if self.sm_count is None else str(self.sm_count),
                sheet,
                None if sms is None else sms.text,
                sms is not None and self.sm_count == int(sms.value),
            ),
            _item(
                "compute capability",
                self.compute_capability,
                sheet,
                sheet.identity.compute_capability,
                self.compute_capability == sheet.identity.compute_capability,
            ),
            _item(
                "memory size",
                None if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.1f} GB",
                sheet,
                None if memory is None else memory.text,
                fits,
            ),
        ]

    def identified(self, sheet: Sheet) -> _Item:
        ids = sheet.identity.pci_device_ids
        return _item("PCI id", self.pci, sheet, " or ".join(ids) or None, self.pci in ids)

    def fits(self, sheet: Sheet) -> bool:
        """Whether nothing that is known about the silicon speaks against this sheet.

        SM count and compute capability have to speak for it. Where a sheet has no SM count (the
        L2's was never published) the PCI id has to, because a compute capability and a memory
        size are shared by too many parts.
        """
        sms, capability, memory = (item.agrees for item in self.silicon(sheet))
        if capability is not True or sms is False or memory is False:
            return False
        return sms is True or self.identified(sheet).agrees is True

    def leaves_open(self, sheet: Sheet) -> bool:
        """Whether this sheet could be the device's if only its SM count were known."""
        sms, capability, memory = (item.agrees for item in self.silicon(sheet))
        return sms is None and self.sm_count is not None and capability is True and memory is not False


def choose(
    *,
    pci_device_id: str | None,
    sm_count: int | None,
    compute_capability: str | None,
    memory_bytes: int | None,
    name: str | None,
) -> Choice:
    """The shipped sheet of the device that shows these traits.

    The PCI id (``10de:2329``, ``0x2329`` or ``0x232910DE``) decides, for it is what the part is
    sold as; SM count, compute capability and memory size that contradict it are reported. Where
    the id is not known, SM count and compute capability must agree with one sheet only, and memory
    size must not contradict. The name never decides: clouds relabel parts, and a name that the
    silicon contradicts is reported. Anything not known is None; an id that no sheet lists leads to
    no sheet, because unlisted parts share listed parts' silicon (an H20 NVL16 is not an H20).
    """
    evidence: list[str] = []
    contradictions: list[str] = []
    pci = None
    if pci_device_id is not None:
        pci = _pci(pci_device_id)
        if pci is None:
            evidence.append(f"PCI id: {one_line(quote(pci_device_id))} is in no known form, so unknown")
    device = _Device(pci, sm_count, compute_capability, memory_bytes)
    sheets = [sheet for sheet in all_sheets() if not sheet.comparison_only]
    candidates = [sheet for sheet in sheets if device.fits(sheet)]
    # Without an id, a part whose SM count nobody published cannot be told from one that fits.
    open_ = [sheet.name for sheet in sheets if pci is None and sheet not in candidates and device.leaves_open(sheet)]
    owner = next((s for s in sheets if pci and pci in s.identity.pci_device_ids), None)

    chosen: Sheet | None = None
    if owner is not None:
        # What a part is sold as is what it is held against, also where its silicon is another's. But an id that stands
        # for another part as well belies nothing.
        chosen = owner if owner in candidates or pci not in owner.identity.ambiguous_pci_ids else None
    elif pci is None and pci_device_id is None and len(candidates) == 1 and not open_:
        chosen = candidates[0]

    fitting = " and ".join(sheet.name for sheet in candidates)
    # With nothing that fits, the evidence shows what speaks against the likeliest sheets.
    likeliest = [owner] if owner else _nearest(device, sheets)
    subjects = [chosen] if chosen else candidates or likeliest
    for subject in subjects:
        evidence += [item.line for item in device.silicon(subject)]
        if chosen or owner or pci is None or not candidates:  # an id on no sheet is said once
            evidence.append(device.identified(subject).line)
    silicon_agrees = True
    if owner is not None and owner not in candidates:
        contradictions += [item.line for item in device.silicon(owner) if item.agrees is False]
        silicon_agrees = not contradictions
        if owner not in subjects:
            evidence += [item.line for item in device.silicon(owner)]
        if chosen is None:
            evidence.append(f"sheet: none, because the PCI id {pci} stands for another part than {owner.name} as well")
        elif not silicon_agrees:
            evidence.append(f"sheet: {owner.name}, because the PCI id {pci} is its own, not because of the silicon")
        if fitting:
            evidence.append(f"candidates: by its silicon it could be {fitting}")
    elif chosen is None and candidates:
        if pci is not None:
            evidence.append(f"PCI id: {pci} is on no sheet, and unlisted parts share this silicon")
        why = "more than one fits" if len(candidates) > 1 else "one fits by its silicon alone"
        evidence.append(f"candidates: {fitting} ({why}); only a PCI id decides")
    elif chosen is None:
        evidence.append("sheet: none fits; name one yourself if you know the part")
    elif pci is None:
        evidence.append("PCI id: unknown, so a part without a sheet cannot be ruled out")
    elif pci in chosen.identity.ambiguous_pci_ids:
        evidence.append(f"PCI id: {pci} stands for another part as well in its maker's lists; the silicon decided")
    if candidates and open_:
        evidence.append(
            f"candidates: {' and '.join(open_)} cannot be ruled out, because its SM count was never published"
        )

    if name is not None:
        line, against = _judge_name(name, device, sheets, chosen, candidates)
        evidence.append(line)
        if against:
            contradictions.append(line)
    return Choice(chosen, evidence, contradictions, silicon_agrees)


def _nearest(device: _Device, sheets: list[Sheet]) -> list[Sheet]:
    """The sheets with the most traits in common, to show what speaks against them."""

    def score(sheet: Sheet) -> int:
        items = [*device.silicon(sheet), device.identified(sheet)]
        return sum((item.agrees is True) - (item.agrees is False) for item in items)

    best = max(map(score, sheets), default=0)
    return [sheet for sheet in sheets if score(sheet) == best][:2]


def _judge_name(
    name: str,
    device: _Device,
    sheets: list[Sheet],
    chosen: Sheet | None,
    candidates: list[Sheet],
) -> tuple[str, bool]:
    """What the driver's name says, and whether the silicon contradicts it."""
    shown = f"name: the driver says {one_line(quote(name))}"
    wanted = normal(name)

    def bears(sheet: Sheet, listed: Iterable[str]) -> bool:
        return wanted in {normal(known) for known in listed}

    if chosen is not None and bears(chosen, chosen.identity.driver_names):
        return f"{shown}, {chosen.name}'s own name: agrees", False
    masked = next((s for s in sheets if bears(s, s.identity.masked_names)), None)
    if masked is not None:
        fit = chosen.name if chosen in candidates else " or ".join(s.name for s in candidates) or "no sheet"
        return (
            f"{shown}, a label that does not match class: it has been seen on {masked.name}"
            f" silicon, and this silicon is that of {fit}: contradicts",
            True,
        )
    named = next((s for s in sheets if bears(s, (s.name, *s.aliases, *s.identity.driver_names))), None)
    if named is None:
        return f"{shown}, which no sheet knows: decides nothing", False
    if chosen is None and named in candidates:
        return f"{shown}, which fits {named.name}, but a name never decides", False
    if named is chosen:
        return f"{shown}, which means {named.name}: agrees", False
    wrong = [item.line for item in device.silicon(named) if item.agrees is False]
    if not wrong and chosen is not None:
        return f"{shown}, which means {named.name}, but the PCI id means {chosen.name}: contradicts", True
    because = f" ({'; '.join(wrong)})" if wrong else ""
    return f"{shown}, which means {named.name}, but the device does not{because}: contradicts", True
