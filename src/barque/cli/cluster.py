"""`barque cluster`: list clusters, form one, compact a member's segments, or delete a cluster."""

import asyncio

import click
from rich import box
from rich.table import Table

from barque.cli.diagnosis import run_on_cluster
from barque.cli.failures import FAILED, OK
from barque.cli.output import confirm, output_option, print_json, print_rich
from barque.cli.progress import Progress
from barque.cli.reach import Reach, reach_options, run_with_client
from barque.cli.status import fetch_status


@click.group()
def cluster() -> None:
    """List clusters, form one, compact a member's segments, or delete a cluster."""


@cluster.command(name="list")
@output_option
@reach_options
def list_(reach: Reach, output: str) -> None:
    """List all clusters that have a member on a node that answers."""
    clusters = [
        {
            "name": found["name"],
            "leader": found["leader"],
            "term": found["term"],
            "members": [member["server"] for member in found["members"]],
        }
        for found in asyncio.run(fetch_status(reach))["clusters"]
    ]
    if output == "json":
        print_json(clusters)
        return
    table = Table("cluster", "leader", "term", "members that answer", box=box.SIMPLE_HEAD)
    for found in clusters:
        table.add_row(
            found["name"], found["leader"] or "none", str(found["term"]), " ".join(found["members"])
        )
    print_rich(table)


@cluster.command()
@click.argument("name")
@click.option("--machine", required=True, help="The state machine, by its name in the nodes' configuration.")
@click.option("--nodes", "members", metavar="n1,n2,…", help="The nodes of its members. Default: all nodes.")
@reach_options
def create(reach: Reach, name: str, machine: str, members: str | None) -> int:
    """Form the cluster NAME and wait for its leader; exit with 1 if a member could not be started."""
    places = [node.strip() for node in members.split(",")] if members else None
    with Progress(f"forming {name!r}"):
        answer = run_with_client(reach, lambda client: client.start_cluster(name, machine, nodes=places))
    click.echo(f"{name!r} serves with members on {', '.join(answer.started)}")
    for node, why in answer.not_started.items():
        click.echo(f"not started on {node}: {why}", err=True)
    return FAILED if answer.not_started else OK


@cluster.command()
@click.argument("name")
@click.argument("node")
@reach_options
def compact(reach: Reach, name: str, node: str) -> None:
    """Compact the segments of the member of NAME on NODE now; a node does so by itself in time."""
    begun = run_with_client(reach, lambda client: client.trigger_compaction(name, node))
    member = f"{name}@{node}"
    click.echo(f"{member} compacts its segments" if begun else f"{member} has nothing to compact now")


@cluster.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reach_options
def delete(reach: Reach, name: str, yes: bool) -> None:
    """Delete the cluster NAME and all its data, on all members."""
    if not yes:
        confirm(f"Delete {name!r} and all its data, for good?")
    done = run_on_cluster(reach, name, lambda client: client.delete_cluster(name))
    click.echo(f"{name!r} is deleted")
    if done.away:
        click.echo(f"out of reach, and deleted when their nodes return: {', '.join(map(str, done.away))}")
