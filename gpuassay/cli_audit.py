"""`gpuassay audit`: what the part says of itself, what it hides, what it keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .audit.checks import LIMITER_MINUTES
from .cli_shared import measure_device
from .exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE, fail

EXIT_CODES = {"consistent": CONFORMS, "inconsistent": DIFFERS}


@click.command()
@click.argument("record", metavar="[RECORD]", required=False)
@click.option(
    "--since",
    metavar="EARLIER",
    help="An earlier record of this lab's: is it the same board? Needs the original, not a redacted copy.",
)
@click.option("--device", type=click.IntRange(min=0), default=0, show_default=True, help="CUDA device, without RECORD.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Directory for the record, without RECORD.",
)
@click.option(
    "--limiter-minutes",
    type=click.FloatRange(min=1),
    default=LIMITER_MINUTES,
    show_default=True,
    metavar="N",
    help="How long the hunt for limits may take, without RECORD. The more, the longer two kernels run in one go: with "
    "40 a quarter of an hour each.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def audit(record: str | None, since: str | None, device: int, out: Path, limiter_minutes: float, as_json: bool) -> None:
    """Hold what a GPU says of itself against what it does.

    With RECORD, what that run shows: names, counts, clocks, power and link against measurements. Without, this
    machine's GPU is measured with the profile audit (about fifteen minutes): also its memory filled to the last free
    byte, our own residue sought, work repeated bit by bit, the tensor cores' arithmetic, limits that act on some work
    only, and facts about the host. Nothing on the GPU is set, and no network is contacted.

    \b
    gpuassay audit                       # measure GPU 0 and audit it
    gpuassay audit results/RUN.jsonl     # what an earlier run shows
    gpuassay audit results/RUN.jsonl --since results/LAST-YEAR.jsonl   # and whether the board was swapped meanwhile
    gpuassay audit reference --json

    No answer here proves that a hidden function does not exist; docs/audit.md says what cannot be shown.
    Exit codes: 0 nothing inconsistent, 1 something inconsistent, 2 bad input, 3 nothing could be tested, 4 no GPU.
    """
    from . import record as records
    from .audit import LIMITS, of_record, overall
    from .sheets import SheetError
    from .verify import VerifyError, choose, choose_sheet, record_path

    try:
        earlier = None if since is None else records.read(record_path(since))  # before measuring, not after
        if record is None:
            path = measure_device(
                device, "audit", out, pytest_arguments=(f"--gpuassay-limiter-minutes={limiter_minutes:g}",)
            )
            click.echo(f"Record: {path}", err=True)
        else:
            path = record_path(record)
        taken = records.read(path)
    except (records.RecordError, VerifyError) as error:
        fail(str(error))
    try:
        sheet = choose_sheet(choose(taken), None)
    except SheetError:  # an unknown part has claims too
        sheet = None
    rows = of_record(taken, sheet)
    if earlier is not None:
        from .audit import same_unit

        rows += same_unit.rows(earlier, taken)
    answer = overall(rows)
    if as_json:
        document = {
            "schema": "gpuassay.audit/1",
            "record": str(taken.run["run_id"]),
            "answer": answer,
            "limits": LIMITS,
            "rows": [row.line() for row in rows],
        }
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        from . import report
        from .audit.show import table

        if taken.problem:
            click.echo(taken.problem, err=True)
        report.console().print(table(rows))
    sys.exit(EXIT_CODES.get(answer, INCONCLUSIVE))
