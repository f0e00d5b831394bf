"""`gpuassay fleet run`, `fleet report` and `gate`. Dask and the report's libraries load only where used."""

from __future__ import annotations

import contextlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CONFORMS, DIFFERS, INCONCLUSIVE, NO_GPU, PARTIAL, USAGE, fail

if TYPE_CHECKING:
    from .fleet.run import Plan


@click.group()
def fleet() -> None:
    """Judge every GPU of a cluster, and report on all of them."""


@fleet.command("run")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, for example tls://head:8786.")
@click.option(
    "--tls-ca-file", type=click.Path(exists=True, dir_okay=False), help="Authority's certificate, for tls://."
)
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="This client's certificate.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="This client's key.")
@click.option("--local", "here", is_flag=True, help="This machine's GPUs (the default).")
@click.option(
    "--slurm", metavar="OPTIONS", help="Slurm jobs: nodes=4,gpus=8,queue=NAME,account=NAME,walltime=00:30:00."
)
@click.option("--pbs", metavar="OPTIONS", help="PBS jobs, likewise.")
@click.option("--profile", type=click.Choice(["quick", "standard", "full"]), default="quick", show_default=True)
@click.option("--against", metavar="SHEET", help="A sheet's name or a .toml file. Default: that of the PCI id.")
@click.option("--together", is_flag=True, help="Then also all GPUs of a node at once.")
@click.option("--limit", type=click.FloatRange(min=1), metavar="SECONDS", help="The longest one GPU may take.")
@click.option("--simulate", type=click.IntRange(1), metavar="N", help="N simulated GPUs, labelled as such.")
@click.option("--resume", is_flag=True, help="Go on with the store: run only what it lacks.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="STORE", help="On a disk all nodes share."
)
def fleet_run(
    scheduler: str | None,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    here: bool,
    slurm: str | None,
    pbs: str | None,
    profile: str,
    against: str | None,
    together: bool,
    limit: float | None,
    simulate: int | None,
    resume: bool,
    out: Path,
) -> None:
    """Measure and judge every GPU, each by a worker process of its own.

    \b
    gpuassay fleet run --local --out fleet/            this machine's GPUs
    gpuassay fleet run --slurm nodes=4,gpus=8 --against H20 --out /shared/fleet
    gpuassay fleet run --simulate 100 --out trial/     no GPU needed

    A GPU whose worker dies or hangs is tried once more, on the same GPU. Exit code 0: every GPU conforms; 1: one does
    not; 3: one is inconclusive; 4: no GPU; 5: partial, some GPU has no result (`--resume` tries those again).
    """
    from .fleet import job
    from .fleet.run import FleetError, Plan, SchedulerLost, open_store
    from .fleet.store import StoreError
    from .sheets import SheetError, load

    if sum(map(bool, (scheduler, here, slurm, pbs))) > 1:
        raise click.UsageError("choose one of --scheduler, --local, --slurm and --pbs")
    queue = ("slurm", slurm) if slurm else ("pbs", pbs) if pbs else None
    _need("distributed", "pyarrow")
    try:
        if against is not None:
            load(against)
        store = open_store(out, resume)
        plan = Plan(out, profile, against, together, limit or job.LIMITS_S[profile], simulate)
        tls = {"tls_ca_file": tls_ca_file, "tls_client_cert": tls_cert, "tls_client_key": tls_key}
        counts = _run(plan, store, scheduler, queue, {k: v for k, v in tls.items() if v})
        last, unserved = list(store.statuses()), store.unserved()
    except SchedulerLost as error:
        fail(str(error), PARTIAL)
    except (FleetError, StoreError, SheetError, OSError) as error:
        fail(str(error), NO_GPU if str(error).startswith("no worker has a GPU") else USAGE)
    for line in unserved:
        click.echo(f"measured nothing: {line}", err=True)
    words = {status.get("overall") for status in last}
    partial = counts["unserved"] or any(status["state"] != "ok" for status in last)
    click.echo(
        f"{counts['ok']} measured, {counts['failed']} failed, {counts['retried']} tried twice, "
        f"{counts['unserved']} worker(s) measured nothing; in the store: {len(last)}. "
        f"Next: gpuassay fleet report {out}",
        err=True,
    )
    verdict = DIFFERS if "does not conform" in words else INCONCLUSIVE if "inconclusive" in words else CONFORMS
    sys.exit(PARTIAL if partial else verdict)


def _need(*packages: str) -> None:
    """Before anything is written: what the base installation lacks."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            fail(f"fleets need {package}: pip install 'gpuassay[fleet,report]' ({error})")


def _run(
    plan: Plan, store: Any, scheduler: str | None, queue: tuple[str, str] | None, tls: dict[str, str]
) -> dict[str, int]:
    from distributed import Client, Security
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from . import report
    from .fleet import run as fleet_runs

    with contextlib.ExitStack() as stack:
        workers, wait_s = None, fleet_runs.REGISTRATION_S
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=10, security=Security(**tls) if tls else None)
            except (OSError, ValueError, TypeError) as error:
                fail(f"the scheduler {scheduler} cannot be reached ({error}): check address, TLS files and firewall")
            stack.enter_context(client)
            for name in fleet_runs.unset(client):
                click.echo(f"the scheduler has not the {name} that fleets need: see docs/fleet.md", err=True)
        else:
            if queue is not None:
                options = _options(*queue)
                cluster = stack.enter_context(fleet_runs.batch(queue[0], options))
                workers = int(options.get("nodes", 1)) * int(options.get("gpus", 8))
                wait_s = fleet_runs.QUEUED_S
                click.echo(f"waiting for {workers} workers, up to {wait_s / 60:.0f} min", err=True)
            else:
                workers = _local_workers(plan.simulate)
                cluster = stack.enter_context(fleet_runs.local(workers, plan.simulate is not None))
            client = stack.enter_context(Client(cluster))
        if client.dashboard_link:
            click.echo(f"Dask's dashboard: {client.dashboard_link}", err=True)
        progress = stack.enter_context(
            Progress(
                *(TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()),
                console=report.console(stderr=True),
            )
        )
        task = progress.add_task("GPUs", total=None)

        def said(done: int, of: int, status: dict[str, Any]) -> None:
            progress.update(task, completed=done, total=of)
            if status["state"] != "ok":
                progress.console.print(f"failed: {status['reason']}", markup=False)

        return fleet_runs.run(plan, store, client, workers, said, wait_s)


def _local_workers(simulate: int | None) -> int:
    import os

    from .claims import NoDriver
    from .fleet.job import gpus_here
    from .fleet.run import FleetError

    if simulate is not None:
        return min(simulate, os.cpu_count() or 1, 8)
    try:
        found = len(gpus_here())
    except NoDriver as error:
        raise FleetError(f"no worker has a GPU: {error}") from error
    if not found:
        raise FleetError("no worker has a GPU: the driver is there, but no GPU is visible")
    return found


def _options(system: str, text: str) -> dict[str, Any]:
    pairs = [item.split("=", 1) for item in text.split(",") if item]
    if any(len(pair) != 2 for pair in pairs):
        raise click.UsageError(f"--{system} takes NAME=VALUE,NAME=VALUE; this is {text!r}")
    return {name.strip(): value.strip() for name, value in pairs}


@fleet.command("report")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["html", "md", "csv", "json", "junit"]), default="md", show_default=True
)
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="FILE", help="Default: standard output.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def fleet_report(store: Path, form: str, output: Path | None, force: bool) -> None:
    """Counts, outliers and the GPUs to pull of a fleet's store, also while the run goes on.

    \b
    gpuassay fleet report fleet/ --format html -o fleet.html
    """
    from .fleet import report
    from .fleet.store import Store, StoreError, records_url, replace_file

    if output is not None and output.exists() and not force:
        fail(f"{output} exists: name another file, or overwrite it by --force")
    _need("pyarrow", *(("jinja2", "matplotlib") if form == "html" else ()))
    try:
        found = Store.open(store)
        text = report.render(report.build(found, form == "html"), form, records_url(found, output))
        if output is None:
            click.echo(text)
        else:
            replace_file(output, text.encode())
    except StoreError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {output}: {error.strerror}; choose another file")


@click.command()
@click.option("--budget", default="30s", show_default=True, metavar="TIME", help="The longest it may take: 30s, 2m.")
@click.option("--against", metavar="SHEET", help="A sheet's name or a .toml file. Default: that of the PCI id.")
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="CUDA's number: by PCI order, of what CUDA_VISIBLE_DEVICES leaves.",
)
@click.option("--replay", metavar="RECORD", help="Judge this record instead of measuring.")
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="NAME.prom: OpenMetrics text, for node_exporter's textfile collector.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Keep the record there.")
def gate(
    budget: str, against: str | None, device: int, replay: str | None, textfile: Path | None, out: Path | None
) -> None:
    """May this GPU take a job? One JSON line, and the exit code as the verdict.

    The shortest set of kernels that tells a slow tensor core, vector unit or memory, a missing SM and a part posing as
    another. Nothing is kept unless --out or --textfile says where.

    \b
    gpuassay gate --budget 30s --against H20 || echo "drain this node"
    """
    from .fleet import gate as gates

    line, code = gates.gate(gates.seconds(budget), against, device, replay, out)
    if textfile is not None:
        try:
            gates.write_textfile(textfile, line)
        except OSError as error:
            line["metrics_error"] = f"cannot write {textfile}: {error.strerror}"
    click.echo(json.dumps(line, allow_nan=False))
    sys.exit(code)
