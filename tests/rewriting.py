"""Records made anew from changed lines, with a chain and an end mark that fit whatever stands in them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from gpuassay import chain


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A record's lines, without their chain values."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "chain"} for line in lines]


def rewrite(path: Path, lines: list[dict[str, Any]], *, ended: bool = True) -> Path:
    """Writes `lines`, whose own end mark is left out, as a record; an end mark only where `ended`."""
    body, before = b"", ""
    kept = [line for line in lines if line.get("kind") != "end"]
    for line in kept:
        data, before = chain.chained(before, json.dumps(line).encode() + b"\n")
        body += data
    if ended:
        end = {"kind": "end", "finished": "2025-01-02T03:05:00Z", "status": "complete", "lines": len(kept)}
        body += chain.chained(before, json.dumps(end | {"sha256": sha256(body).hexdigest()}).encode() + b"\n")[0]
    path.write_bytes(body)
    return path
