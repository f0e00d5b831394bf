"""Plants in simulated parts, each found, and clean parts, where nothing is found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from gpuassay import plugin, record
from gpuassay.audit import Row, of_lines, overall
from gpuassay.audit.checks import CHEAP, THOROUGH, guarded
from gpuassay.audit.self_report import rows
from gpuassay.audit.show import table
from gpuassay.cli import cli
from gpuassay.record import Record
from gpuassay.verdict import Judgement

CLAIMS: dict[str, Any] = {
    "name": "NVIDIA H100 80GB HBM3",
    "pci.device_id": "10de:2330",
    "compute_capability": "9.0",
    "count.sm": 132,
    "count.core": 132 * 128,
    "memory.size": 81559 * 2**20,
    "clock.sm.max": 1.98e9,
    "clock.memory.max": 2.619e9,
    "memory.bus_width": 5120,
    "pcie.generation.max": 5,
    "pcie.width.max": 16,
    "pcie.width.current": 16,
    "serial": "1650000000001",
}


def simulated(
    seed: int = 0,
    sms: int = 132,
    clock: float = 1.0,
    power: float = 1.0,
    pcie: float = 0.85,
    dip: int = 0,
    **claims: Any,
) -> Record:
    """A run of 20 s: 0.1 s rounds, readings every 0.1 s; `clock` and `power` are what the sensors misreport."""
    rng = np.random.default_rng(seed)
    made = Record(Path("simulated"), {"samples": "kept", "run_id": "x"}, claims=CLAIMS | claims)
    metrics = {"tensor.bf16": 4096.0, "memory.read": 0.94 * 3.352e12}
    made.medians.append({"metric": "pcie.h2d", "toolchain": None, "value": pcie * 63.0e9, "unit": "B/s"})
    at = 100.0
    energy = 5e5
    for index in range(200):
        name = list(metrics)[index % 2]
        hz = 1.755e9 * (1 + rng.normal(0, 0.003)) * (0.8 if index < dip else 1.0)
        seconds = 0.099
        rate = metrics[name] * (sms * hz if name.startswith("tensor") else 1.0)
        made._rounds.append(
            {
                "metric": name,
                "toolchain": "cuda c++",
                "index": index // 2,
                "work": rate * seconds,
                "work_unit": "FLOP" if name.startswith("tensor") else "B",
                "event_s": seconds,
                "host_s": seconds + 2e-5,
                "globaltimer_s": seconds - 1e-5,
                "start_host_s": at,
                "sm_clock_hz": hz,
                "sm_id": list(range(sms)),
                "sm_cycles": [round(seconds * hz)] * sms,
                "sm_work": [rate * seconds / sms] * sms,
            }
        )
        watts = 500 + rng.normal(0, 15) + (100 if name.startswith("tensor") else 0)
        made._telemetry.append(
            {
                "host_s": at + 0.05,
                "sm_clock_hz": round(hz * clock / 15e6) * 15e6,
                "power_w": watts * power,
                "energy_j": energy,
                "temperature_c": 50 + index // 20,
                "clock_event_reasons": 0,
                "gpu_utilisation": 1.0,
            }
        )
        energy += watts * 0.1
        at += 0.1
    return made


def verdicts(found: list[Row]) -> dict[str, str]:
    return {row.check: row.verdict for row in found}


def test_a_clean_part_has_no_inconsistent_row() -> None:
    wrong = sum(overall(rows(simulated(seed))) == "inconsistent" for seed in range(20))
    assert wrong == 0
    words = verdicts(rows(simulated()))
    tested = ("name", "count.sm", "count.core", "clock.sm", "power against energy", "pcie.width", "pcie.rate")
    assert {words[name] for name in tested} == {"consistent"}


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        ({"sms": 131}, "count.sm"),
        ({"sms": 131}, "count.core"),
        ({"clock": 1.03}, "clock.sm"),
        ({"clock": 0.97}, "clock.sm"),
        ({"power": 1.10}, "power against energy"),
        ({"power": 0.90}, "power against energy"),
        ({"pcie": 0.42}, "pcie.rate"),
        ({"pcie.width.current": 8}, "pcie.width"),
        ({"name": "NVIDIA H20"}, "name"),
        ({"name": "NVIDIA L20Y"}, "name"),
        ({"clock.sm.max": 1.7e9}, "clock.sm.max"),
        ({"memory.bus_width": 4096}, "memory.clock x memory.bus_width"),
        ({"dip": 60}, "clock.event_reasons"),
    ],
)
def test_a_misreport_is_found(plant: dict[str, Any], check: str) -> None:
    for seed in range(5):
        assert verdicts(rows(simulated(seed, **plant)))[check] == "inconsistent"


def test_a_masked_name_is_called_a_label_that_does_not_match() -> None:
    row = next(r for r in rows(simulated(name="NVIDIA L20Y")) if r.check == "name")
    assert "label does not match class" in row.text
    assert "fake" not in row.text.lower()


def test_a_clock_that_fell_for_a_reason_is_consistent() -> None:
    made = simulated(dip=60)
    for line in made._telemetry[:60:2] + made._telemetry[1:60:4]:
        line["clock_event_reasons"] = 4
    row = next(r for r in rows(made) if r.check == "clock.event_reasons")
    assert row.verdict == "consistent"
    assert row.details["fallen"] == 60


def test_copies_over_another_link_than_pcie_test_nothing() -> None:
    assert verdicts(rows(simulated(pcie=6.0)))["pcie.rate"] == "not tested"


def test_rows_hold_no_serial() -> None:
    assert "1650000000001" not in str([row.line() for row in rows(simulated())])


def test_a_record_without_samples_tests_nothing_that_it_cannot() -> None:
    reference = next(Path(__file__).parent.parent.glob("results/reference/*.jsonl"))
    words = verdicts(rows(record.read(reference)))
    assert words["clock.sm"] == words["count.sm"] == "not tested"


def test_rows_go_through_a_record(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run = {"run_id": "1", "started": "2026-11-24T00:00:00Z", "instrument": "test", "samples": "kept", "profile": None}
    empty = {"program": {"version": "0", "commit": None}, "host": {"python": "", "platform": "", "packages": {}}}
    found = rows(simulated())
    with record.RecordWriter(path) as writer:
        writer.write("run", **run, **empty, argv=[])
        for row in found:
            writer.write("audit", **row.line())
    assert of_lines(record.read(path).audit) == found


# -- the whole way, on a fake GPU at the driver's edge -----------------------------------------------------------


def test_a_clean_run_of_the_suites_has_no_inconsistent_row(fake_run: Callable[..., Path]) -> None:
    words = verdicts(rows(record.read(fake_run())))
    assert "inconsistent" not in words.values()
    assert words["count.sm"] == words["clock.sm"] == "consistent"


def test_a_misreporting_driver_is_found_through_the_suites(fake_run: Callable[..., Path]) -> None:
    words = verdicts(rows(record.read(fake_run(nvml_sm_clock_hz=1.755e9 * 1.03))))
    assert words["clock.sm"] == "inconsistent"


def test_the_audit_profile_runs_and_skips_what_needs_silicon(fake_run: Callable[..., Path]) -> None:
    taken = record.read(fake_run("audit"))
    assert taken.complete
    assert taken.audit == []


def test_checks_of_the_audit_run_after_the_measurements() -> None:
    class Item:
        def __init__(self, name: str) -> None:
            self.name = name

        def get_closest_marker(self, marker: str) -> object:
            return marker if marker in self.name else None

    items = [Item("audit a"), Item("memory"), Item("audit b"), Item("tensor")]
    plugin.pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.name for item in items] == ["memory", "tensor", "audit a", "audit b"]


def audit(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["audit", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_on_a_record(fake_run: Callable[..., Path]) -> None:
    code, out, _ = audit(str(fake_run()), "--json")
    document = json.loads(out)
    assert (code, document["answer"], document["schema"]) == (0, "consistent", "gpuassay.audit/1")
    assert "no evidence that a dormant function does not exist" in document["limits"]
    code, out, _ = audit(str(fake_run(nvml_sm_clock_hz=1.755e9 * 1.03)))
    assert code == 1
    assert "misstated clock" in out


def test_the_command_on_bad_input(tmp_path: Path) -> None:
    code, out, err = audit(str(tmp_path / "none.jsonl"))
    assert (code, out) == (2, "")
    assert "no such file" in err
    empty = tmp_path / "hostile.jsonl"
    empty.write_text("{}\n")
    assert audit(str(empty))[0] == 2


def test_text_from_a_device_is_not_markup_and_sends_no_escapes() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(table(rows(simulated(name="[red]\x1b[31mx[/red]"))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]?[31mx[/red]" in text
    assert "\x1b" not in text


def test_a_judgement_holds_the_audit(judged: Callable[..., Judgement]) -> None:
    document = judged(nvml_sm_clock_hz=1.755e9 * 1.03).to_json()
    assert {row["check"]: row["verdict"] for row in document["audit"]}["clock.sm"] == "inconsistent"


class Device:
    """All that `guarded` needs of a device before a check fails."""

    compute_capability = "9.0"
    nvml_index = 0


@pytest.mark.parametrize("name", [*CHEAP, *THOROUGH])
def test_a_check_that_fails_is_not_tested_and_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = guarded(name, Device(), None)  # type: ignore[arg-type]
    assert not {"consistent", "inconsistent"} & {row.verdict for row in found}
    assert all(row.text for row in found)
