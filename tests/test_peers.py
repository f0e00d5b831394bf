"""Kernels on a peer's memory, on two devices that a stand-in for CuPy keeps apart; the matrix; NVLink's claims."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuassay import cuda_peers
from gpuassay.cuda_operations import operation
from gpuassay.device import CheckFailed, DeviceError
from gpuassay.kernels.compile import MachineCode
from gpuassay.kernels.memory import cuda_pattern

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
def driver(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Driver:
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
