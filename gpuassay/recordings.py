"""Which kernel has run on which silicon, told from the reference recordings.

`python -m gpuassay.recordings results/reference` writes that folder's README.md; a test keeps it true.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from .kernels import KERNELS, Kernel
from .record import Record, read

HEADER = """# Reference recordings

Made by `python -m gpuassay.recordings results/reference` from the recordings in this folder; do not edit.

A recording is a run record (`gpuassay/record.py` describes its lines). `gpuassay verify --replay FILE` judges it again.
"""


def readme(folder: Path) -> str:
    """The text of the folder's README.md."""
    records = [read(path) for path in sorted(folder.glob("*.jsonl"))]
    lines = [HEADER, "| recording | part | made | instrument | samples |", "|---|---|---|---|---|"]
    for record in records:
        run = record.run
        lines.append(
            f"| [{record.path.name}]({record.path.name}) | {_part(record)} | {run['started'][:10]} "
            f"| {run['instrument']} | {run['samples']} |"
        )
    lines += [
        "",
        "## Kernels and the silicon they have run on",
        "",
        "Every kernel passes the census (`gpuassay census`) on every architecture it claims. That proves what the "
        "machine code does, not that it runs: this table says where it did.",
        "",
        "| kernel | metric | toolchain | claims | has run on |",
        "|---|---|---|---|---|",
    ]
    for kernel in KERNELS:
        lines.append(
            f"| `{kernel.symbol}` in {kernel.source} | {kernel.metric} | {kernel.toolchain} "
            f"| {', '.join(kernel.architectures)} | {_silicon(kernel, records)} |"
        )
    lines += [
        "",
        "What changes a `never run`: on a machine with such a GPU, from a clone,",
        "",
        "    make verify ARGS='--profile standard --out results/reference'",
        "    .venv/bin/python -m pytest -m gpu tests",
        "    .venv/bin/python -m gpuassay.recordings results/reference",
        "",
        "The first line records every kernel that the part can run, the second checks each against its reference.",
        "",
    ]
    return "\n".join(lines)


def _silicon(kernel: Kernel, records: Iterable[Record]) -> str:
    """Parts on which exactly this source ran, and on which an earlier version of it did."""
    runs = []
    for record in records:
        for line in record.kernels:
            if (line["name"], line["toolchain"], line["metric"]) == (kernel.symbol, kernel.toolchain, kernel.metric):
                now = line["source_sha256"] == kernel.source_sha256
                check = line["check"]
                passed = "" if check is None or check["passed"] else ", check failed"
                runs.append(f"{_part(record)} as {line['architecture']}{'' if now else ' (earlier source)'}{passed}")
    return "; ".join(dict.fromkeys(runs)) or "never run"


def _part(record: Record) -> str:
    return str(record.claims.get("name", "unnamed part"))


def main() -> None:
    """See the module's docstring."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m gpuassay.recordings DIRECTORY")
    folder = Path(sys.argv[1])
    (folder / "README.md").write_text(readme(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
