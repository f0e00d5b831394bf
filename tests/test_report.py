"""Reports in every format, from the shipped recording and from a fake GPU's record."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import CliRunner

from gpuassay import verify
from gpuassay.cli import cli
from gpuassay.cli_report import FORMATS, render
from gpuassay.report import document, html, markdown, tidy
from gpuassay.report.lab import Lab
from gpuassay.report.schema import json_schema
from gpuassay.untrusted import cell
from gpuassay.verdict import Judgement

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def reference() -> Judgement:
    return verify.judge_record(verify.reference_record(), None)


@pytest.fixture(scope="module", params=["reference", "fake"])
def judgement(request: pytest.FixtureRequest, reference: Judgement, fake_run: Callable[..., Path]) -> Judgement:
    return reference if request.param == "reference" else verify.judge_record(fake_run(), None)


def test_html_is_one_small_file_whose_pictures_have_words(judgement: Judgement) -> None:
    text = str(render(judgement, "html", Lab()))
    assert len(text.encode()) < 3_000_000
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    pictures = re.findall(r"<img [^>]*>", text)
    assert pictures
    assert all(re.search(r'alt="[^"]{40,}"', picture) for picture in pictures)
    assert judgement.summary in text.replace("&#39;", "'")
    assert "no claim of accreditation" in text


def test_the_order_is_answer_first_then_evidence(judgement: Judgement) -> None:
    keys = [section.key for section in document.build(judgement, draw=False).sections]
    wanted = (
        "part matrix capped findings audit conditions variants method budget missing limits regulation conformity "
        "laboratory"
    )
    assert keys == wanted.split()


def test_the_same_record_gives_the_same_html(reference: Judgement) -> None:
    assert render(reference, "html", Lab()) == render(reference, "html", Lab())


def test_json_meets_its_schema(judgement: Judgement) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(render(judgement, "json", Lab())), schema)


def test_junit_has_one_case_per_metric_with_reasons(judgement: Judgement) -> None:
    suite = ElementTree.fromstring(render(judgement, "junit", Lab()))
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert set(cases) == {v.metric for v in judgement.verdicts}
    for v in judgement.verdicts:
        kinds = [child.tag for child in cases[v.metric]]
        wanted = [] if v.verdict == "conforms" else ["failure"] if v.verdict in ("below", "above") else ["skipped"]
        assert kinds == wanted
        if kinds == ["skipped"]:
            assert v.reason in str(cases[v.metric][0].get("message"))
    assert suite.get("skipped") == str(len(list(suite.iter("skipped"))))


def test_csv_has_one_row_per_metric(judgement: Judgement) -> None:
    rows = list(csv.DictReader(io.StringIO(str(render(judgement, "csv", Lab())))))
    assert [row["metric"] for row in rows] == [v.metric for v in judgement.verdicts]
    assert tuple(rows[0]) == tidy.COLUMNS


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_csv_text_is_no_formula(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert cell(-1.5) == -1.5


def test_a_script_in_outside_fields_stays_text(reference: Judgement) -> None:
    assert reference.record is not None
    claims = [{"quantity": "name", "value": SCRIPT, "unit": None, "source": SCRIPT}]
    record = replace(reference.record, claim_rows=claims, run=dict(reference.record.run))
    sheet = reference.sheet.model_copy(update={"title": SCRIPT})
    verdicts = tuple(replace(v, reason=SCRIPT) for v in reference.verdicts)
    record.run["run_id"] = f'{SCRIPT}"); }} </style>'
    planted = replace(
        reference, part=SCRIPT, summary=SCRIPT, sheet=sheet, record=record, verdicts=verdicts, choice=(SCRIPT,)
    )
    lab = Lab(laboratory=SCRIPT, customer=SCRIPT, customer_supplied={SCRIPT: SCRIPT})
    made = document.build(planted, lab)
    assert "<script" not in html.write(made)
    assert html.write(made).count("&lt;script&gt;") > 10
    assert html.write(made).count("</style>") == 1
    assert "<script" not in markdown.write(made)
    assert "<script" not in str(render(planted, "junit", lab))


def test_a_pipe_or_a_link_does_not_break_markdown() -> None:
    assert markdown.escape("a|b\n# c") == r"a\|b \# c"
    assert "https://" not in markdown.escape("see https://example.com")


def test_a_record_cut_off_is_headed_incomplete(fake_run: Callable[..., Path], tmp_path: Path) -> None:
    whole = fake_run().read_bytes()
    path = tmp_path / "cut.jsonl"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    made = document.build(verify.judge_record(path, None), draw=False)
    assert made.incomplete is not None
    for text in (html.write(made), markdown.write(made)):
        assert text.index("incomplete: ") < text.index("What was capped")


def test_absent_fields_are_shown_as_absent_and_customers_data_are_marked(reference: Judgement) -> None:
    made = document.build(reference, Lab(laboratory="L", customer_supplied={"firmware": "1.2"}), draw=False)
    tables = made.sections[-1].tables
    fields = {row[0].text: row[1].text for row in tables[0].rows}
    assert fields["Laboratory"] == "L"
    assert fields["Customer"] == "not stated"
    assert "firmware" in fields["Supplied by the customer"]
    assert "customer" in tables[1].caption
    clauses = {row[2].text for row in tables[0].rows}
    assert clauses >= {f"7.8.2.1 {letter}" for letter in "abcdefghijklmnop"}
    assert clauses >= {"7.8.2.2", "7.8.3.1 a", "7.8.3.1 c", "7.8.6", "7.8.8"}


def test_each_report_on_a_record_has_a_number_of_its_own(reference: Judgement) -> None:
    other = verify.judge_record(verify.reference_record(), "H20")
    first, second = (document.build(found, draw=False) for found in (reference, other))
    assert first.identification != second.identification
    named = document.build(reference, Lab(report_number="L-7"), draw=False)
    assert named.identification.endswith("L-7")
    assert named.end.endswith("L-7")


def test_all_formats_at_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", "reference", "--format", "all", "-o", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        f"r.{end}" for end in ("html", "md", "csv", "json", "xml", "pdf")
    }
    again = CliRunner().invoke(cli, ["report", "reference", "--format", "all", "-o", str(tmp_path / "r.html")])
    assert again.exit_code == 2
    assert "exists" in again.output


def test_an_existing_file_is_refused_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "r.md"
    arguments = ["report", "reference", "--format", "md", "-o", str(out)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 2
    assert "--force" in again.output
    assert CliRunner().invoke(cli, [*arguments, "--force"]).exit_code == 0


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text('labratory = "x"\n', encoding="utf-8")
    for arguments, said in (
        (["reference", "--format", "md", "-o", str(tmp_path / "no" / "r.md")], "cannot write"),
        (["reference", "--format", "md", "--lab", str(lab)], "labratory"),
        ([str(tmp_path / "none.jsonl")], "none.jsonl"),
        ([], "RECORD"),
    ):
        done = CliRunner().invoke(cli, ["report", *arguments])
        assert done.exit_code == 2
        assert said in done.output
        assert "Traceback" not in done.output


def test_pdf_carries_its_identification_on_every_page(reference: Judgement) -> None:
    pytest.importorskip("weasyprint")
    from pypdf import PdfReader

    pages = [page.extract_text() for page in PdfReader(io.BytesIO(bytes(render(reference, "pdf", Lab())))).pages]
    assert reference.record is not None
    number = f"{reference.record.run['run_id']}-{reference.sheet.name}"
    assert len(pages) > 2
    assert all(number in " ".join(page.split()) for page in pages)
    assert "End of test report" in pages[-1]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise ImportError('no such font library')", "pip install 'gpuassay[report,pdf]' (no such font library)"),
        ("import os; os.abort()", "WeasyPrint set no PDF (exit code -6): it said nothing"),
        ("raise ValueError('what a font')", "WeasyPrint set no PDF (exit code 1): ValueError: what a font"),
    ],
)
def test_a_pdf_that_cannot_be_set_is_one_sentence(
    module: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weasyprint.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for lang in ("en", "zh"):
        out = tmp_path / "r.pdf"
        arguments = ["report", "reference", "--format", "pdf", "-o", str(out), "--lang", lang]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 2
        assert (said in done.stderr) == (lang == "en")
        assert bool(re.search("[\u4e00-\u9fff]", done.stderr)) == (lang == "zh")
        assert "Traceback" not in done.stderr
        assert not out.exists()


def test_nobody_waits_for_a_pdf_that_nobody_wants_any_more() -> None:
    from gpuassay.report import pdf

    started: list[subprocess.Popen[bytes]] = []

    def interrupted() -> None:
        with pdf.setter() as set_document:
            started.append(set_document.args[0])  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert started[0].returncode is not None


def test_setting_a_pdf_fetches_nothing_and_wants_a_whole_document() -> None:
    pytest.importorskip("weasyprint")
    from gpuassay.report import typeset

    command = [sys.executable, "-P", typeset.__file__]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        link = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        page = f"<html><body><p>whole</p><img src='{link}'></body></html>\n".encode()
        done = subprocess.run(command, input=page, capture_output=True, check=True)
        assert done.stdout.startswith(b"%PDF")
        with pytest.raises(TimeoutError):
            server.accept()
    assert subprocess.run(command, input=page[:-9], capture_output=True, check=True).stdout == b""


def test_a_standard_record_is_reported_in_time(fake_run: Callable[..., Path], tmp_path: Path) -> None:
    """HTML in 4 s and all formats in 8 s on two cores: here in processor time, and twice of it, for other tests run
    beside this one and share the cores' caches."""
    record = fake_run("standard")
    for form, bar_s in (("html", 4.0), ("all", 8.0)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "gpuassay", "report", str(record), "--format", form]
        subprocess.run([*command, "-o", str(tmp_path / f"{form}.html")], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * bar_s, form


def test_help_names_every_format_and_loads_no_heavy_library() -> None:
    code = "import sys, gpuassay.cli; print([m for m in ('matplotlib', 'jinja2', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    text = CliRunner().invoke(cli, ["report", "--help"]).output
    assert all(form in text for form in FORMATS)
