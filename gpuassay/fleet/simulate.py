"""Simulated GPUs at the driver's edge, for trying a fleet's way without one. Everything made here says SIMULATED.

The physical model is selftest's part; a record holds one figure per metric ("samples": "not kept"), which costs
milliseconds. The same seed and number always make the same GPU, whichever worker makes it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

GPUS_PER_NODE = 8
METRICS = 40
SEED = 20261124
BAD_EVERY = 100  # 1 % of the parts ...
BAD_FACTOR = 0.97  # ... are 3 % slow on one metric
SPREAD = 0.0015  # between boards, as selftest's tensor kernels
SOURCE = "SIMULATED"
# Host to device and back, B/s, as the prototype's H100 on PCIe 5.0 x16 (results/reference).
PCIE = {"pcie.h2d": 54.2e9, "pcie.d2h": 54.8e9}
# What all GPUs of a node at work cost each of them, planted: shares of the clock and of PCIe, and the sensors.
SHARED_CLOCK, SHARED_PCIE = 0.96, 0.6
SENSORS = {
    "alone": {"power_w": 380.0, "temperature_c": 55.0, "power_limited": 0.0, "heat_limited": 0.0},
    "together": {"power_w": 350.0, "temperature_c": 63.0, "power_limited": 0.5, "heat_limited": 0.1},
}


def gpus(count: int) -> list[dict[str, Any]]:
    """`count` simulated GPUs: uuid, node, slot (a PCI address) and index."""
    return [
        {
            "uuid": f"GPU-SIMULATED-{index:06d}",
            "node": f"simulated-{index // GPUS_PER_NODE:05d}",
            "slot": f"00000000:{(index % GPUS_PER_NODE) * 16 + 1:02X}:00.0",
            "index": index,
        }
        for index in range(count)
    ]


def planted(index: int) -> str | None:
    """The metric on which GPU `index` is slow, or None: what a report must find."""
    if index % BAD_EVERY != BAD_EVERY // 2:
        return None
    names = [name for name in truths() if name.startswith(("tensor.", "vector.", "sfu."))]
    return names[index // BAD_EVERY % len(names)]


@cache
def truths() -> dict[str, float]:
    """metric -> true work per clock and SM of the simulated silicon; for memory and PCIe, true B/s."""
    from gpuassay import selftest, throughput
    from gpuassay.conformity import nominal_limit
    from gpuassay.metrics import metrics
    from gpuassay.sheets import load

    sheet, part, truths = load("H20"), selftest.H20, {}
    shares = {"memory.read": 0.943, "memory.write": 0.973, "memory.copy": 0.886, "memory.triad": 0.925}
    fixed = {name: share * part.bandwidth for name, share in shares.items()} | PCIE
    chosen = [m for m in metrics().values() if m.kind == "rate" or m.name in fixed]
    # Memory and PCIe first, that the cut to METRICS keeps them.
    for metric in sorted(chosen, key=lambda m: m.name not in fixed)[:METRICS]:
        if metric.name in fixed:
            truths[metric.name] = fixed[metric.name]
            continue
        limit = nominal_limit(metric, sheet)
        found = (limit if isinstance(limit, float) else limit.si) if limit else throughput.limit(metric.name, "9.0")
        truths[metric.name] = 0.998 * (part.rates.get(metric.name) or found or 64.0)
    return truths


def write(path: Path, run_id: str, gpu: dict[str, Any], profile: str) -> None:
    """Writes the record of one simulated GPU (`gpus`, and its phase)."""
    import numpy as np

    from gpuassay import __version__, selftest
    from gpuassay.metrics import metric
    from gpuassay.record import RecordWriter, utc_now

    part, bad = selftest.H20, planted(gpu["index"])
    rng = np.random.default_rng([SEED, gpu["index"]])
    clock_hz = part.max_clock_hz * (1 - abs(float(rng.normal(0, 0.002))))
    shared = gpu["phase"] == "together"
    clock_hz *= SHARED_CLOCK if shared else 1
    with RecordWriter(path) as writer:
        writer.write(
            "run",
            run_id=run_id,
            started=utc_now(),
            instrument=f"gpuassay {__version__} simulator",
            samples="not kept",
            simulated=True,
            profile=profile,
            program={"version": __version__, "commit": None},
            host={"python": "", "platform": SOURCE, "packages": {}},
            argv=[],
        )
        writer.write("device", claims=_claims(gpu))
        for name, truth in truths().items():
            value = truth * (1 + float(rng.normal(0, SPREAD))) * (BAD_FACTOR if name == bad else 1)
            bytes_per_s = name.startswith(("memory.", "pcie."))
            value *= SHARED_PCIE if shared and name in PCIE else 1
            writer.write(
                "median",
                metric=name,
                toolchain="cuda c++",
                value=value if bytes_per_s else value * part.sms * clock_hz,
                unit=metric(name).unit,
                per_sm_and_clock=None if name in PCIE else value / part.sms / clock_hz if bytes_per_s else value,
                sm_clock_hz=clock_hz,
                sm_count=part.sms,
                simulated=True,
                **SENSORS[gpu["phase"]],
            )


def _claims(gpu: dict[str, Any]) -> list[dict[str, Any]]:
    from gpuassay import selftest

    part = selftest.H20
    rows = (
        ("name", f"SIMULATED {part.name}", None),
        ("uuid", gpu["uuid"], None),
        ("pci.device_id", part.pci_device_id, None),
        ("compute_capability", part.compute_capability, None),
        ("count.sm", part.sms, "1"),
        ("memory.size", int(part.memory_bytes), "B"),
        ("l2.size", int(part.l2_bytes), "B"),
        ("driver.version", SOURCE, None),
    )
    return [{"quantity": q, "value": v, "unit": u, "source": SOURCE} for q, v, u in rows]
