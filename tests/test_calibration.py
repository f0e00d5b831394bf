"""Calibration: made from recordings, never judging a board by itself."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner

from gpuassay import calibration, record, sheets, verify
from gpuassay.calibration import CalibrationError, attainment, calibrate
from gpuassay.cli import cli
from gpuassay.sheets import Sheet
from gpuassay.verdict import judge, limit_shares

RECORDING = next((Path(__file__).parent.parent / "results" / "reference").glob("*.jsonl"))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """calibration.toml with no boards, to be filled."""
    content = dict(calibration._table(), board=[])
    monkeypatch.setattr(calibration, "_table", lambda: content)
    return content


def with_shares(taken: record.Record) -> tuple[record.Record, Sheet, dict[str, float]]:
    """A record of an H100 as `calibrate` takes it."""
    sheet = sheets.load("H100-SXM")
    return taken, sheet, limit_shares(taken, sheet)


def board(number: int, share: float) -> dict[str, Any]:
    """A [[board]] table."""
    return {
        "run_id": f"run{number}",
        "part": "P",
        "board": f"GPU-{number}",
        "compute_capability": "9.0",
        "started": "2026-11-23T00:00:00Z",
        "attained": {"tensor.bf16": share},
    }


def test_the_shipped_calibration_is_what_calibrate_makes_of_the_shipped_recording() -> None:
    taken = record.read(RECORDING)
    made = calibrate([with_shares(taken)], single_board=True)["board"][0]
    shipped = next(b for b in calibration._table()["board"] if b["run_id"] == taken.run["run_id"])
    assert made == shipped


def test_one_board_calibrates_only_when_that_is_said() -> None:
    pair = with_shares(record.read(RECORDING))
    with pytest.raises(CalibrationError, match="--single-board"):
        calibrate([pair])
    with pytest.raises(CalibrationError, match="twice"):
        calibrate([pair, pair])


def test_no_board_is_judged_by_itself(table: dict[str, Any]) -> None:
    table["board"] = [board(1, 0.99), board(2, 0.998)]
    both = attainment("tensor.bf16", "9.0")
    without = attainment("tensor.bf16", "9.0", {"run1"})
    other_run_of_it = attainment("tensor.bf16", "9.0", {"GPU-1"})
    assert both is not None
    assert without is not None
    assert both.value == pytest.approx(0.994)
    assert without.value == 0.998
    assert other_run_of_it == without
    alone = attainment("tensor.bf16", "9.0", {"run1", "run2"})
    assert alone is not None
    assert alone.source.startswith("prior")
    elsewhere = attainment("tensor.bf16", "8.9")
    assert elsewhere is not None
    assert elsewhere.source.startswith("prior")


def test_fewer_boards_say_less(table: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    widths = []
    for count in (1, 3, 30):
        table["board"] = [board(n, float(share)) for n, share in enumerate(rng.normal(0.998, 0.0015, count))]
        found = attainment("tensor.bf16", "9.0")
        assert found is not None
        widths.append(calibration.expanded(found))
    assert widths[1] > widths[2]
    assert widths[0] > widths[2]


def test_leave_one_out(table: dict[str, Any]) -> None:
    """Each of many good boards, judged by all others, lies within U of them about 95 times in 100."""
    rng = np.random.default_rng(2)
    hits = total = 0
    for _ in range(100):
        shares = rng.normal(0.998, 0.0015, 6)
        table["board"] = [board(n, float(share)) for n, share in enumerate(shares)]
        for n, share in enumerate(shares):
            others = attainment("tensor.bf16", "9.0", {f"run{n}"})
            assert others is not None
            assert others.degrees_of_freedom == 4
            hits += abs(share / others.value - 1) <= calibration.expanded(others)
            total += 1
    assert 0.92 <= hits / total <= 0.98


def test_boards_of_one_type_judge_a_further_one(fake_run: Any, table: dict[str, Any]) -> None:
    """Whole runs: three good fakes calibrate; a fourth is judged by them, one of the three by the other two."""
    pairs = []
    for number, share in enumerate((0.9975, 0.998, 0.9985)):
        rates = dict.fromkeys(("memory.read", "memory.write", "memory.copy", "memory.triad"), 0.94)
        rates |= {"vector.fp32": 256 * 0.993, "tensor.bf16": 4096 * share, "mma_sync.bf16": 2700}
        taken = record.read(fake_run("quick", uuid=f"GPU-{number}", rates=rates))
        pairs.append(with_shares(taken))
    table["board"] = calibrate(pairs)["board"]
    for taken, sheet, _ in pairs:
        judgement = judge(taken, sheet)
        assert "calibration-excludes-itself" in {finding.code for finding in judgement.findings}
        bf16 = next(v for v in judgement.verdicts if v.metric == "tensor.bf16")
        assert bf16.verdict == "conforms"
        assert any("2 boards" in term.source for term in bf16.budget)


def test_the_command_prints_toml_and_overwrites_nothing(fake_run: Any, tmp_path: Path) -> None:
    first, second = (str(fake_run("quick", uuid=f"GPU-{n}")) for n in "ab")
    run = CliRunner().invoke
    done = run(cli, ["calibrate", first, second, "--against", "H100-SXM"])
    assert done.exit_code == 0
    parsed = tomllib.loads(done.output)
    assert [b["board"] for b in parsed["board"]] == ["GPU-a", "GPU-b"]
    assert tomllib.loads(tomli_w.dumps(parsed)) == parsed
    out = tmp_path / "boards.toml"
    assert run(cli, ["calibrate", first, second, "-o", str(out)]).exit_code == 0
    again = run(cli, ["calibrate", first, second, "-o", str(out)])
    assert (again.exit_code, "not overwritten" in again.output) == (2, True)
    assert run(cli, ["calibrate", first]).exit_code == 2
    assert run(cli, ["calibrate", str(tmp_path / "none.jsonl")]).exit_code == 2
    short = run(cli, ["calibrate", first, str(fake_run("quick", sm_count=130))])
    assert (short.exit_code, "of no known-good H100-SXM: SM count: the device shows 130" in short.output) == (2, True)


def test_the_reference_alone_is_judged_by_the_prior() -> None:
    judgement = verify.judge_record(RECORDING, "H100-SXM")
    assert "calibration-excludes-itself" in {finding.code for finding in judgement.findings}
