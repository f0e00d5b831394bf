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
from gpuassay.audit.checks import CHEAP, THOROUGH, Run, guarded
from gpuassay.audit.host import CONFIDENTIAL
from gpuassay.audit.self_report import rows
from gpuassay.audit.show import table
from gpuassay.cli import cli
from gpuassay.record import Record
from gpuassay.report.document import build
from gpuassay.sheets import load
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


def test_a_list_of_facts_is_not_called_untested() -> None:
    fact, untested = Row("a", "not observable", ""), Row("b", "not tested", "")
    assert overall([fact]) == "not observable"
    assert overall([fact, untested]) == overall([]) == "not tested"


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
        ({"clock.memory.max": 2.1 * 2.619e9}, "memory.clock x memory.bus_width"),
        ({"dip": 60}, "clock.event_reasons"),
    ],
)
def test_a_misreport_is_found(plant: dict[str, Any], check: str) -> None:
    for seed in range(5):
        assert verdicts(rows(simulated(seed, **plant)))[check] == "inconsistent"


def row_of(check: str, made: Record, sheet: str | None = "H100-SXM") -> Row:
    return next(r for r in rows(made, load(sheet) if sheet else None) if r.check == check)


def test_slow_memory_that_others_share_accuses_no_claim() -> None:
    check, doubled = "memory.clock x memory.bus_width", {"clock.memory.max": 2.1 * 2.619e9}
    for shared in ({"mig.mode": "enabled"}, {"virtualization.mode": "vgpu"}):
        assert row_of(check, simulated(**doubled, **shared)).verdict == "not tested"
    neighbour = simulated(**doubled)
    for reading in neighbour._telemetry:
        reading["other_processes"] = 1
    assert row_of(check, neighbour).verdict == "not tested"
    scattered = simulated()
    for line in scattered._rounds:
        if line["metric"] == "memory.read":
            line |= {"metric": "memory.random", "work": 0.3 * line["work"]}
    assert row_of(check, scattered).verdict == "not tested"


@pytest.mark.parametrize("which", ["device_id", "subsystem_id"])
def test_pci_ids_are_held_against_the_configuration_space(which: str) -> None:
    honest = {"pci.subsystem_id": "10de:16c1", "pci.config.device_id": "10de:2330"}
    made = simulated(**honest | {"pci.config.subsystem_id": "10de:16c1"})
    found = row_of(f"pci.{which}", made)
    assert (found.verdict, found.details["on_sheet"]) == ("consistent", True)
    made.claims[f"pci.config.{which}"] = "10de:2329"
    assert row_of(f"pci.{which}", made).verdict == "inconsistent"
    del made.claims[f"pci.config.{which}"]
    assert row_of(f"pci.{which}", made).verdict == "not tested"


def test_the_highest_clock_is_reached_or_not_tested() -> None:
    assert row_of("clock.sm.max", simulated()).verdict == "not tested"  # 1.755 of 1.98 GHz
    assert row_of("clock.sm.max", simulated(**{"clock.sm.max": 1.755e9})).verdict == "consistent"
    assert row_of("clock.sm.max", simulated(**{"clock.sm.max": 1.7e9})).verdict == "inconsistent"


@pytest.mark.parametrize(
    ("links", "rate", "word"),
    [(18, 370e9, "consistent"), (18, 500e9, "inconsistent"), (18, 100e9, "not tested"), (None, 370e9, "not tested")],
)
def test_nvlink_is_held_against_copies_to_a_peer(links: int | None, rate: float, word: str) -> None:
    made = simulated(**{"nvlink.count.active": links, "nvlink.speed": 26.5625e9})
    for index in range(10):
        line = {**made._rounds[1], "metric": "peer.one_way.0-1", "index": index, "work_unit": "B", "work": rate * 0.01}
        made._rounds.append(line | {"event_s": 0.01, "sm_id": [], "sm_cycles": [], "sm_work": []})
    found = row_of("nvlink", made)
    assert found.verdict == word
    assert found.claim == (links and links * 26.5625e9)


@pytest.mark.parametrize(
    ("mode", "mib", "word"),
    [
        ("enabled", 46068, "consistent"),
        ("disabled", 49140, "consistent"),
        ("enabled", 49140, "inconsistent"),
        ("disabled", 46068, "inconsistent"),
        ("enabled", 40000, "not tested"),
    ],
)
def test_ecc_is_held_against_the_capacity_that_it_costs(mode: str, mib: int, word: str) -> None:
    made = simulated(**{"compute_capability": "8.9", "ecc.mode": mode, "memory.size": mib * 2**20})
    assert row_of("ecc.mode", made, "L40S").verdict == word
    assert row_of("ecc.mode", made, None).verdict == "not tested"


def test_ecc_of_hbm_costs_nothing_that_could_be_seen() -> None:
    assert row_of("ecc.mode", simulated(**{"ecc.mode": "enabled"})).verdict == "not observable"


def warming(celsius: Callable[[float], float]) -> Record:
    """Half a minute idle, half a minute of load."""
    made = simulated()
    made._telemetry = [
        {"host_s": t / 10, "power_w": 650.0 if t > 300 else 80.0, "temperature_c": celsius(t / 10)} for t in range(600)
    ]
    return made


@pytest.mark.parametrize(
    ("celsius", "word"),
    [
        (lambda t: round(35 + 25 * (1 - np.exp(-max(t - 30, 0) / 8))), "consistent"),
        (lambda t: round(35 + 10 * (t > 30) - 3 * (t > 50)), "consistent"),  # a fan came on, long after
        (lambda t: 41.0, "inconsistent"),
        (lambda t: round(60 - 10 * min(1, max(t - 30, 0) / 8)), "inconsistent"),  # colder under load
    ],
)
def test_temperature_rises_while_load_begins(celsius: Callable[[float], float], word: str) -> None:
    found = row_of("temperature", warming(celsius))
    assert found.verdict == word
    assert found.details["loads"] == 1


@pytest.mark.parametrize(
    ("share", "filled", "word"),
    [
        (0.97, "consistent", "consistent"),
        (0.90, "consistent", "not tested"),
        (1.01, "consistent", "inconsistent"),
        (0.97, "inconsistent", "inconsistent"),
    ],
)
def test_memory_size_is_held_against_the_keyed_fill(share: float, filled: str, word: str) -> None:
    made = simulated()
    made.audit.append({"check": "memory.capacity", "verdict": filled, "measured": round(share * CLAIMS["memory.size"])})
    assert row_of("memory.size", made).verdict == word


def test_what_was_measured_has_an_uncertainty() -> None:
    found = {r.check: r for r in rows(simulated(), load("H100-SXM"))}
    for check in ("clock.sm", "clock.sm.max", "memory.clock x memory.bus_width", "power against energy", "count.sm"):
        assert found[check].expanded_uncertainty is not None, check


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


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "consistent"), (1.25, "inconsistent")])
def test_the_time_between_a_run_and_its_resumption_costs_no_energy(power: float, verdict: str) -> None:
    """The part idled for a quarter of an hour, and the driver was loaded anew."""
    made = simulated(power=power)
    before = made._telemetry[100]["energy_j"]
    for line in made._telemetry[100:]:
        line["host_s"] += 900.0
        line["energy_j"] -= before
    assert verdicts(rows(made))["power against energy"] == verdict


def test_a_part_that_cooled_while_nobody_looked_is_no_lie() -> None:
    made = warming(lambda t: 60.0 if t < 33 else 40.0)
    for line in made._telemetry:
        line["host_s"] += 5.0 * (line["host_s"] - made._telemetry[0]["host_s"] >= 33)
    assert verdicts(rows(made))["temperature"] != "inconsistent"


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


# Of a clock that no cap moves.
MISSTATED: dict[str, Any] = {"nvml_sm_clock_hz": 1.755e9 * 1.03, "clock_event_reasons": 0}


@pytest.mark.parametrize(("clock", "verdict"), [(1.03, "consistent"), (1.07, "inconsistent")])
def test_a_clock_read_under_a_cap_alone_may_differ_more(clock: float, verdict: str) -> None:
    made = simulated(clock=clock)
    for line in made._telemetry:
        line["clock_event_reasons"] = 4
    (row,) = (r for r in rows(made) if r.check == "clock.sm")
    assert row.verdict == verdict
    assert "All fell under a cap: 5% are allowed" in row.text
    made = simulated(clock=clock)
    for place, line in enumerate(made._telemetry):
        line["clock_event_reasons"] = 4 if place % 3 else 2  # a setting, and no cap
    (row,) = (r for r in rows(made) if r.check == "clock.sm")
    assert (row.verdict, row.details["readings"]) == ("inconsistent", len(made._telemetry[::3]))


def test_a_setting_that_stands_explains_no_fall() -> None:
    made = simulated(dip=60)
    for line in made._telemetry:
        line["clock_event_reasons"] = 2
    assert verdicts(rows(made))["clock.event_reasons"] == "inconsistent"


def test_copies_under_confidential_computing_say_nothing_of_the_link() -> None:
    made = simulated(pcie=0.2)
    made.audit.append(Row(CONFIDENTIAL, "not observable", "", details={"ccFeature": 1}).line())
    assert verdicts(rows(made))["pcie.rate"] == "not tested"


def test_a_misreporting_driver_is_found_through_the_suites(fake_run: Callable[..., Path]) -> None:
    words = verdicts(rows(record.read(fake_run(**MISSTATED))))
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
    code, out, _ = audit(str(fake_run(**MISSTATED)))
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


def test_a_judgement_says_in_its_first_sentence_that_the_audit_found_something(
    judged: Callable[..., Judgement], fake_run: Callable[..., Path]
) -> None:
    made = judged(**MISSTATED)
    document = made.to_json()
    assert {row["check"]: row["verdict"] for row in document["audit"]}["clock.sm"] == "inconsistent"
    assert document["audit_answer"] == "inconsistent"
    assert made.overall == "conforms"  # capability is another question
    assert made.summary.endswith("; audit: inconsistent: clock.sm")
    assert [f.code for f in made.findings if f.code.startswith("audit")] == ["audit-inconsistent"]
    assert ("Honesty audit", "inconsistent") in build(made, draw=False).facts
    assert "audit" not in judged().summary
    assert judged().to_json()["audit_answer"] == "consistent"


@pytest.mark.parametrize(("profile", "code"), [("quick", 0), ("audit", 1)])
def test_the_exit_code_of_an_audit_follows_its_rows(fake_run: Callable[..., Path], profile: str, code: int) -> None:
    path = str(fake_run(profile, **MISSTATED))
    done = CliRunner().invoke(cli, ["verify", "--replay", path])
    assert done.exit_code == code
    assert "audit: inconsistent: clock.sm" in done.stdout


def test_the_audit_profile_measures_what_claims_are_held_against(fake_run: Callable[..., Path]) -> None:
    words = verdicts(rows(record.read(fake_run("audit"))))
    assert words["l2.size"] == "consistent"
    metrics = set(record.read(fake_run("audit")).rounds()["metric"])
    assert {"latency.l2.all_sms", "tensor.bf16.sustained"} <= metrics


# -- the same unit ------------------------------------------------------------------------------------------------


def test_a_swapped_board_is_found_between_two_records(fake_run: Callable[..., Path]) -> None:
    def since(then: Path, now: Path) -> dict[str, str]:
        code, out, _ = audit(str(now), "--since", str(then), "--json")
        document = json.loads(out)
        found = {row["check"]: row["verdict"] for row in document["rows"] if "as before" in row["check"]}
        assert code == (1 if "inconsistent" in found.values() else 0)
        return found

    first, again, swapped = (fake_run("audit", **die) for die in ({}, {"noise": 0.0006}, {"die": 2}))
    assert since(first, again) == {"same labels as before": "consistent", "same unit as before": "consistent"}
    assert since(first, swapped) == {"same labels as before": "consistent", "same unit as before": "inconsistent"}
    assert since(fake_run("quick"), again)["same unit as before"] == "not tested"
    relabelled = fake_run("quick", uuid="GPU-OTHER")
    assert since(fake_run("quick"), relabelled)["same labels as before"] == "inconsistent"


class Device:
    """All that `guarded` needs of a device before a check fails."""

    compute_capability = "9.0"
    nvml_index = 0


def test_a_check_that_costs_the_context_is_raised_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDARuntimeError(RuntimeError):
        status = 700

    def check(*_: Any) -> list[Row]:
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    monkeypatch.setitem(CHEAP, "fingerprint", check)
    with pytest.raises(CUDARuntimeError):
        guarded("fingerprint", Device(), Run())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*CHEAP, *THOROUGH])
def test_a_check_that_fails_is_not_tested_and_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = guarded(name, Device(), Run())  # type: ignore[arg-type]
    assert not {"consistent", "inconsistent"} & {row.verdict for row in found}
    assert all(row.text for row in found)
