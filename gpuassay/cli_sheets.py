"""`gpuassay sheets`: published specifications, shown, checked and compared. Loads libraries only where used."""

from __future__ import annotations

import sys

import click

from .exit_codes import DIFFERS, fail


class _SheetsGroup(click.Group):
    """`gpuassay sheets L10` means `gpuassay sheets show L10`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_SheetsGroup, invoke_without_command=True)
@click.pass_context
def sheets(ctx: click.Context) -> None:
    """List the published specifications, or show one (`sheets show NAME`)."""
    if ctx.invoked_subcommand is None:
        from . import report

        report.console().print(report.sheet_list())


@sheets.command()
@click.argument("name")
def show(name: str) -> None:
    """Every published value of one part, with its source and confidence."""
    from . import report
    from .sheets import SheetError, load, unpublished

    never = unpublished(name)
    if never is not None:
        click.echo(never.statement)
        for item in never.evidence:
            source = never.sources[item.source]
            click.echo(f"  - {item.text} [{source.title}{', ' + source.date if source.date else ''}]")
        click.echo(f"Try: {', '.join(f'gpuassay sheets show {offer}' for offer in never.offers)}")
        sys.exit(DIFFERS)
    try:
        found = load(name)
    except SheetError as error:
        fail(str(error))
    report.console().print(report.sheet(found))
