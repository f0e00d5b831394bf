"""Records side by side, over time, and as one frame: on runs of fake GPUs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import H20
from hypothesis import given
from hypothesis import strategies as st
from rewriting import lines_of, rewrite

import gpuassay
from gpuassay import compare, history, store, verify
from gpuassay.cli import cli
from gpuassay.record import RecordError, read

Measure = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(fake_run: Measure) -> tuple[Path, Path, Path]:
    """The same good part twice, and one with a tensor core 3 % slow."""
    return fake_run(fresh=True), fake_run(fresh=True), fake_run(rates={"tensor.bf16": 4096 * 0.998 * 0.97})


def answers(*paths: Path) -> dict[tuple[str, str], compare.Ratio]:
    found = compare.compare([read(path) for path in paths])
    return {(row.metric, row.basis): row for row in found.ratios}


def test_a_slow_tensor_core_is_found(runs: tuple[Path, Path, Path]) -> None:
    row = answers(runs[0], runs[2])["tensor.bf16", "per clock and SM"]
    assert row.answer == "differs"
    assert row.ratio == pytest.approx(0.97, abs=0.002)
    assert row.unit == "FLOP/clk/SM"
    assert row.expanded_uncertainty is not None
    assert abs(row.ratio - 0.97) < row.expanded_uncertainty


def test_the_same_part_twice_is_alike_per_clock(runs: tuple[Path, Path, Path]) -> None:
    found = answers(runs[0], runs[1])
    assert {key[0] for key, row in found.items() if row.answer == "differs" and key[1] == "per clock and SM"} == set()


def test_another_part_is_labelled(fake_run: Measure, runs: tuple[Path, Path, Path]) -> None:
    found = compare.compare([read(runs[0]), read(fake_run(**H20))])
    assert dict(found.differences)["part"] == ("FAKE H100", "FAKE H20")
    rows = {(row.metric, row.basis): row for row in found.ratios}
    assert rows["tensor.bf16", "per clock and SM"].ratio == pytest.approx(0.25, rel=0.01)
    assert rows["count.sm", "absolute"].answer == "differs"


def test_another_kernel_gives_no_ratio(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    lines = lines_of(runs[1])
    for line in lines:
        if line["kind"] == "kernel" and line["metric"] == "memory.read":
            line["source_sha256"] = "0" * 64
    other = rewrite(tmp_path / "other.jsonl", lines)
    row = answers(runs[0], other)["memory.read", "absolute"]
    assert (row.answer, row.ratio) == ("not comparable", None)
    assert "sources differ" in row.why


def test_another_format_is_named_and_a_part_alone_gives_no_ratio(runs: tuple[Path, Path, Path]) -> None:
    """A record of an older format is compared where it can be, and the difference is a labelled row."""
    found = compare.compare([read(verify.reference_record()), read(runs[0])])
    assert dict(found.differences)["format"] == ("gpuassay.record/1", "gpuassay.record/3")
    lone = [row for row in found.ratios if row.answer == "measured once"]
    assert lone
    assert all(row.ratio is None and row.why for row in lone)


def test_figures_without_samples_are_unknown() -> None:
    reference = verify.reference_record()
    found = compare.compare([read(reference), read(reference)])
    assert {row.answer for row in found.ratios} <= {"unknown", "alike"}
    assert not found.differs


@given(st.floats(0.5, 2), st.floats(1e-4, 0.05), st.floats(1e-4, 0.05), st.floats(1e3, 1e15))
def test_the_interval_is_that_of_a_quotient(ratio: float, a: float, b: float, value: float) -> None:
    def row(x: float, u: float) -> dict[str, object]:
        return {
            "unit": "FLOP/s",
            "source_sha256": None,
            "value": x,
            "standard_uncertainty": u * x,
            "degrees_of_freedom": math.inf,
        }

    found = compare._ratio("m", "absolute", "value", "", row(value, a), row(value * ratio, b), 1)
    assert found.expanded_uncertainty == pytest.approx(1.96 * ratio * math.hypot(a, b), rel=0.01)
    assert found.probability is not None
    assert 0 <= found.probability <= 1


def test_false_alarms_stay_at_the_stated_rate() -> None:
    """40 metrics that are alike, 300 times: by Benjamini and Hochberg, any difference is named in 5 % at most."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        t = rng.standard_normal(40)
        rows = [
            compare.Ratio(str(i), "absolute", 1, 1.0, 1.0, "B/s", 1.0, 0.1, float(p), "unknown")
            for i, p in enumerate(2 * (1 - pd.Series(t).abs().map(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))))
        ]
        alarms += any(row.answer == "differs" for row in compare._decided(rows))
    assert alarms / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_load_takes_a_directory_and_a_glob(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for place, path in enumerate(runs[:2]):
        (tmp_path / f"{place}.jsonl").write_bytes(path.read_bytes())
    everything = gpuassay.load(tmp_path)
    assert list(everything.columns[:3]) == ["run_id", "part", "uuid"]
    assert everything["run_id"].nunique() == 2
    assert len(everything) == sum(len(gpuassay.load(path)) for path in runs[:2])
    assert gpuassay.load(str(tmp_path / "1*.jsonl"))["run_id"].nunique() == 1
    frame = gpuassay.estimates(tmp_path)
    assert list(frame.columns) == list(store.ESTIMATE_COLUMNS)
    assert set(frame["metric"]) >= {"tensor.bf16", "memory.read", "count.sm"}
    with pytest.raises(RecordError, match="no record"):
        gpuassay.load(tmp_path / "*.none")


# -- over time ------------------------------------------------------------------------------------------------


def frame_of(values: np.ndarray, **columns: object) -> pd.DataFrame:
    days = pd.date_range("2026-01-01", periods=len(values), freq="7D", tz="UTC")
    row = {
        "run_id": [f"r{place}" for place in range(len(values))],
        "started": [day.isoformat() for day in days],
        "part": "P",
        "uuid": "GPU-1",
        "driver": "580",
        "program": "gpuassay 1",
        "metric": "tensor.bf16",
        "source_sha256": "a",
        "value": values * 1e12,
        "unit": "FLOP/s",
        "standard_uncertainty": 1e9,
        "per_clock": values,
        "per_clock_standard_uncertainty": values * 5e-4,
    }
    return pd.DataFrame(row | columns)


def steady(count: int, seed: int) -> np.ndarray:
    return 4088 * (1 + 5e-4 * np.random.default_rng(seed).standard_normal(count))


def test_a_step_is_found_and_a_new_driver_named() -> None:
    values = steady(12, 3)
    values[7:] *= 0.97
    (series,) = history.history(frame_of(values, driver=["580"] * 7 + ["590"] * 5))
    (step,) = series.steps
    assert step.run_id == "r7"
    assert step.ratio == pytest.approx(0.97, abs=0.002)
    assert step.changed == ("driver 580 -> 590",)
    (alone,) = history.history(frame_of(values))
    assert alone.steps[0].changed == ()


def test_drift_is_found() -> None:
    values = steady(20, 4) * (1 - 0.001 * np.arange(20) / 20)
    (series,) = history.history(frame_of(values))
    assert series.drift_interval is not None
    assert series.drift_interval[0] <= -0.001 / (19 * 7) * 19 / 20 <= series.drift_interval[1]


def test_a_steady_board_is_steady() -> None:
    found = [history.history(frame_of(steady(12, seed)))[0] for seed in range(200)]
    assert sum(bool(series.steps) for series in found) <= 4
    assert sum(series.drifts for series in found) <= 20


def test_boards_are_kept_apart() -> None:
    frame = pd.concat([frame_of(steady(5, 1)), frame_of(steady(5, 2) * 0.5, uuid="GPU-2")])
    found = history.history(frame)
    assert [series.uuid for series in found] == ["GPU-1", "GPU-2"]
    assert all(series.steps == () for series in found)


# -- the commands ---------------------------------------------------------------------------------------------


def words(output: bytes, form: str) -> str:
    """The text of what a command wrote."""
    if form != "pdf":
        return output.decode()
    from pypdf import PdfReader

    return "".join(page.extract_text() for page in PdfReader(io.BytesIO(output)).pages)


@pytest.mark.parametrize("form", ["text", "html", "md", "csv", "json", "junit", "pdf"])
def test_compare_in_every_format(runs: tuple[Path, Path, Path], form: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["compare", str(runs[0]), str(runs[2]), "--format", form])
    assert done.exit_code == 1, done.output
    assert "tensor.bf16" in words(done.stdout_bytes, form)
    if form == "json":
        json.loads(done.stdout)
    if form == "junit":
        suite = ElementTree.fromstring(done.stdout)
        failed = {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None}
        assert "tensor.bf16 (per clock and SM, run 1)" in failed
        assert suite.get("failures") == str(len(failed))
    out = tmp_path / "out"
    assert CliRunner().invoke(cli, ["compare", *map(str, runs[:2]), "--format", "md", "-o", str(out)]).exit_code in (
        0,
        1,
    )
    refused = CliRunner().invoke(cli, ["compare", *map(str, runs[:2]), "--format", "md", "-o", str(out)])
    assert refused.exit_code == 2
    assert "exists" in refused.output


@pytest.mark.parametrize("form", ["text", "html", "md", "csv", "json", "junit", "pdf"])
def test_history_in_every_format(runs: tuple[Path, Path, Path], form: str, tmp_path: Path) -> None:
    for place, path in enumerate(runs):
        (tmp_path / f"{place}.jsonl").write_bytes(path.read_bytes())
    (tmp_path / "foreign.jsonl").write_text("hello\n")
    parquet = tmp_path / "runs.parquet"
    done = CliRunner().invoke(cli, ["history", str(tmp_path), "--format", form, "--parquet", str(parquet)])
    assert done.exit_code == 0, done.output
    assert "foreign.jsonl" in done.stderr
    assert "tensor.bf16" in words(done.stdout_bytes, form)
    assert set(pd.read_parquet(parquet)["metric"]) >= {"tensor.bf16"}


def test_markup_in_a_name_stays_text(fake_run: Measure, tmp_path: Path) -> None:
    path = fake_run(name="<script>alert(1)</script>[bold]")
    done = CliRunner().invoke(cli, ["compare", str(path), str(path), "--format", "html"])
    assert "<script>alert" not in done.stdout
    done = CliRunner().invoke(cli, ["compare", str(path), str(path)])
    assert "[bold]" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "reference"], "at least two"),
        (["compare", "reference", "nowhere.jsonl"], "no such file"),
        (["history", "nowhere"], "no such file"),
        (["history", "nowhere*.jsonl"], "no record"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
