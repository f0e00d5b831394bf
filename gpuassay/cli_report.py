"""gpuassay report: a record as a document that a lab can file."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .cli_shared import decision_options, language_option, speaker
from .exit_codes import CONFORMS, fail

if TYPE_CHECKING:
    from .report.lab import Lab
    from .report.model import Document
    from .verdict import Judgement

FORMATS = ("html", "md", "csv", "json", "junit", "pdf")


@click.command()
@click.argument("record", required=False)
@click.option("--against", metavar="SHEET", help="A sheet's name or a .toml file. Default: that of the PCI id.")
@click.option(
    "--format",
    "form",
    type=click.Choice([*FORMATS, "all"]),
    default="html",
    show_default=True,
    help="all: each of them in a file of its own, beside each other.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Default: gpuassay-RUN.html or .pdf here, standard output for the other formats. '-' is standard output.",
)
@click.option("--lab", type=click.Path(path_type=Path), metavar="TOML", help="Laboratory, customer, item and so on.")
@language_option
@click.option("--force", is_flag=True, help="Replace the output where it exists.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the JSON output, and nothing else.")
@decision_options
def report(
    record: str | None,
    against: str | None,
    form: str,
    output: Path | None,
    lab: Path | None,
    lang: str,
    force: bool,
    schema: bool,
    confidence: float,
    guard: float,
) -> None:
    """Write a record's verdicts, with their evidence, as a document.

    RECORD is a run record, or 'reference' for the shipped one. Needs no GPU. Exit code 0 once the document is
    written, whatever it says.

    \b
    gpuassay report reference                          an HTML file that needs nothing else
    gpuassay report run.jsonl --format pdf --lab lab.toml -o report.pdf
    gpuassay report run.jsonl --format junit -o gpu.xml
    gpuassay report run.jsonl --format all -o filed/run.html
    """
    from .report.lab import Lab, LabError
    from .report.lab import read as read_lab
    from .report.model import MissingExtra
    from .report.pdf import PdfError

    if schema:
        from .report.schema import json_schema

        click.echo(json.dumps(json_schema(), indent=2))
        sys.exit(CONFORMS)
    if record is None:
        raise click.UsageError("name a RECORD, or 'reference' for the shipped one")
    said = speaker(lang)
    forms = FORMATS if form == "all" else (form,)
    if form == "all" and output == Path("-"):
        raise click.UsageError("--format all writes files: name one of them with -o, or leave -o out")
    files = _files(output, forms)
    for file in files.values():
        refuse(file, force, said)
    try:
        stated = read_lab(lab) if lab else Lab()
        judgement = _judge(record, against, confidence, guard, said)
        assert judgement.record is not None
        if output is None and form in ("html", "pdf", "all"):
            files = _files(Path(f"gpuassay-{_name(str(judgement.record.run['run_id']))}.{forms[0]}"), forms)
            for file in files.values():
                refuse(file, force, said)
        # Every one is made before any is written.
        texts = renderings(judgement, forms, stated, lang)
    except (LabError, MissingExtra, PdfError) as error:
        fail(said(str(error)))
    for one, text in texts.items():
        if one not in files:
            click.echo(text, nl=False)
            return
        write(files[one], text if isinstance(text, bytes) else text.encode(), said)
        click.echo(said(f"Report: {files[one]}"), err=True)


def _files(output: Path | None, forms: tuple[str, ...]) -> dict[str, Path]:
    """Which form goes to which file; nothing for standard output. JUnit's suffix is what CI servers look for."""
    if output is None or output == Path("-"):
        return {}
    if len(forms) == 1:
        return {forms[0]: output}
    return {form: output.with_suffix(".xml" if form == "junit" else f".{form}") for form in forms}


def render(judgement: Judgement, form: str, lab: Lab, lang: str = "en") -> str | bytes:
    """The judgement in one of FORMATS; `lang` puts what people read into a language. Raises MissingExtra,
    pdf.PdfError."""
    return renderings(judgement, (form,), lab, lang)[form]


def renderings(judgement: Judgement, forms: tuple[str, ...], lab: Lab, lang: str = "en") -> dict[str, str | bytes]:
    """The judgement in several of FORMATS; the pictures are drawn once for all of them. Raises MissingExtra,
    pdf.PdfError."""
    from .report import document, html, junit, language, markdown, pdf, tidy

    found: dict[str, str | bytes] = {}
    with ExitStack() as held:
        documents: dict[str, Callable[[Document], str | bytes]] = {"html": html.write, "md": markdown.write}
        if "pdf" in forms:
            documents["pdf"] = held.enter_context(pdf.setter())
        read_by_people = [form for form in forms if form in documents]
        if read_by_people:
            made = document.build(judgement, lab, draw=read_by_people != ["md"])
            made = language.translated(made, lang)
        for form in forms:
            if form == "json":
                found[form] = json.dumps(judgement.to_json(), indent=2, allow_nan=False) + "\n"
            elif form == "csv":
                found[form] = tidy.write(judgement)
            elif form == "junit":
                found[form] = junit.write(judgement)
            else:
                found[form] = documents[form](made)
    return found


def _judge(record: str, against: str | None, confidence: float, guard: float, said: Callable[[str], str]) -> Judgement:
    from .decision import Rule
    from .record import RecordError
    from .sheets import SheetError
    from .verify import VerifyError, judge_record, reference_record

    try:
        path = reference_record() if record == "reference" else Path(record)
        return judge_record(path, against, Rule(confidence, guard))
    except (RecordError, SheetError, VerifyError) as error:
        fail(said(str(error)))


def _name(run_id: str) -> str:
    """A run id is text from outside: only what a file name may hold."""
    return "".join(c for c in run_id if c.isalnum())[:32] or "report"


def refuse(path: Path, force: bool, said: Callable[[str], str] = str) -> None:
    """Ends the program where `path` is there already and `force` is not given."""
    if path.exists() and not force:
        fail(said(f"{path} exists and is not overwritten; add --force or choose another file with -o"))


def write(path: Path, data: bytes, said: Callable[[str], str] = str) -> None:
    """All of it or nothing."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        fail(said(f"cannot write {path}: {error.strerror}; choose another file with -o"))
