"""Fake parts through the whole way, judged; and the decision rule and the uncertainty of a median on their own."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import H20
from rich.console import Console

from gpuassay import report, verify
from gpuassay.cli_shared import exit_code
from gpuassay.sheets import SheetError
from gpuassay.verdict import Judgement, Verdict

Judged = Callable[..., Judgement]


def of(judgement: Judgement, metric: str) -> Verdict:
    """The verdict on one metric."""
    return next(v for v in judgement.verdicts if v.metric == metric)


def printed(judgement: Judgement) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(report.judgement(judgement, details=True))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def codes(judgement: Judgement) -> set[str]:
    """Codes of all findings."""
    return {finding.code for finding in judgement.findings}


# -- parts -------------------------------------------------------------------------------------------------


def test_a_genuine_h100_conforms_and_names_why_it_delivers_less(judged: Judged) -> None:
    judgement = judged()
    assert judgement.sheet.name == "H100-SXM"
    assert judgement.overall == "conforms"
    bf16 = of(judgement, "tensor.bf16")
    assert (bf16.verdict, bf16.delivered_verdict) == ("conforms", "below")
    assert "cause: clock x 0.959" in bf16.reason
    assert "SwPowerCap" in bf16.reason
    assert exit_code(judgement, "capability") == 0
    assert exit_code(judgement, "delivered") == 1


def test_an_h100_with_two_sms_short_is_no_h100(judged: Judged) -> None:
    judgement = judged(sm_count=130)
    assert judgement.sheet.name == "H100-SXM"
    assert (judgement.overall, exit_code(judgement, "capability")) == ("does not conform", 1)
    assert judgement.summary.endswith("is no H100-SXM: below: count.sm")
    assert of(judgement, "count.sm").verdict == "below"
    assert of(judgement, "tensor.bf16").verdict == "conforms"
    assert "SM count: the device shows 130, H100-SXM is 132: contradicts" in printed(judgement)


def test_an_h20_sold_as_an_h100_is_held_against_what_it_is_sold_as(judged: Judged) -> None:
    judgement = judged(**H20 | {"name": "NVIDIA H100 80GB HBM3", "pci_device_id": "10de:2330"})
    assert judgement.sheet.name == "H100-SXM"
    assert judgement.summary.startswith("NVIDIA H100 80GB HBM3 is no H100-SXM, its silicon is that of H20: below: ")
    assert {of(judgement, name).verdict for name in ("count.sm", "tensor.bf16", "vector.fp64")} == {"below"}
    assert any("by its silicon it could be H20" in line for line in judgement.choice)
    named = judged("H20", **H20 | {"name": "NVIDIA H100 80GB HBM3", "pci_device_id": "10de:2330"})
    assert of(named, "tensor.bf16").verdict == "conforms"
    identity = [finding.text for finding in named.findings if finding.code == "identity"]
    assert "PCI id: that of the H100-SXM sheet, not of H20" in identity
    said = "NVIDIA H100 80GB HBM3 has H20 silicon under a label that does not match"
    assert named.summary.split(";")[0] == said


def test_an_id_on_no_sheet_is_said_shortly(judged: Judged) -> None:
    with pytest.raises(SheetError) as error:
        judged(pci_device_id="10de:ffff")
    assert str(error.value) == (
        "no shipped sheet fits this device (PCI id: 10de:ffff is on no sheet, and unlisted parts share this silicon; "
        "candidates: H100-SXM and H800-SXM (more than one fits); only a PCI id decides); choose one with --against "
        "(`gpuassay sheets` lists them, `gpuassay identify` says which silicon this is)"
    )


def test_a_part_of_another_generation_under_that_id_breaks_nothing(judged: Judged) -> None:
    judgement = judged(compute_capability="8.0", sm_count=108)
    assert judgement.sheet.name == "H100-SXM"
    assert judgement.overall == "does not conform"
    assert "compute capability: the device shows 8.0, H100-SXM is 9.0: contradicts" in printed(judgement)


def test_a_genuine_h20_conforms_above_its_printed_figure(judged: Judged) -> None:
    judgement = judged(**H20)
    assert judgement.sheet.name == "H20"
    assert judgement.overall == "conforms"
    bf16 = of(judgement, "tensor.bf16")
    assert (bf16.verdict, bf16.delivered_verdict) == ("conforms", "above")
    assert bf16.attribution["clock"].ratio == pytest.approx(1.98 / 1.853, rel=1e-3)
    fp32 = of(judgement, "vector.fp32")
    assert (fp32.verdict, fp32.delivered_verdict) == ("conforms", "unattainable sheet")
    assert "at most 39.54 TFLOP/s" in fp32.reason


def test_an_h100_is_no_h20(judged: Judged) -> None:
    judgement = judged("H20")
    assert of(judgement, "tensor.bf16").verdict == "above"
    assert of(judgement, "tensor.bf16").share_of_limit == pytest.approx(4 * 0.998, rel=1e-3)
    assert of(judgement, "count.sm").verdict == "above"
    assert "this is no H20" in " ".join(f.text for f in judgement.findings)
    assert exit_code(judgement, "capability") == 1


@pytest.mark.parametrize(
    ("change", "metric", "word"),
    [
        ({"tensor.bf16": 1024 * 0.998 * 0.97}, "tensor.bf16", "below"),
        ({"tensor.bf16": 4096 * 0.998}, "tensor.bf16", "above"),
        ({"vector.fp32": 256 * 0.993 * 0.97}, "vector.fp32", "below"),
        ({"memory.read": 0.943 * 0.92}, "memory.read", "below"),
    ],
)
def test_faults_are_found(judged: Judged, change: dict[str, float], metric: str, word: str) -> None:
    judgement = judged(**H20 | {"rates": H20["rates"] | change})  # type: ignore[operator]
    assert of(judgement, metric).verdict == word
    assert judgement.overall == "does not conform"


def test_one_missing_sm_is_found(judged: Judged) -> None:
    judgement = judged("H20", **H20 | {"sm_count": 77})
    assert of(judgement, "count.sm").verdict == "below"
    assert judgement.overall == "does not conform"


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ({"event_error": 0.05}, "clocks-disagree"),
        ({"other_processes": 1}, "other-process"),
    ],
)
def test_a_disturbed_measurement_decides_nothing(judged: Judged, model: dict[str, Any], code: str) -> None:
    judgement = judged(**model)
    assert code in codes(judgement)
    assert of(judgement, "tensor.bf16").verdict == "inconclusive"
    assert exit_code(judgement, "capability") == 3


def test_a_slower_twin_is_a_finding_and_a_shortfall_of_one_toolchain_alone_is_in_doubt(judged: Judged) -> None:
    judgement = judged(profile="standard", numba=0.97)
    assert "toolchains-disagree" in codes(judgement)
    assert of(judgement, "vector.fp32").verdict == "conforms"
    rates = H20["rates"] | {"vector.fp32": 256 * 0.96}  # type: ignore[operator]
    short = of(judged(**H20 | {"profile": "standard", "numba": 1.03, "rates": rates}), "vector.fp32")
    assert short.verdict == "inconclusive"
    assert "Numba reaches 103" in short.reason


def test_paths_and_shapes_are_told_as_shares_of_the_headline(judged: Judged) -> None:
    """Neither is judged; the ratio of the warp-level path and the curve over shapes are what they are measured for."""
    judgement = judged(profile="standard", numba=0.97)
    warp_level = of(judgement, "mma_sync.bf16")
    assert warp_level.share_of_other == pytest.approx(0.667 / 0.998, rel=2e-3)
    assert re.match(r"66\.[5-9]% of tensor\.bf16 per clock and SM", warp_level.reason)
    assert warp_level.verdict == "not published"
    narrow = of(judgement, "tensor.bf16.n8")
    assert narrow.share_of_other == pytest.approx(0.125 / 0.998, rel=2e-3)
    assert of(judgement, "tensor.bf16").share_of_other is None
    text = printed(judgement)
    assert "A in shared memory" in text
    assert "n = 128" in text
    assert "tensor.bf16.n8" not in text, "points of a curve have a table of their own"


def test_a_figure_without_a_calibrated_board_is_judged_by_the_prior(judged: Judged) -> None:
    e5m2 = of(judged(profile="standard", numba=0.97), "tensor.fp8_e5m2")
    assert (e5m2.verdict, e5m2.published) == ("conforms", 1978.9e12)
    assert any(term.source.startswith("prior") for term in e5m2.budget)


@pytest.mark.parametrize("heat", [{"temperature_c": 90}, {"clock_event_reasons": 0x40}, {"clock_event_reasons": 0x20}])
def test_a_part_too_hot_decides_nothing_and_says_so(judged: Judged, heat: dict[str, int]) -> None:
    judgement = judged(**heat)
    assert "too-hot" in codes(judgement)
    assert judgement.overall == "inconclusive"
    bf16 = of(judgement, "tensor.bf16")
    assert bf16.verdict == "inconclusive"
    assert "cool it" in bf16.reason


def test_a_misstated_clock_is_a_finding_and_changes_no_verdict(judged: Judged) -> None:
    judgement = judged(nvml_sm_clock_hz=1.755e9 * 1.03)
    assert "clock-claim" in codes(judgement)
    assert of(judgement, "tensor.bf16").verdict == "conforms"


def test_a_wrong_result_has_no_rate(judged: Judged) -> None:
    judgement = judged(fail_check="tensor.bf16")
    bf16 = of(judgement, "tensor.bf16")
    assert (bf16.verdict, bf16.measured) == ("not measured", None)
    assert "3.7 times the bound at element 5,7" in bf16.reason
    assert judgement.overall == "inconclusive"


def test_factors_multiply_to_the_share_of_the_sheet(judged: Judged) -> None:
    for verdict in judged().verdicts:
        if verdict.attribution and verdict.share_of_published is not None:
            assert math.prod(f.ratio for f in verdict.attribution.values()) == pytest.approx(verdict.share_of_published)


def test_a_factor_far_from_one_has_the_uncertainty_of_its_own_size(judged: Judged) -> None:
    """An H20 held against an H100's sheet: a quarter of the rate per clock, known as well in proportion."""
    rate = of(judged("H100-SXM", **H20), "tensor.bf16").attribution["rate per SM and clock"]
    whole = of(judged("H100-SXM"), "tensor.bf16").attribution["rate per SM and clock"]
    assert rate.ratio == pytest.approx(0.25, rel=0.02)
    assert None not in (rate.expanded_uncertainty, whole.expanded_uncertainty)
    assert rate.expanded_uncertainty / rate.ratio == pytest.approx(whole.expanded_uncertainty / whole.ratio, rel=0.7)
    memory = of(judged("H100-SXM"), "memory.read")
    share = memory.attribution["share of nominal attained"]
    assert memory.expanded_uncertainty is not None
    assert share.expanded_uncertainty / share.ratio == pytest.approx(memory.expanded_uncertainty / memory.measured)


def test_a_factor_of_a_record_without_samples_has_no_uncertainty() -> None:
    bf16 = of(verify.judge_record(verify.reference_record(), None), "tensor.bf16")
    factors = {name: factor.expanded_uncertainty for name, factor in bf16.attribution.items()}
    assert factors["rate per SM and clock"] is factors["rest"] is None
    assert factors["SMs"] == 0.0  # counted
    assert bf16.attribution["rate per SM and clock"].text == f"{bf16.attribution['rate per SM and clock'].ratio:.4f}"


def test_the_budget_adds_up(judged: Judged) -> None:
    for verdict in judged().verdicts:
        if verdict.capability:
            ratio = verdict.capability.ratio
            # What the measurement is held against scales with the limit, which is 1.
            scale = {"attainment": 1.0, "sheet rounding": 1.0}
            total = math.hypot(*(t.relative * scale.get(t.name, ratio) for t in verdict.capability.budget))
            assert verdict.capability.expanded_uncertainty == pytest.approx(2 * total, rel=1e-3)
            assert {term.evaluation for term in verdict.capability.budget} == {"A", "B"}


def test_json_is_plain(judged: Judged) -> None:
    document = json.loads(json.dumps(judged().to_json(), allow_nan=False))
    assert document["schema"] == "gpuassay.judgement/1"
    assert set(document["verdicts"][1]) >= {
        "metric", "published", "measured", "unit", "expanded_uncertainty", "share_of_published", "share_of_limit",
        "verdict", "delivered_verdict", "reason", "attribution",
    }  # fmt: skip
