"""gpuassay compare, gpuassay history: several records side by side, and over time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_report import refuse, write
from .cli_shared import language_option, speaker
from .exit_codes import CONFORMS, DIFFERS, fail
from .untrusted import printable

if TYPE_CHECKING:
    from pandas import DataFrame

    from .report.model import Document

FORMATS = ("text", "html", "md", "csv", "json", "junit", "pdf")


def _output_options(command: Any) -> Any:
    """--format, -o, --force."""
    form = click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
    output = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Default: standard output.",
    )
    force = click.option("--force", is_flag=True, help="Replace the output where it exists.")
    return form(output(language_option(force(command))))


@click.command()
@click.argument("records", nargs=-1, required=True, metavar="RECORD RECORD...")
@_output_options
def compare(records: tuple[str, ...], form: str, output: Path | None, lang: str, force: bool) -> None:
    """Hold records against the first of them: two boards, before and after, two parts.

    Per metric the ratio to the first record with its uncertainty, per clock and SM and absolute, and whether it differs
    beyond it. What is not comparable (another kernel, another unit) says so. Exit code 0: nothing differs, 1: something
    does.

    \b
    gpuassay compare before.jsonl after.jsonl
    gpuassay compare h20.jsonl h100.jsonl --format html -o comparison.html
    """
    from .compare import compare as hold
    from .record import RecordError, read
    from .report.junit import suite
    from .report.tables import comparison, comparison_cases
    from .verify import VerifyError, record_path

    if len(records) < 2:
        raise click.UsageError("name at least two records: the first is the reference")
    said = speaker(lang)
    if output:
        refuse(output, force, said)
    try:
        found = hold([read(record_path(name)) for name in records])
    except (RecordError, VerifyError) as error:
        fail(said(str(error)))
    made = comparison(found)
    rows = {"json": found.to_json, "csv": lambda: [row.__dict__ for row in found.ratios]}
    rows["junit"] = lambda: suite(made.identification, comparison_cases(found), {"summary": made.summary})
    _give(made, rows, form, output, lang)
    sys.exit(DIFFERS if found.differs else CONFORMS)


@click.command()
@click.argument("paths", nargs=-1, metavar="[DIR|GLOB|RECORD]...")
@_output_options
@click.option(
    "--parquet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write every estimate (gpuassay.estimates) as a Parquet file.",
)
def history(
    paths: tuple[str, ...], form: str, output: Path | None, lang: str, force: bool, parquet: Path | None
) -> None:
    """What became of each board: every metric over time, steps, drift, and what changed with them.

    Looks at results/ where nothing is named. Files that are no records are left out and counted. A step that came
    together with another driver, program or kernel source says so: the board need not have changed. Exit code 0,
    whatever it shows.

    \b
    gpuassay history
    gpuassay history 'results/*H20*.jsonl' --format html -o history.html --parquet runs.parquet
    """
    from .history import history as follow
    from .history import to_json
    from .record import RecordError
    from .report import tables
    from .report.junit import suite
    from .store import estimates

    said = speaker(lang)
    for file in (output, parquet):
        if file:
            refuse(file, force, said)
    left_out: list[RecordError] = []
    try:
        frame = estimates(paths or ("results",), left_out.append)
    except RecordError as error:
        fail(said(str(error)))
    for left in left_out:
        click.echo(f"gpuassay: {printable(said(f'left out: {left}'))}", err=True)
    series = follow(frame)
    if parquet:
        _write_parquet(frame, parquet, said)
    made = tables.history(series, len(left_out))
    rows: _Rows = {"json": lambda: to_json(series), "csv": lambda: frame.to_dict("records")}
    rows["junit"] = lambda: suite(made.identification, tables.history_cases(series), {"summary": made.summary})
    _give(made, rows, form, output, lang)


_Rows = dict[str, Callable[[], Any]]


def _give(document: Document, data: _Rows, form: str, output: Path | None, lang: str) -> None:
    """Writes the document, or what `data` gives for the form, to the output."""
    from .report import console, html, markdown, pdf
    from .report.language import translated
    from .report.model import MissingExtra
    from .report.plain import lines
    from .report.tidy import rows

    said = speaker(lang)
    document = translated(document, lang)
    if form == "text" and output is None:
        console().print(lines(document))
        return
    try:
        if form == "json":
            text: str | bytes = json.dumps(_finite(data["json"]()), indent=2, allow_nan=False) + "\n"
        elif form == "csv":
            text = rows(data["csv"]())
        elif form == "junit":
            text = data["junit"]()
        elif form == "html":
            text = html.write(document)
        elif form == "pdf":
            text = pdf.write(document)
        else:
            text = markdown.write(document)
    except (MissingExtra, pdf.PdfError) as error:
        fail(said(str(error)))
    if output is None:
        click.echo(text, nl=False)
        return
    write(output, text if isinstance(text, bytes) else text.encode(), said)
    click.echo(said(f"Written: {output}"), err=True)


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _write_parquet(frame: DataFrame, path: Path, said: Callable[[str], str]) -> None:
    import io

    try:
        import pyarrow  # noqa: F401
    except ImportError:
        fail(said("Parquet needs pyarrow: pip install 'gpuassay[report]'"))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write(path, buffer.getvalue(), said)
