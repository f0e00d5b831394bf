"""`gpuassay judge`, `identify`, `calibrate` and `selftest`: what needs no GPU. Libraries load only where used."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_shared import decision_options, details_option, exit_code, measure_device, print_judgement
from .exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE, fail

if TYPE_CHECKING:
    from .identify import Identification


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--against", metavar="SHEET", required=True, help="A sheet's name or a .toml file.")
@click.option(
    "--require",
    type=click.Choice(["capability", "delivered"]),
    default="capability",
    show_default=True,
    help="delivered: the exit code also follows the absolute values against the printed figures.",
)
@decision_options
@details_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def judge(file: str, against: str, require: str, confidence: float, guard: float, details: bool, as_json: bool) -> None:
    """Judge figures that others measured.

    FILE is CSV with the columns metric, value, unit, and where known standard_uncertainty (same unit), sm_clock_hz,
    sm_count, kind and source; or what `nvbandwidth -j`, clpeak, BabelStream --csv or pytest-benchmark wrote; "-" is
    standard input. kind is limit (a kernel that approaches the limit; the default) or library (a GEMM, an
    application): a library bounds the part from below, so it never proves a shortfall.

    \b
    metric,value,unit,sm_clock_hz,sm_count,kind
    tensor.bf16,152.1,TFLOPS,1910000000,78,limit
    memory.read,3.71,TB/s,,,limit

    Without a clock, a rate is held against the band from the printed figure to what the maximum clock gives.
    Exit codes: 0 conforms, 1 does not, 2 bad input, 3 inconclusive.
    """
    from .decision import Rule
    from .figures import FiguresError, read
    from .figures import judge as judge_figures
    from .sheets import SheetError, load

    try:
        judgement = judge_figures(read(file), load(against), Rule(confidence, guard))
    except (FiguresError, SheetError) as error:
        fail(str(error))
    print_judgement(judgement, as_json, details=details)
    sys.exit(exit_code(judgement, require))


@click.command()
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@click.option("--against", metavar="SHEET", help="The sheet of all these parts. Default: each that of its PCI id.")
@click.option("--single-board", is_flag=True, help="Accept one board alone; parts like it are then judged by it.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="A new file, not standard output."
)
def calibrate(records: tuple[str, ...], against: str | None, single_board: bool, output: Path | None) -> None:
    """Learn from recordings of known-good parts what share of a limit is attained.

    Prints one [[board]] table a recording, as gpuassay/calibration.toml holds them: which part, run and date, and the
    share of each limit. That these parts are good is for you to know; nothing here can tell.

    \b
    gpuassay calibrate results/*.jsonl -o boards.toml
    """
    import tomli_w

    from . import record, sheets
    from .calibration import CalibrationError
    from .calibration import calibrate as collect
    from .verdict import limit_shares
    from .verify import VerifyError, choose, choose_sheet, record_path

    pairs = []
    try:
        for name in records:
            taken = record.read(record_path(name))
            choice = choose(taken)
            sheet = choose_sheet(choice, against)
            if against is None and not choice.silicon_agrees:
                fail(f"{name} is of no known-good {sheet.name}: {'; '.join(choice.contradictions)}")
            pairs.append((taken, sheet, limit_shares(taken, sheet)))
        document = collect(pairs, single_board=single_board)
    except (record.RecordError, sheets.SheetError, CalibrationError, VerifyError) as error:
        fail(str(error))
    text = tomli_w.dumps(document)
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


@click.command()
@click.argument("record", metavar="[RECORD]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def identify(record: str | None, as_json: bool) -> None:
    """Say which known part this is, whatever it calls itself.

    A posterior over the catalogue and "none of these", from SM count, rates per clock and SM, bandwidth, sizes and
    labels; labels alone never decide. Without RECORD, GPU 0 is measured first (profile quick). RECORD may be
    'reference', the shipped recording.

    Exit code 0: identified, and its label fits. 1: label does not match class, or none of the known parts.
    3: several parts fit.
    """
    from . import record as records
    from .identify import evidence_of
    from .identify import identify as weigh_up
    from .verify import VerifyError, record_path

    try:
        taken = records.read(measure_device(0, "quick", Path("results")) if record is None else record_path(record))
    except (records.RecordError, VerifyError) as error:
        fail(str(error))
    part = str(taken.claims.get("name") or taken.claims.get("cuda.name") or "unnamed part")
    found = weigh_up(evidence_of(taken), part)
    if as_json:
        click.echo(json.dumps(_identification_json(found), indent=2, allow_nan=False))
    else:
        from . import report

        report.console().print(report.identification(found))
    if found.identified is None:
        from .identify import NONE

        sys.exit(DIFFERS if found.candidates[0].name == NONE else INCONCLUSIVE)
    sys.exit(DIFFERS if found.label == "label does not match class" else CONFORMS)


def _identification_json(found: Identification) -> dict[str, Any]:
    from dataclasses import asdict

    return {"schema": "gpuassay.identification/1", **asdict(found), "identified": found.identified}


@click.command()
@click.option("--runs", type=click.IntRange(min=100), default=10_000, show_default=True, help="Simulated runs a case.")
@click.option("--seed", type=int, default=20261123, show_default=True, help="Of the simulation.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def selftest(runs: int, seed: int, as_json: bool) -> None:
    """Judge simulated parts, genuine and not, and count the verdicts.

    A physical model of a GPU (which shares no code with what judges it) makes runs of known parts; the table counts
    what they were judged to be. Exit code 1 where a bar is missed: coverage of U, false alarms, detection, identity.
    """
    from dataclasses import asdict

    from .selftest import run

    started, rows = time.monotonic(), []
    for row in run(runs, seed):
        rows.append(row)
        if not as_json:
            counts = "  ".join(f"{word} {count}" for word, count in row.counts.items() if count)
            covered = "" if row.covered is None else f"U covers {row.covered:.1%}"
            mark = click.style("ok", fg="green") if row.passed else click.style("MISSED", fg="red")
            required = f"  [{row.required}: {mark}]" if row.required else ""
            click.echo(f"{row.case:32} {row.metric:13} {counts:34} {covered:15}{required}")
    missed = sum(not row.passed for row in rows)
    if as_json:
        click.echo(json.dumps({"runs": runs, "seed": seed, "rows": [asdict(row) for row in rows]}, indent=2))
    bars = sum(bool(row.required) for row in rows)
    click.echo(f"{bars - missed} of {bars} bars met, {runs} runs a case, {time.monotonic() - started:.0f} s.", err=True)
    sys.exit(DIFFERS if missed else CONFORMS)
