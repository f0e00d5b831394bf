"""Exit codes of every command, and the way to leave with one."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from .untrusted import printable

CONFORMS, DIFFERS, USAGE, INCONCLUSIVE, NO_GPU, PARTIAL = range(6)  # PARTIAL: not every GPU of a fleet has a verdict
INTERRUPTED = 130  # as shells say it of SIGINT: 128 and the signal's number


def fail(message: str, code: int = USAGE) -> NoReturn:
    """One sentence on standard error, and the exit code."""
    click.echo(f"gpuassay: {printable(message)}", err=True)
    sys.exit(code)
