"""A fake GPU at the driver's edge, for tests: a pytest plugin (`-p fake_gpu`) that replaces the `gpu` fixture.

It implements gpuassay.device.Device from a small physical model and shares no code with what judges it. The part is
chosen by FAKE_GPU, a JSON object whose keys override the model's below. Everything it writes says "FAKE".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest

from gpuassay import cuda, timing
from gpuassay.audit import Row, checks
from gpuassay.device import CheckFailed, DeviceError, Mark
from gpuassay.kernels import Check, MemoryKernel
from gpuassay.links import PcieLink
from gpuassay.throughput import limit

ROUND_S = 0.004
# The fake keeps real time, and nobody waits 20 s for it.
timing.sustained.mark.kwargs["max_time"] = 1.5
CHASE_ROUND_S = 0.001  # a hundred points of a curve
LAUNCH_COST_S = 12e-6
LANE_BYTES_PER_S = {1: 0.25e9, 3: 0.985e9, 5: 3.938e9}  # by PCIe generation
OTHER_RATE = 1000.0  # work per clock and SM in metrics that the model does not name


@dataclass
class Model:
    """A genuine H100 SXM, unless told otherwise."""

    name: str = "FAKE H100"
    compute_capability: str = "9.0"
    sm_count: int = 132
    pci_device_id: str = "10de:2330"
    uuid: str = "GPU-FAKE"
    driver: str = "580.65.06"
    memory_bytes: int = 81559 * 2**20
    free_bytes: int | None = None  # of them; None: all
    sm_clock_hz: float = 1.755e9
    nvml_sm_clock_hz: float | None = None  # None: honest
    nominal_bytes_per_s: float = 3.352e12
    noise: float = 0.0005
    # work per clock and SM, by metric; shares of 3.352 TB/s for memory; what is not here runs at its nominal rate
    rates: dict = field(
        default_factory=lambda: {
            "vector.fp32": 256 * 0.993,
            "vector.fp64": 128 * 0.9988,
            "tensor.bf16": 4096 * 0.998,
            "tensor.fp16": 4096 * 0.998,
            "tensor.tf32": 2048 * 0.997,
            "tensor.fp8_e4m3": 8192 * 0.9976,
            "tensor.fp8_e5m2": 8192 * 0.9976,
            "tensor.int8": 8192 * 0.9963,
            "tensor.fp64": 256 * 0.9998,
            "tensor.bf16.sparse": 8192 * 0.997,
            "tensor.fp16.sparse": 8192 * 0.997,
            "tensor.tf32.sparse": 4096 * 0.997,
            "tensor.fp8_e4m3.sparse": 16384 * 0.997,
            "tensor.int8.sparse": 16384 * 0.997,
            "mma_sync.bf16": 4096 * 0.667,
            **{f"tensor.bf16.n{n}": 4096 * min(1.0, n / 64) for n in (8, 16, 32, 64, 128)},
            "memory.read": 0.943,
            "memory.write": 0.973,
            "memory.copy": 0.886,
            "memory.triad": 0.925,
            "memory.mix3": 0.93,
            "memory.read_tma": 0.936,
        }
    )
    numba: float = 0.995  # of the CUDA C++ rate
    fail_check: str | None = None  # metric, or operation, whose kernel computes wrongly
    other_processes: int = 0
    die_at: str | None = None  # metric at which the process is killed
    fault: str | None = None  # how `fault_at` fails: a key of FAULTS
    fault_at: str = "memory.write"
    backwards: str | None = None  # the clock that runs backwards: event, clock64 or globaltimer
    changes: dict = field(default_factory=dict)  # claims that are others when asked again
    gone: bool = False  # a fresh process finds no GPU
    sensor_fault: str | None = None  # how the sensors fail, from their third reading on
    audit_fault: str | None = None  # the cheap check that costs the context; the others give a row each
    interrupt_at: str | None = None  # metric at which somebody presses Ctrl-C
    interrupt_after: str | None = None  # "setup", "call" or "teardown" of test_l2_read: Ctrl-C between pytest's steps
    event_error: float = 0.0  # relative error of the event clock
    temperature_c: int = 55
    clock_event_reasons: int = 4  # software power cap
    settled_clock: float = 1.0  # of sm_clock_hz, in sustained runs
    l2_bytes: int = 50 * 2**20  # what is there, whatever it claims
    claimed_l2_bytes: int = 50 * 2**20
    # cycles: shared memory, L1, L2, memory, one more for a missing translation; bytes that L1 and the TLB reach
    latencies: tuple = (29, 34, 279, 682, 60)
    l1_bytes: int = 208 * 2**10
    tlb_bytes: int = 8 * 2**30
    pcie_generation: int = 5  # negotiated under load, of 5
    devices: int = 1
    nvlinks: int = 0
    mig: bool = False  # the part is an instance of a larger one
    virtualization: str = "none"  # as NVML calls it
    refused: dict = field(default_factory=dict)  # operation, or metric of a kernel -> why
    breaks_at: str | None = None  # operation that fails while it is timed
    die: int = 0  # which die of this part it is: its map of SM to L2 latency
    chip_cap_sms: int = 10_000  # more SMs than that share what so many could do

    def rate(self, metric):
        """A fake's rates of its own, else CUDA's table; a rate that no table prints is 64 results."""
        if metric in self.rates or metric.startswith("memory."):
            return self.rates.get(metric, 0.94)
        if metric.startswith(("tensor.", "mma_sync.")):
            return OTHER_RATE
        return 0.99 * (limit(metric, self.compute_capability) or 64)


class CUDARuntimeError(RuntimeError):
    """As CuPy raises it: told by its name and its status."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def hang():
    time.sleep(3600)


def crash():
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # pytest's faulthandler would print a page
    os.kill(os.getpid(), signal.SIGSEGV)


# What a launch meets, by cudaError_t (driver_types.h). The sticky ones fail every later call of the process too.
FAULTS = {
    "allocation": (2, "cudaErrorMemoryAllocation: out of memory"),
    "launch configuration": (9, "cudaErrorInvalidConfiguration: invalid configuration argument"),
    "launch resources": (701, "cudaErrorLaunchOutOfResources: too many resources requested for launch"),
    "no image": (209, "cudaErrorNoKernelImageForDevice: no kernel image is available"),
    "illegal address": (700, "cudaErrorIllegalAddress: an illegal memory access was encountered"),
    "launch failure": (719, "cudaErrorLaunchFailure: unspecified launch failure"),
    "misaligned address": (716, "cudaErrorMisalignedAddress: misaligned address"),
    "illegal instruction": (715, "cudaErrorIllegalInstruction: an illegal instruction was encountered"),
    "launch timeout": (702, "cudaErrorLaunchTimeout: the launch timed out and was terminated"),
    "assert": (710, "cudaErrorAssert: device-side assert triggered"),
    "hardware stack": (714, "cudaErrorHardwareStackError: hardware stack error"),
    "ecc": (214, "cudaErrorECCUncorrectable: uncorrectable ECC error encountered"),
    "nvlink": (220, "cudaErrorNvlinkUncorrectable: uncorrectable NVLink error detected"),
    "contained": (721, "cudaErrorContained: Invalid access of peer GPU memory over nvlink or a hardware error"),
    "device lost": (46, "cudaErrorDevicesUnavailable: all CUDA-capable devices are busy or unavailable"),
    "unknown": (999, "cudaErrorUnknown: unknown error"),
    "hang": hang,
    "crash": crash,
}


def sensors_fail(fault, reading):
    if fault == "slow":
        time.sleep(0.3)
    elif fault == "hang":
        hang()
    elif fault == "lost":
        raise RuntimeError("GPU is lost")
    elif fault == "nonsense":
        reading |= {"sm_clock_hz": float("nan")}
    elif fault == "negative":
        reading |= {"sm_clock_hz": -1.0, "temperature_c": -300, "other_processes": 0, "clock_event_reasons": 1 << 62}
    elif fault == "not permitted":
        reading |= dict.fromkeys(reading)
    elif fault == "words":
        reading |= {"temperature_c": "hot"}
    elif fault == "jumping clock":
        reading |= {"sm_clock_hz": 1.2e9}
    return reading


class FakeSensors:
    def __init__(self, model):
        self.model = model
        self.started = time.monotonic()
        self.readings = 0

    def __enter__(self):
        return self

    def __exit__(self, *why):
        pass

    def read(self):
        self.readings += 1
        if self.model.sensor_fault is None or self.readings < 3:
            return self.reading()
        return sensors_fail(self.model.sensor_fault, self.reading())

    def reading(self):
        return {
            "sm_clock_hz": self.model.nvml_sm_clock_hz or self.model.sm_clock_hz,
            "memory_clock_hz": 2.619e9,
            "power_w": 650.0,
            "temperature_c": self.model.temperature_c,
            "clock_event_reasons": self.model.clock_event_reasons,
            "gpu_utilisation": 1.0,
            "memory_utilisation": 0.5,
            "other_processes": self.model.other_processes,
            "other_pids": list(range(self.model.other_processes)),
        }

    def energy_j(self):
        return round((time.monotonic() - self.started) * 650, 1)


class FakeDevice:
    def __init__(self, model):
        self.model = model
        self.name = model.name
        self.compute_capability = model.compute_capability
        self.sm_count = model.sm_count
        self.marks = []
        self.sticky = None
        self.asked = 0
        self.rng = np.random.default_rng(20261123)
        self.now_s = 0.0  # the fake's own time, never ahead of the host's, and with it when a benchmark begins
        self.zero_s = time.monotonic()

    def claims(self):
        rows = self.first_claims()
        self.asked += 1
        for row in rows if self.asked > 1 else ():
            row["value"] = self.model.changes.get(row["quantity"], row["value"])
        return rows

    def first_claims(self):
        model = self.model
        return [
            {"quantity": quantity, "value": value, "unit": unit, "source": "FAKE"}
            for quantity, value, unit in (
                ("name", model.name, None),
                ("uuid", model.uuid, None),
                ("driver.version", model.driver, None),
                ("ecc.errors.uncorrected", 0, "1"),
                ("mig.mode", "enabled" if model.mig else "disabled", None),
                ("virtualization.mode", model.virtualization, None),
                *((("mig.count.sm", model.sm_count, "1"), ("mig.memory.size", 9856 * 2**20, "B")) if model.mig else ()),
                ("pci.device_id", model.pci_device_id, None),
                ("compute_capability", model.compute_capability, None),
                ("count.sm", model.sm_count, "1"),
                ("memory.size", model.memory_bytes, "B"),
                ("clock.memory.max", 2.619e9, "Hz"),
                ("memory.bus_width", 5120, "bit"),
                ("l2.size", model.claimed_l2_bytes, "B"),
                ("temperature.slowdown", 89, "degC"),
                *((("nvlink.count", 18, "1"), ("nvlink.count.active", model.nvlinks, "1")) if model.nvlinks else ()),
                *((("nvlink.speed", 26.562e9, "B/s"),) if model.nvlinks else ()),
            )
        ]

    def sensors(self):
        return FakeSensors(self.model)

    def advance(self, seconds):
        self.now_s += seconds
        time.sleep(max(0.0, self.zero_s + self.now_s - time.monotonic()))

    def operation(self, name, toolchain="cuda c++"):
        if name == self.model.fail_check:
            raise CheckFailed(
                "memory_write on device 2, memory of device 1: wrong result, 2 times the bound at element 7"
            )
        if name in self.model.refused:
            raise DeviceError(self.model.refused[name])
        return FakeOperation(self, name)

    def link(self):
        return PcieLink(self.model.pcie_generation, 16, 5, 16, 5, 0, 0)

    def device_count(self):
        return self.model.devices

    def meet(self, metric):
        """The fault of this metric, or the sticky one that an earlier metric left behind."""
        if self.sticky is None and metric == self.model.fault_at and self.model.fault is not None:
            fault = FAULTS[self.model.fault]
            if callable(fault):
                fault()
            if fault[0] not in (2, 9, 701, 209):
                self.sticky = fault
            raise CUDARuntimeError(*fault)
        if self.sticky is not None:
            raise CUDARuntimeError(*self.sticky)

    def mark(self):
        if self.sticky is not None:
            raise CUDARuntimeError(*self.sticky)
        self.advance(1e-6)
        event_s = self.now_s * (1 + self.model.event_error) * (-1 if self.model.backwards == "event" else 1)
        self.marks.append(Mark(event_s, self.zero_s + self.now_s))
        return event_s

    def prepare(self, kernel, *, round_s=None, sms=None, data="random", footprint_bytes=None):
        if kernel.metric == self.model.die_at:
            os.kill(os.getpid(), 9)
        if kernel.metric == self.model.interrupt_at:
            raise KeyboardInterrupt
        if kernel.metric in self.model.refused:
            raise DeviceError(self.model.refused[kernel.metric])
        if kernel.metric == "memory.triad" and kernel.metric not in self.model.rates:
            raise DeviceError("FAKE: out of memory")
        self.now_s = max(self.now_s, time.monotonic() - self.zero_s)  # or its rounds lie before their telemetry
        if kernel.work_unit == "load":
            return FakeChase(self, kernel, footprint_bytes or kernel.usual_footprint_bytes)
        workload = FakeWorkload(self, kernel, round_s or ROUND_S, sms or self.sm_count)
        if isinstance(kernel, MemoryKernel):
            workload.wanted_bytes = footprint_bytes or kernel.footprint_bytes or 32 * 2**30
            fits = int(0.8 * (self.model.free_bytes or self.model.memory_bytes))
            if footprint_bytes and fits < footprint_bytes / 2:
                raise DeviceError(f"FAKE: needs {footprint_bytes} B of device memory")
            workload.footprint_bytes = min(workload.wanted_bytes, fits)
        return workload


class FakeWorkload:
    def __init__(self, device, kernel, round_s, sms):
        self.device, self.kernel, self.round_s, self.sms = device, kernel, round_s, sms
        wrong = kernel.metric == device.model.fail_check
        self.check = Check(not wrong, 3.7 if wrong else 0.2, "element 5,7")
        self.cubin_sha256 = "f" * 64
        self.compiler = "FAKE"
        self.architecture = kernel.architecture_for(device.compute_capability)
        self.footprint_bytes = self.wanted_bytes = 0
        self.launches = []
        self.kept = []

    def launch(self):
        device, kernel, model = self.device, self.kernel, self.device.model
        device.meet(kernel.metric)
        rate = model.rate(kernel.metric) * (model.numba if kernel.toolchain == "numba" else 1)
        rate *= 1 + device.rng.normal(0, model.noise)
        rate *= model.chip_cap_sms / max(model.chip_cap_sms, self.sms)
        # The power manager: from the first clock to the settled one within half a second of load.
        settled = model.settled_clock + (1 - model.settled_clock) * np.exp(-len(self.launches) * self.round_s / 0.1)
        clock_hz = model.sm_clock_hz * (settled if self.round_s > ROUND_S else 1)
        blocks = self.sms * kernel.blocks_per_sm
        if isinstance(kernel, MemoryKernel):
            # Of nominal; L2 does 2.5 times what memory does, for the share of the footprint that it holds.
            share = model.rates.get(kernel.metric, 1.0 if kernel.host_memory else 0.94)
            cached = self.footprint_bytes and not kernel.host_memory
            beyond = missed(self.footprint_bytes, model.l2_bytes) if cached else 1.0
            rate = share / (beyond + (1 - beyond) / 2.5) * (1 + device.rng.normal(0, model.noise))
            rate *= model.numba if kernel.toolchain == "numba" else 1
            link = LANE_BYTES_PER_S[model.pcie_generation] * 16 * 0.9
            rate *= (link if kernel.host_memory else model.nominal_bytes_per_s) / model.sm_clock_hz / model.sm_count
        iterations = round(self.round_s * clock_hz * rate / kernel.work_per_iteration / kernel.blocks_per_sm)
        cycles = iterations * kernel.work_per_iteration * kernel.blocks_per_sm / rate
        seconds = cycles / clock_hz
        stamps = np.zeros((blocks, 6), dtype=np.uint64)
        stamps[:, 0] = np.arange(blocks) % self.sms
        stamps[:, 1] = 10**9 + 1000 * stamps[:, 0]  # each SM's clock has a zero of its own
        stamps[:, 2] = stamps[:, 1] + np.uint64(round(cycles))
        stamps[:, 3] = np.uint64(round(device.now_s * 1e9)) + np.uint64(5)
        stamps[:, 4] = stamps[:, 3] + np.uint64(round(seconds * 1e9))
        stamps[:, 5] = iterations
        if model.backwards in (columns := {"clock64": (1, 2), "globaltimer": (3, 4)}):
            one, two = columns[model.backwards]
            stamps[0, [one, two]] = stamps[0, [two, one]]
        self.kept.append(stamps)
        self.launches.append(len(device.marks))
        device.advance(seconds + LAUNCH_COST_S)

    def stamps(self, launch):
        return self.kept[launch]

    def close(self):
        if self.device.sticky is not None:
            raise CUDARuntimeError(*self.device.sticky)
        self.kept = []


class FakeChase(FakeWorkload):
    """A chase: its latency is a mix of the levels', by the share of the footprint that each level holds."""

    def __init__(self, device, kernel, footprint_bytes):
        super().__init__(device, kernel, CHASE_ROUND_S, device.sm_count if kernel.blocks is None else kernel.blocks)
        fits = int(0.8 * (device.model.free_bytes or device.model.memory_bytes))
        if fits < footprint_bytes / 2:
            raise DeviceError(f"FAKE: needs {footprint_bytes} B of device memory")
        self.wanted_bytes = footprint_bytes if kernel.space == "global" else 0
        self.footprint_bytes = min(footprint_bytes, fits) if kernel.space == "global" else 0

    def cycles(self):
        model, metric = self.device.model, self.kernel.metric
        shared, l1, l2, memory, walk = model.latencies
        if self.kernel.space == "shared":
            return shared if metric == "latency.shared" else 6 * shared
        if metric == "latency.tlb":
            return l2 + walk * missed(self.footprint_bytes, model.tlb_bytes)
        if metric != "latency.memory" and metric != "latency.l1":
            return l2
        beyond = missed(self.footprint_bytes, model.l2_bytes / 2)  # one SM sees one of two partitions
        return l1 + missed(self.footprint_bytes, model.l1_bytes) * (l2 + beyond * (memory - l2) - l1)

    def launch(self):
        device, model = self.device, self.device.model
        cycles = self.cycles() * (model.numba if self.kernel.toolchain == "numba" else 1)
        loads = self.kernel.work_per_iteration
        iterations = max(1, round(self.round_s * model.sm_clock_hz / cycles / loads))
        stamps = np.zeros((self.sms, 6), dtype=np.uint64)
        stamps[:, 0] = np.arange(self.sms)
        stamps[:, 1] = 10**9
        # Some SMs lie farther from L2 than others.
        distance = 1 + 0.02 * np.sin(np.arange(self.sms) + model.die) * (self.sms > 2)
        took = iterations * loads * cycles * distance * (1 + device.rng.normal(0, model.noise, self.sms))
        stamps[:, 2] = stamps[:, 1] + np.round(took).astype(np.uint64)
        stamps[:, 3] = np.uint64(round(device.now_s * 1e9)) + np.uint64(5)
        stamps[:, 4] = stamps[:, 3] + np.round(took / model.sm_clock_hz * 1e9).astype(np.uint64)
        stamps[:, 5] = iterations
        self.kept.append(stamps)
        self.launches.append(len(device.marks))
        device.advance(took.max() / model.sm_clock_hz + LAUNCH_COST_S)


def missed(footprint_bytes, size_bytes):
    """Share of the loads that a cache does not hold; it begins to lose lines a little before it is full."""
    return float(np.clip((footprint_bytes / size_bytes - 0.95) / 0.1, 0, 1))


class FakeOperation:
    """Links at 0.9 of their line rate; 5 us a call."""

    def __init__(self, device, name):
        self.device, self.name, self.about = device, name, {}
        seconds = name.endswith("latency") or name.startswith("launch.")
        self.work, self.work_unit = (100, "1") if seconds else (20e6, "B")

    def run(self):
        lane = LANE_BYTES_PER_S[self.device.model.pcie_generation]
        rate = 1 / 5e-6 if self.work_unit == "1" else 16 * lane * 0.9
        if self.work_unit == "1":
            time.sleep(self.work / rate)  # the host's clock times it, and the fake's may be behind
        else:
            self.device.advance(self.work / rate)
        if self.name == self.device.model.breaks_at:
            raise DeviceError("out of memory in the middle")

    def ready(self):
        pass

    def close(self):
        self.device = None


def pytest_runtest_logreport(report):
    phase = Model(**json.loads(os.environ.get("FAKE_GPU", "{}"))).interrupt_after
    if report.when == phase and report.nodeid.endswith("test_l2_read"):
        raise KeyboardInterrupt


@pytest.fixture(scope="session")
def gpu(tmp_path_factory):
    # Every fake is a card of its own, unless FAKE_LOCKS says whose machine it is in.
    os.environ["XDG_RUNTIME_DIR"] = os.environ.get("FAKE_LOCKS") or str(tmp_path_factory.mktemp("locks"))
    if '"gone": true' in os.environ.get("FAKE_GPU", "") and "--gpuassay-append" in sys.argv:
        pytest.exit("FAKE: no GPU any more", returncode=4)
    model = Model(**json.loads(os.environ.get("FAKE_GPU", "{}")))
    if model.audit_fault:
        cuda.CudaDevice = FakeDevice  # or the checks are skipped
        for name in checks.CHEAP:
            checks.CHEAP[name] = partial(checked, name, model.audit_fault)
    return FakeDevice(model)


def checked(name, fault, device, run):
    if name == fault:
        raise CUDARuntimeError(*FAULTS["illegal address"])
    return [Row(name, "consistent", f"FAKE: {name} by process {os.getpid()}.")]
