"""`barque bench`: measure this machine, or a running installation."""

from pathlib import Path

import click
import msgspec

from barque.bench.cluster import CLUSTER, MACHINE, Target, check_directory
from barque.bench.facts import machine_facts, run
from barque.bench.measure import LOCAL_ONLY, WORKLOADS, Sample, Settings, measure, measure_at
from barque.bench.report import COLUMNS, Report, aligned, header, notes, rows
from barque.cli.failures import USAGE, CliError
from barque.cli.progress import Progress
from barque.client.client import Client
from barque.errors import UnknownCluster
from barque.transport.secret import load_secret

_SECONDS = click.FloatRange(min=0.05)
_SOME = click.IntRange(min=1)


@click.command()
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    default=("all",),
    type=click.Choice([*WORKLOADS, "all"]),
    help="A workload; may be repeated. Default: all.",
)
@click.option("--seconds", default=5.0, show_default=True, type=_SECONDS, help="The length of each run.")
@click.option("--runs", default=3, show_default=True, type=_SOME, help="Runs of each workload.")
@click.option(
    "--payload", default=256, show_default=True, type=click.IntRange(min=0), help="Bytes of each command."
)
@click.option("--kills", default=5, show_default=True, type=_SOME, help="Kills in each failover run.")
@click.option("--clusters", default=1_000, show_default=True, type=_SOME, help="The number of idle clusters.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False), help="Also write all results to this file."
)
@click.option(
    "--dir", "directory", default=".", help="A directory on the disk to measure. Default: this one."
)
@click.option("--against", multiple=True, metavar="HOST:PORT", help="Measure running nodes; repeatable.")
@click.option("--secret-file", envvar="BARQUE_SECRET_FILE", help="For --against: the shared secret.")
@click.option("--installation", envvar="BARQUE_INSTALLATION", default="barque", show_default=True)
@click.option("--cluster", default=CLUSTER, show_default=True, help="For --against: the cluster to use.")
def bench(
    workloads: tuple[str, ...],
    seconds: float,
    runs: int,
    payload: int,
    kills: int,
    clusters: int,
    json_file: str | None,
    directory: str,
    against: tuple[str, ...],
    secret_file: str | None,
    installation: str,
    cluster: str,
) -> int:
    """Measure throughput, latency, failover and idle cost.

    Each run starts three nodes of its own, with synced logs, and removes them. Compare figures
    from a quiet machine only, and better as ratios: see docs/explanation/performance.md.

    With --against, the nodes must know the machine "bench" = "barque.bench.machine:BenchMachine",
    or --cluster must exist and accept any bytes; failover and idle are not measured.
    """
    chosen = list(WORKLOADS) if "all" in workloads else list(dict.fromkeys(workloads))
    settings = Settings(check_directory(directory), seconds, payload, kills, clusters)
    target = _target(against, secret_file, installation, cluster) if against else None
    report = Report(machine_facts(settings.directory), {**msgspec.to_builtins(settings), "runs": runs}, [])
    click.echo("\n".join(header(report)))
    for round_number in range(runs):
        for row in (row for workload in chosen for row in WORKLOADS[workload]):
            if target is not None and row in LOCAL_ONLY:
                continue
            title = f"run {round_number + 1} of {runs}: {row}"
            click.echo(f"{title} …", err=True)
            with Progress(title):
                report.samples.append(run(_run(row, settings, target)))
    click.echo("\n".join(["", *aligned(COLUMNS, rows(report.samples)), *notes(report.samples)]))
    if json_file is not None:
        Path(json_file).write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 0


def _target(against: tuple[str, ...], secret_file: str | None, installation: str, cluster: str) -> Target:
    if secret_file is None:
        raise CliError("--against needs --secret-file or BARQUE_SECRET_FILE", USAGE)
    return Target(against, load_secret(secret_file), installation, cluster)


async def _run(row: str, settings: Settings, target: Target | None) -> Sample:
    if target is None:
        return await measure(row, settings)
    async with Client(target.addresses, secret=target.secret, installation=target.installation) as client:
        try:
            await client.members(target.cluster)
        except UnknownCluster:
            await client.start_cluster(target.cluster, MACHINE)
    return await measure_at(target, row, settings)
