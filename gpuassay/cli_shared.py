"""What several commands share: measuring, printing a judgement, its exit code, the decision rule's options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE, INTERRUPTED, NO_GPU, fail

if TYPE_CHECKING:
    from .verdict import Judgement

EXIT_CODES = {"conforms": CONFORMS, "does not conform": DIFFERS, "inconclusive": INCONCLUSIVE}


def decision_options(command: Any) -> Any:
    """--confidence and --guard, the decision rule's two numbers."""
    confidence = click.option(
        "--confidence",
        type=click.FloatRange(0.5, 0.9999),
        default=0.9545,
        show_default=True,
        metavar="P",
        help="Coverage probability of the expanded uncertainty U; 0.9545 is k = 2.",
    )
    guard = click.option(
        "--guard",
        type=click.FloatRange(0, 3),
        default=1.0,
        show_default=True,
        metavar="G",
        help="Guard bands of G times U: 1 is ILAC-G8's rule, 0 simple acceptance.",
    )
    return confidence(guard(command))


language_option = click.option(
    "--lang",
    type=click.Choice(["en", "zh"]),
    default="en",
    show_default=True,
    help="Language of what people read; zh: Simplified Chinese. Names, numbers, units and JSON stay as they are.",
)


def speaker(lang: str) -> Callable[[str], str]:
    """What puts a text into the language of --lang. Ends the program where Babel is missing."""
    from .report.language import translator
    from .report.model import MissingExtra

    try:
        said = translator(lang)
        said("")
    except MissingExtra as error:
        fail(str(error))
    return said


def exit_code(judgement: Judgement, require: str) -> int:
    """The worse of what is required: capability alone, or delivery too; and honesty where the run's profile is
    audit."""
    from .audit import inconsistent

    words = [judgement.overall] + ([judgement.overall_delivered] if require == "delivered" else [])
    audited = judgement.record is not None and judgement.record.run["profile"] == "audit"
    if audited and inconsistent(judgement.audit):
        return DIFFERS
    for word in ("does not conform", "inconclusive"):
        if word in words:
            return EXIT_CODES[word]
    return CONFORMS


def measure_device(
    device: int, profile: str, out: Path, resumed: Path | None = None, pytest_arguments: tuple[str, ...] = ()
) -> Path:
    """Measures, or with `resumed` completes that record in a new one; returns the record's path. Ends the program where
    no GPU can be measured."""
    from .claims import NoDriver
    from .verify import NoUsableGpu, measure

    try:
        part = _part(device)
    except NoDriver as error:
        fail(
            f"{error} To see a verdict from a recording of a real part: gpuassay verify --replay reference",
            NO_GPU,
        )
    what = "Measuring" if resumed is None else "Completing the run on"
    click.echo(f"{what} {part} (CUDA device {device}), profile {profile}:", err=True)
    try:
        return measure(
            device=device, profile=profile, out=out, part=part, pytest_arguments=pytest_arguments, resumed=resumed
        )
    except NoUsableGpu:
        sys.exit(NO_GPU)
    except KeyboardInterrupt:  # a second one: the first ends the run in good order
        kept = f"what was measured is kept in {out}: `gpuassay verify --resume RECORD` completes it"
        fail(f"interrupted before the run could end in order; {kept}", INTERRUPTED)


def _part(device: int) -> str:
    """The device's name, from a look that costs no CUDA context in this process. Raises NoDriver."""
    from .claims import NoDriver, device_count, nvml_claims

    count = device_count()
    if count == 0:
        raise NoDriver("The NVIDIA driver is there, but no GPU is visible to it.")
    if device >= count:
        fail(f"there is no device {device}: {count} GPU(s) found, numbered from 0; see `gpuassay devices`")
    claims = {row["quantity"]: row["value"] for row in nvml_claims(device)}
    return str(claims.get("name", "gpu"))


details_option = click.option(
    "--details",
    is_flag=True,
    help="Also what no sheet judges: every metric, curves, attribution, and why this sheet.",
)


def print_judgement(judgement: Judgement, as_json: bool, lang: str = "en", details: bool = False) -> None:
    """The terminal report, or one JSON document."""
    if as_json:
        click.echo(json.dumps(judgement.to_json(), indent=2, allow_nan=False))
        return
    from . import report
    from .report.language import translated_lines
    from .report.model import MissingExtra

    try:
        report.console().print(translated_lines(report.judgement(judgement, details), lang))
    except MissingExtra as error:
        fail(str(error))
