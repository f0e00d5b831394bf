"""Identification: silicon against labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import H20

from gpuassay import record
from gpuassay.cli import cli
from gpuassay.identify import NONE, Evidence, Identification, evidence_of, identify
from gpuassay.uncertainty import Measured, Term

RECORDING = next((Path(__file__).parent.parent / "results" / "reference").glob("*.jsonl"))


def of(path: Path) -> Identification:
    """The identification of a record."""
    taken = record.read(path)
    return identify(evidence_of(taken), str(taken.claims.get("name")))


def test_the_shipped_recording_is_an_h100_under_its_own_name() -> None:
    found = of(RECORDING)
    assert (found.identified, found.label) == ("H100-SXM", "consistent")


def test_an_h20_that_says_h100_is_an_h20(fake_run: Callable[..., Path]) -> None:
    found = of(fake_run(**H20 | {"name": "NVIDIA H100 80GB HBM3", "pci_device_id": "10de:2330"}))
    assert (found.identified, found.label) == ("H20", "label does not match class")
    assert any("label of H100-SXM" in finding for finding in found.findings)


def test_an_h100_with_78_sms_that_says_h20_is_an_h100(fake_run: Callable[..., Path]) -> None:
    found = of(fake_run(name="NVIDIA H20", pci_device_id="10de:2329", sm_count=78))
    assert (found.identified, found.label) == ("H100-SXM", "label does not match class")
    assert any("SM count speaks against" in finding for finding in found.findings)


def test_a_masked_name_is_no_label_of_a_part() -> None:
    evidence = Evidence(
        measured={
            "tensor.bf16": Measured(None, per_clock=4088.0),
            "vector.fp64": Measured(None, per_clock=4.0),
        },
        sm_count=132,
        compute_capability="9.0",
        memory_bytes=81559 * 2**20,
        name="NVIDIA L20Y",
    )
    found = identify(evidence, "NVIDIA L20Y")
    assert (found.candidates[0].name, found.label) == ("H800-SXM", "label does not match class")


def test_silicon_that_no_sheet_has_is_none_of_these() -> None:
    evidence = Evidence(
        measured={
            "tensor.bf16": Measured(None, per_clock=3000.0),
            "vector.fp32": Measured(None, per_clock=200.0),
            "memory.read": Measured(9.0e12),
        },
        sm_count=99,
        name="NVIDIA H20",
    )
    found = identify(evidence, "NVIDIA H20")
    assert found.candidates[0].name == NONE
    assert found.identified is None


@pytest.mark.parametrize("label", ["name", "pci_device_id"])
def test_no_label_alone_decides(label: str) -> None:
    right: dict[str, Any] = {"name": "NVIDIA H20", "pci_device_id": "10de:2329"}
    found = identify(Evidence(measured={}, **{label: right[label]}), "")
    assert found.identified is None


def test_posteriors_add_up_and_contributions_explain_them() -> None:
    found = of(RECORDING)
    assert sum(candidate.posterior for candidate in found.candidates) == pytest.approx(1)
    sums = {c.name: sum(c.contributions.values()) for c in found.candidates if c.name != NONE}
    assert max(sums, key=lambda name: sums[name]) == found.candidates[0].name


def test_the_command() -> None:
    done = CliRunner().invoke(cli, ["identify", "reference", "--json"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["identified"] == "H100-SXM"
    assert document["candidates"][0]["contributions"]["SM count"] > 2
    assert CliRunner().invoke(cli, ["identify", "/nowhere.jsonl"]).exit_code == 2
    text = CliRunner().invoke(cli, ["identify", "reference"]).output
    assert "H100-SXM" in text


@pytest.mark.parametrize("memory_read_bytes_per_s", [4.2e12, 4.4e12, 4.5e12])
@pytest.mark.parametrize("l2_mib", [50, 60])
def test_an_l2_that_a_database_carried_over_convicts_no_label(l2_mib: int, memory_read_bytes_per_s: float) -> None:
    """TechPowerUp prints the H100's 50 MB for the H200 too, whose SXM board reports 60; of the NVL nobody has said."""
    terms = (Term("instrument", 0.003, "B", "normal", "assumed"),)
    measured = {
        "tensor.bf16": Measured(9e14, 4090.0, terms=terms, clock_terms=terms),
        "vector.fp32": Measured(6e13, 254.0, terms=terms, clock_terms=terms),
        "memory.read": Measured(memory_read_bytes_per_s, terms=terms),
    }
    name = "NVIDIA H200 NVL"
    found = identify(Evidence(measured, 132, "9.0", 143771 * 2**20, l2_mib * 2**20, None, name), name)
    assert found.identified == ("H200-NVL" if l2_mib == 50 else None)
