"""Kernels on a peer's memory, on two devices that a stand-in for CuPy keeps apart; the matrix; NVLink's claims."""

from __future__ import annotations

import ctypes
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpuassay import cuda_peers, peers, report, verify
from gpuassay.cuda_operations import operation
from gpuassay.device import CheckFailed, DeviceError
from gpuassay.kernels.compile import MachineCode
from gpuassay.kernels.memory import cuda_pattern
from gpuassay.report import document
from gpuassay.report.lab import Lab
from gpuassay.verdict import Judgement

pytest.importorskip("cupy")
CHUNK = 65536


class Driver:
    """Two devices whose memory is the host's; kernels run at once, on the device that is current, or not at all."""

    def __init__(self, fault: str = "") -> None:
        import cupy

        self.fault, self.current = fault, 0
        self.held: dict[int, tuple[int, Any]] = {}  # address -> device, buffer
        self.enabled: set[tuple[int, int]] = set()
        self.launched: list[tuple[int, str, int]] = []  # device, kernel, chunks
        self.runtime = SimpleNamespace(
            CUDARuntimeError=cupy.cuda.runtime.CUDARuntimeError,
            memcpyDeviceToHost=2,
            getDeviceCount=lambda: 2,
            getDevice=lambda: self.current,
            setDevice=lambda device: setattr(self, "current", device),
            deviceCanAccessPeer=lambda one, other: int(self.fault != f"denied {one}-{other}"),
            deviceEnablePeerAccess=lambda peer: self.enabled.add((self.current, peer)),
            deviceSynchronize=lambda: None,
            streamSynchronize=lambda stream: None,
            getDeviceProperties=lambda device: {"major": 9, "minor": 0, "multiProcessorCount": 3},
            malloc=self.malloc,
            free=self.held.pop,
            memset=ctypes.memset,
            memcpy=lambda to, source, size, kind: ctypes.memmove(to, source, size),
        )

    def malloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = (self.current, buffer)
        return ctypes.addressof(buffer)

    def module(self) -> Any:
        device = self.current

        def get_function(name: str) -> Any:
            return lambda grid, block, arguments, stream: self.launch(device, name, grid, block, arguments)

        return SimpleNamespace(load=lambda cubin: None, get_function=get_function)

    def owner(self, address: Any) -> int:
        return self.held[int(address)][0]

    def launch(self, device: int, name: str, grid: Any, block: Any, arguments: Any) -> None:
        stamps, counter, chunks, total, array, last = arguments
        assert self.current == device, "a function is launched where it was loaded"
        assert (grid, block) == ((6,), (512,))
        assert [type(a) for a in arguments[:5]] == [np.uint64, np.uint64, np.uint32, np.uint32, np.uint64]
        assert {self.owner(stamps), self.owner(counter)} == {device}
        assert self.owner(array) == device or (device, self.owner(array)) in self.enabled
        assert words(counter, 1)[0] == 0
        self.launched.append((device, name, int(total)))
        there = words(array, int(chunks) * CHUNK // 4)
        if name == "memory_write":
            assert isinstance(last, np.uint32)
            there[:] = pattern(int(chunks), int(last))
            if self.fault == "one word" and self.owner(array) != device:
                there[-1] ^= 1
            if self.fault == "beyond" and self.owner(array) != device:
                words(array, there.size + 1)[-1] = 0
            return
        assert (type(last), self.owner(last)) == (np.uint64, device)
        with np.errstate(over="ignore"):
            once = there.sum(dtype=np.uint32) - (there[0] if self.fault == "one word" else np.uint32(0))
            words(last, 1)[:] += once * np.uint32(int(total) // int(chunks))


PATTERNS: dict[tuple[int, int], Any] = {}


def pattern(chunks: int, seed: int) -> Any:
    if (chunks, seed) not in PATTERNS:
        PATTERNS[chunks, seed] = cuda_pattern(chunks * CHUNK // 4, seed, 512, 4096)
    return PATTERNS[chunks, seed]


def words(address: Any, count: int) -> Any:
    return np.frombuffer((ctypes.c_uint32 * count).from_address(int(address)), np.uint32)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Driver]:
    import cupy

    found = Driver(getattr(request, "param", ""))
    streams = SimpleNamespace(Stream=lambda non_blocking: SimpleNamespace(ptr=1))
    cuda = SimpleNamespace(
        runtime=found.runtime, driver=cupy.cuda.driver, function=SimpleNamespace(Module=found.module), **vars(streams)
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setattr(cuda_peers, "PEER_BYTES", 300 * CHUNK)
    monkeypatch.setattr(cuda_peers, "compile_kernel", lambda kernel, architecture: MachineCode(b"", "stand-in", ""))
    cuda_peers._loaded.cache_clear()
    yield found
    cuda_peers._loaded.cache_clear()


@pytest.mark.parametrize(
    ("name", "launches"),
    [
        ("read.0-1", [(0, "memory_read")]),
        ("read.1-0", [(1, "memory_read")]),
        ("write.0-1", [(0, "memory_write")]),
        ("read_both_ways.0-1", [(0, "memory_read"), (1, "memory_read")]),
    ],
)
def test_a_kernel_runs_on_one_device_over_the_others_memory(
    driver: Driver, name: str, launches: list[tuple[int, str]]
) -> None:
    taken = operation(f"peer.{name}")
    driver.launched.clear()
    taken.run()
    assert driver.launched == [(*launch, 300) for launch in launches]
    assert taken.work == 300 * CHUNK * len(launches)
    assert taken.about["check"].passed
    assert taken.about["name"] == launches[0][1]
    assert driver.current == 0
    taken.close()
    assert driver.held == {}


@pytest.mark.parametrize("driver", ["one word"], indirect=True)
@pytest.mark.parametrize("way", ["read", "write"])
def test_a_wrong_word_has_no_rate(driver: Driver, way: str) -> None:
    with pytest.raises(CheckFailed, match=rf"memory_{way} on device 0, memory of device 1: wrong result"):
        operation(f"peer.{way}.0-1")
    assert driver.held == {}
    assert driver.current == 0


@pytest.mark.parametrize("driver", ["beyond"], indirect=True)
def test_a_word_beyond_the_end_has_no_rate(driver: Driver) -> None:
    with pytest.raises(CheckFailed, match="beyond the end"):
        operation("peer.write.1-0")


@pytest.mark.parametrize("driver", ["denied 1-0"], indirect=True)
def test_denied_access_is_named_per_pair(driver: Driver) -> None:
    operation("peer.read.0-1").close()
    with pytest.raises(DeviceError, match="device 1 cannot access device 0"):
        operation("peer.write.1-0")
    with pytest.raises(DeviceError, match="device 1 cannot access device 0"):
        operation("peer.read_both_ways.0-1")


# -- three GPUs in a run, one of which the first cannot reach, and one wrong word ---------------------------------

DENIED = "device 0 cannot access device 2: cudaDeviceCanAccessPeer says no"


@pytest.fixture(scope="module")
def three(fake_run: Callable[..., Path]) -> Judgement:
    refused = {f"peer.{way}.0-2": DENIED for way in ("one_way", "both_ways", "read", "write", "read_both_ways")}
    options = ("-k", "test_links")
    path = fake_run("standard", options=options, devices=3, nvlinks=18, refused=refused, fail_check="peer.write.2-1")
    return verify.judge_record(path, None)


def test_every_ordered_pair_has_a_rate_or_a_reason(three: Judgement) -> None:
    found = {matrix.name: matrix for matrix in peers.matrices(three.verdicts)}
    assert found.keys() == {f"peer.{way}" for way in ("one_way", "both_ways", "read", "write", "read_both_ways")}
    ordered = {(a, b) for a in range(3) for b in range(3) if a != b}
    for name in ("peer.one_way", "peer.read", "peer.write"):
        assert {*found[name].rates, *found[name].reasons} == ordered
        assert found[name].reasons[0, 2] == DENIED
        assert found[name].devices == [0, 1, 2]
    assert found["peer.read_both_ways"].rates.keys() == {(0, 1), (1, 2)}
    assert found["peer.write"].reasons[2, 1].startswith("peer.write.2-1: memory_write on device 2, memory of device 1")
    assert [f.code for f in three.findings if f.metric == "peer.write.2-1"] == ["check-failed"]


def test_pairs_stand_in_matrices_and_nowhere_else(three: Judgement) -> None:
    console = Console(width=200, file=io.StringIO())
    console.print(report.judgement(three))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("peer.read.0-2") == 1  # with the reason
    assert "peer.read.0-1" not in shown
    assert "Kernel reads a peer's memory: kernel on the row's device, memory of the column's" in shown
    assert "18 of 18 NVLinks active, 26.56 GB/s each way and link, 478.1 GB/s together; the fastest pair" in shown
    made = document.build(three, Lab(), draw=False)
    (section,) = [s for s in made.sections if s.key == "peers"]
    assert [len(table.rows) for table in section.tables] == [3] * 5
    (refused,) = {row[3].text for table in section.tables for row in table.rows[:1]}
    assert refused == "refused"


def test_a_lone_gpu_still_reports_what_nvml_claims(fake_run: Callable[..., Path]) -> None:
    judgement = verify.judge_record(fake_run("standard", options=("-k", "test_links"), nvlinks=17), None)
    made = document.build(judgement, Lab(), draw=False)
    (section,) = [s for s in made.sections if s.key == "peers"]
    assert section.tables == ()
    assert section.paragraphs[0].startswith("NVML claims 17 of 18 NVLinks active")
    assert "the fastest pair" not in section.paragraphs[0]
    reasons = {v.metric: v.reason for v in judgement.verdicts if v.metric.startswith("peer.")}
    assert set(reasons.values()) == {"needs a second GPU"}
    assert {"peer.one_way", "peer.read", "peer.all_pairs"} <= reasons.keys()


def test_a_device_without_nvlink() -> None:
    assert peers.nvlink(None) == "NVML claims no active NVLink of this device"
