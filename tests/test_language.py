"""Reports in Simplified Chinese: nothing left in English, every number the same."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpuassay import report, verify
from gpuassay.cli import cli
from gpuassay.report import document, language
from gpuassay.report.lab import Lab
from gpuassay.report.model import Document
from gpuassay.verdict import Judgement

CATALOGUE = Path(language.__file__).parents[1] / "locale/zh_CN/LC_MESSAGES/gpuassay.po"
PLACE = re.compile(r"\{(\w+)\}")
# Two words of English on end; commands are no sentences.
ENGLISH = re.compile(r"\b(?!gpuassay )[a-z]{2,}(?: [a-z]{2,})+\b")


@pytest.fixture(scope="module", params=["reference", "itself", "full", "H20", "cut"])
def judgement(
    request: pytest.FixtureRequest, fake_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Judgement:
    if request.param in ("reference", "itself"):
        return verify.judge_record(verify.reference_record(), {"reference": "H20"}.get(request.param))
    run = fake_run("standard")
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
            yield from (picture.title, picture.alternative)
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
    console.print(language.translated_lines(report.judgement(judgement), "zh"))
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
