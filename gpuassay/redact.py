"""Redaction: a copy of a record without what tells which board, host or person it came from.

Serial numbers, UUIDs and PCI addresses become pseudonyms: the keyed hash (HMAC-SHA256) of the original, so that the
same board has the same pseudonym in every record that was redacted with the same key, and nobody without the key can
try serial numbers until one fits. The key is a file; keep it where the originals are.

Left out altogether: the command line, process ids, process names, and the map of SM to L2 latency, which tells dies
apart like a fingerprint.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import __version__
from .record import RecordWriter, read_lines

KEY_NAME = "redaction.key"
PSEUDONYM_DIGITS = 12
# quantity of a claim -> what its pseudonym begins with
CLAIMS = {"uuid": "GPU", "serial": "serial", "pci.bus_id": "pci"}
SM_MAP = "latency.l2.all_sms"
PROCESS_ROWS = ("vendor agents", "attestation", "same unit as before")
# What may stand inside any text: UUIDs, PCI addresses, home directories.
_PATTERNS = (
    ("GPU", re.compile(r"\b(?:GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")),
    ("pci", re.compile(r"\b(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]\b")),
    ("home", re.compile(r"(?:/home|/Users|/root)(?:/[^\s\"']*)?")),
)


class RedactError(Exception):
    """What cannot be redacted: what, where, and what to do."""


def key_beside(path: Path) -> bytes:
    """The key in the file `path`, which is made, readable by its owner only, where there is none."""
    try:
        with open(path, "x", opener=_private) as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        pass
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise RedactError(f"{path} is no key for redaction: it holds something else than 64 hexadecimal digits")
    return bytes.fromhex(text)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def redact(source: Path, target: Path, key: bytes) -> list[str]:
    """Writes a redacted copy of the record `source` to the new file `target`; returns what was replaced or left out.

    Raises record.RecordError, FileExistsError, OSError.
    """
    lines = read_lines(source)
    names = _identities(lines, key)
    done: set[str] = set()

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return _replaced(value, names, key, done.add)
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, int) and str(value) in names and not isinstance(value, bool):
            return _replaced(str(value), names, key, done.add)
        if isinstance(value, dict):
            return {clean(name): clean(item) for name, item in value.items()}
        return value

    kept = [_without(line, done.add) for line in lines if not _is_map(line)]
    if any(_is_map(line) for line in lines):
        done.add("the map of SM to L2 latency (left out)")
    kept = [clean(line) for line in kept]
    what = sorted(done)
    with RecordWriter(target) as writer:
        for line in kept:
            kind = line.pop("kind")
            if kind == "end":
                writer.close(line["status"], line["finished"])
            elif kind == "run":
                writer.write(kind, **line, redacted={"by": f"gpuassay {__version__}", "what": what})
            else:
                writer.write(kind, **line)
        if kept[-1].get("status") is None:
            writer.leave()  # the original has no end mark either
    return what


def _identities(lines: list[dict[str, Any]], key: bytes) -> dict[str, str]:
    """Original text -> pseudonym, for the claims that identify a board."""
    claims = [claim for line in lines if line["kind"] == "device" for claim in line["claims"]]
    return {
        str(claim["value"]): pseudonym(CLAIMS[claim["quantity"]], str(claim["value"]), key)
        for claim in claims
        if claim["quantity"] in CLAIMS and claim["value"] not in (None, "", "0")
    }


def pseudonym(kind: str, value: str, key: bytes) -> str:
    """Such as "serial-redacted-3f09c1d2a4b5": the same for the same value and key, whatever its letters' case."""
    digest = hmac.new(key, f"{kind}\0{value.lower()}".encode(), sha256).hexdigest()
    return f"{kind}-redacted-{digest[:PSEUDONYM_DIGITS]}"


def _replaced(text: str, names: dict[str, str], key: bytes, note: Callable[[str], None]) -> str:
    for name, stand_in in names.items():
        # A serial number is digits: inside a longer number it is not that serial number.
        text, count = re.subn(rf"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])", stand_in, text)
        if count:
            note(stand_in.partition("-")[0])
    for kind, pattern in _PATTERNS:
        text, count = pattern.subn(lambda match, kind=kind: pseudonym(kind, match[0], key), text)  # type: ignore[misc]
        if count:
            note(kind)
    return text


def _is_map(line: dict[str, Any]) -> bool:
    return line["kind"] in ("kernel", "round") and line["metric"] == SM_MAP


def _without(line: dict[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    if line["kind"] == "run" and line["argv"]:
        note("the command line (left out)")
        return {**line, "argv": []}
    if line["kind"] == "telemetry" and line.get("other_pids"):
        note("process ids (left out)")
        return {**line, "other_pids": []}
    if line["kind"] == "audit" and line["check"] in PROCESS_ROWS:
        note(f"the audit's row '{line['check']}' (left out)")
        text = "Left out of this redacted record."
        return {**line, "verdict": "not tested", "claim": None, "measured": None, "text": text, "details": {}}
    return line
