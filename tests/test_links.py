"""Links and launch costs: from suites on a fake GPU to verdict and report; PCIe's arithmetic; CuPy's names."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import gpuassay
from gpuassay import claims, links, report, verify
from gpuassay.device import DeviceError
from gpuassay.links import PcieLink, line_rate, link_findings
from gpuassay.metrics import metric

Measure = Callable[..., Path]


@pytest.fixture
def links_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """links_run(**model) -> the record of the links' and launches' suites alone, on that fake."""

    def run(**model: Any) -> Path:
        here = Path(__file__).parent
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))
        monkeypatch.setenv("FAKE_GPU", json.dumps(model))
        arguments = ("-p", "fake_gpu", "-k", "test_links or test_launch")
        return verify.measure(device=0, profile="standard", out=tmp_path, part="FAKE H100", pytest_arguments=arguments)

    return run


SOURCE = Path(gpuassay.__file__).parent


@pytest.mark.parametrize(
    ("generation", "width", "gigabytes"),
    # PCI-SIG's table, x16 and x8, one direction: 4.0, 15.75, 31.5, 63.0; 8 GB/s for gen 2 x16
    [(1, 16, 4.0), (2, 16, 8.0), (3, 16, 15.754), (4, 16, 31.508), (5, 16, 63.015), (5, 8, 31.508), (6, 16, 118.0)],
)
def test_the_line_rate_after_coding(generation: int, width: int, gigabytes: float) -> None:
    assert line_rate(generation, width) == pytest.approx(gigabytes * 1e9, rel=1e-4)


def test_an_unknown_generation_has_no_line_rate() -> None:
    assert line_rate(7, 16) is None
    assert PcieLink().line_rate is None
    assert link_findings(PcieLink()) == []


def test_each_fault_of_a_link_has_its_finding() -> None:
    healthy = PcieLink(5, 16, 5, 16, 5, 0, 0)
    assert link_findings(healthy) == []
    codes = [code for code, _, _ in link_findings(PcieLink(4, 8, 5, 16, 5, 0, 0))]
    assert codes == ["link-trained-down", "link-trained-down"]
    assert [code for code, _, _ in link_findings(PcieLink(4, 16, 4, 16, 5, 0, 0))] == ["pcie-below-device"]
    assert [code for code, _, _ in link_findings(PcieLink(5, 16, 5, 16, 5, 1, 0))] == ["numa-remote"]


def test_numa_nodes_come_from_the_kernels_files(tmp_path: Path) -> None:
    (tmp_path / "0000:1a:00.0").mkdir()
    file = tmp_path / "0000:1a:00.0" / "numa_node"
    file.write_text("1\n")
    assert links.device_node("00000000:1A:00.0", tmp_path) == 1
    file.write_text("-1\n")
    assert links.device_node("0000:1a:00.0", tmp_path) is None
    assert links.device_node("0000:ff:00.0", tmp_path) is None
    assert links.cpu_node(tmp_path) is None


def test_a_clean_link_raises_no_warning(links_run: Measure) -> None:
    record = gpuassay.read(links_run())
    codes = {f["code"] for f in record.findings if str(f["metric"]).startswith("pcie.")}
    assert codes == {"link-share"}


def test_a_link_trained_down_is_found(links_run: Measure) -> None:
    judgement = verify.judge_record(links_run(pcie_generation=3), None)
    found = [f for f in judgement.findings if f.code == "link-trained-down"]
    assert {f.metric for f in found} == {"pcie.h2d", "pcie.d2h", "pcie.both"}
    assert {f.severity for f in found} == {"warning"}
    assert "generation 3 under load, 5 is possible" in found[0].text


def test_links_and_launches_reach_verdict_and_report(links_run: Measure) -> None:
    path = links_run(refused={"pcie.d2h.mapped": "host memory is full"}, breaks_at="launch.first")
    record = gpuassay.read(path)
    assert record.complete
    reasons = {line["metric"]: line["reason"] for line in record.not_measured}
    assert reasons["pcie.d2h.mapped"] == "host memory is full"
    assert reasons["launch.first"] == "out of memory in the middle"
    assert reasons["peer.one_way"] == "needs a second GPU"
    judgement = verify.judge_record(path, None)
    printed = report.console()
    with printed.capture() as captured:
        printed.print(report.judgement(judgement, details=True))
    assert "Launch, asynchronous" in captured.get() or "launch.async" in captured.get()
    assert "nan" not in captured.get().lower()
    verdicts = {v.metric: v for v in judgement.verdicts}
    for name in ("pcie.h2d", "pcie.both", "pcie.h2d.pageable", "pcie.h2d.mapped"):
        assert verdicts[name].measured == pytest.approx(16 * 3.938e9 * 0.9, rel=0.02)
        assert verdicts[name].verdict == "not published"
    for name in ("launch.async", "launch.event_pair", "pcie.h2d.latency"):
        assert verdicts[name].unit == "s"
        assert verdicts[name].measured == pytest.approx(5e-6, rel=0.5)
    assert verdicts["peer.one_way"].verdict == "not measured"
    assert all(v.expanded_uncertainty is None or v.expanded_uncertainty >= 0 for v in verdicts.values())


def test_two_gpus_give_a_matrix_with_a_reason_where_denied(links_run: Measure) -> None:
    denied = "device 1 cannot access device 0: cudaDeviceCanAccessPeer says no"
    record = gpuassay.read(links_run(devices=2, refused={"peer.one_way.1-0": denied}))
    taken = set(record.rounds()["metric"])
    assert taken >= {"peer.one_way.0-1", "peer.both_ways.0-1", "peer.all_pairs"}
    assert {line["metric"]: line["reason"] for line in record.not_measured}["peer.one_way.1-0"] == denied
    assert metric("peer.one_way.0-1").unit == "B/s"
    assert metric("peer.one_way.0-1").title == "Peer copy, one way, devices 0-1"


class Nvml:
    """As much of NVML as NVLink claims need; links beyond the eighth do not exist."""

    NVML_NVLINK_MAX_LINKS = 18
    NVML_FI_DEV_NVLINK_LINK_COUNT = 91
    NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON = 90

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetNvLinkState(self, handle: object, link: int) -> int:
        if link >= 8:
            raise self.NVMLError("invalid argument")
        return int(link != 3)

    def nvmlDeviceGetFieldValues(self, handle: object, fields: list[int]) -> list[Any]:
        value = SimpleNamespace(uiVal={91: 8, 90: 26562}[fields[0]])
        return [SimpleNamespace(nvmlReturn=0, value=value)]


def test_nvlink_claims_are_reported_with_one_gpu() -> None:
    claimed = {row["quantity"]: row["value"] for row in claims._nvlink_claims(Nvml(), object())}
    assert claimed == {"nvlink.count.active": 7, "nvlink.count": 8, "nvlink.speed": 26_562_000_000}


def test_a_driver_without_nvlink_functions_claims_nothing() -> None:
    assert claims._nvlink_claims(SimpleNamespace(NVMLError=Nvml.NVMLError), object()) == []


LAUNCHES = ["async", "sync", "graph", "event_pair", "allocation", "module_load", "first"]
TRANSFERS = [f"{way}{how}" for way in ("h2d", "d2h") for how in ("", ".pageable", ".latency")]
PEERS = ["one_way.0-1", "both_ways.0-1", "all_pairs"]  # the kernels are in test_peers.py


@pytest.fixture
def cupy_stand_in(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """CuPy whose runtime counts what it gave; without the real one's names a call fails (spec)."""
    import ctypes

    real = pytest.importorskip("cupy")
    runtime = MagicMock(spec=real.cuda.runtime)
    runtime.hostAllocDefault, runtime.hostAllocMapped = 0, 2
    runtime.CUDARuntimeError = real.cuda.runtime.CUDARuntimeError
    runtime.memGetInfo.return_value = (2**20, 2**30)  # little is free: the transfers shrink
    runtime.getDeviceCount.return_value = 2
    runtime.deviceCanAccessPeer.return_value = 1
    runtime.malloc.side_effect = range(4096, 4096 + 100)
    held: list[Any] = []

    def host_memory(size: int, flags: int) -> int:
        held.append(ctypes.create_string_buffer(size))
        return ctypes.addressof(held[-1])

    runtime.hostAlloc.side_effect = host_memory
    cuda = MagicMock(runtime=runtime, driver=real.cuda.driver)
    cuda.Device.return_value.compute_capability = "90"
    cuda.Stream.return_value.ptr = 1
    module = MagicMock(cuda=cuda)
    for name, part in (("cupy", module), ("cupy.cuda", cuda)):
        monkeypatch.setitem(sys.modules, name, part)
    return runtime


@pytest.mark.parametrize(
    "name",
    [
        *(f"pcie.{name}" for name in [*TRANSFERS, "both"]),
        *(f"peer.{name}" for name in PEERS),
        *(f"launch.{name}" for name in LAUNCHES),
    ],
)
def test_every_operation_runs_and_frees_all_that_it_took(name: str, cupy_stand_in: MagicMock) -> None:
    from gpuassay.cuda_operations import operation

    taken = operation(name)
    taken.ready()
    taken.run()
    taken.close()
    assert taken.work > 0
    assert cupy_stand_in.malloc.call_count == cupy_stand_in.free.call_count
    assert cupy_stand_in.hostAlloc.call_count == cupy_stand_in.freeHost.call_count
    assert cupy_stand_in.mallocAsync.call_count == cupy_stand_in.freeAsync.call_count


def test_numbas_launches_run_in_its_simulator() -> None:
    """Their own calls of Numba are real; what waits for the GPU is CuPy's, and stands for nothing here."""
    pytest.importorskip("numba_cuda", reason="the numba toolchain is not installed")
    program = """
import sys
from unittest.mock import MagicMock
for name in ("cupy", "cupy.cuda"):
    sys.modules[name] = MagicMock()
from gpuassay.cuda_launches import NUMBA_LAUNCHES, launch
for what in NUMBA_LAUNCHES:
    run, work, unit, ready = launch(what, "numba", [])
    for _ in range(2):
        ready()
        run()
    print(what, work, unit)
"""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["async 100 1", "sync 100 1", "event_pair 100 1", "first 1 1", ""]


@pytest.mark.parametrize("what", ["graph", "allocation", "module_load"])
def test_what_numba_cannot_do_is_named(cupy_stand_in: MagicMock, what: str) -> None:
    from gpuassay.cuda_operations import operation

    with pytest.raises(DeviceError, match=f"launch.{what} is measured with CuPy only"):
        operation(f"launch.{what}", "numba")


def test_what_was_taken_before_a_refusal_is_freed(cupy_stand_in: MagicMock) -> None:
    from gpuassay.cuda_operations import operation

    cupy_stand_in.hostAlloc.side_effect = MemoryError("no host memory to pin")
    with pytest.raises(DeviceError, match="no host memory to pin"):
        operation("pcie.h2d")
    assert cupy_stand_in.malloc.call_count == cupy_stand_in.free.call_count == 1


def test_denied_peers_and_a_lone_gpu_are_named(cupy_stand_in: MagicMock) -> None:
    from gpuassay.cuda_operations import operation

    cupy_stand_in.deviceCanAccessPeer.return_value = 0
    with pytest.raises(DeviceError, match="device 0 cannot access device 1"):
        operation("peer.one_way.0-1")
    cupy_stand_in.getDeviceCount.return_value = 1
    with pytest.raises(DeviceError, match="needs a second GPU"):
        operation("peer.all_pairs")


# The stand-in says little of names below cupy.cuda and of argument counts: these come from the installed CuPy.
@pytest.mark.parametrize("module", ["cuda_operations.py", "cuda_launches.py", "cuda_peers.py"])
def test_every_name_that_is_asked_of_cupy_exists(module: str) -> None:
    cupy = pytest.importorskip("cupy")
    tree = ast.parse((SOURCE / module).read_text(encoding="utf-8"))
    roots = {"runtime": cupy.cuda.runtime, "driver": cupy.cuda.driver, "cupy": cupy}
    checked = 0
    for node in ast.walk(tree):
        names: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if not names or not isinstance(inner, ast.Name) or inner.id not in roots:
            continue
        found = roots[inner.id]
        for name in names:
            assert hasattr(found, name), f"{module}: {inner.id}.{'.'.join(names)}"
            found = getattr(found, name)
        checked += 1
    assert checked > 5


@pytest.mark.parametrize("module", ["cuda_operations.py", "cuda_peers.py", "cuda_launches.py"])
def test_every_runtime_call_has_as_many_arguments_as_cupy_takes(module: str) -> None:
    runtime = pytest.importorskip("cupy").cuda.runtime
    for node in ast.walk(ast.parse((SOURCE / module).read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "runtime":
            # Cython's functions say their signature in the docstring's first line: name(type a, type b)
            said = str(getattr(runtime, node.func.attr).__doc__).splitlines()[0]
            wanted = said.partition("(")[2].partition(")")[0]
            assert len(node.args) == len([a for a in wanted.split(",") if a.strip()]), said


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_the_kernels_of_the_links_compile(architecture: str) -> None:
    pytest.importorskip("cuda.core")
    from gpuassay.cuda_launches import cubin

    code = cubin(architecture)
    assert code.startswith(b"\x7fELF")
    assert b"nothing" in code
