"""The command line. Heavy libraries load inside the commands, so that `--help` answers at once.

Exit codes: 0 conforms, 1 does not, 2 usage, 3 inconclusive, 4 no usable GPU.
"""

from __future__ import annotations

import gc
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .cli_audit import audit
from .cli_compare import compare, history
from .cli_fleet import fleet, gate
from .cli_record import record
from .cli_report import report
from .cli_shared import (
    decision_options,
    details_option,
    exit_code,
    language_option,
    measure_device,
    print_judgement,
    speaker,
)
from .cli_sheets import sheets
from .cli_trust import calibrate, identify, judge, selftest
from .exit_codes import CONFORMS, DIFFERS, INTERRUPTED, NO_GPU, fail

if TYPE_CHECKING:
    from .verdict import Judgement

SECTIONS = {
    "Measure": ("verify",),
    "Judge": ("judge", "identify", "audit", "sheets"),
    "Report": ("report", "compare", "history", "record"),
    "Fleets": ("fleet", "gate"),
    "Trust the instrument": ("doctor", "devices", "census", "selftest", "calibrate"),
}


class _Sections(click.Group):
    """Commands under the headings a person looks for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            rows = [(name, self.commands[name].get_short_help_str(90)) for name in names]
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Click would leave with 1 where it is interrupted, which here is a verdict."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)


@click.group(
    cls=_Sections,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="gpuassay")
def cli() -> None:
    """Is this GPU what its spec sheet says it is?

    gpuassay measures a GPU with kernels of its own, reads what the device claims of itself, and holds both against
    published specifications: a verdict per metric, with its uncertainty and the reason for any difference.

    \b
    gpuassay verify                      measure GPU 0 and judge it by the sheet of its PCI id
    gpuassay verify --against H20        ... by the H20's sheet
    gpuassay verify --replay reference   judge the shipped recording; needs no GPU
    gpuassay sheets show H20             what was published of a part, by whom

    Exit codes: 0 conforms, 1 does not conform, 2 usage or bad input, 3 inconclusive, 4 no usable GPU.
    """


@cli.command()
@click.option(
    "--profile",
    type=click.Choice(["quick", "standard", "full", "audit"]),
    default="standard",
    show_default=True,
    help="quick: the headline metrics, under a minute. standard: every metric, under four. full: and sustained "
    "rates, power and energy, about seven. audit: the headline metrics and `gpuassay audit`, about fifteen.",
)
@click.option(
    "--against",
    metavar="SHEET",
    help="A sheet's name or a .toml file. Default: that of the PCI id.",
)
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="CUDA device, numbered as in `gpuassay devices`.",
)
@click.option(
    "--replay",
    metavar="RECORD",
    help="Judge this record instead of measuring; 'reference': the shipped one.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="Complete this run, which was cut off, on the same GPU and with its profile, in a new record.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Where the new record goes. Nothing there is overwritten.",
)
@click.option(
    "--require",
    type=click.Choice(["capability", "delivered"]),
    default="capability",
    show_default=True,
    help="delivered: the exit code also follows the absolute rates against the printed figures.",
)
@decision_options
@language_option
@details_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON document on standard output, prose on standard error.",
)
def verify(
    profile: str,
    against: str | None,
    device: int,
    replay: str | None,
    resume: Path | None,
    out: Path,
    require: str,
    confidence: float,
    guard: float,
    lang: str,
    details: bool,
    as_json: bool,
) -> None:
    """Measure a GPU and hold it against its sheet.

    The verdict is about capability: work per clock and SM, and the number of SMs, which no power limit changes. The
    delivered rate, at the clock the part chose, is judged beside it.

    \b
    gpuassay verify --resume results/RUN.jsonl   # what a run that was cut off still lacks, measured into a new record
    """
    from .decision import Rule
    from .record import RecordError
    from .sheets import SheetError, load
    from .verify import VerifyError, judge_record, profile_to_resume, record_path

    path = None
    said = speaker(lang)
    if resume is not None and replay is not None:
        fail(said("--resume measures and --replay does not: give one of them"))
    try:
        if resume is not None:
            profile = profile_to_resume(resume)
        if against is not None:
            load(against)  # before an hour of measuring, not after
        path = measure_device(device, profile, out, resume) if replay is None else record_path(replay)
        judgement = judge_record(path, against, Rule(confidence, guard))
    except (RecordError, SheetError, VerifyError) as error:
        fail(said(str(error) + (f" The record is kept: {path}" if path and replay is None else "")))
    if replay is not None:
        _say_replayed(judgement, said)
    print_judgement(judgement, as_json, lang, details)
    if not as_json:
        click.echo("\n" + said(f"Record: {path}"))
    sys.exit(exit_code(judgement, require))


def _say_replayed(judgement: Judgement, said: Callable[[str], str] = str) -> None:
    from .report import console

    assert judgement.record is not None
    run = judgement.record.run
    text = (
        f"NO GPU WAS MEASURED HERE. This is a recording of {judgement.part}, made on {str(run['started'])[:10]} by "
        f"{run['instrument']} (samples {run['samples']})."
    )
    console(stderr=True).print(said(text), style="bold yellow")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def devices(as_json: bool) -> None:
    """List the GPUs and what each claims of itself."""
    from .claims import NoDriver, device_count, nvml_claims

    try:
        rows = [nvml_claims(index) for index in range(device_count())]
    except NoDriver as error:
        if as_json:
            click.echo("[]")
        fail(str(error), NO_GPU)
    if as_json:
        click.echo(json.dumps([{row["quantity"]: row["value"] for row in claims} for claims in rows], indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    from .report import console
    from .units import show
    from .untrusted import printable

    for index, claims in enumerate(rows):
        table = Table("claim", "value", "source", title=f"NVML device {index}", box=None, title_justify="left")
        for row in claims:
            value = row["value"]
            table.add_row(
                row["quantity"],
                Text(show(value, row["unit"] or "") if isinstance(value, int | float) else printable(str(value))),
                row["source"],
            )
        console().print(table)


@cli.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Where records would go.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def doctor(out: Path, as_json: bool) -> None:
    """Say what is usable, what is missing, and the command that mends it; also what only root would see.

    Exit code 0 where a GPU can be measured here, 4 where not.
    """
    from dataclasses import asdict

    from .doctor import examine

    rows = list(examine(out))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            lacking = click.style("root   ", fg="yellow") if row.optional else click.style("missing", fg="red")
            mark = click.style("ok     ", fg="green") if row.usable else lacking
            click.echo(f"{mark} {row.what:21} {row.found}")
            if not row.usable and row.mend:
                click.echo(f"{'':8}{'':21} -> {row.mend}")
    sys.exit(CONFORMS if all(row.usable or row.optional for row in rows) else NO_GPU)


@cli.command()
@click.option("--arch", metavar="SM", help="Only this architecture, for example sm_90a.")
@click.option("--metric", metavar="NAME", help="Only this metric, for example tensor.bf16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def census(arch: str | None, metric: str | None, as_json: bool) -> None:
    """Count the declared work of every kernel in its machine code.

    Compiles each kernel for each architecture that it claims, disassembles it, and compares the work instructions
    in the loop with the declaration. Needs no GPU. Exit code 1 where a kernel does not do what it declares.
    """
    from .kernels import KERNELS
    from .kernels.census import Census, take
    from .kernels.compile import CompileError

    wanted = [
        (kernel, architecture)
        for kernel in KERNELS
        for architecture in kernel.architectures
        if arch in (None, architecture) and metric in (None, kernel.metric)
    ]
    if not wanted:
        known = sorted({a for kernel in KERNELS for a in kernel.architectures})
        fail(
            f"no kernel for {arch or 'any architecture'} and {metric or 'any metric'}; "
            f"architectures: {', '.join(known)}; metrics: {', '.join(sorted({k.metric for k in KERNELS}))}"
        )
    taken: list[Census] = []
    try:
        for kernel, architecture in wanted:
            row = take(kernel, architecture)
            taken.append(row)
            if not as_json:
                verdict = (
                    click.style("ok", fg="green") if row.passed else click.style("; ".join(row.problems), fg="red")
                )
                counted = " ".join(f"{n}x{opcode}" for opcode, n in row.counted.items())
                click.echo(
                    f"{kernel.metric:31} {kernel.toolchain:8} {architecture:7} declared "
                    f"{row.declared_work:>9} counted {row.counted_work:>9} {kernel.work_unit:4} "
                    f"spills {row.spills}  {counted:40} {verdict}"
                )
    except CompileError as error:
        fail(str(error))
    if as_json:
        click.echo(json.dumps([_census_json(row) for row in taken], indent=2))
    failed = sum(not row.passed for row in taken)
    click.echo(f"{len(taken) - failed} of {len(taken)} kernels do what they declare.", err=True)
    sys.exit(DIFFERS if failed else CONFORMS)


def _census_json(row: Any) -> dict[str, Any]:
    return {
        "metric": row.kernel.metric,
        "toolchain": row.kernel.toolchain,
        "source": row.kernel.source,
        "architecture": row.architecture,
        "work_unit": row.kernel.work_unit,
        "declared_work": row.declared_work,
        "counted_work": row.counted_work,
        "counted": row.counted,
        "spills": row.spills,
        "verdict": "ok" if row.passed else "differs",
        "problems": list(row.problems),
        "cubin_sha256": row.cubin_sha256,
        "compiler": row.compiler,
    }


for _command in (audit, calibrate, compare, fleet, gate, history, identify, judge, record, report, selftest, sheets):
    cli.add_command(_command)


_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")
# Control characters but for tab and line feed, and those that turn the direction of writing.
_DRIVES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class _Output(io.TextIOWrapper):
    """Standard output whose failures cannot pass for a verdict: where the reader of a pipe (head, less) went away,
    the command goes on to its own exit code; a full disk is one sentence and the code of a bad use."""

    def write(self, text: str, /) -> int:
        # Colours are ours; any other escape sequence came with somebody's file name or text.
        safe = "".join(part if _COLOUR.fullmatch(part) else _DRIVES.sub("?", part) for part in _COLOUR.split(text))
        return self._guarded(super().write, safe) or len(text)

    def flush(self) -> None:
        self._guarded(super().flush)

    def _guarded(self, act: Callable[..., int | None], *arguments: str) -> int | None:
        try:
            return act(*arguments)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            if not isinstance(error, BrokenPipeError):
                fail(f"cannot write to standard output: {error.strerror}")
            return None


def main() -> None:
    """Entry point of the `gpuassay` command."""
    # A record is a million small objects that live until the process ends: looking through them for cycles at Python's
    # usual pace (700 new ones) takes a tenth of a report's time.
    gc.set_threshold(200_000, 50, 100)
    out = sys.stdout
    sys.stdout = _Output(out.buffer, out.encoding, out.errors, line_buffering=out.isatty())
    try:
        cli(standalone_mode=True)
    finally:
        sys.stdout.flush()
        gc.freeze()  # nor does Python look through them once more as it ends, which takes as long
