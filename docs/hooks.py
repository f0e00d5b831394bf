"""MkDocs hook: the reference pages, written from the code when the manual is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from mkdocs.structure.files import File, Files


def on_files(files: Files, config) -> Files:
    """Adds the generated pages."""
    pages = {"commands": commands(), "metrics": metrics(), "record": record(), "python": python()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def commands() -> str:
    """Every command's help, and the exit codes."""
    from gpuassay import exit_codes
    from gpuassay.cli import cli

    codes = inspect.getsource(exit_codes)
    text = "# Commands\n\nAs `gpuassay COMMAND --help` prints them.\n"
    for name, command in _commands("gpuassay", cli):
        with click.Context(command, info_name=name, max_content_width=100) as context:
            text += f"\n## {name}\n\n```text\n{command.get_help(context)}\n```\n"
    return text + f"\n## Exit codes\n\n```python\n{codes}```\n"


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for key in sorted(command.commands):
            yield from _commands(f"{name} {key}", command.commands[key])


def metrics() -> str:
    """The table of metrics.toml."""
    from gpuassay.metrics import metrics as known

    rows = "".join(
        f"| `{m.name}` | {m.title} | {m.kind} | {m.unit} | {f'`{m.published}`' if m.published else ''} | "
        f"{f'{m.tolerance:.1%}' if m.tolerance else ''} |\n"
        for m in known().values()
    )
    return (
        "# Metrics\n\nA metric may have the suffix `.sustained` (the settled rate) or the prefix `energy.` (operations "
        "per joule).\n\n| metric | what it is | kind | unit | held against the sheet's | tolerance |\n"
        f"|---|---|---|---|---|---|\n{rows}"
    )


def record() -> str:
    """The record's format, as its module states it."""
    from gpuassay import record_format as module

    return f"# The record\n\n```text\n{inspect.getdoc(module)}\n```\n"


def python() -> str:
    """What `import gpuassay` gives."""
    import gpuassay

    text = "# Python\n\n```python\nimport gpuassay\n```\n"
    for name in gpuassay.__all__:
        found = getattr(gpuassay, name)
        if callable(found):
            signature = f"gpuassay.{name}{inspect.signature(found)}"
            text += f"\n## gpuassay.{name}\n\n```text\n{signature}\n\n{inspect.getdoc(found)}\n```\n"
    from gpuassay import record as module
    from gpuassay import store

    text += f"\n## Columns of estimates\n\n```text\n{', '.join(store.ESTIMATE_COLUMNS)}\n```\n"
    return text + f"\n## Columns of rounds\n\n```text\n{inspect.getdoc(module.Record.rounds)}\n```\n"
