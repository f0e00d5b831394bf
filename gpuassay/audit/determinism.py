"""The same work on every SM, again and again: are all results alike, bit by bit?

Every block of an arithmetic kernel computes on the same operands, so all blocks of all launches must leave the same
bits. Each block's output is digested; the digest that most blocks share is right, and an SM that ever left another is
named. The part warms up under its own load, from the first metric on, and each row says from and to which temperature.
An error that the rounding of a later sum swallows does not show; in integers every one does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import Row, Word

if TYPE_CHECKING:
    from ..cuda import CudaDevice

METRICS = ("tensor.bf16", "tensor.fp16", "tensor.tf32", "tensor.fp8_e4m3", "tensor.int8", "vector.fp32", "vector.fp64")
SECONDS = 10.0  # of each metric
ROUND_S = 0.1  # long against the 20 ms in which the host digests a launch's output: the part is to warm up


@dataclass
class Tally:
    """Digests of blocks by the SM that left them, launch by launch."""

    words: int = 0
    launches: int = 0
    blocks: Counter[bytes] = field(default_factory=Counter)
    by_sm: dict[int, Counter[bytes]] = field(default_factory=dict)
    first_seen: dict[bytes, int] = field(default_factory=dict)
    temperatures_c: list[float | None] = field(default_factory=list)  # before the first launch, after the last

    def add(self, sm_ids: Iterable[int], digests: Sequence[bytes], words: int) -> None:
        """One launch: block i ran on sm_ids[i] and left digests[i]; `words` of output in all."""
        for sm, digest in zip(sm_ids, digests, strict=True):
            self.by_sm.setdefault(int(sm), Counter())[digest] += 1
            self.first_seen.setdefault(digest, self.launches)
        self.blocks.update(digests)
        self.launches += 1
        self.words += words

    @property
    def faulty(self) -> dict[int, int]:
        """SM -> how many of its blocks left other bits than most blocks did."""
        if not self.blocks:
            return {}
        right = self.blocks.most_common(1)[0][0]
        wrong = {sm: seen.total() - seen[right] for sm, seen in sorted(self.by_sm.items())}
        return {sm: count for sm, count in wrong.items() if count}


def digests(outputs: Any) -> list[bytes]:
    """One of each block's output, shape (blocks, words); equal bits, equal digest."""
    return [blake2b(block.tobytes(), digest_size=16).digest() for block in outputs]


def row(metric: str, tally: Tally) -> Row:
    """The row of one metric."""
    faulty = tally.faulty
    word: Word = "not tested" if tally.launches < 2 else "inconsistent" if faulty else "consistent"
    text = f"{tally.launches} launches on {len(tally.by_sm)} SMs, the same operands in every block, {tally.words} words"
    if faulty:
        named = ", ".join(f"SM {sm} in {count} of {tally.by_sm[sm].total()} blocks" for sm, count in faulty.items())
        text += f"; other bits than most blocks left: {named}"
    text += warmed(tally.temperatures_c)
    text += "; a difference means that an SM computes wrongly at times."
    details = {
        "launches": tally.launches,
        "words": tally.words,
        "faulty_sms": {str(sm): n for sm, n in faulty.items()},
        "temperatures_c": tally.temperatures_c,
    }
    return Row(f"determinism {metric}", word, text, 0, sum(faulty.values()), 0.0, "1", details)


def warmed(temperatures_c: Sequence[float | None]) -> str:
    """From and to which temperature; nothing where one of them is not known."""
    known = [celsius for celsius in temperatures_c if celsius is not None]
    return f"; from {known[0]:g} to {known[-1]:g} °C" if known and len(known) == len(temperatures_c) else ""


def run(device: CudaDevice, seconds: float = SECONDS) -> list[Row]:
    """Every metric of METRICS that the device has a kernel for, so long each."""
    from ..device import SMID, DeviceError
    from ..kernels import kernels_for
    from ..kernels.compile import CompileError

    rows = []
    for metric in METRICS:
        kernel = next(
            (k for k in kernels_for(metric, "cuda c++") if k.architecture_for(device.compute_capability)), None
        )
        if kernel is None:
            continue
        try:
            workload = device.prepare(kernel, round_s=ROUND_S)
        except (DeviceError, CompileError) as error:
            rows.append(Row(f"determinism {metric}", "not tested", str(error)))
            continue
        tally = Tally(temperatures_c=[temperature_c(device)])
        end = monotonic() + seconds
        try:
            while workload.check.passed and monotonic() < end:
                workload.launch()
                outputs = workload.outputs()
                sm_ids = workload.stamps(len(workload.launches) - 1)[:, SMID]
                tally.add(sm_ids, digests(outputs), outputs.size)
            tally.temperatures_c.append(temperature_c(device))
        finally:
            workload.close()
        if workload.check.passed:
            rows.append(row(metric, tally))
        else:
            text = f"The kernel's check against its reference failed at {workload.check.where}: it computes wrongly."
            rows.append(Row(f"determinism {metric}", "inconsistent", text))
    return rows


def temperature_c(device: CudaDevice) -> float | None:
    """What NVML says now; None where it does not."""
    with device.sensors() as sensors:
        found: Any = sensors.read()["temperature_c"]
    return None if found is None else float(found)
