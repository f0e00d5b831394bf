"""Links and launch costs: from suites on a fake GPU to verdict and report; PCIe's arithmetic; CuPy's names."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpuassay
from gpuassay import links, verify
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
    verdicts = {v.metric: v for v in verify.judge_record(path, None).verdicts}
    for name in ("pcie.h2d", "pcie.both", "pcie.h2d.pageable"):
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


# Method and call of CuPy -> number of arguments we give; the installed CuPy must have each under that name.
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
    from gpuassay.cuda_operations import cubin

    code = cubin(architecture)
    assert code.startswith(b"\x7fELF")
    assert all(name in code for name in (b"nothing", b"mapped_read", b"mapped_write"))
