"""The catalogue against the tables that it was made from, and `sheets check`, `schema` and `new`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpuassay import sheets
from gpuassay.cli import cli
from gpuassay.sheet_audit import energy, rules
from gpuassay.sheets import Problem
from gpuassay.sheets.check import check, draft, json_schema

FOLDER = Path(sheets.__file__).parent

# Total processing performance and performance density (per mm2 of die) as the specification notes print them, from
# published dense peaks. None: no die area is published.
EXPORT = {
    "H20": (2368, 2.91),
    "H20-3e": (2368, 2.91),
    "L20": (1912, 3.14),
    "L2": (1544, 5.25),
    "H800-SXM": (15832, 19.45),
    "A800-SXM": (4992, 6.04),
    "A800-PCIe": (4992, 6.04),
    "H100-SXM": (15831, 19.45),
    "H100-PCIe": (12104, 14.87),
    "H100-NVL": (13360, 16.41),
    "H200-SXM": (15831, 19.45),
    "A100-SXM": (4992, 6.04),
    "A100-PCIe": (4992, 6.04),
    "L40S": (5864, 9.63),
    "L40": (2897, 4.76),
    "L4": (1940, 6.6),
    "B200": (36000, None),
    "B300": (52500, None),
    "RTX-PRO-6000": (8000, 10.67),
    "RTX-4090": (5285, 8.68),
    "RTX-5090": (6704, 8.94),
    "RTX-5090-D": (4750, 6.33),
    "RTX-5090-D-v2": (4750, 6.33),
    "Ascend-910B": (5120, None),
    "Ascend-910C": (12032, None),
}

# Dense BF16 (Ascend: FP16) and FP8 TFLOP/s per watt of a published power figure, as the notes print them.
PER_WATT = {
    "H20": (0.37, 0.74),
    "L20": (0.435, 0.869),
    "H800-SXM": (1.413, 2.827),
    "A800-SXM": (0.78, None),
    "A800-PCIe": (1.248, None),
    "H100-SXM": (1.413, 2.827),
    "H100-PCIe": (2.161, 4.323),
    "H100-NVL": (2.087, 4.175),
    "H200-SXM": (1.413, 2.827),
    "A100-SXM": (0.78, None),
    "A100-PCIe": (1.04, None),
    "L40S": (1.034, 2.094),
    "L40": (0.604, 1.207),
    "L4": (1.681, 3.368),
    "B200": (2.25, 4.5),
    "B300": (1.607, 3.214),
    "RTX-4090": (0.367, 1.468),
    "RTX-5090": (0.364, 1.457),
    "Ascend-910B": (1.032, None),
}

# SMs, memory in GB, PCI id.
IDENTITY = {
    "H20": (78, 96, "10de:2329"),
    "L20": (92, 48, "10de:26ba"),
    "H800-SXM": (132, 80, "10de:2324"),
    "H800-PCIe": (114, 80, "10de:2322"),
    "A800-SXM": (108, 80, "10de:20f3"),
    "A800-PCIe": (108, 80, "10de:20f5"),
    "H100-SXM": (132, 80, "10de:2330"),
    "H100-PCIe": (114, 80, "10de:2331"),
    "H100-NVL": (132, 94, "10de:2321"),
    "H200-SXM": (132, 141, "10de:2335"),
    "H200-NVL": (132, 141, "10de:233b"),
    "GH200-96": (132, 96, "10de:2342"),
    "GH200-144": (132, 144, "10de:2348"),
    "A100-SXM": (108, 80, "10de:20b2"),
    "A100-PCIe": (108, 80, "10de:20b5"),
    "L40S": (142, 48, "10de:26b9"),
    "L40": (142, 48, "10de:26b5"),
    "L4": (58, 24, "10de:27b8"),
    "B200": (148, 180, "10de:2901"),
    "B300": (148, 288, "10de:3182"),
    "RTX-PRO-6000": (188, 96, "10de:2bb5"),
    "RTX-PRO-6000-Workstation": (188, 96, "10de:2bb1"),
    "RTX-6000D": (156, 84, "10de:2bb9"),
    "RTX-4090": (128, 24, "10de:2684"),
    "RTX-4090-D": (114, 24, "10de:2685"),
    "RTX-5090": (170, 32, "10de:2b85"),
    "RTX-5090-D": (170, 32, "10de:2b87"),
    "RTX-5090-D-v2": (170, 24, "10de:2b8c"),
}


@pytest.mark.parametrize("name", EXPORT)
def test_tpp_and_density_agree_with_the_notes_to_the_printed_digits(name: str) -> None:
    figures = rules.of_sheet(sheets.load(name)).figures
    tpp, density = EXPORT[name]
    assert figures["tpp"].bounds is not None
    assert round(figures["tpp"].bounds.value) == tpp
    if density is None:
        assert figures["performance_density"].bounds is None
    else:
        assert figures["performance_density"].bounds is not None
        assert figures["performance_density"].bounds.value == pytest.approx(density, abs=0.0051)


@pytest.mark.parametrize("name", PER_WATT)
def test_operations_per_joule_agree_with_the_notes(name: str) -> None:
    rows = list(energy.by_sheet(sheets.load(name)))
    for quantities, wanted in zip((("tensor.bf16", "tensor.fp16"), ("tensor.fp8",)), PER_WATT[name], strict=True):
        if wanted is not None:
            values = [row.per_joule / 1e12 for row in rows if row.quantity in quantities]
            assert any(value == pytest.approx(wanted, abs=0.00051) for value in values), values


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_agrees_with_the_notes(name: str) -> None:
    sheet = sheets.load(name)
    sms, memory, pci = IDENTITY[name]
    found = sheet.published_quantity("count.sm") or sheet.silicon_quantity("count.sm")
    assert found is not None
    assert int(found.value) == sms
    size = sheet.published_quantity("memory.size")
    assert size is not None
    assert size.si == memory * 1e9
    assert pci in sheet.identity.pci_device_ids


def test_the_whole_catalogue_loads_in_under_a_third_of_a_second() -> None:
    code = (
        "import time, pydantic, tomllib; from gpuassay import sheets; t = time.process_time();"
        "n = len(sheets.all_sheets()); print(n, time.process_time() - t)"
    )
    best = min(float(_run(code).split()[1]) for _ in range(3))
    assert best < 0.3
    assert int(_run(code).split()[0]) >= 31


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_parts_for_comparison_are_no_devices() -> None:
    only = [sheet for sheet in sheets.all_sheets() if sheet.comparison_only]
    assert {sheet.name for sheet in only} == {"Ascend-910B", "Ascend-910C"}
    assert not any(sheet.identity.pci_device_ids for sheet in only)


def test_masked_names_are_known_for_the_silicon_behind_them() -> None:
    masked = {name: sheet.name for sheet in sheets.all_sheets() for name in sheet.identity.masked_names}
    assert masked == {"NVIDIA L20Y": "H800-SXM", "NVIDIA L20X": "H200-SXM", "NVIDIA L20A": "B200"}


def test_an_id_of_two_parts_is_marked_and_its_silicon_decides() -> None:
    sheet = sheets.load("GH200-96")
    assert sheet.identity.ambiguous_pci_ids == ("10de:2342",)

    def pick(sms: int, memory_mib: int) -> sheets.Choice:
        return sheets.choose(
            pci_device_id="10de:2342",
            sm_count=sms,
            compute_capability="9.0",
            memory_bytes=memory_mib * 2**20,
            name=None,
        )

    found = pick(132, 97871)
    assert found.sheet is sheet
    assert any("stands for another part as well" in line for line in found.evidence)
    assert pick(132, 81559).sheet is None  # an H100's memory
    assert pick(78, 97871).sheet is None  # an H20's SMs


def test_subsystem_ids_belong_to_one_sheet_each() -> None:
    owners = [(pci, sheet.name) for sheet in sheets.all_sheets() for pci in sheet.identity.pci_subsystem_ids]
    assert len({pci for pci, _ in owners}) == len(owners) >= 30
    assert {pci for pci, name in owners if name == "H20"} == {"10de:198b", "10de:198c"}


@pytest.mark.parametrize(("name", "gigabytes"), [("L20", 64), ("RTX-6000D", 128), ("H200", 128), ("A100-PCIe", 64)])
def test_the_host_link_has_its_nominal_bandwidth(name: str, gigabytes: int) -> None:
    figure = sheets.load(name).published_quantity("pcie.bandwidth")
    assert figure is not None
    assert figure.si == gigabytes * 1e9
    assert figure.basis is not None
    assert "both directions" in figure.basis


def test_the_link_of_a_part_whose_sheet_names_none_stays_out() -> None:
    assert sheets.load("H20").published_quantity("pcie.bandwidth") is None


@pytest.mark.parametrize("name", ["H100-NVL", "H200-NVL", "A800-SXM", "A800-PCIe", "H800-PCIe"])
def test_three_printed_digits_are_three_digits(name: str) -> None:
    figure = sheets.load(name).published_quantity("memory.bandwidth")
    assert figure is not None
    assert figure.rounding_half_width_si == pytest.approx(5e9)


def test_rumours_have_no_sheet() -> None:
    assert sheets.unpublished("B30A") is not None
    with pytest.raises(sheets.SheetError, match="no sheet"):
        sheets.load("B30A")


# -- check ----------------------------------------------------------------------------------------------------


def test_every_shipped_sheet_is_valid() -> None:
    files = [str(path) for path in sorted(FOLDER.glob("*.toml"))]
    done = CliRunner().invoke(cli, ["sheets", "check", *files])
    assert done.exit_code == 0, done.output
    assert done.stdout.count(": valid") == len(files) >= 32


GOOD = (FOLDER / "l40s.toml").read_text(encoding="utf-8").replace("10de:26b9", "10de:0001")
GOOD = GOOD.replace('name = "L40S"', 'name = "MINE"').replace('title = "NVIDIA L40S"', 'title = "Mine"')

BROKEN = [
    ('name = "MINE"', 'nmae = "MINE"', "nmae"),
    ('name = "MINE"', 'name = "has spaces"', "name"),
    ('name = "MINE"', "name = 7", "name"),
    ('title = "Mine"', 'title = ""', "title"),
    ('title = "Mine"', "", "title"),
    ('compute_capability = "8.9"', 'compute_capability = "sm_89"', "identity.compute_capability"),
    ('compute_capability = "8.9"', "compute_capability = 8.9", "identity.compute_capability"),
    ('compute_capability = "8.9"\n', "", "identity.compute_capability"),
    ('["10de:0001"]', '["0x10de0001"]', "identity.pci_device_ids"),
    ('["10de:0001"]', '"10de:0001"', "identity.pci_device_ids"),
    ('source = "driver"', 'source = "nobody"', "identity.source"),
    ('driver_names = ["NVIDIA L40S"]', 'driver_name = ["NVIDIA L40S"]', "identity.driver_name"),
    ('confidence = "database"', 'confidence = "sure"', "confidence"),
    ('date = "2025-12"', 'date = "December 2025"', "date"),
    ('url = "https://hmc-tech', 'url = "hmc-tech', "sources.hmc-tech.url"),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = 362.05\nunit = "TFLOPS"', 'published."tensor.bf16".unit'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = 362.05\nunit = "GB/s"', 'published."tensor.bf16".unit'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = -362.05\nunit = "TFLOP/s"', 'published."tensor.bf16".value'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = 0\nunit = "TFLOP/s"', 'published."tensor.bf16"'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = "362.05"\nunit = "TFLOP/s"', 'published."tensor.bf16"'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = 362.05\nunit = "PFLOP/s"', 'published."tensor.bf16".value'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = nan\nunit = "TFLOP/s"', 'published."tensor.bf16"'),
    ('value = 362.05\nunit = "TFLOP/s"', 'value = inf\nunit = "TFLOP/s"', 'published."tensor.bf16"'),
    ('value = 362.05\nunit = "TFLOP/s"', 'unit = "TFLOP/s"', 'published."tensor.bf16"'),
    ('value = 362.05\nunit = "TFLOP/s"', 'valeu = 362.05\nunit = "TFLOP/s"', "valeu"),
    ('[[published."tensor.bf16"]]', '[[published."tensor.bf61"]]', 'published."tensor.bf61"'),
    ('[[published."tensor.bf16"]]', '[published."tensor.bf16"]', 'published."tensor.bf16"'),
    ("value = 142\n", "value = 142.5\n", "count.sm"),
    ("value = 142\n", "value = 14200\n", 'published."count.sm".value'),
    ("value = 2520\n", "value = 2520000\n", 'published."clock.sm.max".value'),
    ("value = 864\n", "value = 864000000\n", 'published."memory.bandwidth".value'),
    ('reason = "NVIDIA\'s table says so"', "", 'published."power.limit"'),
    ("chosen = true", "chosen = false", "published"),
    ('[[published."tensor.fp8"]]', '[[publised."tensor.fp8"]]', "publised"),
]


@pytest.mark.parametrize(("old", "new", "key"), BROKEN, ids=[f"{i}-{row[2]}" for i, row in enumerate(BROKEN)])
def test_each_error_names_its_key_and_line(old: str, new: str, key: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    problems = check(path)
    assert problems
    assert any(key in str(problem.key) for problem in problems), [str(problem) for problem in problems]
    assert all("\n" not in str(problem) for problem in problems)
    named = next(problem for problem in problems if key in str(problem.key))
    if new and "missing" not in named.text:
        # The line that was broken, or the head of the table that it stands in.
        lines = path.read_text(encoding="utf-8").splitlines()
        broken = next(i for i, line in enumerate(lines, 1) if new.splitlines()[0] in line)
        assert named.line is not None
        assert abs(named.line - broken) <= 6, (named.line, broken)
    done = CliRunner().invoke(cli, ["sheets", "check", str(path)])
    assert done.exit_code == 2
    assert str(path) in done.stderr


def test_a_valid_sheet_of_ones_own_is_valid_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert check(path) == []
    assert CliRunner().invoke(cli, ["verify", "--replay", "reference", "--against", str(path)]).exit_code == 1


def test_syntax_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('title = "Mine"', 'title = "Mine'), encoding="utf-8")
    (problem,) = check(path)
    assert problem.line == 2


def test_files_that_are_no_sheets(tmp_path: Path) -> None:
    big, binary = tmp_path / "big.toml", tmp_path / "binary.toml"
    with big.open("wb") as file:
        file.truncate(100_000_000)
    binary.write_bytes(b"\xff\xfe\x00")
    done = CliRunner().invoke(cli, ["sheets", "check", str(big), str(binary), str(tmp_path), str(tmp_path / "none")])
    assert done.exit_code == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 4
    for line, said in zip(lines, ("larger than 1 MB", "UTF-8", "directory", "does not exist"), strict=True):
        assert said in line


def test_two_sheets_that_claim_one_id_are_refused_with_both_names(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(GOOD, encoding="utf-8")
    second.write_text(GOOD.replace('"MINE"', '"YOURS"'), encoding="utf-8")
    done = CliRunner().invoke(cli, ["sheets", "check", str(first), str(second)])
    assert done.exit_code == 2
    assert all(word in done.stderr for word in ("MINE", "YOURS", "10de:0001"))
    first.write_text(GOOD.replace("10de:0001", "10de:2329"), encoding="utf-8")
    done = CliRunner().invoke(cli, ["sheets", "check", str(first)])
    assert (done.exit_code, "H20" in done.stderr, "MINE" in done.stderr) == (2, True, True)


def test_json_lists_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("TFLOP/s", "TFLOPS"), encoding="utf-8")
    document = json.loads(CliRunner().invoke(cli, ["sheets", "check", "--json", str(path)]).stdout)
    assert document["files"] == [{"file": str(path), "valid": False}]
    assert len(document["problems"]) > 5


def test_the_schema_is_one_that_editors_can_use() -> None:
    schema = json_schema()
    assert {"name", "title", "summary", "identity", "sources"} <= set(schema["required"])
    assert "chosen" in schema["$defs"]["Quantity"]["properties"]
    assert json.loads(CliRunner().invoke(cli, ["sheets", "schema"]).stdout) == schema


# -- new ------------------------------------------------------------------------------------------------------

CLAIMS: list[dict[str, Any]] = [
    {"quantity": "name", "value": 'NVIDIA "odd" H20', "unit": None},
    {"quantity": "pci.device_id", "value": "10de:2329", "unit": None},
    {"quantity": "compute_capability", "value": "9.0", "unit": None},
    {"quantity": "memory.size", "value": 97871 * 2**20, "unit": "B"},
    {"quantity": "clock.sm.max", "value": 1.98e9, "unit": "Hz"},
    {"quantity": "memory.bus_width", "value": 6144, "unit": "bit"},
]


def test_a_draft_is_valid_and_holds_only_what_the_device_said(tmp_path: Path) -> None:
    path = tmp_path / "draft.toml"
    path.write_text(draft(CLAIMS, "2026-11-23"), encoding="utf-8")
    assert check(path) == []
    sheet = sheets.load(str(path))
    assert not sheet.published
    assert set(sheet.silicon) == {"memory.size", "clock.sm.max", "memory.bus_width"}
    size = sheet.silicon_quantity("memory.size")
    assert size is not None
    assert size.text == "97871 MiB"


def test_without_a_gpu_nothing_is_drafted() -> None:
    done = CliRunner().invoke(cli, ["sheets", "new", "--from-device", "0"])
    assert done.exit_code == 4
    assert done.stdout == ""


# -- what only a whole sheet shows ------------------------------------------------------------------------------


def broken(tmp_path: Path, *changes: tuple[str, str]) -> list[Problem]:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return check(path)


def test_all_errors_of_a_file_come_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    found = broken(
        tmp_path,
        ('title = "Mine"', 'titel = "Mine"'),
        ('source = "driver"', 'source = "nobody"'),
        ('confidence = "database"', 'confidence = "sure"'),
        ('[[published."tensor.tf32"]]', '[[published."tensor.tf23"]]'),
        ('value = 864\nunit = "GB/s"', 'value = 864\nunit = "GB"'),
        ("value = 142\n", "value = 14200\n"),
        ("chosen = true", ""),
    )
    keys = [problem.key for problem in found]
    assert sorted(str(key) for key in keys) == [
        "identity.source",
        'published."count.sm".value',
        'published."l2.size"',
        'published."memory.bandwidth".unit',
        'published."tensor.tf23"',
        "sources.hmc-tech.confidence",
        "titel",
    ]
    lines = [problem.line for problem in found]
    assert None not in lines
    assert lines == sorted(line for line in lines if line is not None)
    assert all(problem.found and problem.remedy for problem in found)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        # The vendor's slips: a server's figure for one GPU's, a prefix, a digit too many.
        ("value = 362.05\n", "value = 148000\n", "148000 TFLOP/s"),
        ('value = 2520\nunit = "MHz"', 'value = 2520\nunit = "GHz"', "100 to 10000 MHz"),
        ("value = 142\n", "value = 10000\n", "1 to 1000"),
        ('value = 48\nunit = "GB"', 'value = 48\nunit = "MB"', "0.1 to 10000 GB"),
        ('value = 91.6\nunit = "TFLOP/s"', 'value = 91.6\nunit = "PFLOP/s"', "0.001 to 1000 TFLOP/s"),
        ("value = 384\n", "value = 3.84e5\n", "32 to 65536 bit"),
        ("value = 350\n", "value = 350000\n", "1 to 10000 W"),
        ("value = 1024\n", "value = 1024000\n", "FLOP/clk/SM"),
    ],
)
def test_what_no_gpu_comes_near_is_refused_with_what_is_believed(old: str, new: str, says: str, tmp_path: Path) -> None:
    (problem,) = broken(tmp_path, (old, new))
    assert problem.key is not None
    assert problem.key.endswith(".value")
    assert "not believed of one GPU" in problem.text
    assert says in problem.text


def test_an_id_may_stand_once_in_a_sheet(tmp_path: Path) -> None:
    (problem,) = broken(tmp_path, ('["10de:0001"]', '["10de:0001", "10de:0001"]'))
    assert (problem.key, problem.line) == ("identity.pci_device_ids[1]", 7)
    assert "second time" in problem.text


def test_a_part_that_can_be_measured_is_not_for_comparison_only(tmp_path: Path) -> None:
    found = broken(tmp_path, ("\n[identity]", "comparison_only = true\n\n[identity]"))
    assert [problem.key for problem in found] == ["identity.compute_capability", "identity.pci_device_ids"]


def test_lines_are_right_below_text_and_lists_of_several_lines(tmp_path: Path) -> None:
    found = broken(
        tmp_path,
        ('title = "Mine"', 'title = """\n[identity]\nunit = "x"\n"""\naliases2 = [\n  "a",\n  "b",\n]'),
        ('value = 733\nunit = "TFLOP/s"', 'value = 733\nunit = "TFLOPS"'),
    )
    lines = (tmp_path / "mine.toml").read_text(encoding="utf-8").splitlines()
    for problem in found:
        assert problem.line is not None
        assert str(problem.key).rsplit(".", 1)[-1] in lines[problem.line - 1]
    assert [problem.line for problem in found] == [6, lines.index('unit = "TFLOPS"') + 1]


def test_the_schema_knows_the_units_of_each_quantity() -> None:
    figures = json_schema()["properties"]["published"]
    assert figures["additionalProperties"] is False
    units = figures["properties"]["memory.bandwidth"]["items"]["properties"]["unit"]["enum"]
    assert "GB/s" in units
    assert "GB" not in units
    assert set(figures["properties"]) == set(sheets.QUANTITIES)
