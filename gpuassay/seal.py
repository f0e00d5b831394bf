"""Sealing a run record: a manifest beside it that fixes every byte, and a signature over the manifest.

``RUN.jsonl.seal.json`` holds the record's digest and chain head, and what the run was made with: program version and
commit, digests of each kernel's source and machine code, package versions. The manifest's own SHA-256 is short enough
to be printed, published or deposited elsewhere; only then does the seal bind whoever holds the files. A signature
(``RUN.jsonl.seal.json.sig``) is OpenSSH's, made and checked by ``ssh-keygen -Y`` (PROTOCOL.sshsig of OpenSSH).

A seal does not prove who ran the program, on which board, or that the program was the published one: it proves that
the record is the one that was sealed, and with a signature, that the holder of that key sealed it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .record import Record, RecordError, read, utc_now

SCHEMA = "gpuassay.seal/1"
NAMESPACE = "gpuassay-seal"
"""The signature's namespace: a signature made for another purpose does not pass for this one."""
MAX_MANIFEST_BYTES = 10_000_000
NOT_PROVEN = (
    "A seal shows that the record is the one that was sealed. It does not show who ran the program, on which board, or"
    " that the program was unaltered; and whoever holds record and seal can replace both, unless the manifest's digest"
    " or a signature is kept elsewhere."
)


class SealError(Exception):
    """What cannot be sealed or checked: what, where, and what to do."""


class Broken(Exception):
    """A seal that does not fit its record: what was found, and where."""


@dataclass(frozen=True)
class Seal:
    """A seal that was read: its file, its document, and the SHA-256 of the file, in hexadecimal."""

    path: Path
    manifest: dict[str, Any]
    digest: str

    @property
    def signature(self) -> Path:
        """Where the detached signature stands, if there is one."""
        return self.path.with_name(self.path.name + ".sig")


def path_for(record: Path) -> Path:
    """Where a record's seal stands: beside it."""
    return record.with_name(record.name + ".seal.json")


def seal(record_path: Path, key: Path | None = None, *, force: bool = False) -> Seal:
    """Writes the manifest of a record, and signs it where `key`, an OpenSSH private key's file, is given.

    Raises:
        record.RecordError: no readable record.
        SealError: a seal exists and `force` is not set, no ``ssh-keygen``, or it refused the key.
        OSError: the files cannot be written.
    """
    made = Seal(path_for(record_path), {}, "")
    for path in (made.path, made.signature):
        if path.exists() and not force:
            raise SealError(f"{path} exists: check it with `gpuassay record check`, or replace it with --force")
    if key is not None and not key.is_file():
        raise SealError(f"there is no key file {key}: make one with ssh-keygen -t ed25519 -f {key}")
    if key is not None:
        _ssh_keygen()
    document = manifest(read(record_path), record_path.read_bytes())
    data = json.dumps(document, indent=2).encode() + b"\n"
    made.signature.unlink(missing_ok=True)
    partial = made.path.with_name(made.path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(made.path)
    if key is not None:
        _run("sign", "-f", str(key), "-n", NAMESPACE, str(made.path))
    return Seal(made.path, document, hashlib.sha256(data).hexdigest())


def manifest(record: Record, data: bytes) -> dict[str, Any]:
    """The manifest of a record whose file holds `data`."""
    names = ("metric", "toolchain", "variant", "source", "source_sha256", "cubin_sha256", "architecture", "compiler")
    return {
        "schema": SCHEMA,
        "sealed": utc_now(),
        "sealed_by": f"gpuassay {__version__}",
        "record": {
            "name": record.path.name,
            "bytes": len(data),
            "lines": data.count(b"\n"),
            "sha256": hashlib.sha256(data).hexdigest(),
            "chain_head": record.chain or None,
            "format": record.run["schema"],
            "status": "complete" if record.complete else "incomplete",
        },
        "run_id": record.run["run_id"],
        "program": record.run["program"],
        "packages": record.run["host"]["packages"],
        "kernels": [{name: line[name] for name in names if name in line} for line in record.kernels],
    }


def read_seal(record_path: Path) -> Seal | None:
    """The seal beside a record, or None where there is none. Raises SealError where it is none of ours."""
    path = path_for(record_path)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise SealError(f"{path} is larger than 10 MB, so it is no seal")
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SealError(f"{path} cannot be read ({error.strerror})") from error
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA or not isinstance(document["record"]["sha256"], str):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SealError(f"{path} is no seal that this gpuassay knows ({SCHEMA})") from error
    return Seal(path, document, hashlib.sha256(data).hexdigest())


def check(record_path: Path) -> Seal | None:
    """The record's seal, where it fits the record; None where there is none.

    Raises:
        record.RecordChanged: its chain or its end mark says that it was changed (the error has the line).
        record.RecordError: it is not there, or was no readable record to begin with.
        SealError: the seal cannot be read.
        Broken: the seal does not fit the record.
    """
    found = read_seal(record_path)
    try:
        record = read(record_path)
    except RecordError as error:
        if found is None or not record_path.exists():
            raise
        raise Broken(str(error)) from error
    if found is None:
        return None
    now = manifest(record, record_path.read_bytes())
    wrong = [
        f"{name}: sealed as {found.manifest['record'].get(name)!r}, now {value!r}"
        for name, value in now["record"].items()
        if name != "name" and found.manifest["record"].get(name) != value
    ]
    # What the manifest repeats of the record; only an altered manifest can differ in it while the digest fits.
    wrong += [name for name in ("run_id", "program", "packages", "kernels") if found.manifest.get(name) != now[name]]
    if wrong:
        raise Broken(f"the seal {found.path} is not this record's ({'; '.join(wrong)})")
    return found


def signer(found: Seal, allowed_signers: Path | None) -> str | None:
    """Who signed a seal: the principal of `allowed_signers`, or, without that file, the key's fingerprint as
    ssh-keygen says it, which names nobody. None where there is no signature.

    Raises:
        SealError: no ``ssh-keygen``, or no such file.
        Broken: the signature is not of this seal, or by nobody in `allowed_signers`.
    """
    if not found.signature.exists():
        return None
    _ssh_keygen()
    data, signature = found.path.read_bytes(), str(found.signature)
    if allowed_signers is None:
        return _checked("check-novalidate", "-n", NAMESPACE, "-s", signature, data=data)
    if not allowed_signers.is_file():
        raise SealError(f"there is no file {allowed_signers} (its form: man ssh-keygen, ALLOWED SIGNERS)")
    known = str(allowed_signers)
    principal = _checked("find-principals", "-f", known, "-s", signature, data=data).splitlines()[0]
    _checked("verify", "-f", known, "-I", principal, "-n", NAMESPACE, "-s", signature, data=data)
    return principal


def _checked(*arguments: str, data: bytes) -> str:
    done = _run(*arguments, data=data, check=False)
    if done.returncode or not done.stdout.strip():
        said = (done.stderr or done.stdout).decode(errors="replace").strip() or "no reason given"
        raise Broken(f"the signature does not hold: {said}")
    return done.stdout.decode(errors="replace").strip()


def _run(*arguments: str, data: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    # With data on standard input; otherwise ssh-keygen may ask there for the key's passphrase.
    command = [_ssh_keygen(), "-Y", *arguments]
    done = subprocess.run(command, input=data, capture_output=data is not None, check=False)
    if check and done.returncode:
        raise SealError("ssh-keygen did not sign: see its message above; the manifest itself was written")
    return done


def _ssh_keygen() -> str:
    found = shutil.which("ssh-keygen")
    if found is None:
        raise SealError(
            "signatures need ssh-keygen: install OpenSSH's client (Debian and Ubuntu: apt install openssh-client)"
        )
    return found
