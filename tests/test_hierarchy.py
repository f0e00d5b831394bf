"""Sizes found by knees: on stated-synthetic curves, on the prototype's printed figures, and in a run on the fake."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

import gpuassay
from gpuassay import hierarchy, report, verify
from gpuassay.hierarchy import Hierarchy, Point, Size
from gpuassay.knees import FEWEST_POINTS, _gradual, knees
from gpuassay.metrics import metric
from gpuassay.sheets import load
from gpuassay.suites.test_latency import FOOTPRINTS

Measure = Callable[..., Path]
KIB, MIB = 2**10, 2**20
SHAPES = st.sampled_from(["steep", "gradual"])


def missed(footprint: float, size: float, shape: str) -> float:
    """Share of a random cycle's loads that a cache of that size misses. SYNTHETIC: oldest line replaced, in sets of
    uneven load; or a random line replaced, by iteration of the balance that knees.py states."""
    if shape == "steep":
        return float(1 / (1 + (size / footprint) ** 25))
    if footprint <= size:
        return 0.0
    share = 1.0
    for _ in range(400):
        share = 1 - np.exp(-share * footprint / size)
    return float(share)


def synthetic(footprints: Any, l1: float, l2: float, shape: str, seed: int, noise: float = 0.01) -> Any:
    """A SYNTHETIC curve: 34, 279 and 682 cycles (an H100's levels), mixed by what is missed, with Gaussian noise."""
    rng = np.random.default_rng(seed)
    cycles = [
        34 + missed(f, l1, shape) * (279 - 34 + missed(f, l2, shape) * (682 - 279)) for f in map(float, footprints)
    ]
    return np.array(cycles) * (1 + rng.normal(0, noise, len(cycles)))


@settings(max_examples=40, deadline=None)
@given(
    l1=st.floats(112 * KIB, 250 * KIB),
    l2=st.floats(6 * MIB, 100 * MIB),
    shape=SHAPES,
    seed=st.integers(0, 2**32 - 1),
)
@example(l1=245587.5, l2=11564391.0, shape="steep", seed=4194305)  # the fit comes within 1e-8 of a footprint
def test_both_sizes_are_found_within_ten_percent(l1: float, l2: float, shape: str, seed: int) -> None:
    """On the footprints of the suite, six to eight to an octave where levels end."""
    found = knees(FOOTPRINTS, synthetic(FOOTPRINTS, l1, l2, shape, seed))
    assert [knee.size_bytes for knee in found] == pytest.approx([l1, l2], rel=0.10)
    for knee, size in zip(found, (l1, l2), strict=True):
        assert knee.lower_bytes < knee.size_bytes < knee.upper_bytes
        assert knee.lower_bytes * 0.95 < size < knee.upper_bytes * 1.05
    assert found[-1].before == pytest.approx(279, rel=0.03)
    assert found[-1].after == pytest.approx(682, rel=0.03)


def test_what_is_missed_just_above_a_size_is_a_number() -> None:
    above = np.geomspace(2.0**-52, 1e-4, 20_000)
    assert _gradual(1 + above) == pytest.approx(2 * above, rel=1e-3, abs=1e-12)
    assert np.diff(_gradual(1 + above)).min() > -1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(FEWEST_POINTS, 90), st.floats(0, 0.03), st.floats(1e-12, 1e3), st.integers(0, 2**32 - 1))
def test_a_flat_curve_has_no_knee(points: int, noise: float, level: float, seed: int) -> None:
    footprints = np.geomspace(KIB, 64 * 2**30, points)
    curve = level * (1 + np.random.default_rng(seed).normal(0, noise, points).clip(-0.5, 0.5))
    assert knees(footprints, curve) == []


@given(st.integers(0, FEWEST_POINTS - 1))
def test_a_few_points_have_no_knee(points: int) -> None:
    assert knees([2.0**n for n in range(points)], [1.0 if n < points / 2 else 3.0 for n in range(points)]) == []


def test_a_slope_is_no_level() -> None:
    footprints = np.geomspace(MIB, 2**36, 80)
    assert knees(footprints, footprints**0.3) == []


def test_one_disturbed_point_moves_nothing() -> None:
    curve = synthetic(FOOTPRINTS, 200 * KIB, 50 * MIB, "steep", 1)
    curve[[10, 40, 70]] *= 1.3
    found = knees(FOOTPRINTS, curve)
    assert [knee.size_bytes for knee in found] == pytest.approx([200 * KIB, 50 * MIB], rel=0.10)


def test_order_does_not_matter() -> None:
    curve = synthetic(FOOTPRINTS, 200 * KIB, 50 * MIB, "gradual", 2)
    back = [list(reversed(FOOTPRINTS)), list(reversed(curve))]
    assert knees(*back) == knees(FOOTPRINTS, curve)


@pytest.mark.parametrize("ratio", [1.0, 1.0001, 1.1, 1.5, 2.0, 5.0, 40.0])
def test_the_share_missed_solves_its_balance(ratio: float) -> None:
    (share,) = _gradual(np.array([ratio]))
    assert share == pytest.approx(missed(ratio, 1.0, "gradual"), abs=0.01 if ratio < 1.01 else 1e-6)


def test_the_prototypes_figures_fit_two_partitions_of_25_mib() -> None:
    """An H100's printed figures (prototype, 2026-11-23): 279 cycles to 16 MiB, 292 at 24, 524 at 40, 682 in memory. Too
    few points for a curve, enough to see that one SM sees half of the 50 MiB."""
    share = _gradual(np.array([16, 24, 40]) / 25)
    assert 279 + share * (682 - 279) == pytest.approx([279, 292, 524], rel=0.06)
    whole = 279 + _gradual(np.array([40 / 50])) * (682 - 279)
    assert whole < 0.6 * 524


# -- beside claim and sheet ------------------------------------------------------------------------------------


def record_with(tmp_path: Path, **claims: Any) -> gpuassay.record.Record:
    """A record with nothing but these claims."""
    path = tmp_path / "claims.jsonl"
    with gpuassay.record.RecordWriter(path) as writer:
        writer.write(
            "run",
            run_id="0" * 32,
            started="2026-11-24T00:00:00Z",
            instrument="SYNTHETIC",
            samples="kept",
            profile=None,
            program={"version": "0", "commit": None},
            host={"python": "", "platform": "", "packages": {}},
            argv=[],
        )
        rows = [{"quantity": k.replace("__", "."), "value": v, "unit": None, "source": "x"} for k, v in claims.items()]
        writer.write("device", claims=rows)
    return gpuassay.read(path)


def curve(name: str, l2: float, shape: str = "gradual") -> list[Point]:
    cycles = synthetic(FOOTPRINTS, 208 * KIB, l2, shape, 4)
    return [Point(name, size, float(c) / 1.98e9) for size, c in zip(FOOTPRINTS, cycles, strict=True)]


def test_one_sm_of_an_h100_sees_half_of_l2_or_more(tmp_path: Path) -> None:
    record = record_with(tmp_path, compute_capability="9.0", l2__size=50 * MIB)
    for seen in (25 * MIB, 38 * MIB, 50 * MIB):
        l1, l2 = hierarchy.compared(hierarchy.sizes(curve("latency.memory", seen), record), record, load("H100-SXM"))
        assert (l1.level, l2.level) == ("L1", "L2")
        assert l1.claim_agrees is l1.sheet_agrees is None
        assert l2.size_bytes == pytest.approx(seen, rel=0.10)
        assert l2.seen_at_least == 0.5
        assert l2.claim_agrees
        assert l2.sheet_agrees
        assert hierarchy.findings(Hierarchy((), (l1, l2), {}), record) == []


def test_the_reads_of_all_sms_see_all_of_l2(tmp_path: Path) -> None:
    """An H100's printed read rates (prototype, 2026-11-23) as a curve: 8.3 TB/s at 12 to 32 MiB, 4.4 at 48, 3.4 at 64,
    3.161 from memory. Within 10 % of the 50 MiB that it claims, and not of an H20's 60."""
    rates = {12: 8.3e12, 16: 8.3e12, 24: 8.3e12, 32: 8.3e12, 48: 4.4e12, 64: 3.4e12}
    rates |= {2**10: 3.161e12, 2**12: 3.161e12, 2**14: 3.161e12}
    points = [Point("memory.read", mib * MIB, 1 / rate) for mib, rate in rates.items()]
    record = record_with(tmp_path, compute_capability="9.0", l2__size=50 * MIB)
    (l2,) = hierarchy.compared(hierarchy.sizes(points, record), record, load("H100-SXM"))
    assert l2.size_bytes == pytest.approx(50 * MIB, rel=0.10)
    assert l2.seen_at_least == 1
    assert l2.claim_agrees


def test_other_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    record = record_with(tmp_path, compute_capability="8.9", l2__size=72 * MIB)
    l2 = hierarchy.sizes(curve("latency.memory", 72 * MIB), record)[-1]
    assert l2.seen_at_least == 1
    assert l2.size_bytes == pytest.approx(72 * MIB, rel=0.10)


def test_a_claim_beyond_the_interval_is_a_finding(tmp_path: Path) -> None:
    record = record_with(tmp_path, compute_capability="9.0", l2__size=65 * MIB)
    found = hierarchy.sizes(curve("latency.memory", 25 * MIB), record)
    rows = hierarchy.compared(found, record, load("H20"))
    said = {f.code: f for f in hierarchy.findings(Hierarchy((), tuple(rows), {}), record)}
    assert "the driver claims 65 MiB" in said["l2-size-claim"].text
    assert "by latency.memory, which sees 50% of it or more" in said["l2-size-claim"].text
    assert said["l2-size-claim"].severity == "warning"


def size(seen: float = 1.0, **rest: Any) -> Size:
    return Size("L2", "latency.memory", 50 * MIB, 48 * MIB, 52 * MIB, seen, "steep", **rest)


def test_the_curve_that_sees_all_decides(tmp_path: Path) -> None:
    record = record_with(tmp_path, compute_capability="9.0")
    sharp, dim = size(claimed_bytes=1.0, claim_agrees=False), size(0.5, claimed_bytes=1.0, claim_agrees=True)
    assert [f.code for f in hierarchy.findings(Hierarchy((), (sharp, dim), {}), record)] == ["l2-size-claim"]
    assert hierarchy.findings(Hierarchy((), (dim,), {}), record) == []
    agrees = size(claimed_bytes=1.0, claim_agrees=True)
    assert hierarchy.findings(Hierarchy((), (sharp, agrees), {}), record) == []
    assert hierarchy.findings(None, record) == []


def test_a_mig_instance_is_not_held_against_the_full_part(tmp_path: Path) -> None:
    record = record_with(tmp_path, compute_capability="9.0", l2__size=6 * MIB, mig__mode="enabled")
    (row,) = hierarchy.compared([size()], record, load("H100-SXM"))
    assert row.sheet_agrees is None
    assert row.published_bytes is None
    assert row.claim_agrees is False


# -- a whole run on the fake -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def relabelled(fake_run: Measure) -> verify.Judgement:
    """A standard run of a part whose L2 has 36 MiB, whatever it claims; one SM sees half of it."""
    return verify.judge_record(fake_run("standard", l2_bytes=36 * MIB), "H100-SXM")


def test_the_planted_size_is_found_in_a_run(relabelled: verify.Judgement) -> None:
    found = relabelled.hierarchy
    assert found is not None
    by_level = {(s.level, s.curve): s for s in found.sizes}
    assert by_level["L2", "latency.memory"].size_bytes == pytest.approx(18 * MIB, rel=0.10)
    assert by_level["L1", "latency.memory"].size_bytes == pytest.approx(208 * KIB, rel=0.10)
    assert by_level["TLB reach", "latency.tlb"].size_bytes == pytest.approx(8 * 2**30, rel=0.25)
    curve_footprints = [p.footprint_bytes for p in found.points if p.curve == "latency.memory"]
    assert min(curve_footprints) == 1024
    assert max(curve_footprints) == pytest.approx(0.8 * 81559 * MIB, rel=0.01)


def test_claim_and_sheet_are_contradicted(relabelled: verify.Judgement) -> None:
    said = {f.code: f.text for f in relabelled.findings}
    assert "the driver claims 50 MiB" in said["l2-size-claim"]
    assert "the sheet says 50 MB" in said["l2-size-sheet"]
    assert "largest-footprint" in said


def test_the_report_has_the_sizes(relabelled: verify.Judgement) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(report.judgement(relabelled))
    text = capture.get()
    assert "Sizes found" in text
    assert "TLB reach" in text
    with console.capture() as capture:
        console.print(report.judgement(relabelled, details=True))
    # A latency is no rate: no row of its curve among the variants.
    assert "load/s" not in capture.get()


def test_the_terminal_shows_what_the_sheet_judges_and_counts_the_rest(relabelled: verify.Judgement) -> None:
    console = Console(width=160)
    shown = []
    for details in (False, True):
        with console.capture() as capture:
            console.print(report.judgement(relabelled, details))
        shown.append(capture.get())
    short, whole = shown
    printed = {v.metric for v in relabelled.verdicts if v.published_text is not None and v.verdict != "not published"}
    others = [v for v in relabelled.verdicts if v.verdict == "not published"]
    names = set(re.findall(r"^(\S+\.\S+) ", short, re.MULTILINE))
    assert printed <= names
    assert not names & {v.metric for v in others}
    assert f"Not shown: {len(others)} metrics that the sheet does not print" in short
    assert len(short.splitlines()) < 100
    assert {v.metric for v in others if metric(v.metric).headline} <= set(re.findall(r"^\s*(\S+)", whole, re.MULTILINE))
    assert "Not shown" not in whole


def test_the_json_has_sizes_and_curves_and_not_the_private_map(relabelled: verify.Judgement) -> None:
    document = json.loads(json.dumps(relabelled.to_json()))["hierarchy"]
    assert {row["level"] for row in document["sizes"]} == {"L1", "L2", "TLB reach"}
    assert len(document["points"]) > 90
    assert document["sm_map"] == {}


def test_the_map_shows_which_sms_lie_far(relabelled: verify.Judgement) -> None:
    assert relabelled.hierarchy is not None
    shown = relabelled.hierarchy.sm_map
    planted = 1 + 0.02 * np.sin(np.arange(132))
    assert sorted(shown) == list(range(132))
    assert np.mean(list(shown.values())) == pytest.approx(1)
    assert [shown[sm] for sm in range(132)] == pytest.approx(planted / planted.mean(), abs=0.001)


def test_the_map_is_a_picture_and_a_line(relabelled: verify.Judgement) -> None:
    from gpuassay import report
    from gpuassay.report import document
    from gpuassay.report.lab import Lab

    found = relabelled.hierarchy.sm_map  # type: ignore[union-attr]
    made = document.build(relabelled, Lab())
    (section,) = [s for s in made.sections if s.key == "variants"]
    (picture,) = [p for p in section.pictures if p.title == "L2 latency of each SM"]
    nearest = min(found, key=found.__getitem__)
    assert f"132 SMs: nearest SM {nearest} ({found[nearest]:.2%} of the mean)" in picture.alternative
    printed = report.console()
    with printed.capture() as captured:
        printed.print(report.judgement(relabelled, details=True))
    assert f"nearest SM {nearest}" in captured.get()


def test_the_quick_profile_takes_one_point_of_each_level(fake_run: Measure) -> None:
    taken = set(gpuassay.read(fake_run("quick")).rounds()["metric"])
    assert taken >= {"memory.read", "memory.write", "l2.read", "latency.memory", "pcie.h2d", "pcie.d2h"}
    assert not taken & {"dsmem.read", "memory.read_tma", "latency.l2", "pcie.both"}


def test_writes_have_a_curve_in_which_no_size_is_sought(relabelled: verify.Judgement) -> None:
    found = relabelled.hierarchy
    assert found is not None
    written = {p.footprint_bytes: p.cost_s for p in found.points if p.curve == "memory.write"}
    assert len(written) >= 13
    assert written[12 * MIB] < written[256 * MIB]
    assert "memory.write" not in {size.curve for size in found.sizes}


def test_the_read_curve_reaches_from_16_kib_to_most_of_the_memory(relabelled: verify.Judgement) -> None:
    read = [p.footprint_bytes for p in relabelled.hierarchy.points if p.curve == "memory.read"]  # type: ignore[union-attr]
    assert min(read) == 16 * KIB
    assert max(read) == pytest.approx(0.8 * 81559 * MIB, rel=0.02)
