"""gpuassay record: seal, check, redact, export."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .cli_report import refuse, write
from .exit_codes import CONFORMS, DIFFERS, fail

RECORD = click.argument("record", type=click.Path(path_type=Path, dir_okay=False))
FORMATS = ("in-toto", "ro-crate")


@click.group()
def record() -> None:
    """Seal, check, redact and export run records.

    \b
    gpuassay record seal results/RUN.jsonl --key ~/.ssh/id_ed25519
    gpuassay record check results/RUN.jsonl --allowed-signers lab.signers
    gpuassay record redact results/RUN.jsonl -o to-the-vendor.jsonl
    """


@record.command()
@RECORD
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Sign with this OpenSSH private key (ssh-keygen -Y)."
)
@click.option("--force", is_flag=True, help="Replace a seal that exists.")
def seal(record: Path, key: Path | None, force: bool) -> None:
    """Fix every byte of RECORD in a manifest beside it, and sign that.

    Writes RECORD.seal.json, and with --key RECORD.seal.json.sig. Deposit the digest that is printed somewhere else: who
    holds both files can replace both. A seal does not show who ran the program, on which board, or that it was the
    published program.
    """
    from . import seal as seals
    from .record import RecordError

    try:
        made = seals.seal(record, key, force=force)
    except (RecordError, seals.SealError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"the seal cannot be written ({error})")
    if made.manifest["record"]["status"] != "complete":
        click.echo("The record is not complete; it is sealed as it is.", err=True)
    click.echo(f"{made.digest}  {made.path}" + (f" (signature: {made.signature})" if key else ""))


@record.command()
@RECORD
@click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Who may sign: an allowed-signers file as ssh-keygen knows it. Without a signature of theirs the check fails.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def check(record: Path, allowed_signers: Path | None, as_json: bool) -> None:
    """Say whether RECORD is as it was written and sealed.

    A changed, removed, added or moved line is found at its place, by the hash chain that the record itself carries; a
    record written anew as a whole only by its seal. Exit code 0: nothing speaks against it; 1: something was changed,
    or the signature that is asked for is missing or wrong; 2: the files cannot be read.
    """
    from . import seal as seals
    from .record import RecordChanged, RecordError, read
    from .record_format import CHAINED_SINCE
    from .verify import VerifyError, record_path

    found: dict[str, str | None] = {"record": str(record), "seal": None, "signed_by": None}
    try:
        record = record_path(str(record))
        sealed = seals.check(record)
        chained = bool(read(record).chain)
        signed_by = seals.signer(sealed, allowed_signers) if sealed else None
        if allowed_signers and signed_by is None:
            raise seals.Broken(f"{record} has no signature" if sealed else f"{record} has no seal, so no signature")
    except (RecordChanged, seals.Broken) as error:
        click.echo(json.dumps(found | {"changed": str(error)}) if as_json else f"Changed: {error}", err=not as_json)
        sys.exit(DIFFERS)
    except (RecordError, seals.SealError, VerifyError) as error:
        fail(str(error))
    found |= {"seal": sealed.digest if sealed else None, "signed_by": signed_by, "changed": None}
    if as_json:
        click.echo(json.dumps(found))
        sys.exit(CONFORMS)
    chain = "the chain holds" if chained else f"no chain (records have one since format {CHAINED_SINCE})"
    click.echo(f"{record}: {chain}; " + ("the seal fits" if sealed else "not sealed"))
    if sealed:
        click.echo(f"seal {sealed.digest}, {sealed.manifest.get('sealed')}")
        if signed_by and allowed_signers:
            click.echo(f"signed by {signed_by}")
        elif signed_by:
            click.echo(f"{signed_by}: a key, not a person; name who may sign with --allowed-signers")
        else:
            click.echo("not signed")
    click.echo(seals.NOT_PROVEN)


@record.command()
@RECORD
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Default: RECORD with .redacted before its suffix.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The key of the pseudonyms; made where there is none. Default: redaction.key beside RECORD. Keep it private.",
)
def redact(record: Path, output: Path | None, key: Path | None) -> None:
    """Copy RECORD without what tells whose board it is.

    Serial number, UUID, PCI addresses and home directories become pseudonyms: the same for the same board with the same
    key. Command line, process ids and the map of SM to L2 latency are left out. The measured values stay as they are.
    """
    from .record import RecordError
    from .redact import KEY_NAME, RedactError, key_beside
    from .redact import redact as replace

    target = output or record.with_name(f"{record.stem}.redacted{record.suffix}")
    key_file = key or record.with_name(KEY_NAME)
    if target.exists():
        fail(f"{target} exists; nothing is overwritten: name another file with -o")
    try:
        what = replace(record, target, key_beside(key_file))
    except (RecordError, RedactError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{target} cannot be written ({error})")
    click.echo(f"{target}: " + (", ".join(what) if what else "nothing in it told whose board it is"))
    click.echo(f"The key of the pseudonyms is {key_file}: keep it, and to yourself.", err=True)


@record.command()
@RECORD
@click.option("--format", "form", type=click.Choice(FORMATS), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--force", is_flag=True, help="Replace the output where it exists.")
def export(record: Path, form: str, output: Path | None, force: bool) -> None:
    """Describe RECORD for other tools: an in-toto statement, or the metadata of an RO-Crate.

    in-toto: a Statement v1 with a Test Result predicate, unsigned; sign it with your supply chain's tool. ro-crate: the
    ro-crate-metadata.json of the folder that RECORD is in.
    """
    from .export import in_toto, ro_crate
    from .record import RecordError
    from .seal import Broken, SealError
    from .verify import VerifyError, record_path

    if output:
        refuse(output, force)
    try:
        record = record_path(str(record))
        document = in_toto(record) if form == "in-toto" else ro_crate(record)
    except (RecordError, SealError, Broken, VerifyError) as error:
        fail(str(error))
    text = json.dumps(document, indent=2) + "\n"
    if output:
        write(output, text.encode())
    else:
        click.echo(text, nl=False)
