"""The manual builds without a word of complaint, fetches nothing, and names only commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gpuassay.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-f",
        str(ROOT / "mkdocs.yml"),
        "-d",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_nothing_is_fetched(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?(https?:[^"' >]+)""")
    for page in site.rglob("*.html"):
        fetched = [url for url in loads.findall(page.read_text()) if not url.endswith("/sitemap.xml")]
        assert fetched == [], page


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = (site / "reference/commands/index.html").read_text()
    for name, command in cli.commands.items():
        assert f"gpuassay {name}" in page
        for sub in getattr(command, "commands", {}):
            assert f"gpuassay {name} {sub}" in page


def test_metrics_and_columns_are_in_the_reference(site: Path) -> None:
    assert "tensor.bf16" in (site / "reference/metrics/index.html").read_text()
    assert "standard_uncertainty" in (site / "reference/python/index.html").read_text()
    assert "gpuassay.record/" in (site / "reference/record/index.html").read_text()


def lines() -> list[tuple[Path, str]]:
    """Every line of a code block, or a code span, that calls gpuassay."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        calls = re.findall(r"^(?: {4,}|\$ )(?:for [^;]*; do )?(gpuassay [^\n]*)", text, re.M)
        calls += [
            c
            for block in re.findall(r"```\w*\n(.*?)```", text, re.S)
            for c in re.findall(r"^(gpuassay .*)$", block, re.M)
        ]
        calls += re.findall(r"`(gpuassay [a-z][^`\n]*)`", text)
        found += [(page, call) for call in calls]
    return found


@pytest.mark.parametrize(
    ("page", "call"), lines(), ids=lambda value: value.name if isinstance(value, Path) else value[:60]
)
def test_every_call_exists(page: Path, call: str) -> None:
    words = shlex.split(re.split(r"\s+#|;|\|| >", call)[0], comments=True)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert command is not cli or not words or words[0] in ("COMMAND", "--help"), f"{page.name}: {call}"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.split("=")[0] in known | {"--help", "-h"}, f"{page.name}: {call}: no {word}"


def test_the_example_lab_file_is_valid(tmp_path: Path) -> None:
    from gpuassay.report.lab import read

    text = (ROOT / "docs/how-to/report.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "lab.toml").write_text(block)
    assert read(tmp_path / "lab.toml").laboratory == "Example Laboratory"
