"""Reports in Simplified Chinese: nothing left in English, every number the same."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from babel.messages.pofile import read_po
from click.testing import CliRunner
from conftest import H20
from fake_gpu import FakeDevice, Model
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpuassay import compare, history, report, seal, store, verify
from gpuassay.audit import Row
from gpuassay.cli import cli
from gpuassay.record import read
from gpuassay.report import document, language, tables
from gpuassay.report.lab import Lab
from gpuassay.report.model import Document
from gpuassay.sheets import load
from gpuassay.verdict import Judgement

CATALOGUE = Path(language.__file__).parents[1] / "locale/zh_CN/LC_MESSAGES/gpuassay.po"
PLACE = re.compile(r"\{(\w+)\}")
# Two words of English on end; commands are no sentences.
ENGLISH = re.compile(r"\b(?!gpuassay )[a-z]{2,}(?: [a-z]{2,})+\b")


@pytest.fixture(
    scope="module", params=["reference", "itself", "standard", "full", "H20", "cut", "sold as", "masked", "guest"]
)
def judgement(
    request: pytest.FixtureRequest, fake_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Judgement:
    if request.param in ("reference", "itself"):
        return verify.judge_record(verify.reference_record(), {"reference": "H20"}.get(request.param))
    labels = {
        "sold as": H20 | {"name": "NVIDIA H20", "pci_device_id": "10de:2330"},
        "masked": {"name": "NVIDIA L20X", "pci_device_id": "10de:2335", "compute_capability": "8.9"},
        "guest": {
            "virtualization": "vgpu",
            "memory_bytes": 40 * 2**30,
            "rates": {"tensor.bf16": 2048, "memory.triad": 0.9},
        },
    }
    if request.param in labels:
        return verify.judge_record(fake_run(**labels[request.param]), None)
    run = fake_run("full" if request.param == "full" else "standard")
    if request.param == "cut":
        data = run.read_bytes()
        run = tmp_path_factory.mktemp("cut") / "cut.jsonl"
        run.write_bytes(data[: len(data) // 2])
    return verify.judge_record(run, "H20" if request.param == "H20" else None)


def texts(made: Document) -> Iterator[str]:
    yield from (made.title, made.identification, made.verdict.text, made.summary, made.incomplete or "", made.end)
    for pair in made.facts:
        yield from pair
    for section in made.sections:
        yield from (section.title, *section.paragraphs)
        for table in section.tables:
            yield from (table.caption, *table.columns)
            yield from (cell.text for row in table.rows for cell in row)
        for picture in section.pictures:
            yield from (picture.title, picture.alternative, picture.reading)
            yield from re.findall(r"<text\b[^>]*>([^<]+)</text>", picture.svg or "")


def numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d+(?:\.\d+)?", text))


def test_the_chinese_report_has_no_english_sentence(judgement: Judgement) -> None:
    made = language.translated(document.build(judgement, Lab(customer_supplied={"x": "y"})), "zh")
    assert made.language == "zh-Hans"
    assert [text for text in texts(made) if ENGLISH.search(text)] == []


def test_numbers_are_the_same_in_both(judgement: Judgement) -> None:
    english = document.build(judgement, Lab(), draw=False)
    chinese = language.translated(english, "zh")
    for ours, theirs in zip(texts(english), texts(chinese), strict=True):
        assert numbers(ours) == numbers(theirs), (ours, theirs)


def test_the_chinese_terminal_has_no_english_sentence(judgement: Judgement) -> None:
    console = Console(width=400, file=io.StringIO())
    for details in (False, True):
        console.print(language.translated_lines(report.judgement(judgement, details), "zh"))
    shown = console.file.getvalue()
    assert [line for line in shown.splitlines() if ENGLISH.search(line)] == []


def test_every_entry_has_a_translation_with_the_same_places() -> None:
    with CATALOGUE.open("rb") as file:
        entries = [message for message in read_po(file) if message.id]
    assert len(entries) > 400
    for message in entries:
        assert message.string, message.id
        assert not message.fuzzy
        assert sorted(PLACE.findall(str(message.id))) == sorted(PLACE.findall(str(message.string))), message.id


def test_comparisons_and_histories_have_no_english_sentence(fake_run: Callable[..., Path]) -> None:
    runs = [fake_run(), fake_run("standard"), fake_run(**H20), verify.reference_record()]
    frame = store.estimates(runs[:1])
    later = [frame.assign(started=f"2026-0{month}-01T00:00:00Z", run_id=f"r{month}") for month in range(1, 9)]
    for place, rows in enumerate(later):
        rows[["value", "per_clock"]] *= 0.95 if place > 3 else 1 + 1e-4 * (-1) ** place
        rows["driver"] = "580" if place < 4 else "590"
    moved = history.history(pd.concat([*later, *[rows.assign(uuid="GPU-2", driver="580") for rows in later]]))
    assert any(series.steps for series in moved)
    for english in (tables.comparison(compare.compare([read(run) for run in runs])), tables.history(moved, 2)):
        made = language.translated(english, "zh")
        assert [text for text in texts(made) if ENGLISH.search(text)] == []
        for ours, theirs in zip(texts(english), texts(made), strict=True):
            assert numbers(ours) == numbers(theirs), (ours, theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "nowhere.jsonl"],
        ["report", "."],
        ["report", "empty.jsonl"],
        ["report", "foreign.jsonl"],
        ["report", "broken.jsonl"],
        ["report", "changed.jsonl"],
        ["report", "newer.jsonl"],
        ["report", "reference", "--against", "H999"],
        ["report", "reference", "--format", "md", "-o", "foreign.jsonl"],
        ["report", "reference", "--format", "md", "-o", "no/report.md"],
        ["report", "reference", "--format", "md", "--lab", "nowhere.toml"],
        ["report", "reference", "--format", "md", "--lab", "lab.toml"],
        ["compare", "reference", "nowhere.jsonl"],
        ["compare", "reference", "reference", "-o", "foreign.jsonl"],
        ["history", "nowhere*.jsonl"],
        ["history", "."],
        ["verify", "--replay", "nowhere.jsonl"],
    ],
    ids=" ".join,
)
def test_errors_are_said_in_chinese(
    arguments: list[str], fake_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = fake_run().read_bytes().splitlines(keepends=True)
    for name, data in (
        ("empty", b""),
        ("foreign", b"hello\n"),
        ("broken", lines[0] + b'{"kind":"round"}\n'),
        ("changed", lines[0] + b"".join(lines[2:])),
        ("newer", lines[0].replace(b"gpuassay.record/3", b"gpuassay.record/9")),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(data)
    (tmp_path / "lab.toml").write_text('labratory = "x"\n', encoding="utf-8")
    done = CliRunner().invoke(cli, [*arguments, "--lang", "zh"])
    assert done.exit_code == (0 if arguments == ["history", "."] else 2)
    assert re.search("[\u4e00-\u9fff]", done.stderr), done.stderr
    assert not ENGLISH.search(done.stderr.split("可用字段")[0]), done.stderr


def test_a_seal_that_cannot_be_read_is_said_in_chinese(fake_run: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(fake_run().read_bytes())
    seal.path_for(path).write_text("no seal", encoding="utf-8")
    made = language.translated(document.build(verify.judge_record(path, None), Lab(), draw=False), "zh")
    assert [text for text in texts(made) if ENGLISH.search(text)] == []
    assert any("封印" in text and str(seal.path_for(path)) in text for text in texts(made))


@given(st.text(max_size=200))
def test_any_text_comes_back(text: str) -> None:
    assert isinstance(language.translator("zh")(text), str)
    assert language.translator("en")(text) == text


@pytest.mark.parametrize("form", ["md", "html"])
def test_the_command_speaks_chinese(form: str) -> None:
    command = ["report", "reference", "--against", "H20", "--lang", "zh", "--format", form, "-o", "-"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "检测报告" in done.output
    assert "不符合" in done.output


def test_verify_speaks_chinese() -> None:
    done = CliRunner().invoke(cli, ["verify", "--replay", "reference", "--against", "H20", "--lang", "zh"])
    assert done.exit_code == 1
    assert "不是 H20" in done.output
    assert "未测量任何 GPU" in done.stderr
    assert not ENGLISH.search(done.stderr)


def audit_rows() -> Iterator[Row]:
    """Rows of every check of the audit, with and without a finding; what only a device gives is made by hand."""
    from test_determinism import child_that_finds
    from test_honesty import simulated, warming
    from test_limiter import LIMITERS, power_cap
    from test_limiter import run as hunted

    from gpuassay.audit import (
        capabilities,
        determinism,
        fingerprint,
        host,
        limiter,
        memory,
        memory_run,
        residue,
        same_unit,
        self_report,
    )

    sheet = load("L40S")
    full = {"pci.config.device_id": "10de:2330", "pci.subsystem_id": "10de:1", "pci.config.subsystem_id": "10de:2"}
    full |= {"nvlink.count.active": 18, "nvlink.speed": 26e9, "l2.size": 50 * 2**20, "ecc.mode": "enabled"}
    peer = simulated(**full)
    peer._rounds[1] |= {"metric": "peer.one_way.0-1"}
    gddr6 = simulated(**{"compute_capability": "8.9", "ecc.mode": "enabled", "memory.size": 46068 * 2**20})
    filled = simulated()
    filled.audit.append({"check": "memory.capacity", "verdict": "consistent", "measured": 8 * 10**10})
    for made in (simulated(), peer, gddr6, filled, warming(lambda t: 41.0), simulated(pcie=6.0)):
        yield from self_report.rows(made, sheet)
    tried = [
        capabilities.Capability(*words) for words in (("tensor.bf16", "computes wrongly", "x"), ("a", "works", "b"))
    ]
    yield capabilities.queries_row(tried)
    yield capabilities.try_kernels(FakeDevice(Model()))  # type: ignore[arg-type]
    denied = simulated()
    denied.not_measured.append({"metric": "tensor.fp16", "reason": "cudaErrorNotSupported: operation not supported"})
    denied.audit.append(capabilities.queries_row(tried).line())
    yield capabilities.row(denied, sheet)
    for count in (0, 2):
        yield from residue.run(0, count, child_that_finds(count, []))
        errors = {"hash": memory.Errors(count, 1, 2)}
        outcome = memory.Outcome(1000, errors, [(1, 2)] * count)
        yield memory.capacity_row(outcome, 8000, 9000)
        errors = [
            memory.Errors(sms, 1 if sms else None, 2 * sms, dict.fromkeys(range(sms), 1)) for sms in range(count + 1)
        ]
        yield from (memory.inversions_row(1000, found, [34.0, 61.0]) for found in (errors[:2], errors))
        yield memory_run.counters_row({"corrected": 0, "uncorrected": 0}, {"corrected": 1, "uncorrected": count})
        tally = determinism.Tally(temperatures_c=[34.0, 61.0])
        for _ in range(2):
            tally.add(range(4), [b"a", b"a", b"a", b"b" if count else b"a"], 4)
        yield determinism.row("tensor.bf16", tally)
    yield from residue.run(0, None)
    yield from residue.run(0, 0, child_that_finds(0, []), blind=True)
    yield residue.row("global memory", residue.Counts(0, 0, 940, planted=1000))
    yield from residue.run(0, 0, child_that_finds(3, []))
    for found in (None, *(how for how, _ in LIMITERS.values()), power_cap):
        yield limiter.row(hunted(3, found), 3)
    for capability in ("9.0", "7.0"):
        yield fingerprint.row({"fp16": [1.0]}, capability, {})
    yield from host.rows(Path("/nonexistent"), lambda _: "")
    yield host.attestation(missing=host.missing_conditions(Path("/nonexistent")))
    one, other = ({sm: 270.0 + (sm * step) % 37 for sm in range(64)} for step in (7, 11))
    yield from (same_unit.compare(one, one), same_unit.compare(one, other), same_unit.compare({}, one))
    yield from same_unit.rows(simulated(uuid="a"), simulated(**{"uuid": "b", "vbios.version": "1"}))


def test_every_row_of_the_audit_is_translated() -> None:
    said = language.translator("zh")
    texts = {text for row in audit_rows() for text in (row.check, row.text, str(row.verdict))}
    assert len(texts) > 60
    left = {text: said(text) for text in texts if ENGLISH.search(said(text))}
    assert left == {}
    assert [t for t in texts if numbers(t) != numbers(said(t))] == []
