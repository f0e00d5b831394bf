"""The hash chain of a run record: each line carries a digest of itself and of the line before.

A line's last key is ``chain``: the SHA-256, in hexadecimal, of the previous line's ``chain`` (64 ASCII characters,
nothing before the first line) followed by this line's bytes up to the comma before ``"chain"``. So the last line's
value stands for the whole file, and a line that was changed, removed, added or moved is found at its place. A chain
alone proves nothing against whoever holds the file and can write it anew: for that there are seals (seal.py).
"""

from __future__ import annotations

import re
from hashlib import sha256

_CHAINED = re.compile(rb'(?s)(\{.*),"chain":"([0-9a-f]{64})"\}\n')


def chained(before: str, line: bytes) -> tuple[bytes, str]:
    """(`line` with its chain value, that value), for a JSON object's bytes, ended by a newline, and the previous value,
    "" before the first line."""
    body = line.rstrip(b"\n").removesuffix(b"}")
    value = _value(before, body)
    return b'%b,"chain":"%b"}\n' % (body, value.encode()), value


def value_of(before: str, line: bytes) -> str | None:
    """The chain value of a line as read, or None where it has none or one that does not follow from `before`."""
    match = _CHAINED.fullmatch(line)
    if match is None or match[2].decode() != _value(before, match[1]):
        return None
    return match[2].decode()


def _value(before: str, body: bytes) -> str:
    return sha256(before.encode() + body).hexdigest()
