"""PCIe's rate by generation and width, what a link negotiated under load, and what NVML says of NVLink."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from .claims import NoDriver, first_supported, open_nvml

# PCI-SIG, by generation: transfers per second and lane, and the share that the line code leaves. 8b/10b for 1 and 2,
# 128b/130b for 3 to 5 (PCI Express Base Specification 5.0, section 4.2); 6 is PAM4 in FLITs of 256 bytes, of which
# 236 are transaction-layer bytes (PCI Express Base Specification 6.0: 8 are CRC, 6 FEC, 6 data-link payload).
GENERATIONS = {
    1: (2.5e9, 8 / 10),
    2: (5.0e9, 8 / 10),
    3: (8.0e9, 128 / 130),
    4: (16.0e9, 128 / 130),
    5: (32.0e9, 128 / 130),
    6: (64.0e9, 236 / 256),
}
# Of the line rate after coding, headers of packets of 128 to 256 bytes take some; pinned copies of a healthy H100 had
# 0.860 and 0.870 (prototype instrument, 2026-11-23), and less than this is a link to look at.
HEALTHY_SHARE = 0.82


def line_rate(generation: int, width: int) -> float | None:
    """Bytes per second in one direction after line coding, packet headers included; None for unknown generations."""
    if generation not in GENERATIONS:
        return None
    transfers_hz, share = GENERATIONS[generation]
    return transfers_hz * width / 8 * share


@dataclass(frozen=True)
class PcieLink:
    """A PCIe link as NVML reports it. None where it does not say.

    `max_generation` and `max_width` are the most that device and host can do together; `device_generation` the
    device alone. `device_node` and `cpu_node` are NUMA nodes: the device's, and the one whose CPU touched the buffers.
    """

    generation: int | None = None
    width: int | None = None
    max_generation: int | None = None
    max_width: int | None = None
    device_generation: int | None = None
    device_node: int | None = None
    cpu_node: int | None = None

    @property
    def line_rate(self) -> float | None:
        """See line_rate: of the negotiated link."""
        return line_rate(self.generation, self.width) if self.generation and self.width else None


def read_link(nvml_index: int, bus_id: str) -> PcieLink:
    """The link as it is now: an idle link may rest in a lower generation, so read it while a transfer runs.

    `bus_id` such as "0000:01:00.0" names the device to the kernel. Raises claims.NoDriver.
    """
    nvml = open_nvml()
    try:
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(nvml_index)
        except nvml.NVMLError as error:
            raise NoDriver(f"NVML does not give device {nvml_index}: {error}") from error

        def ask(name: str) -> int | None:
            with contextlib.suppress(nvml.NVMLError):
                answer = first_supported(nvml, (name,), handle)
                return None if answer is None else int(answer[1])
            return None

        return PcieLink(
            generation=ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            width=ask("nvmlDeviceGetCurrPcieLinkWidth"),
            max_generation=ask("nvmlDeviceGetMaxPcieLinkGeneration"),
            max_width=ask("nvmlDeviceGetMaxPcieLinkWidth"),
            device_generation=ask("nvmlDeviceGetGpuMaxPcieLinkGeneration"),
            device_node=device_node(bus_id),
            cpu_node=cpu_node(),
        )
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def device_node(bus_id: str, root: Path = Path("/sys/bus/pci/devices")) -> int | None:
    """NUMA node of a PCI device; None where the kernel does not say (it writes -1)."""
    domain, _, rest = bus_id.lower().partition(":")
    with contextlib.suppress(OSError, ValueError):
        node = int((root / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
        return node if node >= 0 else None
    return None


def cpu_node(root: Path = Path("/sys/devices/system/node")) -> int | None:
    """NUMA node of the CPU that this thread last ran on; None where the kernel does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # proc(5): field 39 of stat is the CPU; the command's name (field 2) may hold spaces.
        fields = Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()
        cpu = fields[36]
        for node in root.glob("node[0-9]*"):
            if (node / f"cpu{cpu}").exists():
                return int(node.name.removeprefix("node"))
    return None


def link_findings(link: PcieLink) -> list[tuple[str, str, str]]:
    """(code, severity, text) of what is wrong with a link that was read under load."""
    found = []
    for what, now, most in (
        ("generation", link.generation, link.max_generation),
        ("width", link.width, link.max_width),
    ):
        if now is not None and most is not None and now < most:
            text = f"PCIe {what} {now} under load, {most} is possible here: reseat the card, look at riser and slot"
            found.append(("link-trained-down", "warning", text))
    if link.max_generation and link.device_generation and link.max_generation < link.device_generation:
        text = f"the host offers PCIe generation {link.max_generation}, the device can do {link.device_generation}"
        found.append(("pcie-below-device", "info", text))
    if link.device_node is not None and link.cpu_node is not None and link.device_node != link.cpu_node:
        text = f"buffers on NUMA node {link.cpu_node}, device on node {link.device_node}: run under numactl"
        found.append(("numa-remote", "warning", text))
    return found
