"""The sheets: their figures, their errors, and which sheet a device belongs to. No GPU needed."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuassay import sheets
from gpuassay.sheets import (
    QUANTITIES,
    UNITS,
    Quantity,
    Sheet,
    SheetError,
    all_sheets,
    choose,
    load,
    names,
    read,
    unpublished,
)

MIB = 2**20

GOOD = """\
name = "T1"
title = "Test part"
aliases = ["Tee One"]
summary = "Made up for a test."

[identity]
compute_capability = "9.0"
pci_device_ids = ["10de:0001"]

[sources.a]
title = "A"
confidence = "official document"

[sources.b]
title = "B"
confidence = "database"

[[published."tensor.bf16"]]
value = 148
unit = "TFLOP/s"
source = "a"
chosen = true
reason = "first hand"

[[published."tensor.bf16"]]
value = 150
unit = "TFLOP/s"
source = "b"

[[published."memory.bandwidth"]]
value = 4.0
unit = "TB/s"
source = "a"

[[silicon."tensor.bf16"]]
value = 1024
unit = "FLOP/clk/SM"
source = "b"

[[silicon."count.sm"]]
value = 78
unit = "1"
source = "b"
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "t1.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(argument: str) -> str:
    with pytest.raises(SheetError) as caught:
        load(argument)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def attempt(argument: str) -> Sheet | str:
    """The sheet, or the message of the refusal; any other exception fails the test."""
    try:
        return load(argument)
    except SheetError as error:
        return str(error)


# --- the shipped sheets -----------------------------------------------------------------------


def test_the_parts_that_started_this_ship() -> None:
    assert {"H20", "H20-3e", "L20", "L2", "H100-SXM", "H100-PCIe", "H200-SXM", "H800-SXM"} <= set(names())
    assert [sheet.name for sheet in all_sheets()] == names()


@pytest.mark.parametrize(
    ("part", "quantity", "text", "si"),
    [
        ("h20", "tensor.bf16", "148 TFLOP/s", 148e12),
        ("h20", "tensor.int8", "296 TOP/s", 296e12),
        ("h20", "vector.fp32", "44 TFLOP/s", 44e12),
        ("h20", "memory.bandwidth", "4.0 TB/s", 4e12),
        ("h20", "power.limit", "500 W", 500.0),
        ("h20-3e", "memory.size", "141 GB", 141e9),
        ("l20", "tensor.bf16", "119.5 TFLOP/s", 119.5e12),
        ("l2", "power.limit", "72 W", 72.0),
        ("h100-sxm", "tensor.bf16", "989.4 TFLOP/s", 989.4e12),
        ("h100-sxm", "tensor.bf16.sparse", "1978.9 TFLOP/s", 1978.9e12),
        ("h100-sxm", "memory.bandwidth", "3.35 TB/s", 3.35e12),
        ("h100-pcie", "count.sm", "114", 114.0),
        ("h200-sxm", "memory.bandwidth", "4.8 TB/s", 4.8e12),
        ("h200-sxm", "l2.size", "60 MB", 60e6),
        ("h800-sxm", "memory.bandwidth", "3352 GB/s", 3352e9),
        ("h800-sxm", "nvlink.bandwidth", "400 GB/s", 400e9),
        ("h800-sxm", "vector.fp64", "1 TFLOP/s", 1e12),
    ],
)
def test_published_figures(part: str, quantity: str, text: str, si: float) -> None:
    figure = load(part).published_quantity(quantity)
    assert figure is not None
    assert figure.text == text
    assert figure.si == pytest.approx(si, rel=1e-12)


@pytest.mark.parametrize(
    ("part", "quantity", "value"),
    [
        ("h20", "tensor.bf16", 1024),
        ("h20", "tensor.fp8", 2048),
        ("h20", "tensor.tf32", 512),
        ("h20", "vector.fp32", 256),
        ("h20", "vector.fp64", 4),
        ("h20", "count.sm", 78),
        ("h20", "clock.sm.max", 1.98e9),
        ("h20-3e", "count.sm", 78),
        ("l20", "tensor.bf16", 512),
        ("l20", "count.sm", 92),
        ("h100-sxm", "tensor.bf16", 4096),
        ("h100-sxm", "vector.fp64", 128),
        ("h100-sxm", "clock.memory", 2.619e9),
        ("h200-sxm", "clock.memory", 3.201e9),
        ("h800-sxm", "vector.fp64", 4),
        ("h800-sxm", "clock.sm.max", 1.98e9),
    ],
)
def test_silicon_figures(part: str, quantity: str, value: float) -> None:
    figure = load(part).silicon_quantity(quantity)
    assert figure is not None
    assert figure.si == pytest.approx(value, rel=1e-12)
    assert figure.rounding_half_width_si == 0.0


@pytest.mark.parametrize(
    ("part", "quantity"),
    [
        ("h20", "tensor.bf16.sparse"),
        ("h20", "tensor.fp64"),
        ("h20", "clock.sm.max"),
        ("l2", "count.sm"),
        ("l2", "clock.sm.max"),
        ("h20-3e", "vector.fp64"),
    ],
)
def test_what_nobody_published_stays_out(part: str, quantity: str) -> None:
    assert load(part).published_quantity(quantity) is None


def test_conflicting_sources_stay_side_by_side() -> None:
    h20 = load("H20")
    assert [q.text for q in h20.published["power.limit"]] == ["400 W", "500 W", "550 W"]
    assert [q.text for q in h20.published["vector.fp32"]] == ["44 TFLOP/s", "39.5 TFLOP/s"]
    assert [q.text for q in load("H200").published["l2.size"]] == ["50 MB", "60 MB"]
    assert {q.text for q in load("H20").silicon["l2.size"]} == {"60 MiB"}


def test_a_chosen_figure_among_several_says_why() -> None:
    for sheet in all_sheets():
        for entries in (*sheet.published.values(), *sheet.silicon.values()):
            chosen = [entry for entry in entries if entry.chosen]
            assert len(chosen) == 1
            assert len(entries) == 1 or chosen[0].reason


def test_every_source_is_used_and_none_is_missing() -> None:
    for sheet in all_sheets():
        figures = [q for half in (sheet.published, sheet.silicon) for entries in half.values() for q in entries]
        used = {q.source for q in figures} | ({sheet.identity.source} - {None})
        assert used == set(sheet.sources), sheet.name
        for figure in figures:
            assert sheet.source_of(figure) is sheet.sources[figure.source]


@pytest.mark.parametrize("part", ["H100-SXM", "H100-PCIe", "H200-SXM"])
def test_sparse_is_twice_dense_within_rounding(part: str) -> None:
    sheet = load(part)
    pairs = [name for name in sheet.published if f"{name}.sparse" in sheet.published]
    assert len(pairs) >= 4
    for name in pairs:
        dense = sheet.published_quantity(name)
        sparse = sheet.published_quantity(f"{name}.sparse")
        assert dense is not None
        assert sparse is not None
        slack = 2 * dense.rounding_half_width_si + sparse.rounding_half_width_si
        assert abs(2 * dense.si - sparse.si) <= slack


def test_the_sheets_bear_out_the_known_audit_findings() -> None:
    def clock(part: str, name: str) -> float:
        """The clock that the published peak needs from this silicon, in Hz."""
        sheet = load(part)
        peak = sheet.published_quantity(name)
        rate = sheet.silicon_quantity(name)
        sms = sheet.silicon_quantity("count.sm")
        assert peak is not None
        assert rate is not None
        assert sms is not None
        return peak.si / rate.si / sms.si

    assert clock("h20", "tensor.bf16") == pytest.approx(1.853e9, rel=1e-3)
    assert clock("h20", "vector.fp32") == pytest.approx(2.20e9, rel=3e-3)  # unattainable
    assert clock("h20", "vector.fp64") > 3e9  # unattainable
    assert clock("l20", "tensor.bf16") == pytest.approx(2.537e9, rel=1e-3)
    assert clock("h100-sxm", "tensor.bf16") == pytest.approx(1.83e9, rel=1e-3)
    assert clock("h100-pcie", "tensor.bf16") == pytest.approx(1.62e9, rel=1e-3)
    assert clock("h800-sxm", "tensor.bf16") == pytest.approx(1.829e9, rel=1e-3)


@pytest.mark.parametrize("part", ["h20", "h100-sxm", "h100-pcie", "h200-sxm", "h800-sxm", "l20"])
def test_memory_clock_and_width_make_the_published_bandwidth(part: str) -> None:
    # Holds only while clock.memory keeps its one convention: two transfers per clock and pin.
    sheet = load(part)
    clock = sheet.silicon_quantity("clock.memory")
    width = sheet.silicon_quantity("memory.bus_width")
    published = sheet.published_quantity("memory.bandwidth")
    assert clock is not None
    assert width is not None
    assert published is not None
    assert clock.si * width.si * 2 / 8 == pytest.approx(published.si, rel=0.03)


def test_no_sheet_mentions_where_it_was_written() -> None:
    for name, text in read._shipped_texts().items():
        assert not re.search(r"/work\b|/tmp\b|\bsession\b|\btask\b", text), name


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("H20", "H20"),
        ("h20", "H20"),
        (" nvidia h20 ", "H20"),
        ("h20-96gb", "H20"),
        ("H20_3E", "H20-3e"),
        ("H20 141G", "H20-3e"),
        ("h100 sxm", "H100-SXM"),
        ("h100-pcie", "H100-PCIe"),
        ("H200", "H200-SXM"),
        ("H800", "H800-SXM"),
    ],
)
def test_names_and_aliases_in_any_case(asked: str, got: str) -> None:
    assert load(asked).name == got


def test_an_ambiguous_name_offers_its_parts() -> None:
    message = refusal("Ascend")
    assert "Ascend-910B" in message
    assert "Ascend-910C" in message
    assert "H800" not in message
    assert load("H100") is load("H100-SXM")  # as people say it


def test_an_unknown_name_offers_a_near_one_and_the_list() -> None:
    message = refusal("H2O")
    assert "H20" in message
    assert "`gpuassay sheets`" in message
    assert "H20" not in refusal("MI300X")


@pytest.mark.parametrize("asked", ["L10", "l10", "NVIDIA L10", " nvidia-l10 "])
def test_l10_was_never_published(asked: str) -> None:
    answer = unpublished(asked)
    assert answer is not None
    assert "No NVIDIA L10 was ever published" in answer.statement
    assert answer.offers == ("L2",)
    assert answer.trio == ("H20", "L20", "L2")
    assert all(load(part) for part in (*answer.offers, *answer.trio))
    assert len(answer.evidence) >= 4
    assert all(item.source in answer.sources for item in answer.evidence)
    message = refusal(asked)
    assert "No NVIDIA L10 was ever published" in message
    assert "try L2" in message


@pytest.mark.parametrize("asked", ["L2", "L20", "H20", "L100", "", "L1"])
def test_other_names_have_no_such_answer(asked: str) -> None:
    assert unpublished(asked) is None


def test_the_file_of_unpublished_names_is_not_a_sheet(tmp_path: Path) -> None:
    path = write(tmp_path, (Path(sheets.__file__).parent.parent / "unpublished.toml").read_text(encoding="utf-8"))
    assert "not a sheet" in refusal(path)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=200))
def test_any_text_loads_or_is_refused_in_one_line(text: str) -> None:
    outcome = attempt(text)
    if isinstance(outcome, Sheet):
        assert outcome.name in names()
    else:
        assert outcome
        assert outcome.isprintable()
    unpublished(text)


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1_000, max_size=20_000))
def test_a_long_text_is_refused_with_a_short_message(text: str) -> None:
    assert len(refusal(text.replace("/", "").replace("\\", "") + "x")) < 400


# --- quantities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "half"),
    [
        ("148", "TFLOP/s", 0.5e12),
        ("989.4", "TFLOP/s", 0.05e12),
        ("4.0", "TB/s", 0.05e12),
        ("4", "TB/s", 0.5e12),
        ("3.35", "TB/s", 0.005e12),
        ("3352", "GB/s", 0.5e9),
        ("60", "MiB", 0.5 * MIB),
        ("700", "W", 0.5),
        ("814", "mm2", 0.5e-6),
        ("78", "1", 0.0),
        ("6144", "bit", 0.0),
    ],
)
def test_rounding_is_half_the_last_printed_digit(value: str, unit: str, half: float) -> None:
    figure = Quantity(value=Decimal(value), unit=unit, source="x")
    assert figure.rounding_half_width_si == pytest.approx(half, rel=1e-12, abs=0.0)
    assert figure.text == (value if unit == "1" else f"{value} {unit}")


def test_printed_digits_survive_the_file(tmp_path: Path) -> None:
    sheet = load(write(tmp_path, GOOD))
    bandwidth = sheet.published_quantity("memory.bandwidth")
    assert bandwidth is not None
    assert bandwidth.text == "4.0 TB/s"
    assert bandwidth.rounding_half_width_si == pytest.approx(0.05e12)
    coarse = load(write(tmp_path, GOOD.replace("value = 4.0", "value = 4")))
    assert coarse.published_quantity("memory.bandwidth") is not None
    assert coarse.published["memory.bandwidth"][0].rounding_half_width_si == pytest.approx(0.5e12)


RATES = sorted(unit for unit in UNITS if unit not in ("1", "bit"))


@given(
    digits=st.integers(min_value=1, max_value=10**9),
    places=st.integers(min_value=0, max_value=6),
    unit=st.sampled_from(RATES),
)
def test_the_rounding_interval_holds_what_would_print_the_same(digits: int, places: int, unit: str) -> None:
    value = Decimal(digits).scaleb(-places)
    figure = Quantity(value=value, unit=unit, source="x")
    factor = figure.si / float(value)
    assert figure.rounding_half_width_si == pytest.approx(factor * 0.5 * 10.0**-places, rel=1e-9)
    finer = figure.model_copy(update={"value": value.quantize(Decimal(1).scaleb(-places - 1))})
    assert finer.si == pytest.approx(figure.si, rel=1e-12)
    assert finer.rounding_half_width_si == pytest.approx(figure.rounding_half_width_si / 10)
    silicon = figure.model_copy(update={"kind": "silicon"})
    assert silicon.rounding_half_width_si == 0.0


@given(value=st.decimals("0.001", "9999", places=3), unit=st.sampled_from(sorted(UNITS)))
def test_units_go_to_si_and_back(value: Decimal, unit: str) -> None:
    whole = value.to_integral_value() + 1 if unit in ("1", "bit") else value
    figure = Quantity(value=whole, unit=unit, source="x")
    assert figure.si / float(UNITS[unit].factor) == pytest.approx(float(whole), rel=1e-12)
    again = Quantity(value=Decimal(figure.text.split(" ")[0]), unit=unit, source="x")
    assert again.si == figure.si


def test_the_prefixes_are_what_they_say() -> None:
    assert [float(UNITS[p + "FLOP/s"].factor) for p in ("", "k", "M", "G", "T", "P")] == [
        1e0,
        1e3,
        1e6,
        1e9,
        1e12,
        1e15,
    ]
    assert UNITS["GB"].factor == 10**9
    assert UNITS["GiB"].factor == 2**30
    assert UNITS["TOP/s"].dimension != UNITS["TFLOP/s"].dimension


def test_every_quantity_has_a_unit_to_print_it_in() -> None:
    dimensions = {unit.dimension for unit in UNITS.values()}
    assert {d for row in QUANTITIES.values() for d in row.values()} <= dimensions


def test_sheets_cannot_be_changed_after_loading() -> None:
    figure = load("H20").published_quantity("tensor.bf16")
    assert figure is not None
    with pytest.raises(ValueError, match="frozen"):
        Quantity.__setattr__(figure, "value", Decimal(296))


# --- broken sheets ----------------------------------------------------------------------------

BANDWIDTH = 'value = 4.0\nunit = "TB/s"\nsource = "a"'

BROKEN = {
    "not TOML": ('name = "T1"', "name = T1", "TOML"),
    "unknown top key": ('title = "Test part"', 'titel = "Test part"', 'did you mean "title"'),
    "missing key": ('title = "Test part"\n', "", "title is missing"),
    "unknown figure key": (BANDWIDTH, BANDWIDTH + "\nbasi = 1", 'memory.bandwidth".basi'),
    "unknown source key": ('title = "A"', 'title = "A"\nurll = "x"', "sources.a.urll"),
    "unknown quantity": ('"memory.bandwidth"', '"memory.bandwith"', 'mean "memory.bandwidth"'),
    "name set in a figure": (BANDWIDTH, BANDWIDTH + '\nname = "x"', "unknown key"),
    "unknown unit": ('unit = "TB/s"', 'unit = "TBps"', 'memory.bandwidth".unit'),
    "wrong dimension": ('unit = "TB/s"', 'unit = "TB"', 'memory.bandwidth".unit'),
    "silicon in absolute terms": ('unit = "FLOP/clk/SM"', 'unit = "TFLOP/s"', 'bf16".unit'),
    "negative": ("value = 4.0", "value = -4.0", 'memory.bandwidth".value'),
    "zero": ("value = 4.0", "value = 0.0", 'memory.bandwidth".value'),
    "not a number": ("value = 4.0", "value = nan", 'memory.bandwidth".value'),
    "infinite": ("value = 4.0", "value = inf", 'memory.bandwidth".value'),
    "astronomic": ("value = 4.0", "value = 1e999999", 'memory.bandwidth".value'),
    "endless integer": ("value = 4.0", "value = " + "9" * 5000, "TOML"),
    "quoted": ("value = 4.0", 'value = "4.0"', 'memory.bandwidth".value'),
    "boolean": ("value = 4.0", "value = true", 'memory.bandwidth".value'),
    "half an SM": ("value = 78", "value = 78.5", 'count.sm".value'),
    "unknown source": (BANDWIDTH, BANDWIDTH.replace('"a"', '"c"'), 'memory.bandwidth".source'),
    "two chosen": (
        'value = 150\nunit = "TFLOP/s"\nsource = "b"',
        'value = 150\nunit = "TFLOP/s"\nsource = "b"\nchosen = true',
        "2 of 2 figures marked chosen",
    ),
    "none chosen": ('chosen = true\nreason = "first hand"', "", "0 of 2 figures marked chosen"),
    "no reason": ('reason = "first hand"\n', "", "no reason"),
    "unknown confidence": ('confidence = "database"', 'confidence = "hunch"', "sources.b.confid"),
    "bad PCI id": ('"10de:0001"', '"0001"', "identity.pci_device_ids[0]"),
    "bad date": ('title = "A"', 'title = "A"\ndate = "soon"', 'sources.a.date is "soon"; write'),
    "bad name": ('name = "T1"', 'name = "T 1"', 'name is "T 1"; write it like "H20"'),
    "bad capability": ('compute_capability = "9.0"', "compute_capability = 9.0", "identity.comp"),
    "identity source": ("pci_device_ids", 'source = "z"\npci_device_ids', "identity.source"),
    "empty title": ('title = "Test part"', 'title = " "', "title is empty"),
    "table, not list": ('[[published."memory.bandwidth"]]', '[published."memory.bandwidth"]', "[["),
    "nested too deeply": ('aliases = ["Tee One"]', "aliases = " + "[" * 100_000, "TOML"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_sheet_names_file_and_key(case: str, tmp_path: Path) -> None:
    old, new, expected = BROKEN[case]
    assert GOOD.count(old) >= 1
    message = refusal(write(tmp_path, GOOD.replace(old, new, 1)))
    assert expected in message
    assert "t1.toml" in message
    assert len(message) < 600


def test_the_sheet_that_the_broken_ones_derive_from_is_good(tmp_path: Path) -> None:
    sheet = load(write(tmp_path, GOOD))
    figure = sheet.published_quantity("tensor.bf16")
    assert figure is not None
    assert figure.text == "148 TFLOP/s"
    assert figure.name == "tensor.bf16"
    assert figure.kind == "published"
    rate = sheet.silicon_quantity("tensor.bf16")
    assert rate is not None
    assert rate.kind == "silicon"


def test_paths_that_hold_no_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is a directory" in refusal(str(tmp_path))
    assert "does not exist" in refusal(str(tmp_path / "none.toml"))
    assert "file name" in refusal("a\0b.toml")
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * 1_000_001)
    assert "larger than 1 MB" in refusal(str(big))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'name = "\xff\xfe"')
    assert "UTF-8" in refusal(str(binary))
    assert "cannot be read" in refusal(str(tmp_path / ("x" * 300 + ".toml")))

    # Root may read anything, so the refusal of the system is put in by hand.
    locked = tmp_path / "locked.toml"
    locked.write_text(GOOD)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(str(locked))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(str(pipe))


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, GOOD + '\n[published."\\u001b[31m\\nx"]\n'))
    assert "\x1b" not in message
    assert "\n" not in message


def test_an_utf8_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeff" + GOOD)).name == "T1"


TOML_BITS = st.sampled_from(
    ["=", "[", "]", '"', "\n", ".", "published", "value", "1e9", "nan", "true", "#", "{", "}", " "]
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(GOOD)),
    cut=st.integers(0, 40),
    bits=st.lists(TOML_BITS, max_size=6),
)
def test_any_damage_is_read_or_refused(tmp_path: Path, at: int, cut: int, bits: list[str]) -> None:
    path = write(tmp_path, GOOD[:at] + "".join(bits) + GOOD[at + cut :])
    outcome = attempt(path)
    if not isinstance(outcome, Sheet):
        assert "t1.toml" in outcome
        assert outcome.isprintable()


@pytest.mark.parametrize(
    ("old", "new", "claim"),
    [
        ('"10de:2331"', '"10de:2330"', "10de:2330"),
        ('"H100 PCIe 80GB"', '"h100 sxm5"', "h100-sxm5"),
    ],
)
def test_two_sheets_cannot_claim_the_same(old: str, new: str, claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = read._shipped_texts()
    assert old in texts["h100-pcie.toml"]
    texts["h100-pcie.toml"] = texts["h100-pcie.toml"].replace(old, new)
    monkeypatch.setattr(read, "_shipped_texts", lambda: texts)
    read._shipped.cache_clear()
    try:
        with pytest.raises(SheetError) as caught:
            all_sheets()
    finally:
        read._shipped.cache_clear()
    message = str(caught.value)
    assert "H100-PCIe" in message
    assert "H100-SXM" in message
    assert claim in message


# --- which sheet a device belongs to ----------------------------------------------------------

H100_MEMORY = 81559 * MIB
H20_MEMORY = 97871 * MIB
H200_MEMORY = 143771 * MIB


def pick(
    pci: str | None = None,
    sms: int | None = None,
    cc: str | None = "9.0",
    memory: int | None = None,
    name: str | None = None,
) -> sheets.Choice:
    return choose(pci_device_id=pci, sm_count=sms, compute_capability=cc, memory_bytes=memory, name=name)


@pytest.mark.parametrize(
    ("pci", "sms", "cc", "memory", "name", "part"),
    [
        ("10de:2329", 78, "9.0", H20_MEMORY, "NVIDIA H20", "H20"),
        ("0x232910DE", 78, "9.0", H20_MEMORY, "NVIDIA H20", "H20"),
        ("0x2329", 78, "9.0", H20_MEMORY, "NVIDIA H20", "H20"),
        ("10DE:232C", 78, "9.0", H200_MEMORY, "NVIDIA H20-3e", "H20-3e"),
        ("10de:2330", 132, "9.0", H100_MEMORY, "NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("10de:2331", 114, "9.0", H100_MEMORY, "NVIDIA H100 PCIe", "H100-PCIe"),
        ("10de:2335", 132, "9.0", H200_MEMORY, "NVIDIA H200", "H200-SXM"),
        ("10de:2324", 132, "9.0", H100_MEMORY, "NVIDIA H800", "H800-SXM"),
        ("10de:26ba", 92, "8.9", 46068 * MIB, "NVIDIA L20", "L20"),
        ("10de:26b7", 92, "8.9", 46068 * MIB, "NVIDIA L20", "L20"),
        ("10de:27b6", 58, "8.9", 23034 * MIB, "NVIDIA L2", "L2"),
    ],
)
def test_honest_parts_are_recognised(pci: str, sms: int, cc: str, memory: int, name: str, part: str) -> None:
    choice = pick(pci, sms, cc, memory, name)
    assert choice.sheet is load(part)
    assert choice.contradictions == []
    assert any("agrees" in line and line.startswith("compute capability") for line in choice.evidence)
    assert any("agrees" in line and line.startswith("name") for line in choice.evidence)


@pytest.mark.parametrize(
    ("sms", "memory", "part"),
    [
        (78, H20_MEMORY, "H20"),
        (78, H200_MEMORY, "H20-3e"),
        (132, H20_MEMORY, "GH200-96"),
    ],
)
def test_silicon_alone_decides_where_one_part_fits(sms: int, memory: int, part: str) -> None:
    choice = pick(sms=sms, memory=memory)
    assert choice.sheet is load(part)
    assert any("cannot be ruled out" in line for line in choice.evidence)


@pytest.mark.parametrize(("sms", "memory"), [(132, H200_MEMORY), (114, H100_MEMORY)])
def test_silicon_that_several_parts_share_decides_nothing(sms: int, memory: int) -> None:
    choice = pick(sms=sms, memory=memory)
    assert choice.sheet is None
    assert any("only a PCI id decides" in line for line in choice.evidence)


def test_parts_of_the_same_silicon_tie_without_an_id() -> None:
    for name in (None, "NVIDIA H100 80GB HBM3", "NVIDIA H800"):
        choice = pick(sms=132, memory=H100_MEMORY, name=name)
        assert choice.sheet is None
        assert any("H100-SXM and H800-SXM" in line for line in choice.evidence)
        assert choice.contradictions == []


def test_memory_left_out_leaves_more_candidates() -> None:
    assert pick(sms=78).sheet is None
    assert pick("10de:2329", sms=78).sheet is load("H20")


def test_a_masked_name_is_a_label_and_not_an_identity() -> None:
    choice = pick("10de:2324", 132, "9.0", H100_MEMORY, "NVIDIA L20Y")
    assert choice.sheet is load("H800")
    assert len(choice.contradictions) == 1
    assert "label that does not match class" in choice.contradictions[0]
    assert "NVIDIA L20Y" in choice.contradictions[0]

    masked = pick("10de:2335", 132, "9.0", H200_MEMORY, "NVIDIA L20X")
    assert masked.sheet is load("H200")
    assert "label that does not match class" in masked.contradictions[0]

    unknown = pick(None, 132, "9.0", H100_MEMORY, "NVIDIA L20Y")
    assert unknown.sheet is None
    assert "H100-SXM or H800-SXM" in unknown.contradictions[0]


def test_silicon_overrules_the_name() -> None:
    choice = pick("10de:2330", 132, "9.0", H100_MEMORY, "NVIDIA H20")
    assert choice.sheet is load("H100-SXM")
    assert len(choice.contradictions) == 1
    assert "132" in choice.contradictions[0]
    assert "78" in choice.contradictions[0]

    # Same memory as an H20, another part: a GH200 reports 97871 MiB too.
    relabelled = pick("10de:2342", 132, "9.0", H20_MEMORY, "NVIDIA H20")
    assert relabelled.sheet is load("GH200-96")
    assert "NVIDIA H20" in relabelled.contradictions[0]


def test_an_h100_with_the_sm_count_of_an_h20() -> None:
    choice = pick("10de:2330", 78, "9.0", H100_MEMORY, "NVIDIA H100 80GB HBM3")
    assert choice.sheet is load("H100-SXM")
    assert choice.contradictions == ["SM count: the device shows 78, H100-SXM is 132: contradicts"]
    assert any("not because of the silicon" in line for line in choice.evidence)


def test_an_id_that_the_silicon_belies_is_what_the_part_is_held_against() -> None:
    choice = pick("10de:2330", 78, "9.0", H20_MEMORY, "NVIDIA H20")
    assert choice.sheet is load("H100-SXM")
    assert [line.split(":")[0] for line in choice.contradictions] == ["SM count", "memory size", "name"]
    assert any("could be H20" in line for line in choice.evidence)
    assert choice.contradictions[2].endswith("which means H20, but the PCI id means H100-SXM: contradicts")


def test_memory_speaks_too() -> None:
    choice = pick("10de:2329", 78, "9.0", H200_MEMORY, "NVIDIA H20")
    assert choice.sheet is load("H20")
    assert [line.split(":")[0] for line in choice.contradictions] == ["memory size"]
    assert any("could be H20-3e" in line for line in choice.evidence)


def test_a_masked_name_on_silicon_that_the_id_does_not_tell() -> None:
    choice = pick("10de:2335", 132, "9.0", H100_MEMORY, "NVIDIA L20X")
    assert choice.sheet is load("H200-SXM")
    assert [line.split(":")[0] for line in choice.contradictions] == ["memory size", "name"]
    assert "this silicon is that of H100-SXM or H800-SXM" in choice.contradictions[1]


@pytest.mark.parametrize("pci", ["10de:230e", "10de:2328", "10de:ffff"])
def test_an_id_on_no_sheet_is_not_guessed(pci: str) -> None:
    choice = pick(pci, 78, "9.0", H20_MEMORY, "NVIDIA H20 NVL16")
    assert choice.sheet is None
    assert any("on no sheet" in line for line in choice.evidence)
    assert any(line.startswith("candidates: H20") for line in choice.evidence)


def test_an_l4_is_not_taken_for_an_l2() -> None:
    # Same die, capability and memory, and nobody published the L2's SM count: without the id it could be either.
    unknown = pick(None, 58, "8.9", 23034 * MIB, "NVIDIA L4")
    assert unknown.sheet is None
    assert any("L2 cannot be ruled out" in line for line in unknown.evidence)
    assert pick("10de:27b6", 58, "8.9", 23034 * MIB, "NVIDIA L2").sheet is load("L2")
    assert pick("10de:27b8", 58, "8.9", 23034 * MIB, "NVIDIA L4").sheet is load("L4")


def test_a_form_of_id_that_is_not_understood_is_no_id() -> None:
    choice = pick("banana\n", 78, "9.0", H20_MEMORY)
    assert choice.sheet is None
    assert any("banana" in line and "\n" not in line for line in choice.evidence)


def test_nothing_known_leads_to_nothing() -> None:
    choice = pick(cc=None)
    assert choice.sheet is None
    assert choice.evidence
    assert choice.contradictions == []


@given(
    pci=st.none() | st.sampled_from(["10de:2329", "10de:2330", "10de:2324", "x"]) | st.text(max_size=9),
    sms=st.none() | st.sampled_from([78, 114, 132]) | st.integers(-5, 300),
    cc=st.none() | st.sampled_from(["9.0", "8.9", "12.0"]) | st.text(max_size=5),
    memory=st.none() | st.sampled_from([H100_MEMORY, H20_MEMORY, H200_MEMORY]) | st.integers(0, 2**40),
    name=st.none() | st.sampled_from(["NVIDIA H20", "NVIDIA L20Y"]) | st.text(max_size=30),
    other=st.none() | st.sampled_from(["NVIDIA H100 PCIe", "NVIDIA L20X"]) | st.text(max_size=30),
)
def test_a_name_never_decides_and_silicon_that_contradicts_is_said(
    pci: str | None,
    sms: int | None,
    cc: str | None,
    memory: int | None,
    name: str | None,
    other: str | None,
) -> None:
    choice = pick(pci, sms, cc, memory, name)
    assert choice.sheet is pick(pci, sms, cc, memory, other).sheet
    assert all("\n" not in line for line in choice.evidence)
    assert {line for line in choice.contradictions if line.startswith("name")} <= set(choice.evidence)
    if choice.sheet is not None:
        known, size = choice.sheet.silicon_quantity("count.sm"), choice.sheet.published_quantity("memory.size")
        assert size is not None
        said = {line.split(":")[0] for line in choice.contradictions}
        assert ("SM count" in said) == (known is not None and sms not in (None, known.si))
        assert ("compute capability" in said) == (cc not in (None, choice.sheet.identity.compute_capability))
        assert ("memory size" in said) == (memory is not None and memory != pytest.approx(size.si, rel=0.08))
        if said & {"SM count", "compute capability", "memory size"}:
            assert pci in choice.sheet.identity.pci_device_ids


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_problem_stands_on_its_line_whatever_ends_the_lines(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "t1.toml"
    text = GOOD.replace('unit = "TB/s"', 'unit = "TB"')
    path.write_bytes(text.replace("\n", ends).encode())
    number = text[: text.index('unit = "TB"')].count("\n") + 1
    assert f"line {number}:" in refusal(str(path))
